//! The log on a [`Medium`]: one task writes what waits, syncs, and tells those who wait, by the same
//! rules as the writer's thread. What is older than the tail is read from memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nebula_wire::codec;
use tokio::sync::mpsc::UnboundedReceiver;

use super::Shared;
use super::journal::Record;
use super::records::Found;
use super::writer::{Op, Progress, finish};
use crate::medium::Medium;
use crate::types::{Entry, LogId, entry_bytes};

/// Everything that was written to the medium, as a log.
#[derive(Default)]
pub struct Memory {
    entries: BTreeMap<u64, Entry>,
    vote: Option<crate::types::Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

#[derive(Clone, Default)]
pub struct SharedMemory(Arc<Mutex<Memory>>);

impl SharedMemory {
    pub fn load(medium: &dyn Medium) -> io::Result<SharedMemory> {
        let memory = SharedMemory::default();
        for bytes in medium.records() {
            let record = codec::decode(&bytes).map_err(io::Error::other)?;
            memory.lock().carry_out(record);
        }
        Ok(memory)
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn found(&self) -> Found {
        let memory = self.lock();
        Found {
            vote: memory.vote,
            committed: memory.committed,
            purged: memory.purged,
            last: memory.entries.values().next_back().map(|e| e.log_id),
        }
    }

    pub fn read(&self, start: u64, end: u64, max_bytes: usize) -> Vec<Entry> {
        let mut used = 0;
        let fits = |entry: &&Entry| {
            let first = used == 0;
            used += entry_bytes(entry);
            first || used <= max_bytes
        };
        let memory = self.lock();
        let some = memory.entries.range(start..end).map(|(_, entry)| entry);
        some.take_while(fits).cloned().collect()
    }
}

impl Memory {
    fn carry_out(&mut self, record: Record) {
        match record {
            Record::Put(entry) => {
                self.entries.insert(entry.log_id.index, entry);
            }
            Record::Truncate(since) => {
                self.entries.split_off(&since);
            }
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Purged(upto) => {
                self.purged = self.purged.max(Some(upto));
                self.entries = self.entries.split_off(&(upto.index + 1));
            }
            Record::Committed(id) => self.committed = Some(id),
        }
    }
}

/// Ends with the log store, or when told to stop.
pub async fn run(
    medium: Arc<dyn Medium>,
    memory: SharedMemory,
    shared: Weak<Shared>,
    mut queue: UnboundedReceiver<Op>,
) {
    let mut progress = Progress::new(shared.clone());
    let mut failure: Option<io::Error> = None;
    while let Some(first) = queue.recv().await {
        let mut ops = vec![first];
        while let Ok(op) = queue.try_recv() {
            ops.push(op);
        }
        let stop = ops.iter().any(|op| matches!(op, Op::Stop));
        if failure.is_none() {
            let mut records = Vec::new();
            let written = progress.write(&ops, |record| {
                let bytes = codec::encode(&record).map_err(io::Error::other)?;
                medium.push(bytes)?;
                records.push(record);
                Ok(())
            });
            if progress.planted.confirms_before_sync() && written.is_ok() {
                ops.drain(..).for_each(|op| finish(op, None));
            }
            let synced = match written {
                Ok(true) => medium.sync().await,
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            };
            let mut memory = memory.lock();
            records.into_iter().for_each(|r| memory.carry_out(r));
            failure = synced.err();
        }
        ops.into_iter().for_each(|op| finish(op, failure.as_ref()));
        let last = memory.found().last;
        if let (None, Some(last), Some(shared)) = (&failure, last, shared.upgrade()) {
            shared.written(last);
        }
        if stop {
            return;
        }
    }
}
