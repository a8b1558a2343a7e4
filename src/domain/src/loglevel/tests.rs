use proptest::prelude::*;

use super::*;

#[track_caller]
fn says(text: &str, level: Option<Level>) {
    assert_eq!(of(&plain(text)), level, "{text}");
}

#[test]
fn json_says_it_in_a_field() {
    for text in [
        r#"{"level":"error","msg":"x"}"#,
        r#"{"msg":"level","ts":1.5,"severity" : "ERROR"}"#,
        r#"{"time":"2026","lvl":"err"}"#,
        r#"{"log.level":"error"}"#,
        r#"{"@timestamp":"x","log":{"logger":"a","level":"error"}}"#,
        r#"{"level":50,"pid":1}"#,
        r#"{"version":"1.1","level":3}"#,
        r#"{"req":{"level":"info","a":[{"level":"info"}]},"text":"a \" {","level":"Error"}"#,
        // Cut in the middle of what comes after.
        r#"{"level":"error","msg":"very lo"#,
    ] {
        says(text, Some(Level::Error));
    }
    says(r#"{"level":10}"#, Some(Level::Trace));
    says(
        r#"{"level":"loud","severity":"warning"}"#,
        Some(Level::Warn),
    );
    for text in [
        r#"{"msg":"ERROR level"}"#,
        r#"{"a":{"level":"error"}}"#,
        r#"{"level":900}"#,
        r#"{"msg":"\"#,
        "{",
    ] {
        says(text, None);
    }
}

#[test]
fn common_formats_are_known() {
    let cases = [
        ("level=warn msg=\"a level=error\"", Level::Warn),
        ("time=\"2026-01-31\" level=\"error\" msg=x", Level::Error),
        ("<3>disk failed", Level::Error),
        ("<165>1 2026-01-31T12:00:00Z host app", Level::Info),
        ("E0102 15:04:05.678901 7 a.go:9] x", Level::Error),
        ("W20260102 15:04:05.678901 7 a.cc:9] x", Level::Warn),
        ("[ERROR] x", Level::Error),
        ("ERROR: x", Level::Error),
        ("ERROR x", Level::Error),
        ("WARNING:root:x", Level::Warn),
        ("INFO:     Started server process [1]", Level::Info),
        ("error: no such file", Level::Error),
        ("Error: boom", Level::Error),
        (
            "2026-01-31 12:00:00,123 ERROR [main] com.foo - x",
            Level::Error,
        ),
        (
            "2026-01-31 12:00:00,123 - app.name - WARNING - x",
            Level::Warn,
        ),
        (
            "2026-01-31T12:00:00.123Z  INFO 1 --- [main] c.Foo : x",
            Level::Info,
        ),
        ("12:00:00.123 [main] DEBUG c.Foo - x", Level::Debug),
        ("[2026-01-31T12:00:00Z WARN  name] x", Level::Warn),
        ("2026-01-31T12:00:00.0Z\tFATAL\tmain.go:1\tx", Level::Fatal),
        (
            "2026/01/31 12:00:00 [error] 12#0: *1 open() failed",
            Level::Error,
        ),
        (
            "[Fri Sep 09 10:42:29.902022 2026] [core:crit] [pid 9] x",
            Level::Fatal,
        ),
        ("2026-01-31 12:00:00.123 UTC [9] LOG:  ready", Level::Info),
        (
            "2026-01-31 12:00:00.123 UTC [9] app@db FATAL:  x",
            Level::Fatal,
        ),
        ("2026-01-31 12:00:00.123 UTC [9] PANIC:  x", Level::Fatal),
        (
            "E, [2026-01-31T12:00:00.123456 #9] ERROR -- : x",
            Level::Error,
        ),
        (
            "\u{1b}[2m2026-01-31T12:00:00Z\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m a: x",
            Level::Error,
        ),
        ("12:00:00|WARN|name|x", Level::Warn),
        ("[ TRACE ] x", Level::Trace),
    ];
    for (text, level) in cases {
        says(text, Some(level));
    }
}

#[test]
fn what_does_not_say_has_none() {
    for text in [
        "",
        "   ",
        "listening on 20001",
        "no error here",
        "an ERROR occurred",
        "LOG of the day",
        "2026-01-31 12:00:00 the user saw ERROR twice",
        "GET /error HTTP/1.1",
        "Traceback (most recent call last):",
        "errors: 0",
        "[main] started",
        "<999>x",
        "levels=error",
        "E0102 is a part",
    ] {
        says(text, None);
    }
}

#[test]
fn what_terminals_obey_is_shown_or_left_out() {
    assert_eq!(plain("a\tb ä"), "a\tb ä");
    assert_eq!(plain("\u{1b}]a\u{1b}[1mb\u{1b}]c"), "\\x1b]ab\\x1b]c");
    assert_eq!(plain("\u{1b}[1;31mred\u{1b}[0m"), "red");
    assert_eq!(plain("\u{1b}]0;title\u{7}x\u{1b}]8;;u\u{1b}\\y"), "xy");
    assert_eq!(plain("a\u{7}b\r\u{9b}31m"), "a\\x07b\\x0d\\x9b31m");
    assert_eq!(plain("\u{1b}[31"), "\\x1b[31");
    assert_eq!(plain("a\u{202e}b"), "a\\u{202e}b");
    assert_eq!(plain("\u{1b}ä\u{1b}"), "\\x1bä\\x1b");
}

#[test]
fn a_line_is_looked_at_once_however_many_sequences_begin_in_it() {
    // Quadratic, each of these would take minutes.
    let strings = "\u{1b}]".repeat(1 << 19);
    assert_eq!(plain(&strings), "\\x1b]".repeat(1 << 19));
    assert_eq!(plain(&"\u{1b}]\u{7}".repeat(1 << 19)), "");
    assert_eq!(plain(&"\u{1b}[".repeat(1 << 19)), "\\x1b[".repeat(1 << 19));
}

#[test]
fn levels_are_read_as_they_are_shown_and_in_order() {
    for level in Level::ALL {
        assert_eq!(level.to_string().parse(), Ok(level));
    }
    assert!(Level::ALL.is_sorted());
    assert!("loud".parse::<Level>().is_err());
}

proptest! {
    #[test]
    fn any_text_is_read_and_shown_harmlessly(text in "(?s).{0,200}") {
        let shown = plain(&text);
        prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\t'));
        prop_assert_eq!(plain(&shown), shown.clone());
        let _ = of(&text);
    }

    #[test]
    fn a_level_in_front_is_found(index in 0usize..6, message in "[ -~]{0,60}") {
        let level = Level::ALL[index];
        let upper = level.as_str().to_uppercase();
        prop_assert_eq!(of(&format!("[{upper}] {message}")), Some(level));
        let json = format!(r#"{{"a":{{"level":"x"}},"level":"{level}","m":{message:?}}}"#);
        prop_assert_eq!(of(&json), Some(level));
    }
}
