//! What a node has counted of a rollout's two releases, as a value of gossip: for each release its requests, its failures and its
//! times, as numbers of one to five bytes, in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use nebula_domain::rollout::{Figures, Pair, SLICES, TRIALS, Tally, Times};

/// Keys of trials: this and the number.
pub(crate) const TALLY_PREFIX: &str = "c/";

/// Seven bits a byte, the lowest first, as in LEB128.
const NUMBER_BYTES: usize = 5;
/// What is counted beyond that is told as that: 34 thousand million requests.
const NUMBER_MAX: u64 = (1 << (7 * NUMBER_BYTES)) - 1;
const PAIR_BYTES_MAX: usize = 2 * (2 + SLICES) * NUMBER_BYTES;
// A trial fits one value.
const _: () = assert!(PAIR_BYTES_MAX.div_ceil(3) * 4 <= crate::limits::MAX_VALUE_BYTES);

/// What is told of a tally, within its limit.
pub(crate) fn told(tally: &Tally) -> impl Iterator<Item = (&u64, &Pair)> {
    tally.iter().take(TRIALS.max as usize)
}

pub(crate) fn write(pair: &Pair) -> String {
    let mut bytes = Vec::new();
    for figures in [&pair.old, &pair.new] {
        let counts = [figures.requests, figures.failed];
        for number in counts.into_iter().chain(figures.times.0) {
            let mut rest = number.min(NUMBER_MAX);
            while rest >= 0x80 {
                bytes.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            bytes.push(rest as u8);
        }
    }
    STANDARD_NO_PAD.encode(bytes)
}

/// `None`: it is not what a node writes.
pub(crate) fn read(value: &str) -> Option<Pair> {
    let bytes = STANDARD_NO_PAD.decode(value).ok()?;
    let mut rest = bytes.as_slice();
    let pair = Pair {
        old: read_figures(&mut rest)?,
        new: read_figures(&mut rest)?,
    };
    rest.is_empty().then_some(pair)
}

fn read_figures(rest: &mut &[u8]) -> Option<Figures> {
    let mut figures = Figures {
        requests: read_number(rest)?,
        failed: read_number(rest)?,
        times: Times::default(),
    };
    for count in &mut figures.times.0 {
        *count = read_number(rest)?;
    }
    Some(figures)
}

fn read_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..NUMBER_BYTES {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(count: impl Fn(u64) -> u64) -> Figures {
        let mut figures = Figures {
            requests: count(50),
            failed: count(51),
            times: Times::default(),
        };
        for (slice, times) in figures.times.0.iter_mut().enumerate() {
            *times = count(slice as u64);
        }
        figures
    }

    #[test]
    fn what_is_told_is_read() {
        let pair = Pair {
            old: figures(|slice| 3 << slice.min(33)),
            new: figures(|_| NUMBER_MAX),
        };
        let value = write(&pair);
        assert!(value.len() <= crate::limits::MAX_VALUE_BYTES);
        assert_eq!(read(&value), Some(pair.clone()));
        assert_eq!(read(&write(&Pair::default())), Some(Pair::default()));
        let more = Pair {
            new: figures(|_| u64::MAX),
            ..pair.clone()
        };
        assert_eq!(read(&write(&more)), Some(pair));
    }

    #[test]
    fn what_no_node_writes_is_not_read() {
        let value = write(&Pair::default());
        let endless = STANDARD_NO_PAD.encode([0xff; PAIR_BYTES_MAX]);
        for bad in [
            "",
            "=",
            "{}",
            &value[4..],
            &format!("{value}AAAA"),
            &endless,
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_more_is_told_than_is_counted() {
        let tally: Tally = (0..1_000).map(|n| (n, Pair::default())).collect();
        assert_eq!(told(&tally).count() as u64, TRIALS.max);
    }
}
