//! How serious a line of a program's output is, by what the line itself says.
//!
//! Looked for in this order: a JSON object's field ([`json`]), a syslog priority, a glog header, a
//! `level=` pair, and a word where loggers put it ([`words`]). A line that says nothing has no level:
//! standard error is no sign of one, since many programs write everything there. One pass over the
//! line at most; only JSON is read beyond its first [`HEAD_BYTES`].
//!
//! Text comes as [`plain`] shows it, without colours. A timestamp in it is never used: lines are in the
//! order in which they were written, by the clock of their node.

mod json;
mod plain;
mod words;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use plain::plain;

/// A level stands near the beginning of a line; what is searched of one that is no JSON.
pub const HEAD_BYTES: usize = 512;

/// Least serious first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
}

impl Level {
    pub const ALL: [Level; 6] = [
        Level::Trace,
        Level::Debug,
        Level::Info,
        Level::Warn,
        Level::Error,
        Level::Fatal,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Fatal => "fatal",
        }
    }

    /// RFC 5424, 6.2.1: 0 is an emergency, 7 debugging.
    fn of_syslog(severity: u64) -> Level {
        match severity {
            0..=2 => Level::Fatal,
            3 => Level::Error,
            4 => Level::Warn,
            5 | 6 => Level::Info,
            _ => Level::Debug,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// None of the six levels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a level: write trace, debug, info, warn, error or fatal")]
pub struct NotALevel(String);

impl FromStr for Level {
    type Err = NotALevel;

    fn from_str(text: &str) -> Result<Level, NotALevel> {
        let mut all = Level::ALL.into_iter();
        all.find(|level| level.as_str() == text)
            .ok_or_else(|| NotALevel(crate::excerpt::excerpt(text)))
    }
}

/// The level that a line tells of itself.
pub fn of(text: &str) -> Option<Level> {
    let text = text.trim_start();
    if text.starts_with('{') {
        return json::level(text);
    }
    let head = head(text);
    syslog(head)
        .or_else(|| glog(head))
        .or_else(|| logfmt(head))
        .or_else(|| words::level(head))
}

fn head(text: &str) -> &str {
    let end = text.floor_char_boundary(HEAD_BYTES);
    &text[..end]
}

/// `<N>` in front: RFC 5424, 6.2.1 (facility times eight and severity), and sd-daemon(3).
fn syslog(text: &str) -> Option<Level> {
    let (number, _) = text.strip_prefix('<')?.split_once('>')?;
    let priority = crate::text::parse_number(number).filter(|n| *n <= 191)?;
    Some(Level::of_syslog(priority & 7))
}

/// `E0102 15:04:05.678901 …`: the header that glog's manual describes.
fn glog(text: &str) -> Option<Level> {
    let mut bytes = text.bytes();
    let level = match bytes.next()? {
        b'I' => Level::Info,
        b'W' => Level::Warn,
        b'E' => Level::Error,
        b'F' => Level::Fatal,
        _ => return None,
    };
    // Month and day of four digits, or the year before them in newer versions.
    let (date, time) = text[1..].split_once(' ')?;
    let digits = date.bytes().all(|b| b.is_ascii_digit());
    let time = time.trim_start().as_bytes();
    let clock = time.len() > 5 && time[0].is_ascii_digit() && time[2] == b':';
    (digits && matches!(date.len(), 4 | 8) && clock).then_some(level)
}

/// Fields that hold a level, in logfmt and in JSON.
const KEYS: [&str; 7] = [
    "level",
    "severity",
    "lvl",
    "log.level",
    "levelname",
    "loglevel",
    "severity_text",
];

/// `level=warn`, at the beginning or behind a blank.
fn logfmt(text: &str) -> Option<Level> {
    text.split_ascii_whitespace().find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        if !KEYS.contains(&key) {
            return None;
        }
        words::any_case(value.trim_matches('"'))
    })
}

#[cfg(test)]
mod tests;
