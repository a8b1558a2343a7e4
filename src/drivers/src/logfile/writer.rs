//! The shim's side of a log file. Never waits for room on the disk: what does not fit is dropped,
//! counted, and mentioned once there is room again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use nebula_domain::time::Millis;

use super::flood::{DROPPED, Dropped, Flood};
use super::segments::segments;
use super::{
    Bounds, SEGMENTS_MAX, Stream, current, format_line, line_bytes, mark, numbered, push_line,
    time_of, time_text,
};
use crate::record;

pub(crate) struct Writer {
    dir: PathBuf,
    file: Option<File>,
    /// Bytes in the current file, notes by others since the last look not counted.
    size: u64,
    /// Of those, the ones of its mark.
    mark_bytes: u64,
    /// Bytes in the files before it.
    begins: u64,
    /// When the current file was begun, if it says.
    begun: Option<Millis>,
    bounds: Bounds,
    flood: Flood,
    /// Lines that were not written since the last that was.
    dropped: u64,
    batch: String,
    batch_lines: u64,
    /// Of the line before, as lines show it: many come at one moment.
    time: Option<(Millis, String)>,
}

impl Writer {
    pub(crate) fn open(dir: PathBuf, bounds: Bounds) -> Writer {
        Writer {
            dir,
            file: None,
            size: 0,
            mark_bytes: 0,
            begins: 0,
            begun: None,
            bounds,
            flood: Flood::new(bounds.rate_bytes),
            dropped: 0,
            batch: String::new(),
            batch_lines: 0,
            time: None,
        }
    }

    /// Adds a line to the batch, unless there are too many.
    pub(crate) fn line(&mut self, at: Millis, stream: Stream, text: &str) {
        // What the file grows by: empty lines are more than nothing.
        if self.flood.admits(at, line_bytes(stream, text)) {
            self.add(at, stream, text);
        }
    }

    /// Adds a line of the platform's own, of which there are never many.
    pub(crate) fn note(&mut self, at: Millis, text: &str) {
        self.add(at, Stream::Nebula, text);
    }

    /// Whether something is to be told once a moment has passed.
    pub(crate) fn owes_note(&self) -> bool {
        self.flood.owes()
    }

    fn add(&mut self, at: Millis, stream: Stream, text: &str) {
        if self.time.as_ref().is_none_or(|(of, _)| *of != at) {
            self.time = Some((at, time_text(at)));
        }
        let time = self.time.as_ref().map_or("", |(_, text)| text);
        push_line(&mut self.batch, time, stream, text);
        self.batch_lines += 1;
    }

    /// Writes all there is, and what is yet to be told.
    pub(crate) fn end(&mut self, at: Millis) {
        self.write(at, true);
    }

    /// Writes the batch in one append.
    pub(crate) fn flush(&mut self, at: Millis) {
        self.write(at, false);
    }

    fn write(&mut self, at: Millis, last: bool) {
        if let Some(dropped) = self.flood.owed_now(at, last) {
            let (stream, text) = self.flood.note(dropped);
            self.add(at, stream, &text);
            self.count(dropped);
        }
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
        let noted = u64::from(self.dropped > 0);
        match self.append(at, text.as_bytes()) {
            Ok(()) => self.dropped = 0,
            Err(cut) => {
                // The note is the first line.
                if cut.lines > 0 {
                    self.dropped = 0;
                }
                self.dropped += lines - cut.lines.saturating_sub(noted);
            }
        }
        text.clear();
        // One burst must not keep its memory for the life of a quiet program.
        text.shrink_to(64 * 1024);
        self.batch = text;
    }

    /// For the daemon's metrics; the log itself tells the same.
    fn count(&self, dropped: Dropped) {
        let before: Option<Dropped> = record::read(&self.dir, DROPPED).unwrap_or(None);
        let before = before.unwrap_or_default();
        let all = Dropped {
            lines: before.lines + dropped.lines,
            bytes: before.bytes + dropped.bytes,
        };
        let _ = record::write(&self.dir, DROPPED, &all);
    }

    fn append(&mut self, at: Millis, bytes: &[u8]) -> Result<(), Cut> {
        self.make_room(at, bytes.len() as u64)?;
        let Some(file) = self.file.as_mut() else {
            return Err(Cut::default());
        };
        let before = file.metadata()?.len();
        let written = write_lines(file, bytes);
        self.size = before + bytes.len() as u64;
        if let Err(cut) = &written {
            // Half a line would be read as part of the next one. Whole ones stay: readers have them already.
            self.size = before + cut.bytes;
            let _ = file.set_len(self.size);
        }
        written
    }

    /// Begins a new file, if so many bytes are too many for this one.
    fn make_room(&mut self, at: Millis, bytes: u64) -> io::Result<()> {
        if self.file.is_none() {
            self.reopen(at)?;
        }
        let has_output = self.size > self.mark_bytes;
        let full = self.size + bytes > self.bounds.segment_bytes;
        let age = self.begun.map_or(Duration::ZERO, |begun| at.since(begun));
        if has_output && (full || age > self.bounds.segment_age()) {
            self.rotate(at)?;
        }
        Ok(())
    }

    fn rotate(&mut self, at: Millis) -> io::Result<()> {
        // Notes included, which others wrote.
        let size = self.file.take().and_then(|file| file.metadata().ok());
        let size = size.map_or(self.size, |found| found.len());
        // The oldest is replaced.
        let last = self.bounds.segments.clamp(2, SEGMENTS_MAX) - 1;
        for n in (0..last).rev() {
            let from = match n {
                0 => current(&self.dir),
                n => numbered(&self.dir, n),
            };
            match fs::rename(from, numbered(&self.dir, n + 1)) {
                // There are not so many yet, it was deleted by hand, or the new one could not be made the last time.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
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
        self.begun = mark.as_ref().and_then(|mark| time_of(&mark.time_text));
        self.begins = mark.map_or(self.begins, |mark| mark.begins);
        self.file = Some(file);
        Ok(())
    }

    /// Makes the current file with its mark in it, unless there is one: written aside and linked into
    /// its place, so that no reader sees it without, and no note is lost that came first.
    fn begin(&mut self, at: Millis) -> io::Result<()> {
        let path = current(&self.dir);
        if path.exists() {
            return Ok(());
        }
        // It was deleted, or an earlier shim ended while it made a new one: positions are not used again.
        let newest = segments(&self.dir)?.pop();
        let end = newest.and_then(|newest| Some(newest.begins? + newest.bytes));
        self.begins = self.begins.max(end.unwrap_or(0));
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

/// How much was written of lines that could not all be: whole ones.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cut {
    lines: u64,
    bytes: u64,
}

impl From<io::Error> for Cut {
    fn from(_: io::Error) -> Cut {
        Cut::default()
    }
}

fn write_lines(to: &mut impl io::Write, bytes: &[u8]) -> Result<(), Cut> {
    let mut written = 0;
    while written < bytes.len() {
        match to.write(&bytes[written..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => {
                let whole = bytes[..written].iter().rposition(|b| *b == b'\n');
                let whole = &bytes[..whole.map_or(0, |at| at + 1)];
                return Err(Cut {
                    lines: whole.iter().filter(|b| **b == b'\n').count() as u64,
                    bytes: whole.len() as u64,
                });
            }
            Ok(taken) => written += taken,
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
