//! Integers and strings as HPACK and QPACK write them (RFC 7541 section 5).

use super::huffman;

/// Bytes that follow an integer's first: no length or index of a section has more.
const INTEGER_BYTES_MAX: u32 = 4;

/// It ends too early, or is not in the code that it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl Reader<'_> {
    pub(crate) fn peek(&self) -> Result<u8, Broken> {
        self.0.first().copied().ok_or(Broken)
    }

    fn byte(&mut self) -> Result<u8, Broken> {
        let (first, rest) = self.0.split_first().ok_or(Broken)?;
        self.0 = rest;
        Ok(*first)
    }

    /// An integer that begins in the last `bits` bits of a byte (section 5.1).
    pub(crate) fn integer(&mut self, bits: u32) -> Result<usize, Broken> {
        let most = (1_usize << bits) - 1;
        let mut integer = usize::from(self.byte()?) & most;
        if integer < most {
            return Ok(integer);
        }
        for place in 0..INTEGER_BYTES_MAX {
            let byte = self.byte()?;
            integer += usize::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(integer);
            }
        }
        Err(Broken)
    }

    /// Puts a string down behind what `out` holds. Its length begins in the last `bits` bits of a byte; the bit before them says how
    /// it is coded.
    pub(crate) fn string(&mut self, bits: u32, out: &mut Vec<u8>) -> Result<(), Broken> {
        let coded = self.peek()? & (1 << bits) != 0;
        let length = self.integer(bits)?;
        let (string, rest) = self.0.split_at_checked(length).ok_or(Broken)?;
        self.0 = rest;
        if coded {
            return huffman::decode(string, out).map_err(|_| Broken);
        }
        out.extend_from_slice(string);
        Ok(())
    }
}

/// Writes an integer into the last `bits` bits of `first` and as many bytes as it needs.
pub(crate) fn put_integer(out: &mut Vec<u8>, first: u8, bits: u32, integer: u64) {
    let most = (1_u64 << bits) - 1;
    // The casts keep the bits that are meant.
    if integer < most {
        return out.push(first | integer as u8);
    }
    out.push(first | most as u8);
    let mut left = integer - most;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

/// Writes a string as it is, its length in seven bits.
pub(crate) fn put_string(out: &mut Vec<u8>, string: &[u8]) {
    put_integer(out, 0, 7, string.len() as u64);
    out.extend_from_slice(string);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn examples_of_the_standard() {
        // RFC 7541 appendix C.1.
        for (integer, bits, coded) in [
            (10, 5, &[0b0000_1010][..]),
            (1337, 5, &[31, 154, 10]),
            (42, 8, &[42]),
        ] {
            let mut out = Vec::new();
            put_integer(&mut out, 0, bits, integer);
            assert_eq!(out, coded);
            assert_eq!(Reader(coded).integer(bits), Ok(integer as usize));
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(integer in 0_u64..1 << 28, bits in 3_u32..9, text in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Vec::new();
            put_integer(&mut out, 0, bits, integer);
            put_string(&mut out, &text);
            let mut reader = Reader(&out);
            prop_assert_eq!(reader.integer(bits), Ok(integer as usize));
            let mut read = Vec::new();
            prop_assert_eq!(reader.string(7, &mut read), Ok(()));
            prop_assert_eq!(read, text);
            prop_assert!(reader.0.is_empty());
        }
    }
}
