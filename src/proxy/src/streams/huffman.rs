//! Strings in the code of RFC 7541 appendix B, which QPACK shares with HPACK.

use std::sync::OnceLock;

/// Bits of each byte's code. The code is canonical: codes of one length follow each other in the order of their bytes, and
/// shorter ones come first, so that the lengths say all.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

const SHORTEST: usize = 5;
const LONGEST: usize = 30;
/// Bits of the longest code that is found by one look. Nearly all that is said in fields has no longer ones.
const SHORT: usize = 8;

/// The codes of one length.
#[derive(Clone, Copy, Default)]
struct Group {
    /// The first of them.
    first: u32,
    count: u32,
    /// Where their bytes begin in [`Codes::bytes`].
    at: usize,
}

struct Codes {
    /// By the next [`SHORT`] bits: the byte whose code they begin with, and its bits; none where it is longer.
    short: [(u8, u8); 1 << SHORT],
    groups: [Group; LONGEST + 1],
    /// In the order of their codes.
    bytes: [u8; 256],
}

impl Codes {
    fn get() -> &'static Codes {
        static CODES: OnceLock<Codes> = OnceLock::new();
        CODES.get_or_init(|| {
            let mut codes = Codes {
                short: [(0, 0); 1 << SHORT],
                groups: [Group::default(); LONGEST + 1],
                bytes: [0; 256],
            };
            let (mut next, mut at) = (0, 0);
            for bits in SHORTEST..=LONGEST {
                next <<= 1;
                codes.groups[bits] = Group {
                    first: next,
                    count: 0,
                    at,
                };
                for byte in 0..=u8::MAX {
                    if usize::from(LENGTHS[usize::from(byte)]) == bits {
                        codes.bytes[at] = byte;
                        if bits <= SHORT {
                            let first = (next as usize) << (SHORT - bits);
                            let more = 1 << (SHORT - bits);
                            codes.short[first..first + more]
                                .fill((byte, LENGTHS[usize::from(byte)]));
                        }
                        codes.groups[bits].count += 1;
                        (next, at) = (next + 1, at + 1);
                    }
                }
            }
            codes
        })
    }
}

/// What says that a string is not in the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uncoded;

/// Puts what `coded` stands for behind what `out` holds: at most 8/5 as much.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), Uncoded> {
    let codes = Codes::get();
    out.reserve(coded.len() * 8 / SHORTEST);
    // Bits that were not decoded yet, the next ones first.
    let (mut bits, mut have) = (0_u64, 0);
    let mut rest = coded.iter();
    loop {
        while have <= 56
            && let Some(byte) = rest.next()
        {
            bits |= u64::from(*byte) << (56 - have);
            have += 8;
        }
        let (byte, length) = codes.short[(bits >> (64 - SHORT)) as usize];
        let length = usize::from(length);
        let (length, byte) = if length > 0 && length <= have {
            (length, byte)
        } else if let Some(found) = codes.long(bits, have) {
            found
        } else {
            // RFC 7541 section 5.2: what is left are fewer than eight ones, the beginning of a code that stands for nothing.
            let padded = have < 8 && bits == !(u64::MAX >> have);
            return padded.then_some(()).ok_or(Uncoded);
        };
        out.push(byte);
        bits <<= length;
        have -= length;
    }
}

impl Codes {
    /// The code that `bits` begin with, of which there are `have`, and its byte.
    fn long(&self, bits: u64, have: usize) -> Option<(usize, u8)> {
        (SHORT + 1..=LONGEST.min(have)).find_map(|length| {
            let group = self.groups[length];
            // At most 30 bits.
            let code = u32::try_from(bits >> (64 - length)).ok()?;
            let place = code.checked_sub(group.first)?;
            (place < group.count).then(|| (length, self.bytes[group.at + place as usize]))
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(coded: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        super::decode(coded, &mut out).ok().map(|()| out)
    }

    pub(crate) fn encode(text: &[u8]) -> Vec<u8> {
        let codes = Codes::get();
        let mut bits = String::new();
        for byte in text {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let group = codes.groups[length];
            let mut places = codes.bytes[group.at..].iter();
            let place = places.position(|b| b == byte).unwrap() as u32;
            bits += &format!("{:0length$b}", group.first + place);
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let bytes = bits.as_bytes().chunks(8);
        bytes
            .map(|bits| u8::from_str_radix(std::str::from_utf8(bits).unwrap(), 2).unwrap())
            .collect()
    }

    #[test]
    fn examples_of_the_standard() {
        // RFC 7541 appendix C.4 and C.6.
        for (coded, text) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            (
                "d07abe941054d444a8200595040b8166e082a62d1bff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
            ("", ""),
        ] {
            let decoded = decode(&hex::decode(coded).unwrap()).unwrap();
            assert_eq!(decoded, text.as_bytes());
        }
        // Eight bits of padding, padding of zeros, and the code that stands for the end.
        for wrong in ["ff", "a8eb10649cbfff", "18", "ffffffff", "fffffffc"] {
            assert_eq!(decode(&hex::decode(wrong).unwrap()), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_was_coded_comes_out(text in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(decode(&encode(&text)), Some(text));
        }

        #[test]
        fn whatever_comes_is_decoded_or_refused(coded in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(text) = decode(&coded) {
                prop_assert_eq!(encode(&text), coded);
            }
        }
    }
}
