//! Finding the latest lines that somebody wants, from the end of the output on. Each byte is looked at
//! once, and no more is held than what is asked for.

use std::io;
use std::path::Path;

use super::segments::{Segment, segments};
use super::tail::{READ_BYTES, Tail, read_up_to, split};

/// Text of the lines of one instance that are held at once, however many are asked for.
pub const TAIL_BYTES: u64 = 4 * 1024 * 1024;
const BLOCK_BYTES: u64 = READ_BYTES as u64 / 4;

/// Which lines of a folder's output.
pub struct Want<'a> {
    /// At most so many, the latest.
    pub lines: usize,
    /// None that is older, by its time as lines show it.
    pub since: Option<&'a str>,
    /// Bytes that may still be looked at; what is looked at is taken off. Without any left the search ends.
    pub budget_bytes: &'a mut u64,
    /// Whether a line (as it is in the file) is wanted.
    pub keep: &'a mut dyn FnMut(&str) -> bool,
    /// Ends the search early; asked before each line.
    pub stop: &'a dyn Fn() -> bool,
    /// Set when wanted lines may be left out because those that are newer fill [`TAIL_BYTES`].
    pub is_full: &'a mut bool,
}

struct Search<'a, 'w> {
    want: &'a mut Want<'w>,
    /// Newest first.
    found: Vec<String>,
    found_bytes: u64,
    over: bool,
}

/// The wanted lines (oldest first), and the place after the last complete line.
pub(super) fn find(dir: &Path, want: &mut Want<'_>) -> io::Result<(Vec<String>, Tail)> {
    let mut all = segments(dir)?;
    let mut search = Search {
        over: want.lines == 0,
        want,
        found: Vec::new(),
        found_bytes: 0,
    };
    let Some(newest) = all.pop() else {
        return Ok((Vec::new(), Tail::at(dir, None, 0)));
    };
    let end = search.end_of(&newest)?;
    search.file(&newest, end)?;
    for older in all.iter().rev() {
        if search.over {
            break;
        }
        let end = search.end_of(older)?;
        search.file(older, end)?;
    }
    let mut found = search.found;
    found.reverse();
    Ok((found, Tail::at(dir, Some(newest), end)))
}

impl Search<'_, '_> {
    /// Where the last complete line ends.
    fn end_of(&mut self, segment: &Segment) -> io::Result<u64> {
        let mut end = segment.bytes.max(segment.mark_bytes);
        while end > segment.mark_bytes {
            let begin = end.saturating_sub(BLOCK_BYTES).max(segment.mark_bytes);
            let block = block(segment, begin, end)?;
            if let Some(last) = block.iter().rposition(|b| *b == b'\n') {
                return Ok(begin + last as u64 + 1);
            }
            end = begin;
        }
        Ok(end)
    }

    fn file(&mut self, segment: &Segment, end: u64) -> io::Result<()> {
        let mut begin = end;
        // The beginning of a line, whose first part is in an earlier block.
        let mut rest = Vec::new();
        while begin > segment.mark_bytes && !self.over {
            let step = (begin - segment.mark_bytes)
                .min(BLOCK_BYTES)
                .min(*self.want.budget_bytes);
            if step == 0 {
                self.over = true;
                break;
            }
            *self.want.budget_bytes -= step;
            let mut bytes = block(segment, begin - step, begin)?;
            begin -= step;
            bytes.append(&mut rest);
            if begin > segment.mark_bytes {
                let first = bytes.iter().position(|b| *b == b'\n');
                // Longer than any line of ours: not a log, but it must not fill the memory.
                let whole = first.map_or(bytes.len(), |at| at + 1);
                rest = bytes.drain(..whole).collect();
                if rest.len() > READ_BYTES {
                    rest.clear();
                }
            }
            self.lines(&bytes);
        }
        Ok(())
    }

    fn lines(&mut self, bytes: &[u8]) {
        for line in split(bytes).into_iter().rev() {
            self.over = self.over || (self.want.stop)();
            if self.over {
                return;
            }
            // A clock that was set back hides what is before.
            let old = |since| super::parse(&line).is_some_and(|entry| entry.time_text < since);
            if self.want.since.is_some_and(old) {
                self.over = true;
                return;
            }
            if !(self.want.keep)(&line) {
                continue;
            }
            self.found_bytes += line.len() as u64;
            self.found.push(line);
            *self.want.is_full |= self.found_bytes > TAIL_BYTES;
            self.over = self.found.len() >= self.want.lines || self.found_bytes > TAIL_BYTES;
        }
    }
}

fn block(segment: &Segment, begin: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut block = vec![0; usize::try_from(end - begin).unwrap_or(0)];
    let got = read_up_to(&segment.file, &mut block, begin)?;
    block.truncate(got);
    Ok(block)
}
