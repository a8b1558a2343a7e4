//! Which lines are wanted. Applied where the lines lie, and again by whoever asked: a node of an older
//! version sends all of them.

use nebula_domain::loglevel::{self, plain};
use nebula_domain::{InstanceId, ReleaseNumber};
use nebula_wire::peer::log_search;
use nebula_wire::peer::logs::{Line, Source};
use regex::{Regex, RegexBuilder};

use crate::LogsError;

/// Longest pattern; what a person writes is far below.
pub const GREP_BYTES: usize = 1_024;
/// Memory of a compiled pattern: with Unicode's classes repeated some dozens of times, and not thousands.
const COMPILED_BYTES: usize = 1024 * 1024;
/// Groups within groups.
const NESTED: u32 = 32;

/// A filter that has been checked.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) said: log_search::Filter,
    grep: Option<Regex>,
}

impl Filter {
    pub(crate) fn new(said: log_search::Filter) -> Result<Filter, LogsError> {
        let grep = said.grep.as_deref().map(pattern).transpose()?;
        Ok(Filter { said, grep })
    }

    /// Whether lines of the instance are wanted at all.
    pub(crate) fn covers(&self, instance: InstanceId, release: ReleaseNumber) -> bool {
        self.said.instance.is_none_or(|wanted| wanted == instance)
            && self.said.release.is_none_or(|wanted| wanted == release)
    }

    pub(crate) fn wants(&self, line: &Line) -> bool {
        self.covers(line.instance, line.release)
            && self.wants_text(&line.time, line.source, &line.text)
    }

    /// The same of a line of an instance that it covers.
    pub(crate) fn wants_text(&self, time: &str, source: Source, text: &str) -> bool {
        let said = &self.said;
        if said.source.is_some_and(|wanted| wanted != source)
            || said.since.as_deref().is_some_and(|since| time < since)
            || said.until.as_deref().is_some_and(|until| time >= until)
        {
            return false;
        }
        if said.level.is_none() && self.grep.is_none() {
            return true;
        }
        let shown = plain(text);
        let serious = said.level.is_none_or(|wanted| {
            let level = loglevel::of(&shown);
            level.is_some_and(|level| level >= wanted)
        });
        serious && self.grep.as_ref().is_none_or(|grep| grep.is_match(&shown))
    }
}

fn pattern(text: &str) -> Result<Regex, LogsError> {
    let bad = |reason: String| LogsError::Pattern { reason };
    if text.len() > GREP_BYTES {
        let reason = format!(
            "it has {} bytes, over the limit of {GREP_BYTES} (grep_bytes)",
            text.len()
        );
        return Err(bad(reason));
    }
    RegexBuilder::new(text)
        .size_limit(COMPILED_BYTES)
        .dfa_size_limit(COMPILED_BYTES)
        .nest_limit(NESTED)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => {
                bad("it repeats too much (grep_compiled_bytes)".to_owned())
            }
            // Many lines, with the pattern and a mark under it; the last says what is wrong.
            other => {
                let text = other.to_string();
                let last = text.lines().last().unwrap_or_default();
                bad(last.trim_start_matches("error: ").to_owned())
            }
        })
}

#[cfg(test)]
mod tests {
    use nebula_domain::loglevel::Level;
    use nebula_wire::peer::log_search::Filter as Said;
    use proptest::prelude::*;

    use super::*;

    fn line(time: &str, source: Source, text: &str) -> Line {
        Line {
            time: time.to_owned(),
            instance: InstanceId(7),
            release: ReleaseNumber(2),
            source,
            text: text.to_owned(),
        }
    }

    fn wants(said: Said, line: &Line) -> bool {
        Filter::new(said).unwrap().wants(line)
    }

    #[test]
    fn all_that_is_said_has_to_hold() {
        let shown = line(
            "2026-01-31T12:00:05.000Z",
            Source::Stderr,
            "\u{1b}[31mERROR\u{1b}[0m: disk  full",
        );
        assert!(wants(Said::default(), &shown));
        let said = |change: &dyn Fn(&mut Said)| {
            let mut said = Said::default();
            change(&mut said);
            wants(said, &shown)
        };
        let time = |text: &str| Some(format!("2026-01-31T12:00:{text}Z"));
        assert!(said(&|s| s.level = Some(Level::Warn)));
        assert!(!said(&|s| s.level = Some(Level::Fatal)));
        assert!(said(&|s| s.since = time("05.000")) && !said(&|s| s.since = time("05.001")));
        assert!(said(&|s| s.until = time("05.001")) && !said(&|s| s.until = time("05.000")));
        assert!(
            said(&|s| s.source = Some(Source::Stderr))
                && !said(&|s| s.source = Some(Source::Stdout))
        );
        assert!(
            said(&|s| s.release = Some(ReleaseNumber(2)))
                && !said(&|s| s.release = Some(ReleaseNumber(3)))
        );
        assert!(
            said(&|s| s.instance = Some(InstanceId(7)))
                && !said(&|s| s.instance = Some(InstanceId(8)))
        );
        // As one sees it.
        assert!(said(&|s| s.grep = Some("^ERROR: disk\\s+full$".to_owned())));
        assert!(!said(&|s| s.grep = Some("error".to_owned())));
        assert!(said(&|s| s.grep = Some("(?i)error".to_owned())));
        assert!(!said(&|s| {
            s.grep = Some("disk".to_owned());
            s.level = Some(Level::Fatal);
        }));
    }

    #[test]
    fn lines_without_a_level_are_shown_unless_one_is_asked_for() {
        let quiet = line("2026-01-31T12:00:05.000Z", Source::Stderr, "listening");
        assert!(wants(Said::default(), &quiet));
        let said = Said {
            level: Some(Level::Trace),
            ..Said::default()
        };
        assert!(!wants(said, &quiet));
    }

    #[test]
    fn bad_patterns_are_refused_in_one_line() {
        let long = "x".repeat(GREP_BYTES + 1);
        let deep = "(".repeat(100) + &")".repeat(100);
        for (bad, words) in [
            ("(a", "unclosed group"),
            ("a{1000}{1000}{1000}", "too much"),
            (&long, "over the limit"),
            (&deep, "nest"),
        ] {
            let said = Said {
                grep: Some(bad.to_owned()),
                ..Said::default()
            };
            let error = Filter::new(said).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains('\n'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_is_taken_or_refused(grep in "(?s).{0,60}", text in "(?s).{0,60}") {
            let said = Said { grep: Some(grep), ..Said::default() };
            if let Ok(filter) = Filter::new(said) {
                filter.wants(&line("2026", Source::Stdout, &text));
            }
        }
    }
}
