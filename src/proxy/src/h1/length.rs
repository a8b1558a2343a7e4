//! Where a message's body ends (RFC 9112 section 6.3). Whatever leaves that open to a second reading is refused.

use super::fields::{Fields, Kind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// No body, or an empty one.
    None,
    Sized(u64),
    Chunked,
    /// The body goes on until the connection's end; of responses only.
    UntilClose,
}

/// What is wrong with the fields that say where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ambiguous {
    /// They contradict each other, or are no numbers.
    Unclear(&'static str),
    /// A transfer coding other than `chunked`.
    Coding,
}

/// What the fields say; `None` when they say nothing.
pub(super) fn declared(fields: &Fields, chunked_known: bool) -> Result<Option<Length>, Ambiguous> {
    let mut codings = fields.of_kind(Kind::TransferEncoding);
    let mut lengths = fields.of_kind(Kind::ContentLength);
    let coding = codings.next();
    let length = lengths.next();
    if coding.is_some() && length.is_some() {
        return Err(Ambiguous::Unclear(
            "it has both Content-Length and Transfer-Encoding",
        ));
    }
    if let Some(coding) = coding {
        if !chunked_known {
            return Err(Ambiguous::Unclear("HTTP/1.0 knows no Transfer-Encoding"));
        }
        if codings.next().is_some() {
            return Err(Ambiguous::Unclear("it has more than one Transfer-Encoding"));
        }
        return match coding.eq_ignore_ascii_case(b"chunked") {
            true => Ok(Some(Length::Chunked)),
            false => Err(Ambiguous::Coding),
        };
    }
    let Some(length) = length else {
        return Ok(None);
    };
    if lengths.next().is_some() {
        return Err(Ambiguous::Unclear("it has more than one Content-Length"));
    }
    match number(length) {
        Some(0) => Ok(Some(Length::None)),
        Some(length) => Ok(Some(Length::Sized(length))),
        None => Err(Ambiguous::Unclear("its Content-Length is not a number")),
    }
}

/// Digits and nothing else (RFC 9110 section 8.6): no sign, no list, no space.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digits_are_a_length() {
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"00042"), Some(42));
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for bad in [
            "",
            "+1",
            "-1",
            "1 ",
            "1,1",
            "0x1",
            "1e3",
            "18446744073709551616",
        ] {
            assert_eq!(number(bad.as_bytes()), None, "{bad}");
        }
    }
}
