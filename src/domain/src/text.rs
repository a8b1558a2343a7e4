//! How people write values: times such as `30s`, shares such as `50%`, and the word somebody meant.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Units of time, largest first, in nanoseconds.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Longest text of a number; one of more digits is no time or count that anybody means.
const DIGITS_MAX: usize = 18;

/// A whole number with a unit (`ns`, `us`, `ms`, `s`, `m`, `h`, `d`); `0` needs none.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number = parse_number(number)?;
    let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
    // At most 18 digits times a day: fits well.
    let nanos = u128::from(number) * nanos;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    let rest = u32::try_from(nanos % 1_000_000_000).ok()?;
    Some(Duration::new(seconds, rest))
}

/// Decimal digits and nothing else: no sign, no space.
pub fn parse_number(text: &str) -> Option<u64> {
    let legal = (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    legal.then(|| text.parse().ok()).flatten()
}

/// A time as [`parse_duration`] reads it, in the largest unit that says it exactly.
pub fn show_duration(duration: Duration) -> impl fmt::Display {
    struct Shown(u128);
    impl fmt::Display for Shown {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let exact = |(_, nanos): &&(&str, u128)| self.0.is_multiple_of(*nanos);
            match UNITS.iter().find(exact) {
                Some((unit, nanos)) if self.0 > 0 => write!(f, "{}{unit}", self.0 / nanos),
                _ => f.write_str("0"),
            }
        }
    }
    Shown(duration.as_nanos())
}

/// A share of 0 to 100 in a hundred, written `50%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

impl Percent {
    /// `None` above 100.
    pub const fn new(value: u8) -> Option<Percent> {
        match value {
            0..=100 => Some(Percent(value)),
            _ => None,
        }
    }

    /// For constants: what is above 100 counts as 100.
    pub const fn capped(value: u8) -> Percent {
        Percent(if value > 100 { 100 } else { value })
    }

    pub const fn get(self) -> u8 {
        self.0
    }

    /// This share of a number, rounded down.
    pub fn of(self, whole: u64) -> u64 {
        let share = u128::from(whole) * u128::from(self.0) / 100;
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// Digits with or without the sign.
    pub fn parse(text: &str) -> Option<Percent> {
        let number = parse_number(text.strip_suffix('%').unwrap_or(text))?;
        Percent::new(u8::try_from(number).ok()?)
    }
}

impl TryFrom<u8> for Percent {
    type Error = PercentError;
    fn try_from(value: u8) -> Result<Self, PercentError> {
        Percent::new(value).ok_or(PercentError(value))
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> u8 {
        percent.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// A share over the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}% is more than 100%")]
pub struct PercentError(pub u8);

/// Longest word that is compared; what is longer is no slip of the pen.
const WORD_BYTES_MAX: usize = 32;

/// The known word that was most likely meant: the one with the fewest letters wrong, missing, added or
/// swapped, if they are few enough for its length.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |known: &'a str| {
        let slips = slips(word, known);
        (slips <= known.len().div_ceil(3)).then_some((slips, known))
    };
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let found = known.into_iter().filter_map(near);
    found.min_by_key(|(slips, _)| *slips).map(|(_, word)| word)
}

/// Damerau's distance between two words (optimal string alignment), without regard to case.
fn slips(a: &str, b: &str) -> usize {
    let a: Vec<u8> = a.bytes().map(|b| b.to_ascii_lowercase()).collect();
    let b: Vec<u8> = b.bytes().map(|b| b.to_ascii_lowercase()).collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                _ => {
                    let wrong = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let least = wrong.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                    match swapped {
                        true => least.min(rows[i - 2][j - 2] + 1),
                        false => least,
                    }
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read_and_shown_in_their_largest_unit() {
        for (text, shown) in [
            ("30s", "30s"),
            ("60s", "1m"),
            ("1500ms", "1500ms"),
            ("2000ms", "2s"),
            ("48h", "2d"),
            ("0", "0"),
            ("0s", "0"),
            ("7ns", "7ns"),
        ] {
            let time = parse_duration(text).unwrap();
            assert_eq!(show_duration(time).to_string(), shown);
        }
        for bad in [
            "",
            "s",
            "30",
            "-1s",
            "+1s",
            "1.5s",
            "30 s",
            "30S",
            "1w",
            "1s2",
            "9999999999999999999s",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn shares_stay_within_the_whole() {
        assert_eq!(Percent::parse("50%"), Percent::new(50));
        assert_eq!(Percent::parse("100"), Percent::new(100));
        for bad in ["101%", "-1%", "", "%", "5 %", "300"] {
            assert_eq!(Percent::parse(bad), None, "{bad}");
        }
        assert_eq!(Percent::capped(50).of(3), 1);
        assert_eq!(Percent::capped(100).of(u64::MAX), u64::MAX);
    }

    #[test]
    fn the_word_that_was_meant() {
        let known = ["burst", "nodelay", "max_fails", "fail_timeout"];
        assert_eq!(nearest("busrt", known), Some("burst"));
        assert_eq!(nearest("no-delay", known), Some("nodelay"));
        assert_eq!(nearest("maxfails", known), Some("max_fails"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest(&"b".repeat(10_000), known), None);
    }

    proptest! {
        #[test]
        fn every_time_reads_back(nanos in 0..u64::MAX / 1_000) {
            let time = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&show_duration(time).to_string()), Some(time));
        }

        #[test]
        fn no_text_breaks_a_reader(text in "\\PC{0,40}") {
            let _ = (parse_duration(&text), parse_number(&text), Percent::parse(&text));
            let _ = nearest(&text, ["burst", "ä"]);
        }
    }
}
