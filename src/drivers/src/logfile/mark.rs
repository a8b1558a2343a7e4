//! A log file's first line: how many bytes of output were written to the files before it.
//!
//! It is not of the format of the other lines, so readers of those leave it out. A file may lack it
//! (a note came first, the disk was full); then nothing can be said of what came before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use nebula_domain::time::Millis;

use super::{TIME_BYTES, time_text};

const WORD: &str = " offset ";
/// The time, the word, the largest number and a newline.
const MARK_BYTES: usize = TIME_BYTES + WORD.len() + 20 + 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Bytes in the files before this one.
    pub begins: u64,
    /// When the file was begun, as lines show it.
    pub time_text: String,
    /// Of the mark itself, newline included.
    pub bytes: u64,
}

pub(crate) fn format(at: Millis, begins: u64) -> String {
    format!("{}{WORD}{begins}\n", time_text(at))
}

/// The file's mark, if it has one.
pub(crate) fn of(file: &File) -> io::Result<Option<Mark>> {
    let mut bytes = [0; MARK_BYTES];
    let mut got = 0;
    while got < bytes.len() {
        match file.read_at(&mut bytes[got..], got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(parse(&bytes[..got]))
}

fn parse(head: &[u8]) -> Option<Mark> {
    let end = head.iter().position(|b| *b == b'\n')?;
    let line = std::str::from_utf8(&head[..end]).ok()?;
    let (time_text, rest) = line.split_at_checked(TIME_BYTES)?;
    Some(Mark {
        begins: rest.strip_prefix(WORD)?.parse().ok()?,
        time_text: time_text.to_owned(),
        bytes: end as u64 + 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logfile::parse as parse_line;

    #[test]
    fn a_mark_reads_back_and_is_no_line_of_output() {
        let text = format(Millis(0), u64::MAX);
        assert!(text.len() <= MARK_BYTES);
        let mark = parse(text.as_bytes()).unwrap();
        assert_eq!((mark.begins, mark.bytes), (u64::MAX, text.len() as u64));
        assert_eq!(mark.time_text, "1970-01-01T00:00:00.000Z");
        assert_eq!(parse_line(text.trim_end()), None);
        assert_eq!(parse(b"1970-01-01T00:00:00.000Z stdout offset 5\n"), None);
        assert_eq!(parse(b""), None);
    }
}
