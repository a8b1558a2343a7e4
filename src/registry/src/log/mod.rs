//! Raft's log, vote and commit marker.
//!
//! Raft's task only touches memory: entries go into a bounded tail and to one writer thread, which
//! stores everything that is waiting, syncs once, and then tells the waiting parties. Reads come from
//! the tail, and from the disk only for what is older.

mod records;
mod tail;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use nebula_telemetry::Counter;
use openraft::storage::{LogFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{AnyError, ErrorSubject, ErrorVerb, OptionalSend, RaftLogId};
use tokio::sync::oneshot;

use self::records::Records;
use self::tail::Tail;
use self::writer::{Op, Writer};
use crate::disk::Store;
use crate::error::StartError;
use crate::limits;
use crate::types::{Entry, LogId, StorageError, TypeConfig, Vote, entry_bytes};

/// The log storage. Clones share it.
#[derive(Clone)]
pub struct LogStore(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Gone once the store is closed, whoever still holds a clone.
    records: RwLock<Option<Arc<Records>>>,
    writer: Writer,
}

/// The log as Raft sees it, which is ahead of the disk by what the writer has not done yet.
struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    tail: Tail,
}

impl LogStore {
    /// Opens or creates the log and checks it from end to end. Blocks.
    pub fn open(path: &Path, syncs: Counter) -> Result<LogStore, StartError> {
        let store = Store::open(path, syncs)?;
        let (records, found) = Records::open(store)?;
        let records = Arc::new(records);
        let shared = Arc::new_cyclic(|shared| Shared {
            state: Mutex::new(State {
                vote: found.vote,
                committed: found.committed,
                purged: found.purged,
                last: found.last.or(found.purged),
                tail: Tail::new(
                    limits::TAIL_BYTES,
                    found.last.or(found.purged).map_or(0, |l| l.index + 1),
                ),
            }),
            writer: Writer::spawn(records.clone(), shared.clone()),
            records: RwLock::new(Some(records)),
        });
        Ok(LogStore(shared))
    }

    /// Finishes what is queued, stores the commit marker, and lets go of the files. Blocks.
    pub fn close(&self) {
        self.0.writer.stop();
        self.0
            .records
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Syncs of this handle so far.
    #[cfg(test)]
    pub fn syncs(&self) -> u64 {
        self.0.records().map_or(0, |r| r.store().syncs())
    }

    #[cfg(test)]
    pub fn fail_syncs(&self) {
        if let Ok(records) = self.0.records() {
            records
                .store()
                .fail_syncs
                .store(true, std::sync::atomic::Ordering::Release);
        }
    }

    /// The entries of `[start, end)` that exist, up to `max_bytes` but at least one.
    async fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let (start, end, cached) = {
            let state = self.0.state();
            let start = start.max(state.purged.map_or(0, |l| l.index + 1));
            let end = end.min(state.last.map_or(0, |l| l.index + 1));
            if start >= end {
                return Ok(Vec::new());
            }
            if let Some(entries) = state.tail.get(start, end, max_bytes) {
                return Ok(entries);
            }
            (start, end.min(state.tail.first()), end)
        };
        // Older than the tail: only a follower far behind, or a restart, reads this.
        let records = self.0.records()?;
        let mut entries = tokio::task::spawn_blocking(move || records.read(start, end, max_bytes))
            .await
            .map_err(io::Error::other)??;
        let used: usize = entries.iter().map(entry_bytes).sum();
        let next = entries.last().map_or(end, |e| e.log_id.index + 1);
        if next == end && end < cached && used < max_bytes {
            let state = self.0.state();
            if let Some(more) = state.tail.get(end, cached, max_bytes - used) {
                entries.extend(more);
            }
        }
        Ok(entries)
    }

    /// The id of one entry.
    async fn id_at(&self, index: u64) -> io::Result<Option<LogId>> {
        {
            let state = self.0.state();
            if let Some(purged) = state.purged.filter(|p| p.index == index) {
                return Ok(Some(purged));
            }
        }
        let entries = self.read(index, index + 1, usize::MAX).await?;
        Ok(entries.first().map(|e| e.log_id))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; the state is whole either way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn records(&self) -> io::Result<Arc<Records>> {
        self.records
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(closed)
    }

    /// The writer has stored everything before `next`; the tail may drop it.
    fn written(&self, next: u64) {
        self.state().tail.written(next);
    }

    fn committed(&self) -> Option<LogId> {
        self.state().committed
    }
}

fn closed() -> io::Error {
    io::Error::other("the log store is closed")
}

fn fault(subject: ErrorSubject<u64>, verb: ErrorVerb, error: &io::Error) -> StorageError {
    openraft::StorageIOError::new(subject, verb, AnyError::new(error)).into()
}

fn read_fault(error: io::Error) -> StorageError {
    fault(ErrorSubject::Logs, ErrorVerb::Read, &error)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, StorageError>
    where
        RB: RangeBounds<u64> + Clone + std::fmt::Debug + OptionalSend,
    {
        let start = match range.start_bound() {
            Bound::Included(&at) => at,
            Bound::Excluded(&at) => at.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&at) => at.saturating_add(1),
            Bound::Excluded(&at) => at,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await.map_err(read_fault)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read(start, end, limits::REPLICATION_BYTES)
            .await
            .map_err(read_fault)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let state = self.0.state();
        Ok(LogState {
            last_purged_log_id: state.purged,
            last_log_id: state.last,
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let (done, wait) = oneshot::channel();
        self.0.writer.send(Op::Vote(*vote, done));
        wait.await
            .unwrap_or_else(|_| Err(closed()))
            .map_err(|e| fault(ErrorSubject::Vote, ErrorVerb::Write, &e))?;
        self.0.state().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.0.state().vote)
    }

    /// Stored along with the next entries: it only spares a restarted node some waiting, so that one
    /// that is a batch too old does no harm.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.0.state().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let state = self.0.state();
        // The marker is stored with the entries after it, never before those it speaks of.
        Ok(state.committed.min(state.last))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut state = self.0.state();
            for entry in &entries {
                state.last = Some(*entry.get_log_id());
                state.tail.push(entry.clone());
            }
        }
        self.0.writer.send(Op::Append(entries, callback));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let previous = match log_id.index.checked_sub(1) {
            Some(index) => self.id_at(index).await.map_err(read_fault)?,
            None => None,
        };
        {
            let mut state = self.0.state();
            state.tail.truncate(log_id.index);
            state.last = previous;
        }
        self.0.writer.send(Op::Truncate(log_id.index));
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        {
            let mut state = self.0.state();
            state.tail.purge(log_id.index);
            state.purged = state.purged.max(Some(log_id));
            state.last = state.last.max(Some(log_id));
        }
        self.0.writer.send(Op::Purge(log_id));
        Ok(())
    }
}
