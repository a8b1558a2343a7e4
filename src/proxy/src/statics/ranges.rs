//! The `Range` field (RFC 9110 section 14.2), several ranges included.

use bytes::Bytes;

/// Ranges of one request. Readers of documents ask for a few at a time; each costs a part's head, and
/// without a bound a short request would order an answer of any number of parts.
const RANGES_MAX: usize = 16;
/// Gaps up to this are sent along: a part of its own costs about as much (section 15.3.7.2).
const GAP_BYTES: u64 = 128;

/// Bytes from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Span {
    pub(crate) fn length(self) -> u64 {
        self.last - self.first + 1
    }

    /// They overlap, or the gap between them is not worth leaving out.
    fn touches(self, other: Span) -> bool {
        let near = |a: Span, b: Span| a.first <= b.last.saturating_add(GAP_BYTES + 1);
        near(self, other) && near(other, self)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// What is not understood is answered with everything.
    All,
    /// Apart from each other, in the order they were asked for; at least one.
    Parts(Vec<Span>),
    /// Nothing asked for is there, or more than `RANGES_MAX` ranges were: 416.
    Refused,
}

pub(crate) fn parse(value: &[u8], length: u64) -> Ranges {
    let Some((unit, specs)) = std::str::from_utf8(value)
        .ok()
        .and_then(|value| value.split_once('='))
    else {
        return Ranges::All;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Ranges::All;
    }
    let (mut parts, mut count) = (Vec::new(), 0);
    for spec in specs.split(',').map(str::trim).filter(|s| !s.is_empty()) {
        count += 1;
        if count > RANGES_MAX {
            return Ranges::Refused;
        }
        match span(spec, length) {
            None => return Ranges::All,
            Some(None) => {}
            Some(Some(span)) => join(&mut parts, span),
        }
    }
    match (count, parts.is_empty()) {
        (0, _) => Ranges::All,
        (_, true) => Ranges::Refused,
        (_, false) => Ranges::Parts(parts),
    }
}

/// Adds a span; those that it touches become one with it, in the place of the first of them.
fn join(parts: &mut Vec<Span>, mut span: Span) {
    let mut place = parts.len();
    while let Some(index) = parts.iter().position(|part| part.touches(span)) {
        let part = parts.remove(index);
        span = Span {
            first: span.first.min(part.first),
            last: span.last.max(part.last),
        };
        place = place.min(index);
    }
    parts.insert(place.min(parts.len()), span);
}

