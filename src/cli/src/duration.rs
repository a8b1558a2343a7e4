//! Durations as people type them: `500ms`, `10s`, `2m`, `1h30m`, `1d`.

use std::time::Duration;

/// Longer than a year is a slip of the finger.
const MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// For clap: the error says what to write instead.
pub fn parse(text: &str) -> Result<Duration, String> {
    let bad = || {
        format!(
            "'{text}' is not a duration: write a number and a unit, such as 500ms, 10s, 5m or 1h30m"
        )
    };
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        let part = number.checked_mul(unit_ms).ok_or_else(bad)?;
        total = total
            .checked_add(Duration::from_millis(part))
            .ok_or_else(bad)?;
        rest = tail;
    }
    if total > MAX {
        return Err(format!("'{text}' is longer than a year"));
    }
    Ok(total)
}

/// Seconds with a tenth when that says something.
pub fn show(duration: Duration) -> String {
    if duration.subsec_millis() >= 100 && duration < Duration::from_secs(60) {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} s", duration.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, ms) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("1h30m", 5_400_000),
            ("0s", 0),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in [
            "",
            "10",
            "s",
            "-1s",
            "1 s",
            "1.5s",
            "1w",
            "99999999999999999999s",
            "400d",
            "1ä",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
