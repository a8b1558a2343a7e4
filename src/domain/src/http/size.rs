//! Sizes as people type them: `512`, `64KiB`, `10m`. Units are powers of 1024, as in nginx.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::TextError;
use crate::text::parse_number;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

/// Largest first.
const UNITS: [(&str, &str, u64); 4] = [
    ("TiB", "t", 1 << 40),
    ("GiB", "g", 1 << 30),
    ("MiB", "m", 1 << 20),
    ("KiB", "k", 1 << 10),
];

impl ByteSize {
    pub const fn kib(n: u64) -> ByteSize {
        ByteSize(n << 10)
    }

    pub const fn mib(n: u64) -> ByteSize {
        ByteSize(n << 20)
    }

    pub const fn gib(n: u64) -> ByteSize {
        ByteSize(n << 30)
    }
}

impl FromStr for ByteSize {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let bad = || {
            TextError::not(
                text,
                "a size",
                "write bytes, or a unit as in 64KiB, 10MiB or 1g",
            )
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number = parse_number(number).ok_or_else(bad)?;
        if matches!(unit, "" | "B") {
            return Ok(ByteSize(number));
        }
        let known = |(long, short, _): &&(&str, &str, u64)| {
            unit == *long || unit.eq_ignore_ascii_case(short)
        };
        if let Some((_, _, bytes)) = UNITS.iter().find(known) {
            return number.checked_mul(*bytes).map(ByteSize).ok_or_else(bad);
        }
        // 10MB is 10,000,000 bytes to some and 10,485,760 to others.
        let near = |(long, short, _): &&(&str, &str, u64)| {
            unit.eq_ignore_ascii_case(long) || unit.eq_ignore_ascii_case(&format!("{short}b"))
        };
        match UNITS.iter().find(near) {
            Some((long, _, _)) => Err(TextError::not(
                text,
                "a size",
                format!("did you mean '{number}{long}'?"),
            )),
            None => Err(bad()),
        }
    }
}

/// In the largest unit that says it exactly.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(_, _, bytes): &&(&str, &str, u64)| self.0.is_multiple_of(*bytes);
        match UNITS.iter().find(exact) {
            Some((unit, _, bytes)) if self.0 > 0 => write!(f, "{}{unit}", self.0 / bytes),
            _ => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_with_units_of_1024() {
        for (text, bytes, shown) in [
            ("0", 0, "0"),
            ("512", 512, "512"),
            ("512B", 512, "512"),
            ("64KiB", 65_536, "64KiB"),
            ("1024k", 1 << 20, "1MiB"),
            ("10M", 10 << 20, "10MiB"),
            ("1g", 1 << 30, "1GiB"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown));
        }
        for bad in [
            "",
            "k",
            "-1",
            "1.5m",
            "1 m",
            "10q",
            "99999999999999999999",
            "99999999999t",
        ] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
        let error = "10MB".parse::<ByteSize>().unwrap_err().to_string();
        assert!(error.contains("did you mean '10MiB'?"), "{error}");
    }

    proptest! {
        #[test]
        fn every_size_reads_back(bytes in 0..1u64 << 59) {
            let size = ByteSize(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
