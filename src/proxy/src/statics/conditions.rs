//! Conditional requests (RFC 9110 section 13), on strong ETags alone.

use super::ask::{Fields, Values};
use super::ranges::{self, Ranges, Span};

/// What the conditions of a request make of it, in the order of section 13.2.2.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// `If-Match` names another version: 412.
    Failed,
    /// The client has this version: 304.
    NotModified,
    Whole,
    /// Some ranges, at least one: 206.
    Parts(Vec<Span>),
    /// No range can be served: 416.
    OutOfRange,
}

/// `etag` is that of the selected form, `length` its size. The conditions on dates are not evaluated, as
/// the sections on them say for a resource without one.
pub(super) fn judge(fields: &Fields<'_>, is_get: bool, etag: &[u8], length: u64) -> Verdict {
    if fields.if_match.is_there() && !matches(&fields.if_match, etag, Comparison::Strong) {
        return Verdict::Failed;
    }
    if has(fields, etag) {
        return Verdict::NotModified;
    }
    if !is_get || !fields.range.is_there() {
        return Verdict::Whole;
    }
    // A date never matches: there is none to compare with.
    if fields.if_range.is_there() && fields.if_range.single() != Some(etag) {
        return Verdict::Whole;
    }
    match fields
        .range
        .single()
        .map(|range| ranges::parse(range, length))
    {
        Some(Ranges::Parts(parts)) => Verdict::Parts(parts),
        Some(Ranges::Refused) => Verdict::OutOfRange,
        Some(Ranges::All) | None => Verdict::Whole,
    }
}

/// Whether the client says that it has this version.
pub(super) fn has(fields: &Fields<'_>, etag: &[u8]) -> bool {
    matches(&fields.if_none_match, etag, Comparison::Weak)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

fn matches(values: &Values<'_>, etag: &[u8], how: Comparison) -> bool {
    // Our tags hold no comma, so one inside a foreign tag only cuts what cannot match anyway.
    values.members().any(|candidate| {
        let candidate = candidate.as_bytes();
        candidate == b"*"
            || candidate == etag
            || (how == Comparison::Weak && candidate.strip_prefix(b"W/") == Some(etag))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(fields: &[(&str, &str)]) -> Verdict {
        judge(&Fields::from_pairs(fields), true, b"\"v1\"", 100)
    }

    #[test]
    fn conditions_come_in_the_order_of_the_rfc() {
        assert_eq!(verdict(&[]), Verdict::Whole);
        assert_eq!(verdict(&[("if-match", "\"v2\"")]), Verdict::Failed);
        assert_eq!(verdict(&[("If-Match", "W/\"v1\"")]), Verdict::Failed);
        assert_eq!(verdict(&[("if-match", "*")]), Verdict::Whole);
        for same in ["\"v1\"", "W/\"v1\"", "\"v0\", \"v1\"", "*"] {
            assert_eq!(
                verdict(&[("if-none-match", same), ("range", "bytes=0-1")]),
                Verdict::NotModified,
                "{same}"
            );
        }
        let lines = [("if-none-match", "\"v0\""), ("if-none-match", "\"v1\"")];
        assert_eq!(verdict(&lines), Verdict::NotModified);
        assert_eq!(
            verdict(&[("if-match", "\"v2\""), ("if-none-match", "\"v1\"")]),
            Verdict::Failed
        );
        // A date beside an ETag decides nothing.
        let date = ("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT");
        assert_eq!(verdict(&[date]), Verdict::Whole);
        assert_eq!(
            verdict(&[date, ("if-none-match", "\"v2\"")]),
            Verdict::Whole
        );
    }

    #[test]
    fn ranges_go_with_the_version_they_are_of() {
        let range = ("range", "bytes=0-9");
        let part = Verdict::Parts(vec![Span { first: 0, last: 9 }]);
        assert_eq!(verdict(&[range]), part);
        assert_eq!(verdict(&[range, ("if-range", "\"v1\"")]), part);
        for other in ["\"v2\"", "W/\"v1\"", "*", "Fri, 01 Jan 2100 00:00:00 GMT"] {
            let answer = verdict(&[range, ("if-range", other)]);
            assert_eq!(answer, Verdict::Whole, "{other}");
        }
        assert_eq!(verdict(&[range, range]), Verdict::Whole);
        assert_eq!(verdict(&[("range", "bytes=100-")]), Verdict::OutOfRange);
        let head = Fields::from_pairs(&[range]);
        assert_eq!(judge(&head, false, b"\"v1\"", 100), Verdict::Whole);
    }
}
