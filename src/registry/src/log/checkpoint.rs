//! Moves what a generation of the journal says into sled, on a thread of its own: the appends go on in
//! the other file meanwhile. It waits for room on the disk; a write that finds none is made again, in a
//! store that was opened anew, since the journal keeps all of it.

use std::io;
use std::path::PathBuf;
use std::sync::Weak;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use nebula_telemetry::Counter;

use super::Shared;
use super::journal::Record;
use super::records::Records;
use super::slot::Slot;
use crate::disk::Store;
use crate::points::point;
use crate::room::{Room, is_full};
use crate::types::LogId;

struct Generation {
    number: u64,
    records: Vec<Record>,
}

/// Where checkpoints go.
pub struct Target {
    pub slot: Slot,
    pub path: PathBuf,
    pub room: Room,
}

/// Holds at most one generation; the writer waits when it has a second one.
pub struct Checkpoints {
    work: Option<Sender<Generation>>,
    done: Receiver<io::Result<()>>,
    under_way: bool,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    pub fn start(target: Target, shared: Weak<Shared>) -> io::Result<Checkpoints> {
        let (work, queue) = channel::<Generation>();
        let (tell, done) = channel();
        let thread = std::thread::Builder::new()
            .name("raft-checkpoint".to_owned())
            .spawn(move || {
                while let Ok(generation) = queue.recv() {
                    let last = last_put(&generation.records);
                    let result = target.take(&generation);
                    if let (Ok(()), Some(last), Some(shared)) = (&result, last, shared.upgrade()) {
                        shared.written(last);
                    }
                    if tell.send(result).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Checkpoints {
            work: Some(work),
            done,
            under_way: false,
            thread: Some(thread),
        })
    }

    /// Waits for the checkpoint before this one. An error means that sled does not hold what it should.
    pub fn begin(&mut self, number: u64, records: Vec<Record>) -> io::Result<()> {
        self.wait()?;
        let generation = Generation { number, records };
        let sent = self.work.as_ref().map(|work| work.send(generation));
        match sent {
            Some(Ok(())) => self.under_way = true,
            _ => return Err(gone()),
        }
        Ok(())
    }

    /// An error of the checkpoint under way, if it has ended with one.
    pub fn look(&mut self) -> io::Result<()> {
        match self.done.try_recv() {
            Ok(result) => {
                self.under_way = false;
                result
            }
            Err(_) => Ok(()),
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.under_way) {
            return Ok(());
        }
        self.done.recv().unwrap_or_else(|_| Err(gone()))
    }
}

impl Target {
    /// Blocks.
    fn take(&self, generation: &Generation) -> io::Result<()> {
        let mut refusals = self.room.refusals();
        loop {
            self.room.wait(0)?;
            let records = self.slot.get()?;
            match store(&records, generation.number, &generation.records) {
                Err(error) if is_full(&error) => {
                    refusals.again("the log", &error)?;
                    // sled holds the lock of its files until the last handle is gone.
                    drop(records);
                    let open = || Records::open(Store::open(&self.path, Counter::default())?);
                    self.slot.renew(|| self.room.open_again(open))?;
                }
                result => return result,
            }
        }
    }
}

impl Drop for Checkpoints {
    /// Returns once the thread has let go of the files.
    fn drop(&mut self) {
        self.work.take();
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            tracing::error!("the log's checkpoint thread panicked");
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("the log's checkpoint thread has ended")
}

/// The last entry put, unless it was taken back.
fn last_put(records: &[Record]) -> Option<LogId> {
    let mut last = None;
    for record in records {
        match record {
            Record::Put(entry) => last = Some(entry.log_id),
            Record::Truncate(since) => last = last.filter(|l: &LogId| l.index < *since),
            _ => {}
        }
    }
    last
}

/// Carries out all of `records` in order and says so in the same sync: done again from any point
/// in between, it ends in the same state.
pub fn store(records: &Records, generation: u64, todo: &[Record]) -> io::Result<()> {
    point!("checkpoint-begin");
    let purged = todo.iter().rev().find_map(|record| match record {
        Record::Purged(upto) => Some(*upto),
        _ => None,
    });
    for record in todo {
        match record {
            // Purged entries never come back.
            Record::Put(entry) if purged.is_some_and(|p| entry.log_id.index <= p.index) => {}
            Record::Put(entry) => records.put(entry)?,
            Record::Truncate(since) => records.truncate(*since)?,
            Record::Vote(vote) => records.put_vote(vote)?,
            Record::Purged(_) => {}
            Record::Committed(id) => records.put_committed(*id)?,
        }
    }
    if let Some(upto) = purged {
        point!("checkpoint-before-purge");
        records.purge(upto)?;
    }
    point!("checkpoint-before-mark");
    records.put_covered(generation)?;
    point!("checkpoint-before-sync");
    records.store().sync()?;
    point!("checkpoint-after-sync");
    Ok(())
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, EntryPayload};
    use tempfile::TempDir;

    use super::*;
    use crate::types::{Entry, Vote};

    fn open(dir: &TempDir) -> Records {
        Records::open(Store::open(dir.path(), Counter::default()).unwrap()).unwrap()
    }

    fn put(term: u64, index: u64) -> Record {
        Record::Put(Entry {
            log_id: LogId::new(CommittedLeaderId::new(term, 1), index),
            payload: EntryPayload::Blank,
        })
    }

    /// Everything that can be read back.
    fn all(records: &Records) -> (Vec<LogId>, Option<Vote>, Option<LogId>, Option<LogId>) {
        let found = records.find().unwrap();
        let entries = records.read(0, u64::MAX - 1, usize::MAX).unwrap();
        let ids = entries.iter().map(|e| e.log_id).collect();
        (ids, found.vote, found.committed, found.purged)
    }

    /// A log as Raft makes it: appends, a tail taken back by a new term, purges behind the commit.
    fn history(mut seed: u64) -> Vec<Record> {
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            (seed >> 33) % below
        };
        let (mut term, mut next, mut purged) = (1, 1, 0);
        let mut history = Vec::new();
        for _ in 0..40 {
            match random(6) {
                0 if next > purged + 1 => {
                    term += 1;
                    next -= random(next - purged - 1).min(3);
                    history.push(Record::Vote(Vote::new(term, 1)));
                    history.push(Record::Truncate(next));
                }
                1 if next > purged + 2 => {
                    purged += 1 + random(next - purged - 2);
                    let Some(id) = history.iter().rev().find_map(|r| match r {
                        Record::Put(e) if e.log_id.index == purged => Some(e.log_id),
                        _ => None,
                    }) else {
                        continue;
                    };
                    history.push(Record::Committed(id));
                    history.push(Record::Purged(id));
                }
                _ => {
                    history.push(put(term, next));
                    next += 1;
                }
            }
        }
        history
    }

    #[test]
    fn a_generation_carried_out_in_part_and_again_in_full_is_carried_out_once() {
        for seed in 0..8 {
            let history = history(seed);
            let whole = TempDir::new().unwrap();
            let records = open(&whole);
            store(&records, 1, &history).unwrap();
            let expected = all(&records);
            for cut in [1, history.len() / 3, history.len() / 2, history.len() - 1] {
                let dir = TempDir::new().unwrap();
                let records = open(&dir);
                store(&records, 0, &history[..cut]).unwrap();
                store(&records, 1, &history).unwrap();
                assert_eq!(all(&records), expected, "seed {seed}, cut at {cut}");
                assert_eq!(records.covered().unwrap(), Some(1));
            }
        }
    }
}
