//! Codes of HTTP that a probe takes for a success.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SpecError;
use crate::excerpt::excerpt;

/// Ranges in one list: more say nothing that fewer do not.
pub const MAX_CODES: usize = 16;
/// RFC 9110, section 15: what begins with 1 ends nothing, and no code is above 599.
const CODES: RangeInclusive<u16> = 200..=599;

/// Codes of HTTP that are a success: `200-399`, or `204,301`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Codes(Vec<(u16, u16)>);

impl Default for Codes {
    fn default() -> Self {
        Codes(vec![(200, 399)])
    }
}

impl Codes {
    pub fn contains(&self, code: u16) -> bool {
        self.0
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&code))
    }

    /// What comes from a peer may not have been read by [`Codes::from_str`].
    pub(super) fn is_sound(&self) -> bool {
        (1..=MAX_CODES).contains(&self.0.len())
            && self
                .0
                .iter()
                .all(|(from, to)| CODES.contains(from) && from <= to && CODES.contains(to))
    }
}

impl FromStr for Codes {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Codes, SpecError> {
        let bad = || SpecError::BadCodes(excerpt(text));
        let code = |text: &str| {
            let code: u16 = text.trim().parse().ok()?;
            CODES.contains(&code).then_some(code)
        };
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) = code(from).zip(code(to)).ok_or_else(bad)?;
            if from > to || ranges.len() == MAX_CODES {
                return Err(bad());
            }
            ranges.push((from, to));
        }
        Ok(Codes(ranges))
    }
}

impl fmt::Display for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (from, to)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            match from == to {
                true => write!(f, "{comma}{from}")?,
                false => write!(f, "{comma}{from}-{to}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_and_told() {
        for text in ["200-399", "204,301", "200,210-220,503"] {
            assert_eq!(text.parse::<Codes>().unwrap().to_string(), text);
        }
        let codes: Codes = "204, 300-302".parse().unwrap();
        assert!([204, 300, 302].iter().all(|code| codes.contains(*code)));
        assert!([200, 303, 500].iter().all(|code| !codes.contains(*code)));
        for bad in ["", "ok", "100", "600", "300-200", "200-", "-", "200,,201"] {
            assert!(bad.parse::<Codes>().is_err(), "{bad}");
        }
        assert!(
            vec!["200"; MAX_CODES + 1]
                .join(",")
                .parse::<Codes>()
                .is_err()
        );
    }
}
