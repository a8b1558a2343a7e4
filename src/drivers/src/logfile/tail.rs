//! Reading a log file: the last lines of what there is, then what is added, across rotations.
//!
//! Plain blocking file reads of bounded size; from async code call it through `spawn_blocking`.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::{Stream, current, mark, previous};

/// What one [`Tail::read`] reads at most; many times the longest line.
pub const READ_BYTES: usize = 256 * 1024;
/// How far back [`Tail::open`] reads at most, however many lines are asked for.
pub const TAIL_BYTES: u64 = 4 * 1024 * 1024;

/// A place in one instance's output.
///
/// ```no_run
/// # fn main() -> std::io::Result<()> {
/// # use nebula_drivers::logfile::{parse, Tail};
/// let (last, mut tail) = Tail::open("/var/lib/nebula/instances/i-1".as_ref(), 100)?;
/// for line in &last { println!("{:?}", parse(line)); }
/// loop {
///     let lines = tail.read()?;   // empty: nothing new, ask again in a while
///     # break;
/// }
/// # Ok(()) }
/// ```
pub struct Tail {
    dir: PathBuf,
    /// Held open, so that its inode is not used again and nothing of it is missed.
    file: Option<File>,
    /// Always at the beginning of a line.
    offset: u64,
    /// Bytes of output before the file; none: not known.
    begins: Option<u64>,
}

impl Tail {
    /// The last `lines` complete lines (oldest first), and the place after them. An instance
    /// without output, or without a folder yet, has none.
    pub fn open(dir: &Path, lines: usize) -> io::Result<(Vec<String>, Tail)> {
        let mut file = open(&current(dir))?;
        // Opened after the current file: should a rotation come between, a line is seen once in
        // the file that is held, and not again in this one.
        let mut before = open(&previous(dir))?;
        if file.is_none() {
            // Just renamed, and the new one is yet to come.
            file = before.take();
        }
        let begins = match &file {
            Some(file) => mark::of(file)?.map(|mark| mark.begins),
            None => Some(0),
        };
        let mut tail = Tail {
            dir: dir.to_owned(),
            file,
            offset: 0,
            // The first file of all, begun by a note.
            begins: begins.or_else(|| before.is_none().then_some(0)),
        };
        let mut found = Vec::new();
        let mut budget = TAIL_BYTES;
        if let Some(file) = &tail.file {
            let (end, last) = last_lines(file, lines, &mut budget)?;
            tail.offset = end;
            found = last;
        }
        if let Some(before) = before
            && found.len() < lines
            && !same_file(tail.file.as_ref(), &before)?
        {
            let (_, mut older) = last_lines(&before, lines - found.len(), &mut budget)?;
            older.append(&mut found);
            found = older;
        }
        Ok((found, tail))
    }

    /// The complete lines that were added since, at most [`READ_BYTES`] of them at once; empty
    /// when there are none now. Where output was rotated away before it could be read, a line of the
    /// platform's own says how much.
    pub fn read(&mut self) -> io::Result<Vec<String>> {
        // Two files can be behind: the one held, and `log.1` when two rotations passed.
        for _ in 0..3 {
            let lines = self.read_held()?;
            if !lines.is_empty() {
                return Ok(lines);
            }
            let Some(newest) = open(&current(&self.dir))? else {
                return Ok(Vec::new());
            };
            if same_file(self.file.as_ref(), &newest)? {
                return Ok(Vec::new());
            }
            // The held file was renamed. What was added between the read above and that is
            // still to be read; only then is it done with.
            let lines = self.read_held()?;
            if !lines.is_empty() {
                return Ok(lines);
            }
            let next = match open(&previous(&self.dir))? {
                Some(older)
                    if !same_file(self.file.as_ref(), &older)?
                        && !same_file(Some(&newest), &older)? =>
                {
                    older
                }
                _ => newest,
            };
            if let Some(missed) = self.go_on_with(next)? {
                return Ok(vec![missed]);
            }
        }
        Ok(Vec::new())
    }

