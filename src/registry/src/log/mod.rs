//! Raft's log, vote and commit marker.
//!
//! Raft's task only touches memory: entries go into a tail and to one writer thread, which writes
//! everything that is waiting to the journal, syncs once, and then tells the waiting parties. When a
//! file of the journal is full, a second thread moves what it says into sled. Reads come from the tail,
//! and from sled only for what is older.

mod checkpoint;
mod journal;
mod memory;
mod records;
mod slot;
mod tail;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use nebula_telemetry::{Counter, Random};
use openraft::storage::{LogFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{AnyError, ErrorSubject, ErrorVerb, OptionalSend, RaftLogId};
use tokio::sync::{oneshot, watch};

use self::checkpoint::Target;
use self::journal::Journal;
use self::memory::SharedMemory;
use self::records::{Found, Records};
use self::slot::Slot;
use self::tail::Tail;
use self::writer::{Op, Writer};
use crate::disk::Store;
use crate::error::StartError;
use crate::limits;
use crate::machine::Durable;
use crate::medium::Medium;
use crate::points::point;
use crate::room::{self, Room};
use crate::types::{Entry, LogId, StorageError, TypeConfig, Vote, entry_bytes};

/// Beside the store.
const JOURNAL_DIR: &str = "raft-journal";

/// The log storage. Clones share it.
#[derive(Clone)]
pub struct LogStore(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Gone once the store is closed, whoever still holds a clone.
    older: RwLock<Option<Older>>,
    writer: Writer,
    /// Nothing is purged before a snapshot holds it, durably.
    snapshot: watch::Receiver<Durable>,
    #[cfg(test)]
    fail_syncs: Arc<std::sync::atomic::AtomicBool>,
}

/// Where entries are read that are not in the tail.
#[derive(Clone)]
enum Older {
    Records(Slot),
    Memory(SharedMemory),
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
    pub fn open(
        path: &Path,
        syncs: Counter,
        room: Room,
        snapshot: watch::Receiver<Durable>,
    ) -> Result<LogStore, StartError> {
        let records = Records::open(Store::open(path, Counter::default())?)?;
        let fault = |e: io::Error| records.store().fault(e);
        let dir = path.with_file_name(JOURNAL_DIR);
        let unread = |source: io::Error| match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::NotFound => fault(source),
            _ => records.store().unopened(source),
        };
        let covered = match records.covered().map_err(fault)? {
            Some(covered) => covered,
            None => begin(&records, &dir).map_err(unread)?,
        };
        let key = records.key().map_err(fault)?;
        let key = key.ok_or_else(|| records.store().corrupt("the journal's key is gone"))?;
        let (journal, replay) = Journal::open(&dir, covered, key, syncs).map_err(unread)?;
        if covered != replay.generation {
            // All of it again, from wherever a crash cut it short.
            let stored = checkpoint::store(&records, replay.generation, &replay.records);
            stored.map_err(fault)?;
        }
        let found = records.find().map_err(fault)?;
        check(&found, snapshot.borrow().last).map_err(fault)?;
        let slot = Slot::new(records);
        let target = Target {
            slot: slot.clone(),
            path: path.to_owned(),
            room,
        };
        #[cfg(test)]
        let fail_syncs = journal.fail_syncs.clone();
        let shared = Arc::new_cyclic(|shared| Shared {
            state: Mutex::new(State::new(&found)),
            writer: Writer::spawn(journal, target, shared.clone()),
            older: RwLock::new(Some(Older::Records(slot))),
            snapshot,
            #[cfg(test)]
            fail_syncs,
        });
        Ok(LogStore(shared))
    }

    /// The same on a medium, whose log must be whole.
    pub fn open_on(
        medium: &Arc<dyn Medium>,
        snapshot: watch::Receiver<Durable>,
    ) -> io::Result<LogStore> {
        let memory = SharedMemory::load(medium.as_ref())?;
        check(&memory.found(), snapshot.borrow().last)?;
        let shared = Arc::new_cyclic(|shared| Shared {
            state: Mutex::new(State::new(&memory.found())),
            writer: Writer::on(medium.clone(), memory.clone(), shared.clone()),
            older: RwLock::new(Some(Older::Memory(memory))),
            snapshot,
            #[cfg(test)]
            fail_syncs: Arc::default(),
        });
        Ok(LogStore(shared))
    }

    /// Takes back that this node leads; whether it did when it ended. openraft goes on leading in the same term
    /// otherwise, without an election, which is not safe here: the marker of what is committed is stored later than
    /// the entries, so that a read would miss acknowledged ones, and the end of the log may have been lost that the
    /// followers have stored already, so that new entries would take the ids of others.
    pub fn stop_leading(&self, me: u64) -> bool {
        let mut state = self.0.state();
        let led = |vote: &Vote| vote.is_committed() && vote.leader_id().voted_for() == Some(me);
        let Some(vote) = state.vote.filter(led) else {
            return false;
        };
        state.vote = Some(Vote::new(vote.leader_id().get_term(), me));
        true
    }

    /// Whether closing waits for threads.
    pub fn blocks(&self) -> bool {
        matches!(self.0.older(), Ok(Older::Records(_)))
    }

    /// Finishes what is queued, stores the commit marker, and lets go of the files. Blocks.
    pub fn close(&self) {
        self.0.writer.stop();
        let older = self.0.older.write();
        let older = older.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Older::Records(slot)) = older {
            slot.close();
        }
    }

    #[cfg(test)]
    pub fn fail_syncs(&self) {
        self.0
            .fail_syncs
            .store(true, std::sync::atomic::Ordering::Release);
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
        let mut entries = match self.0.older()? {
            Older::Records(slot) => {
                let read = move || read_older(&slot, start, end, max_bytes);
                let read = tokio::task::spawn_blocking(read).await;
                read.map_err(io::Error::other)??
            }
            Older::Memory(memory) => memory.read(start, end, max_bytes),
        };
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

impl State {
    fn new(found: &Found) -> State {
        let last = found.last.or(found.purged);
        State {
            vote: found.vote,
            committed: found.committed,
            purged: found.purged,
            last,
            tail: Tail::new(limits::TAIL_BYTES, last.map_or(0, |l| l.index + 1)),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; the state is whole either way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn records(&self) -> io::Result<Arc<Records>> {
        match self.older()? {
            Older::Records(slot) => slot.get(),
            Older::Memory(_) => Err(closed()),
        }
    }

    fn older(&self) -> io::Result<Older> {
        self.older
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(closed)
    }

    /// sled holds everything up to `last`; the tail may drop it.
    fn written(&self, last: LogId) {
        self.state().tail.written(last);
    }

    fn committed(&self) -> Option<LogId> {
        self.state().committed
    }
}

/// A store that nobody has used: from now on it has a journal of its own. Returns what it covers of it,
/// which is stored once the journal is: a store that says so, and has none, has lost it.
fn begin(records: &Records, dir: &Path) -> io::Result<u64> {
    let key = match records.key()? {
        Some(key) => key,
        None if journal::exists(dir)? => {
            let what = "it is empty, and its journal is not";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        None => {
            let key = Random::system().bytes();
            records.put_key(&key)?;
            records.store().sync()?;
            key
        }
    };
    journal::make(dir, &key)?;
    checkpoint::store(records, 0, &[])?;
    Ok(0)
}

/// Whether everything is there that the log no longer holds.
fn check(found: &Found, snapshot: Option<LogId>) -> io::Result<()> {
    match found.purged.filter(|purged| Some(*purged) > snapshot) {
        Some(purged) => Err(io::Error::other(format!(
            "the log begins after entry {purged}, and no snapshot reaches so far"
        ))),
        None => Ok(()),
    }
}

/// Blocks.
fn read_older(slot: &Slot, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
    loop {
        let records = slot.get()?;
        match records.read(start, end, max_bytes) {
            // sled repeats the failure of a write to everybody, until the store is made anew.
            Err(error) if room::is_full(&error) => {
                drop(records);
                std::thread::sleep(limits::STORE_RENEWAL_LOOK);
            }
            result => return result,
        }
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
        point!("vote-begin");
        let (done, wait) = oneshot::channel();
        self.0.writer.send(Op::Vote(*vote, done));
        wait.await
            .unwrap_or_else(|_| Err(closed()))
            .map_err(|e| fault(ErrorSubject::Vote, ErrorVerb::Write, &e))?;
        point!("vote-end");
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
        let (done, wait) = oneshot::channel();
        self.0.writer.send(Op::Truncate(log_id.index, done));
        wait.await
            .unwrap_or_else(|_| Err(closed()))
            .map_err(|e| fault(ErrorSubject::Logs, ErrorVerb::Write, &e))
    }

    /// Waits for a snapshot that holds these entries: Raft purges while its state machine is still
    /// installing it, and a crash must find one or the other.
    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let mut snapshot = self.0.snapshot.clone();
        let held = snapshot.wait_for(|at| at.failed || at.last >= Some(log_id));
        if held.await.map_or(true, |at| at.failed) {
            let error = io::Error::other("the snapshot of what is to be purged was not stored");
            return Err(fault(ErrorSubject::Logs, ErrorVerb::Delete, &error));
        }
        point!("purge-begin");
        let all = {
            let mut state = self.0.state();
            // A log of which nothing is as new as the snapshot has lost; what stands behind it, too.
            let all = state.last < Some(log_id);
            if all {
                state.tail.truncate(log_id.index + 1);
            }
            state.tail.purge(log_id.index);
            state.purged = state.purged.max(Some(log_id));
            state.last = state.last.max(Some(log_id));
            all
        };
        self.0.writer.send(Op::Purge { upto: log_id, all });
        Ok(())
    }
}
