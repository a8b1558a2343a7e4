//! The shim's side of a log file. Never waits for room on the disk: what does not fit is dropped,
//! counted, and mentioned once there is room again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use nebula_domain::time::Millis;

use super::{ROTATE_BYTES, Stream, current, format_line, mark, previous};

pub(crate) struct Writer {
    dir: PathBuf,
    file: Option<File>,
    /// Bytes in the current file, notes by others since the last look not counted.
    size: u64,
    /// Of those, the ones of its mark.
    mark_bytes: u64,
    /// Bytes in the files before it.
    begins: u64,
    rotate_bytes: u64,
    /// Lines that were not written since the last that was.
    dropped: u64,
    batch: String,
    batch_lines: u64,
}

impl Writer {
    pub(crate) fn open(dir: PathBuf) -> Writer {
        Writer::with_limit(dir, ROTATE_BYTES)
    }

    pub(super) fn with_limit(dir: PathBuf, rotate_bytes: u64) -> Writer {
        Writer {
            dir,
            file: None,
            size: 0,
            mark_bytes: 0,
            begins: 0,
            rotate_bytes,
            dropped: 0,
            batch: String::new(),
            batch_lines: 0,
        }
    }

    /// Adds a line to the batch.
    pub(crate) fn line(&mut self, at: Millis, stream: Stream, text: &str) {
        self.batch.push_str(&format_line(at, stream, text));
        self.batch_lines += 1;
    }

    /// Writes the batch in one append.
    pub(crate) fn flush(&mut self, at: Millis) {
        if self.batch.is_empty() {
            return;
        }
        let mut text = std::mem::take(&mut self.batch);
        let lines = std::mem::take(&mut self.batch_lines);
        if self.dropped > 0 {
            let note = format!(
                "{} lines were lost: the log could not be written",
                self.dropped
            );
            text.insert_str(0, &format_line(at, Stream::Nebula, &note));
        }
        match self.append(at, text.as_bytes()) {
            Ok(()) => self.dropped = 0,
            Err(_) => self.dropped += lines,
        }
        text.clear();
        // One burst must not keep its memory for the life of a quiet program.
        text.shrink_to(64 * 1024);
        self.batch = text;
    }

    fn append(&mut self, at: Millis, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.reopen(at)?;
        }
        let has_output = self.size > self.mark_bytes;
        if has_output && self.size + bytes.len() as u64 > self.rotate_bytes {
            self.rotate(at)?;
        }
        let Some(file) = self.file.as_mut() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let before = file.metadata()?.len();
        match file.write_all(bytes) {
            Ok(()) => {
                self.size = before + bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half a line would be read as part of the next one.
                let _ = file.set_len(before);
                Err(error)
            }
        }
    }

    fn rotate(&mut self, at: Millis) -> io::Result<()> {
        // Notes included, which others wrote.
        let size = self.file.take().and_then(|file| file.metadata().ok());
        let size = size.map_or(self.size, |found| found.len());
        match fs::rename(current(&self.dir), previous(&self.dir)) {
            // Deleted by hand, or the new one could not be made the last time.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.begins += size;
        self.size = 0;
        self.reopen(at)
    }

    fn reopen(&mut self, at: Millis) -> io::Result<()> {
        // Without it, what a reader misses is not told; that must not cost the output itself.
        let _ = self.begin(at);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(current(&self.dir))?;
        self.size = file.metadata()?.len();
        let mark = mark::of(&file)?;
        self.mark_bytes = mark.as_ref().map_or(0, |mark| mark.bytes);
        self.begins = mark.map_or(self.begins, |mark| mark.begins);
        self.file = Some(file);
        Ok(())
    }

    /// Makes the current file with its mark in it, unless there is one: written aside and linked into
    /// its place, so that no reader sees it without, and no note is lost that came first.
    fn begin(&self, at: Millis) -> io::Result<()> {
        let path = current(&self.dir);
        if path.exists() {
            return Ok(());
        }
        let aside = self.dir.join("log.new");
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)?;
        file.write_all(mark::format(at, self.begins).as_bytes())?;
        let linked = fs::hard_link(&aside, &path);
        fs::remove_file(&aside)?;
        linked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_rotated_at_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::with_limit(dir.path().to_owned(), 200);
        for n in 0..20 {
            writer.line(Millis(0), Stream::Stdout, &format!("line {n}"));
            writer.flush(Millis(0));
        }
        let new = fs::read_to_string(current(dir.path())).unwrap();
        let old = fs::read_to_string(previous(dir.path())).unwrap();
        assert!(new.len() <= 200 && old.len() <= 200);
        assert!(new.ends_with("line 19\n"));
        let last_old: u32 = old.trim().rsplit(' ').next().unwrap().parse().unwrap();
        let first_new = new.lines().nth(1).unwrap();
        assert!(first_new.ends_with(&format!("line {}", last_old + 1)));
    }

    #[test]
    fn each_file_says_how_much_came_before_it_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut written = 0;
        let mark_of = |path| mark::of(&File::open(path).unwrap()).unwrap().unwrap();
        for n in 0..30 {
            let mut writer = Writer::with_limit(dir.path().to_owned(), 200);
            writer.line(Millis(0), Stream::Stdout, &format!("line {n}"));
            writer.flush(Millis(0));
            let now = mark_of(current(dir.path())).begins;
            if now != written {
                let before = fs::metadata(previous(dir.path())).unwrap().len();
                assert_eq!(now, written + before);
                written = now;
            }
        }
        assert!(written > 200);
    }

    #[test]
    fn a_file_that_went_away_does_not_end_the_output() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::with_limit(dir.path().to_owned(), 50);
        for _ in 0..3 {
            writer.line(Millis(0), Stream::Stdout, "some text");
            writer.flush(Millis(0));
            let _ = fs::remove_file(current(dir.path()));
        }
        writer.line(Millis(0), Stream::Stdout, "kept");
        writer.flush(Millis(0));
        let text = fs::read_to_string(current(dir.path())).unwrap();
        assert!(text.ends_with("stdout kept\n"), "{text}");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("later");
        let mut writer = Writer::with_limit(dir.clone(), 1000);
        for _ in 0..3 {
            writer.line(Millis(0), Stream::Stdout, "lost");
            writer.flush(Millis(0));
        }
        fs::create_dir(&dir).unwrap();
        writer.line(Millis(0), Stream::Stdout, "kept");
        writer.flush(Millis(0));
        let text = fs::read_to_string(current(&dir)).unwrap();
        assert!(text.contains("nebula 3 lines were lost"), "{text}");
        assert!(text.ends_with("stdout kept\n"));
    }
}
