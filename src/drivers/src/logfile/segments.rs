//! The segments of one folder, opened together.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::tail::open;
use super::{SEGMENTS_MAX, current, mark, numbered};

/// One file of an instance's output, held open: it can be read whatever becomes of its name.
pub struct Segment {
    pub file: File,
    /// Bytes of output before it; none: not known.
    pub begins: Option<u64>,
    pub bytes: u64,
    /// Of its first line, which is no output.
    pub(super) mark_bytes: u64,
    /// When it was begun, as lines show it.
    pub(super) begun: Option<String>,
    pub(super) inode: (u64, u64),
}

/// All segments, oldest first.
pub fn segments(dir: &Path) -> io::Result<Vec<Segment>> {
    let mut found: Vec<Segment> = Vec::new();
    // From the newest on. A rotation in between moves files to higher numbers: one may be met twice, and
    // only the oldest can be missed.
    for n in 0..SEGMENTS_MAX {
        let path = match n {
            0 => current(dir),
            n => numbered(dir, n),
        };
        let Some(file) = open(&path)? else { continue };
        let about = file.metadata()?;
        let inode = (about.dev(), about.ino());
        if found.iter().any(|other| other.inode == inode) {
            continue;
        }
        let mark = mark::of(&file)?;
        found.push(Segment {
            file,
            begins: mark.as_ref().map(|mark| mark.begins),
            bytes: about.len(),
            mark_bytes: mark.as_ref().map_or(0, |mark| mark.bytes),
            begun: mark.map(|mark| mark.time_text),
            inode,
        });
    }
    found.reverse();
    // One without a mark (a note came first, the disk was full) begins where the one before it ends, or
    // ends where the next begins.
    let mut end = (found.len() == 1).then_some(0);
    for segment in &mut found {
        segment.begins = segment.begins.or(end);
        end = segment.begins.map(|begins| begins + segment.bytes);
    }
    let mut next = None;
    for segment in found.iter_mut().rev() {
        let before = |next: u64| next.checked_sub(segment.bytes);
        segment.begins = segment.begins.or(next.and_then(before));
        next = segment.begins;
    }
    Ok(found)
}