    /// Says what was missed between the end of the held file and the beginning of the next.
    fn go_on_with(&mut self, next: File) -> io::Result<Option<String>> {
        let mark = mark::of(&next)?;
        let read = self.begins.map(|begins| begins + self.offset);
        self.file = Some(next);
        self.begins = mark.as_ref().map(|mark| mark.begins);
        self.offset = mark.as_ref().map_or(0, |mark| mark.bytes);
        let Some((mark, read)) = mark.zip(read) else {
            return Ok(None);
        };
        let missed = mark.begins.saturating_sub(read);
        Ok((missed > 0).then(|| {
            let (time, stream) = (mark.time_text, Stream::Nebula);
            format!(
                "{time} {stream} {missed} bytes of output are missing here: the log was rotated away before they were read"
            )
        }))
    }

    fn read_held(&mut self) -> io::Result<Vec<String>> {
        let Some(file) = &self.file else {
            return Ok(Vec::new());
        };
        let len = file.metadata()?.len();
        if len < self.offset {
            // Cut by hand: begin again rather than wait for it to grow back.
            self.offset = 0;
        }
        let want = usize::try_from(len - self.offset).unwrap_or(READ_BYTES);
        let mut bytes = vec![0; want.min(READ_BYTES)];
        let got = read_up_to(file, &mut bytes, self.offset)?;
        bytes.truncate(got);
        match bytes.iter().rposition(|b| *b == b'\n') {
            Some(last) => {
                self.offset += last as u64 + 1;
                Ok(split(&bytes[..=last]))
            }
            // Longer than any line of ours: not a log, but it must not stop the reader.
            None if got == READ_BYTES => {
                self.offset += got as u64;
                Ok(split(&bytes))
            }
            None => Ok(Vec::new()),
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn same_file(held: Option<&File>, other: &File) -> io::Result<bool> {
    let Some(held) = held else { return Ok(false) };
    let (a, b) = (held.metadata()?, other.metadata()?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < bytes.len() {
        match file.read_at(&mut bytes[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

fn split(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes)
        .lines()
        .map(str::to_owned)
        .collect()
}

/// The last complete lines of a file, and where the last of them ends.
fn last_lines(file: &File, lines: usize, budget: &mut u64) -> io::Result<(u64, Vec<String>)> {
    let first = mark::of(file)?.map_or(0, |mark| mark.bytes);
    let len = file.metadata()?.len().max(first);
    let mut begin = len;
    // From the end on; each byte is looked at once.
    let mut blocks = Vec::new();
    let mut newlines = 0;
    // One newline more than lines: the one that ends the line before the first.
    while begin > first && *budget > 0 && newlines <= lines {
        let step = (begin - first).min(READ_BYTES as u64 / 4).min(*budget);
        begin -= step;
        *budget -= step;
        let mut block = vec![0; usize::try_from(step).unwrap_or(0)];
        let got = read_up_to(file, &mut block, begin)?;
        block.truncate(got);
        newlines += block.iter().filter(|b| **b == b'\n').count();
        blocks.push(block);
    }
    blocks.reverse();
    let mut bytes = blocks.concat();
    let Some(last) = bytes.iter().rposition(|b| *b == b'\n') else {
        // Nothing but an unfinished line: it is read when it is finished.
        return Ok((begin, Vec::new()));
    };
    let end = begin + last as u64 + 1;
    bytes.truncate(last + 1);
    let mut found = split(&bytes);
    if begin > first && !found.is_empty() {
        // Read from the middle of a line on.
        found.remove(0);
    }
    let surplus = found.len().saturating_sub(lines);
    Ok((end, found.split_off(surplus)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use nebula_domain::time::Millis;

    use super::*;
    use crate::logfile::Writer;

    fn append(dir: &Path, text: &str) {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(current(dir))
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rotate(dir: &Path) {
        fs::rename(current(dir), previous(dir)).unwrap();
    }

    #[test]
    fn the_last_lines_come_from_both_files() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        append(dir, "a\nb\nc\n");
        rotate(dir);
        append(dir, "d\ne\n");
        assert_eq!(Tail::open(dir, 1).unwrap().0, ["e"]);
        assert_eq!(Tail::open(dir, 3).unwrap().0, ["c", "d", "e"]);
        assert_eq!(Tail::open(dir, 9).unwrap().0, ["a", "b", "c", "d", "e"]);
        assert!(Tail::open(dir, 0).unwrap().0.is_empty());
    }

    #[test]
    fn the_last_lines_of_a_large_file_are_found_from_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let text: String = (0..50_000).map(|n| format!("line {n}\n")).collect();
        append(dir.path(), &text);
        let (lines, mut tail) = Tail::open(dir.path(), 20_000).unwrap();
        assert_eq!(lines.len(), 20_000);
        assert_eq!(lines[0], "line 30000");
        assert!(tail.read().unwrap().is_empty());
    }

    #[test]
    fn a_follower_sees_each_complete_line_once_across_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (none, mut tail) = Tail::open(dir, 10).unwrap();
        assert!(none.is_empty() && tail.read().unwrap().is_empty());
        append(dir, "a\nb");
        assert_eq!(tail.read().unwrap(), ["a"]);
        assert!(tail.read().unwrap().is_empty());
        append(dir, "b\nc\n");
        rotate(dir);
        assert_eq!(tail.read().unwrap(), ["bb", "c"]);
        append(dir, "d\n");
        assert_eq!(tail.read().unwrap(), ["d"]);
        append(dir, "e\n");
        rotate(dir);
        append(dir, "f\n");
        rotate(dir);
        append(dir, "g\n");
        assert_eq!(tail.read().unwrap(), ["e"]);
        assert_eq!(tail.read().unwrap(), ["f"]);
        assert_eq!(tail.read().unwrap(), ["g"]);
        assert!(tail.read().unwrap().is_empty());
    }

    #[test]
    fn a_follower_is_told_what_it_missed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut writer = Writer::with_limit(dir.to_owned(), 100);
        let mut write = |range: std::ops::Range<u32>| {
            for n in range {
                writer.line(Millis(0), Stream::Stdout, &format!("{n:04}"));
                writer.flush(Millis(0));
            }
        };
        write(0..1);
        let (lines, mut tail) = Tail::open(dir, 10).unwrap();
        assert_eq!(lines.len(), 1, "the mark is no line: {lines:?}");
        let mut all = Vec::new();
        let mut read_all = |tail: &mut Tail| {
            loop {
                let lines = tail.read().unwrap();
                if lines.is_empty() {
                    return std::mem::take(&mut all);
                }
                all.extend(lines);
            }
        };
        // Two rotations at most: nothing is missed.
        write(1..4);
        let kept = read_all(&mut tail);
        assert_eq!(kept.len(), 3, "{kept:?}");

        write(4..20);
        let lines = read_all(&mut tail);
        let told: Vec<_> = lines.iter().filter(|l| l.contains("missing")).collect();
        assert_eq!(told.len(), 1, "{lines:?}");
        let entry = crate::logfile::parse(told[0]).unwrap();
        assert_eq!(entry.stream, Stream::Nebula);
        let missed: usize = entry.text.split(' ').next().unwrap().parse().unwrap();
        // Lines of one length, and a mark in each file.
        let line = "1970-01-01T00:00:00.000Z stdout 0000\n".len();
        let shown = lines.len() - 1;
        assert!(missed >= (16 - shown) * line, "{missed} {lines:?}");
        assert!(lines.last().unwrap().ends_with("0019"));
        assert!(read_all(&mut tail).is_empty());
    }

    #[test]
    fn an_unfinished_last_line_is_left_for_later() {
        let dir = tempfile::tempdir().unwrap();
        append(dir.path(), "a\nhalf");
        let (lines, mut tail) = Tail::open(dir.path(), 10).unwrap();
        assert_eq!(lines, ["a"]);
        append(dir.path(), " whole\n");
        assert_eq!(tail.read().unwrap(), ["half whole"]);
    }
}
