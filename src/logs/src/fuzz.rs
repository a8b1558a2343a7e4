//! Lines and patterns from programs and people that mean no good.

use nebula_domain::loglevel::{self, plain};
use nebula_domain::{InstanceId, ReleaseNumber};
use nebula_testkit::fuzz::Target;
use nebula_wire::peer::log_search::Filter as Said;
use nebula_wire::peer::logs::{Line, Source};

use crate::filter::Filter;

#[test]
fn fuzz_output_lines() {
    let corpus = [
        r#"{"time":"2026-01-31T12:00:00Z","level":"error","msg":"a \"b\"","log":{"level":"info"}}"#,
        "2026-01-31 12:00:00.123 UTC [9] app@db FATAL:  no such role",
        "[2026-01-31T12:00:00Z WARN  name] text",
        "time=2026-01-31 level=info msg=\"x y\"",
        "E0102 15:04:05.678901 7 a.go:9] x",
        "<165>1 2026-01-31T12:00:00Z host app",
        "\u{1b}[31mERROR\u{1b}[0m: \u{1b}]8;;u\u{1b}\\text\u{7}",
    ];
    let target = Target {
        name: "logs: lines of output",
        corpus: corpus.map(|line| line.as_bytes().to_vec()).to_vec(),
        words: &[
            "\u{1b}[",
            "{\"level\":",
            "\"",
            "[",
            "]",
            "ERROR:",
            "<",
            "level=",
            "\\",
            "|",
        ],
        max_bytes: 16 * 1024,
        // What is shown of a control character is longer than it is.
        allocated_per_byte: 32,
        allocated_bytes: 16 * 1024,
        understood_percent: 10,
    };
    target.run(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let shown = plain(&text);
        assert!(!shown.chars().any(|c| c.is_control() && c != '\t'));
        loglevel::of(&shown).is_some()
    });
}

#[test]
fn fuzz_patterns() {
    let corpus = [
        "time(d )?out",
        "(?i)error|warn",
        "^\\w+\\s[^a-z]{2,5}$",
        "a{10}",
    ];
    let target = Target {
        name: "logs: patterns",
        corpus: corpus.map(|line| line.as_bytes().to_vec()).to_vec(),
        words: &[
            "(", ")", "{1000}", "\\w", "*", "+", "[^", "\\p{L}", "|", "(?s)",
        ],
        max_bytes: crate::GREP_BYTES,
        allocated_per_byte: 64 * 1024,
        // A compiled pattern and its caches, each of which is bounded.
        allocated_bytes: 64 * 1024 * 1024,
        understood_percent: 5,
    };
    let line = Line {
        time: "2026-01-31T12:00:00.000Z".to_owned(),
        instance: InstanceId(1),
        release: ReleaseNumber(1),
        source: Source::Stdout,
        text: "the request timed out after 30s ".repeat(20),
    };
    target.run(|bytes| {
        let said = Said {
            grep: Some(String::from_utf8_lossy(bytes).into_owned()),
            ..Said::default()
        };
        let filter = Filter::new(said);
        filter.is_ok_and(|filter| {
            filter.wants(&line);
            true
        })
    });
}
