//! The newest part of the log, as it was written: what an append waits for.
//!
//! Two files, of space that is already theirs, take turns. A sync of such a file is one write to the
//! disk; one of sled is a hand-over to its threads, a write, a wait, and the file system's own journal.
//! A file is used again only after sled holds, durably, all that it said (see [`super::checkpoint`]).
//!
//! Each turn is a generation, a row of frames ([`frame`]); generations count up by one and never share
//! a file with the one before. What a crash may have cut off, and what can only be damage, is told
//! apart in [`replay`], with the help of a third file that says how far the journal was synced
//! ([`files::Seal`]).

mod files;
mod frame;
mod replay;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nebula_telemetry::Counter;
use nebula_wire::codec;
use serde::{Deserialize, Serialize};

use self::files::{Files, Seal};
pub use self::files::{exists, make};
pub use self::frame::Key;
pub use self::replay::Replay;
use crate::limits;
use crate::points::point;
use crate::types::{Entry, LogId, Vote};

/// One change of the log, in the order in which they happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Record {
    Put(Entry),
    /// Entries from this index on are gone.
    Truncate(u64),
    Vote(Vote),
    /// Entries up to this one are gone.
    Purged(LogId),
    Committed(LogId),
}

pub struct Journal {
    files: [File; 2],
    seal: File,
    key: Key,
    generation: u64,
    /// Frames of the generation before, of this one, and of this one on stable storage.
    before: u64,
    next: u64,
    synced: u64,
    offset: u64,
    buffer: Vec<u8>,
    syncs: Counter,
    #[cfg(test)]
    pub fail_syncs: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Journal {
    /// Reads what came after generation `covered`, from files that [`make`] made. Blocks. Damage is an
    /// error of kind `InvalidData`.
    pub fn open(
        dir: &Path,
        covered: u64,
        key: Key,
        syncs: Counter,
    ) -> io::Result<(Journal, Replay)> {
        let Files {
            files,
            seal,
            sealed,
        } = files::open(dir, &key)?;
        let replay = replay::read(&files, sealed, covered, &key)?;
        let journal = Journal {
            files,
            seal,
            key,
            generation: replay.generation + 1,
            // Counts for nothing: that generation will be in sled.
            before: 0,
            next: 0,
            synced: 0,
            offset: 0,
            buffer: Vec::new(),
            syncs,
            #[cfg(test)]
            fail_syncs: std::sync::Arc::default(),
        };
        Ok((journal, replay))
    }

    /// Adds records to what the next [`Journal::sync`] writes.
    pub fn push(&mut self, record: &Record) -> io::Result<()> {
        let body = codec::encode(record).map_err(io::Error::other)?;
        let head = frame::Head {
            generation: self.generation,
            place: self.next,
            synced: self.synced,
            before: self.before,
        };
        frame::push(&mut self.buffer, &self.key, head, &body)?;
        self.next += 1;
        Ok(())
    }

    /// Everything pushed is on stable storage when this returns. After an error nothing may follow: the
    /// kernel may have dropped what it could not write.
    pub fn sync(&mut self) -> io::Result<()> {
        #[cfg(test)]
        if self.fail_syncs.load(std::sync::atomic::Ordering::Acquire) {
            return Err(io::Error::other("planted by a test"));
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        point!("journal-before-write");
        let file = &self.files[files::index_of(self.generation)];
        file.write_all_at(&self.buffer, self.offset)?;
        point!("journal-before-sync");
        file.sync_data()?;
        point!("journal-after-sync");
        self.syncs.inc();
        self.offset += self.buffer.len() as u64;
        self.synced = self.next;
        // Not synced by itself: it gets there within seconds, and never before what it speaks of.
        let seal = Seal {
            generation: self.generation,
            frames: self.synced,
        };
        seal.write(&self.seal, &self.key)?;
        self.buffer.clear();
        // One large batch does not hold its memory for ever.
        self.buffer.shrink_to(limits::JOURNAL_BUFFER_BYTES);
        Ok(())
    }

    /// Whether this generation should end: its file has taken its share.
    pub fn is_full(&self) -> bool {
        self.offset >= limits::JOURNAL_BYTES
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Goes on in the other file, which sled must have covered.
    pub fn turn(&mut self) {
        debug_assert!(self.buffer.is_empty(), "turned with records unwritten");
        self.generation += 1;
        self.before = self.next;
        self.next = 0;
        self.synced = 0;
        self.offset = 0;
    }
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
