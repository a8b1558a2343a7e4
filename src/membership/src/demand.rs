//! What a node tells of its rate limits' keys, as a value of gossip: for each key its name and its rate in twelve bytes, in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use nebula_domain::traffic::rate::cluster::{Demand, TALKERS, TOLD_RULES, Talker};

/// Keys of rules: this and the number.
pub(crate) const DEMAND_PREFIX: &str = "r/";

const TALKER_BYTES: usize = 12;
// All of a rule's talkers fit one value.
const _: () = assert!(
    (TALKERS.max as usize * TALKER_BYTES).div_ceil(3) * 4 <= crate::limits::MAX_VALUE_BYTES
);

/// What is told of a demand, within its limit.
pub(crate) fn told(demand: &Demand) -> impl Iterator<Item = (u64, &[Talker])> {
    let rules = demand.iter().filter(|(_, talkers)| !talkers.is_empty());
    rules
        .take(TOLD_RULES.max as usize)
        .map(|(rule, talkers)| (*rule, &talkers[..talkers.len().min(TALKERS.max as usize)]))
}

pub(crate) fn write(talkers: &[Talker]) -> String {
    let mut bytes = Vec::with_capacity(talkers.len() * TALKER_BYTES);
    for talker in talkers {
        bytes.extend_from_slice(&talker.key.to_be_bytes());
        // The largest that can be said is four million requests a second of one key.
        let rate = u32::try_from(talker.rate).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&rate.to_be_bytes());
    }
    STANDARD_NO_PAD.encode(bytes)
}

/// `None`: it is not what a node writes.
pub(crate) fn read(value: &str) -> Option<Vec<Talker>> {
    let bytes = STANDARD_NO_PAD.decode(value).ok()?;
    let (talkers, rest) = bytes.as_chunks::<TALKER_BYTES>();
    if !rest.is_empty() || talkers.len() as u64 > TALKERS.max {
        return None;
    }
    let talker = |bytes: &[u8; TALKER_BYTES]| {
        let [a, b, c, d, e, f, g, h, rate @ ..] = *bytes;
        Talker {
            key: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            rate: u64::from(u32::from_be_bytes(rate)),
        }
    };
    Some(talkers.iter().map(talker).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read() {
        let talkers: Vec<Talker> = (0..TALKERS.max)
            .map(|n| Talker {
                key: u64::MAX - n,
                rate: n * 1_000,
            })
            .collect();
        let value = write(&talkers);
        assert!(value.len() <= crate::limits::MAX_VALUE_BYTES);
        assert_eq!(read(&value), Some(talkers.clone()));
        let fast = [Talker {
            key: 1,
            rate: u64::MAX,
        }];
        assert_eq!(read(&write(&fast)).unwrap()[0].rate, u64::from(u32::MAX));
        assert_eq!(read(""), Some(Vec::new()));
        let mut many = talkers;
        many.push(fast[0]);
        for bad in ["AAAA", "=", "{}", &write(&many)] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_more_is_told_than_fits() {
        let talker = Talker { key: 1, rate: 1 };
        let demand: Demand = (0..1_000)
            .map(|rule| (rule, vec![talker; 100]))
            .chain([(5_000, Vec::new())])
            .collect();
        let told: Vec<_> = told(&demand).collect();
        assert_eq!(told.len() as u64, TOLD_RULES.max);
        assert!(
            told.iter()
                .all(|(_, talkers)| talkers.len() as u64 == TALKERS.max)
        );
    }
}
