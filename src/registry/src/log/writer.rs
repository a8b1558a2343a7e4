//! The one thread that writes the log. It takes everything that waits, writes it to the journal in
//! order, syncs once, and only then tells those who wait: many appends share one sync.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use openraft::storage::LogFlushed;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::checkpoint::{Checkpoints, Target};
use super::journal::{Journal, Record};
use super::memory::{self, SharedMemory};
use super::{Shared, closed};
use crate::medium::Medium;
use crate::planted::Planted;
use crate::types::{Entry, LogId, TypeConfig, Vote};

pub enum Op {
    Append(Vec<Entry>, LogFlushed<TypeConfig>),
    Vote(Vote, oneshot::Sender<io::Result<()>>),
    /// Remove the entries from this index on. Raft waits for it, since a snapshot may follow.
    Truncate(u64, oneshot::Sender<io::Result<()>>),
    /// Remove the entries up to this one, and those behind it if they are of a log that lost. Losing it
    /// in a crash only means doing it again.
    Purge {
        upto: LogId,
        all: bool,
    },
    Stop,
}

/// The queue is bounded by its only producer: Raft waits for each append and vote.
pub struct Writer {
    ops: Mutex<Option<UnboundedSender<Op>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub fn spawn(journal: Journal, target: Target, shared: Weak<Shared>) -> Writer {
        let (ops, queue) = unbounded_channel();
        let started = Checkpoints::start(target, shared.clone());
        let thread = started.and_then(|checkpoints| {
            let desk = Desk {
                journal,
                checkpoints,
                progress: Progress::new(shared),
                pending: Vec::new(),
            };
            std::thread::Builder::new()
                .name("raft-log".to_owned())
                .spawn(move || desk.run(queue))
        });
        let (ops, thread) = match thread {
            Ok(thread) => (Some(ops), Some(thread)),
            Err(error) => {
                // Every operation will be answered with an error, which stops Raft.
                tracing::error!(%error, "the log's threads cannot be started");
                (None, None)
            }
        };
        Writer {
            ops: Mutex::new(ops),
            thread: Mutex::new(thread),
        }
    }

    /// The same on a task of the present runtime.
    pub fn on(medium: Arc<dyn Medium>, memory: SharedMemory, shared: Weak<Shared>) -> Writer {
        let (ops, queue) = unbounded_channel();
        tokio::spawn(memory::run(medium, memory, shared, queue));
        Writer {
            ops: Mutex::new(Some(ops)),
            thread: Mutex::new(None),
        }
    }

    pub fn send(&self, op: Op) {
        let ops = self.ops.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = match ops.as_ref() {
            Some(ops) => ops.send(op).err().map(|e| e.0),
            None => Some(op),
        };
        if let Some(op) = refused {
            finish(op, Some(&closed()));
        }
    }

    /// Returns once everything queued is done and the threads have let go of the files.
    pub fn stop(&self) {
        let ops = self
            .ops
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(ops) = ops {
            // A send fails only when the thread is gone already.
            let _ = ops.send(Op::Stop);
        }
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the log's writer thread panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Without joining: the drop may happen on the thread itself.
        if let Some(ops) = self
            .ops
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            let _ = ops.send(Op::Stop);
        }
    }
}

struct Desk {
    journal: Journal,
    checkpoints: Checkpoints,
    progress: Progress,
    /// What this generation of the journal says, for its checkpoint.
    pending: Vec<Record>,
}

impl Desk {
    fn run(mut self, mut queue: UnboundedReceiver<Op>) {
        let mut failure: Option<io::Error> = None;
        while let Some(first) = queue.blocking_recv() {
            let mut ops = vec![first];
            while let Ok(op) = queue.try_recv() {
                ops.push(op);
            }
            let stop = ops.iter().any(|op| matches!(op, Op::Stop));
            note(&mut failure, || self.store(&mut ops));
            for op in ops {
                finish(op, failure.as_ref());
            }
            // After those who wait were told: this may take a while when the disk is slow.
            note(&mut failure, || self.turn_if_full());
            if stop {
                break;
            }
        }
    }

    /// Everything of `ops` is on stable storage on return, as far as anybody waits for it.
    fn store(&mut self, ops: &mut Vec<Op>) -> io::Result<()> {
        self.checkpoints.look()?;
        let (journal, pending) = (&mut self.journal, &mut self.pending);
        let sync = self.progress.write(ops, |record| {
            journal.push(&record)?;
            pending.push(record);
            Ok(())
        })?;
        if self.progress.planted.confirms_before_sync() {
            ops.drain(..).for_each(|op| finish(op, None));
        }
        if sync {
            self.journal.sync()?;
        }
        Ok(())
    }

    fn turn_if_full(&mut self) -> io::Result<()> {
        if !self.journal.is_full() {
            return Ok(());
        }
        // Nothing unwritten goes into the next generation, whose frames count from its beginning.
        self.journal.sync()?;
        let records = std::mem::take(&mut self.pending);
        // Returns when the generation before this one is in sled, and its file is free.
        self.checkpoints.begin(self.journal.generation(), records)?;
        self.journal.turn();
        Ok(())
    }
}

/// What every writer keeps to, whatever it writes on.
pub struct Progress {
    shared: Weak<Shared>,
    stored_commit: Option<LogId>,
    pub planted: Planted,
}

impl Progress {
    pub fn new(shared: Weak<Shared>) -> Progress {
        Progress {
            shared,
            stored_commit: None,
            planted: Planted::from_env(),
        }
    }

    /// Turns `ops` into records. Whether somebody waits for them to be durable.
    pub fn write(
        &mut self,
        ops: &[Op],
        mut push: impl FnMut(Record) -> io::Result<()>,
    ) -> io::Result<bool> {
        let mut sync = false;
        for op in ops {
            match op {
                Op::Append(entries, _) => {
                    for entry in entries {
                        push(Record::Put(entry.clone()))?;
                    }
                    sync = true;
                }
                Op::Vote(vote, _) => {
                    push(Record::Vote(*vote))?;
                    sync = true;
                }
                Op::Truncate(since, _) => {
                    push(Record::Truncate(*since))?;
                    sync = true;
                }
                Op::Purge { upto, all } => {
                    if *all {
                        push(Record::Truncate(upto.index + 1))?;
                    }
                    push(Record::Purged(*upto))?;
                }
                Op::Stop => sync = true,
            }
        }
        let committed = self.shared.upgrade().and_then(|s| s.committed());
        if sync && let Some(id) = committed.filter(|_| committed != self.stored_commit) {
            push(Record::Committed(id))?;
            self.stored_commit = committed;
        }
        Ok(sync)
    }
}

/// The first failure stays: nothing is tried after it.
fn note(failure: &mut Option<io::Error>, work: impl FnOnce() -> io::Result<()>) {
    if failure.is_none()
        && let Err(error) = work()
    {
        tracing::error!(%error, "the log cannot be written; Raft stops on this node");
        *failure = Some(error);
    }
}

pub fn finish(op: Op, failure: Option<&io::Error>) {
    let result = || match failure {
        None => Ok(()),
        Some(error) => Err(io::Error::new(error.kind(), error.to_string())),
    };
    match op {
        Op::Append(_, callback) => callback.log_io_completed(result()),
        // The receiver is gone only when Raft is being shut down.
        Op::Vote(_, done) | Op::Truncate(_, done) => drop(done.send(result())),
        Op::Purge { .. } | Op::Stop => {}
    }
}