/// Outer `None`: not a range; inner: one that lies outside.
fn span(spec: &str, length: u64) -> Option<Option<Span>> {
    let (first, last) = spec.split_once('-')?;
    // More than fits is as good as the largest that does.
    let number = |digits: &str| {
        (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
            .then(|| digits.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", suffix) => {
            let count = number(suffix)?;
            Some((count > 0 && length > 0).then(|| Span {
                first: length.saturating_sub(count),
                last: length - 1,
            }))
        }
        (first, last) => {
            let first = number(first)?;
            let last = match last {
                "" => u64::MAX,
                last => number(last)?,
            };
            if first > last {
                return None;
            }
            Some((first < length).then(|| Span {
                first,
                last: last.min(length - 1),
            }))
        }
    }
}

/// Part of what is in memory; what lies outside of it is left out.
pub(crate) fn slice(whole: &Bytes, span: Span) -> Bytes {
    let at = |position: u64| usize::try_from(position).map_or(whole.len(), |p| p.min(whole.len()));
    whole.slice(at(span.first)..at(span.last + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(value: &str, length: u64) -> Vec<(u64, u64)> {
        match parse(value.as_bytes(), length) {
            Ranges::Parts(parts) => parts.iter().map(|s| (s.first, s.last)).collect(),
            other => panic!("{value}: {other:?}"),
        }
    }

    #[test]
    fn one_range() {
        for (value, expected) in [
            ("bytes=0-9", (0, 9)),
            ("Bytes = 0-9", (0, 9)),
            ("bytes=90-", (90, 99)),
            ("bytes=90-1000", (90, 99)),
            ("bytes=0-99999999999999999999999", (0, 99)),
            ("bytes=-10", (90, 99)),
            ("bytes=-1000", (0, 99)),
            ("bytes=,5-6 ,", (5, 6)),
        ] {
            assert_eq!(parts(value, 100), [expected], "{value}");
        }
        for value in ["bytes=100-", "bytes=-0", "bytes=200-300, 100-"] {
            assert_eq!(parse(value.as_bytes(), 100), Ranges::Refused, "{value}");
        }
        assert_eq!(parse(b"bytes=-5", 0), Ranges::Refused);
        for value in [
            "bytes=9-0",
            "bytes=-",
            "bytes=",
            "bytes=a-b",
            "bytes=0-1,x",
            "bytes=0-1,9-0",
            "lines=0-1",
            "bytes",
            "bytes=+1-2",
            "bytes=1-+2",
        ] {
            assert_eq!(parse(value.as_bytes(), 100), Ranges::All, "{value}");
        }
    }

    #[test]
    fn several_ranges() {
        assert_eq!(parts("bytes=5000-5001, 0-9", 9000), [(5000, 5001), (0, 9)]);
        assert_eq!(parts("bytes=0-9,5-20", 9000), [(0, 20)]);
        assert_eq!(parts("bytes=0-9,137-140", 9000), [(0, 140)]);
        assert_eq!(parts("bytes=0-9,139-140", 9000), [(0, 9), (139, 140)]);
        // What joins others takes the place of the first of them.
        assert_eq!(
            parts("bytes=0-0,5000-5000,2000-2000,-4500", 9000),
            [(0, 0), (4500, 8999), (2000, 2000)]
        );
        let many = |count: usize| {
            let specs: Vec<_> = (0..count).map(|n| format!("{0}-{0}", n * 500)).collect();
            format!("bytes={}", specs.join(","))
        };
        assert_eq!(parts(&many(RANGES_MAX), 100_000).len(), RANGES_MAX);
        assert_eq!(
            parse(many(RANGES_MAX + 1).as_bytes(), 100_000),
            Ranges::Refused
        );
    }

    proptest! {
        #[test]
        fn parts_hold_what_was_asked_for_and_never_twice(
            specs in proptest::collection::vec((0u64..1200, 0u64..300), 1..RANGES_MAX),
            length in 1u64..1000,
        ) {
            let text: Vec<_> = specs.iter().map(|(first, more)| format!("{first}-{}", first + more)).collect();
            let wanted = |at: u64| specs.iter().any(|(first, more)| (*first..=first + more).contains(&at));
            match parse(format!("bytes={}", text.join(",")).as_bytes(), length) {
                Ranges::Parts(parts) => {
                    for (n, part) in parts.iter().enumerate() {
                        prop_assert!(part.first <= part.last && part.last < length);
                        // Each part begins and ends with what was asked for.
                        prop_assert!(wanted(part.first) && wanted(part.last));
                        prop_assert!(parts[n + 1..].iter().all(|other| !part.touches(*other)));
                    }
                    for at in 0..length {
                        let covered = parts.iter().any(|p| (p.first..=p.last).contains(&at));
                        prop_assert!(covered || !wanted(at), "{}", at);
                    }
                }
                Ranges::Refused => prop_assert!((0..length).all(|at| !wanted(at))),
                Ranges::All => prop_assert!(false),
            }
        }

        #[test]
        fn any_value_is_taken(value in "(bytes=)?[0-9, -]{0,40}", length in 0u64..100) {
            if let Ranges::Parts(parts) = parse(value.as_bytes(), length) {
                prop_assert!(parts.iter().all(|p| p.first <= p.last && p.last < length));
            }
        }
    }
}
