//! Conditional requests and ranges (RFC 9110 sections 13 and 14), on strong ETags alone.

use http::header::{self, HeaderMap, HeaderName};

/// What the conditions of a request make of it, in the order of section 13.2.2.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// `If-Match` names another version: 412.
    Failed,
    /// The client has this version: 304.
    NotModified,
    Whole,
    /// One range, inclusive: 206.
    Part {
        first: u64,
        last: u64,
    },
    /// The range lies outside: 416.
    OutOfRange,
}

/// `etag` is that of the selected representation, `length` its size when ranges of it can be served.
/// The conditions on dates are not evaluated, as the sections on them say for a resource without one.
pub(crate) fn judge(headers: &HeaderMap, is_get: bool, etag: &str, length: Option<u64>) -> Verdict {
    if headers.contains_key(header::IF_MATCH)
        && !any_matches(headers, header::IF_MATCH, etag, Strong)
    {
        return Verdict::Failed;
    }
    if any_matches(headers, header::IF_NONE_MATCH, etag, Weak) {
        return Verdict::NotModified;
    }
    let (true, Some(length)) = (is_get, length) else {
        return Verdict::Whole;
    };
    // A date never matches: there is none to compare with.
    let if_range = headers.get(header::IF_RANGE);
    if if_range.is_some_and(|condition| condition.as_bytes() != etag.as_bytes()) {
        return Verdict::Whole;
    }
    let mut ranges = headers.get_all(header::RANGE).iter();
    match (ranges.next().map(|range| range.to_str()), ranges.next()) {
        (Some(Ok(range)), None) => part(range, length),
        _ => Verdict::Whole,
    }
}

use Comparison::{Strong, Weak};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

fn any_matches(headers: &HeaderMap, name: HeaderName, etag: &str, how: Comparison) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        // Our tags hold no comma, so one inside a foreign tag only cuts what cannot match anyway.
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|candidate| {
            candidate == "*"
                || candidate == etag
                || (how == Weak && candidate.strip_prefix("W/") == Some(etag))
        })
}

/// Several ranges, and what is not a range, are answered with the whole file, which section 14.2 allows.
fn part(range: &str, length: u64) -> Verdict {
    let Some(spec) = range.trim().strip_prefix("bytes=") else {
        return Verdict::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Verdict::Whole;
    };
    let number = |digits: &str| {
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", "") => Verdict::Whole,
        ("", suffix) => match number(suffix) {
            None => Verdict::Whole,
            Some(0) => Verdict::OutOfRange,
            Some(_) if length == 0 => Verdict::OutOfRange,
            Some(count) => Verdict::Part {
                first: length.saturating_sub(count),
                last: length - 1,
            },
        },
        (first, last) => {
            let end = match last {
                "" => Some(u64::MAX),
                last => number(last),
            };
            match (number(first), end) {
                (Some(first), Some(end)) if first <= end => match first < length {
                    true => Verdict::Part {
                        first,
                        last: end.min(length - 1),
                    },
                    false => Verdict::OutOfRange,
                },
                _ => Verdict::Whole,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn verdict(fields: &[(HeaderName, &'static str)]) -> Verdict {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        judge(&headers, true, "\"v1\"", Some(100))
    }

    #[test]
    fn conditions_come_in_the_order_of_the_rfc() {
        use header::{IF_MATCH, IF_NONE_MATCH, RANGE};
        assert_eq!(verdict(&[]), Verdict::Whole);
        assert_eq!(verdict(&[(IF_MATCH, "\"v2\"")]), Verdict::Failed);
        assert_eq!(verdict(&[(IF_MATCH, "W/\"v1\"")]), Verdict::Failed);
        assert_eq!(verdict(&[(IF_MATCH, "*")]), Verdict::Whole);
        for same in ["\"v1\"", "W/\"v1\"", "\"v0\", \"v1\"", "*"] {
            assert_eq!(
                verdict(&[(IF_NONE_MATCH, same), (RANGE, "bytes=0-1")]),
                Verdict::NotModified,
                "{same}"
            );
        }
        assert_eq!(
            verdict(&[(IF_MATCH, "\"v2\""), (IF_NONE_MATCH, "\"v1\"")]),
            Verdict::Failed
        );
        // A date beside or without an ETag decides nothing.
        let date = "Fri, 01 Jan 2100 00:00:00 GMT";
        assert_eq!(
            verdict(&[(header::IF_MODIFIED_SINCE, date)]),
            Verdict::Whole
        );
        assert_eq!(
            verdict(&[(header::IF_MODIFIED_SINCE, date), (IF_NONE_MATCH, "\"v2\"")]),
            Verdict::Whole
        );
    }

    #[test]
    fn ranges() {
        let part = |range| verdict(&[(header::RANGE, range)]);
        let is = |first, last| Verdict::Part { first, last };
        assert_eq!(part("bytes=0-9"), is(0, 9));
        assert_eq!(part("bytes=90-"), is(90, 99));
        assert_eq!(part("bytes=90-1000"), is(90, 99));
        assert_eq!(part("bytes=-10"), is(90, 99));
        assert_eq!(part("bytes=-1000"), is(0, 99));
        assert_eq!(part("bytes=100-"), Verdict::OutOfRange);
        assert_eq!(part("bytes=-0"), Verdict::OutOfRange);
        for whole in [
            "bytes=9-0",
            "bytes=-",
            "bytes=a-b",
            "lines=0-1",
            "bytes=0-1,5-6",
            "bytes=+1-2",
        ] {
            assert_eq!(part(whole), Verdict::Whole, "{whole}");
        }
        let range = (header::RANGE, "bytes=0-9");
        assert_eq!(
            verdict(&[range.clone(), (header::IF_RANGE, "\"v1\"")]),
            is(0, 9)
        );
        for other in ["\"v2\"", "W/\"v1\"", "Fri, 01 Jan 2100 00:00:00 GMT"] {
            assert_eq!(
                verdict(&[range.clone(), (header::IF_RANGE, other)]),
                Verdict::Whole,
                "{other}"
            );
        }
    }
}
