//! The log file of one instance: `<instances dir>/<i-N>/log`, one line for each line of output:
//!
//! ```text
//! 2026-01-31T12:00:00.120Z offset 0
//! 2026-01-31T12:00:00.123Z stdout listening on 20001
//! 2026-01-31T12:00:07.001Z nebula exited with code 1; starting again in 2s
//! ```
//!
//! The shim is the writer; the supervisor adds notes ([`append_note`]). A full or old file becomes
//! `log.1`, that one `log.2`, and so on up to what [`Bounds`] say; a new one begins. These files are
//! the *segments* of the output. Each one's first line says how much came before it ([`mark`]), so that
//! a reader knows what it missed. Readers use [`Tail`], which survives the change.

mod about;
mod bounds;
mod flood;
mod lines;
mod mark;
mod search;
mod segments;
mod tail;
mod writer;

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nebula_domain::time::Millis;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

pub use about::About;
pub(crate) use about::keep;
pub use bounds::{Bounds, SEGMENTS_MAX};
pub(crate) use flood::NOTE_EVERY;
pub use flood::{DROPPED, Dropped};
pub(crate) use lines::Lines;
pub use search::{TAIL_BYTES, Want};
pub use segments::{Segment, segments};
pub use tail::{READ_BYTES, Tail};
pub(crate) use writer::Writer;

/// A longer line is split, so that a reader never needs more than this to see a whole one.
pub const LINE_BYTES: usize = 16 * 1024;
/// Ends every piece but the last of a split line.
pub const CONTINUES: &str = " [line continues]";

const TIME: &[BorrowedFormatItem<'_>] = format_description!(
    version = 2,
    "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
);
const TIME_BYTES: usize = "2026-01-31T12:00:00.123Z".len();

/// The current file of an instance's folder.
pub fn current(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// The file before the current one.
pub fn previous(dir: &Path) -> PathBuf {
    numbered(dir, 1)
}

/// The n-th file before the current one.
pub fn numbered(dir: &Path, n: u32) -> PathBuf {
    dir.join(format!("log.{n}"))
}

/// Who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    Stdout,
    Stderr,
    /// The platform, about the program.
    Nebula,
}

impl Stream {
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            Stream::Nebula => "nebula",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One line of a log file, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// RFC 3339 in UTC with milliseconds: of fixed width, so that text order is time order.
    pub time_text: &'a str,
    pub stream: Stream,
    pub text: &'a str,
}

/// Takes a line (without its newline) apart; `None` when it is not of the format.
pub fn parse(line: &str) -> Option<Entry<'_>> {
    let (time_text, rest) = line.split_once(' ')?;
    if time_text.len() != TIME_BYTES || !time_text.ends_with('Z') {
        return None;
    }
    let (stream, text) = rest.split_once(' ')?;
    let stream = match stream {
        "stdout" => Stream::Stdout,
        "stderr" => Stream::Stderr,
        "nebula" => Stream::Nebula,
        _ => return None,
    };
    Some(Entry {
        time_text,
        stream,
        text,
    })
}

/// The time as the file shows it.
pub fn time_text(at: Millis) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000)
        .ok()
        .and_then(|time| time.format(TIME).ok())
        // Only a clock far outside of the calendar comes here.
        .unwrap_or_else(|| "9999-12-31T23:59:59.999Z".to_owned())
}

/// What [`time_text`] shows.
pub fn time_of(text: &str) -> Option<Millis> {
    let at = PrimitiveDateTime::parse(text, TIME).ok()?.assume_utc();
    let millis = at.unix_timestamp_nanos() / 1_000_000;
    u64::try_from(millis).ok().map(Millis)
}

/// One line as it goes to the file, newline included.
pub(crate) fn format_line(at: Millis, stream: Stream, text: &str) -> String {
    let mut line = String::with_capacity(line_bytes(stream, text));
    push_line(&mut line, &time_text(at), stream, text);
    line
}

fn push_line(to: &mut String, time: &str, stream: Stream, text: &str) {
    for part in [time, " ", stream.as_str(), " ", text, "\n"] {
        to.push_str(part);
    }
}

/// What a line takes in the file.
fn line_bytes(stream: Stream, text: &str) -> usize {
    TIME_BYTES + stream.as_str().len() + text.len() + "  \n".len()
}

/// Adds a line of the platform's own with one append, whether or not a shim is writing too.
pub fn append_note(dir: &Path, at: Millis, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(current(dir))?;
    let text = text.replace(['\n', '\r'], " ");
    file.write_all(format_line(at, Stream::Nebula, &text).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_what_was_written() {
        let line = format_line(Millis(1_769_860_800_123), Stream::Stderr, "a  b ");
        assert_eq!(line, "2026-01-31T12:00:00.123Z stderr a  b \n");
        assert_eq!(
            time_of("2026-01-31T12:00:00.123Z"),
            Some(Millis(1_769_860_800_123))
        );
        assert_eq!(time_of("2026-01-31"), None);
        let entry = parse(line.trim_end_matches('\n')).unwrap();
        assert_eq!(entry.time_text, "2026-01-31T12:00:00.123Z");
        assert_eq!((entry.stream, entry.text), (Stream::Stderr, "a  b "));
        let empty = parse("2026-01-31T12:00:00.123Z stdout ").unwrap();
        assert_eq!(empty.text, "");
    }

    #[test]
    fn what_is_no_line_of_ours_is_refused() {
        for bad in [
            "",
            "hello",
            "2026-01-31T12:00:00.123Z",
            "2026-01-31T12:00:00.123Z stdin x",
            "x stdout y",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_note_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        append_note(dir.path(), Millis(0), "first\nsecond").unwrap();
        let text = std::fs::read_to_string(current(dir.path())).unwrap();
        assert_eq!(text, "1970-01-01T00:00:00.000Z nebula first second\n");
    }
}
