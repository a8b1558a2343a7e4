//! Reading a log file: the last lines of what there is, then what is added, across rotations.
//!
//! Plain blocking file reads of bounded size; from async code call it through `spawn_blocking`.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::search::{self, TAIL_BYTES, Want};
use super::segments::{Segment, segments};
use super::{SEGMENTS_MAX, Stream, current};

/// What one [`Tail::read`] reads at most; many times the longest line.
pub const READ_BYTES: usize = 256 * 1024;

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
        Tail::find(
            dir,
            Want {
                lines,
                since: None,
                budget_bytes: &mut TAIL_BYTES.clone(),
                keep: &mut |_| true,
                stop: &|| false,
                is_full: &mut false,
            },
        )
    }

    /// The last complete lines of those that are wanted (oldest first), and the place after the last line of all.
    pub fn find(dir: &Path, mut want: Want<'_>) -> io::Result<(Vec<String>, Tail)> {
        search::find(dir, &mut want)
    }

    pub(super) fn at(dir: &Path, newest: Option<Segment>, offset: u64) -> Tail {
        let (file, begins) = match newest {
            Some(segment) => (Some(segment.file), segment.begins),
            None => (None, Some(0)),
        };
        Tail {
            dir: dir.to_owned(),
            file,
            offset,
            begins,
        }
    }

    /// Goes on in another folder, to which all files were moved.
    pub fn moved_to(&mut self, dir: PathBuf) {
        self.dir = dir;
    }

    /// The complete lines that were added since, at most [`READ_BYTES`] of them at once; empty
    /// when there are none now. Where output was rotated away before it could be read, a line of the
    /// platform's own says how much.
    pub fn read(&mut self) -> io::Result<Vec<String>> {
        // As many files can be behind as there are.
        for _ in 0..=SEGMENTS_MAX {
            let lines = self.read_held()?;
            if !lines.is_empty() {
                return Ok(lines);
            }
            if let Some(newest) = open(&current(&self.dir))?
                && same_file(self.file.as_ref(), &newest)?
            {
                return Ok(Vec::new());
            }
            // The held file was renamed. What was added between the read above and that is
            // still to be read; only then is it done with.
            let lines = self.read_held()?;
            if !lines.is_empty() {
                return Ok(lines);
            }
            let Some(next) = self.next()? else {
                return Ok(Vec::new());
            };
            if let Some(missed) = self.go_on_with(next) {
                return Ok(vec![missed]);
            }
        }
        Ok(Vec::new())
    }

    /// The segment after the held one.
    fn next(&self) -> io::Result<Option<Segment>> {
        let mut all = segments(&self.dir)?;
        let held = match &self.file {
            Some(file) => inode(file)?,
            None => return Ok((!all.is_empty()).then(|| all.remove(0))),
        };
        let after = match all.iter().position(|segment| segment.inode == held) {
            Some(at) => at + 1,
            // Deleted: the first that begins where it ended, or later.
            None => {
                let read = self.begins.map_or(0, |begins| begins + self.offset);
                let later = |s: &Segment| s.begins.is_some_and(|begins| begins >= read);
                let newest = all.len().saturating_sub(1);
                all.iter().position(later).unwrap_or(newest)
            }
        };
        Ok((after < all.len()).then(|| all.swap_remove(after)))
    }

    /// Says what was missed between the end of the held file and the beginning of the next.
    fn go_on_with(&mut self, next: Segment) -> Option<String> {
        let read = self.begins.map(|begins| begins + self.offset);
        self.file = Some(next.file);
        self.begins = next.begins;
        self.offset = next.mark_bytes;
        let (time, missed) = (next.begun?, next.begins?.saturating_sub(read?));
        (missed > 0).then(|| {
            let stream = Stream::Nebula;
            format!(
                "{time} {stream} {missed} bytes of output are missing here: the log was rotated away before they were read"
            )
        })
    }

    fn read_held(&mut self) -> io::Result<Vec<String>> {
        let Some(file) = &self.file else {
            return Ok(Vec::new());
        };
        let len = file.metadata()?.len();
        if len < self.offset {
            // Cut, by a full disk or by hand: what is left was read, and what is new comes after it.
            self.offset = len;
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

pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn inode(file: &File) -> io::Result<(u64, u64)> {
    let about = file.metadata()?;
    Ok((about.dev(), about.ino()))
}

fn same_file(held: Option<&File>, other: &File) -> io::Result<bool> {
    let Some(held) = held else { return Ok(false) };
    Ok(inode(held)? == inode(other)?)
}

pub(super) fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
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

pub(super) fn split(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes)
        .lines()
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use nebula_domain::time::Millis;

    use super::*;
    use crate::logfile::{Bounds, Writer, numbered, previous};

    fn small() -> Bounds {
        Bounds {
            segment_bytes: 100,
            segments: 3,
            ..Bounds::default()
        }
    }

    fn append(dir: &Path, text: &str) {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(current(dir))
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rotate(dir: &Path) {
        if previous(dir).exists() {
            fs::rename(previous(dir), numbered(dir, 2)).unwrap();
        }
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
        let mut writer = Writer::open(dir.to_owned(), small());
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

    #[test]
    fn of_a_file_that_was_cut_nothing_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        append(dir.path(), "a\nb\n");
        let (lines, mut tail) = Tail::open(dir.path(), 10).unwrap();
        assert_eq!(lines, ["a", "b"]);
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(current(dir.path()));
        file.unwrap().set_len(2).unwrap();
        assert!(tail.read().unwrap().is_empty());
        append(dir.path(), "c\n");
        assert_eq!(tail.read().unwrap(), ["c"]);
    }
}
