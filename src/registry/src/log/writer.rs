//! The one thread that writes the log. It takes everything that waits, stores it in order, syncs once,
//! and only then tells those who wait: many appends share one sync.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use openraft::storage::LogFlushed;
use tokio::sync::oneshot;

use super::records::Records;
use super::{Shared, closed};
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// Parts of purged entries removed between two looks at the queue: a fraction of a sync's time.
const REMOVED_AT_ONCE: usize = 64;

pub enum Op {
    Append(Vec<Entry>, LogFlushed<TypeConfig>),
    Vote(Vote, oneshot::Sender<io::Result<()>>),
    /// Remove the entries from this index on. The append that follows makes it durable.
    Truncate(u64),
    /// Remove the entries up to this one, a few at a time between other work: removing thousands at
    /// once would hold up the appends. Losing it in a crash only means doing it again.
    Purge(LogId),
    Stop,
}

/// The queue is bounded by its only producer: Raft waits for each append and vote.
pub struct Writer {
    ops: Mutex<Option<Sender<Op>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub fn spawn(records: Arc<Records>, shared: Weak<Shared>) -> Writer {
        let (ops, queue) = channel();
        let thread = std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || run(&records, &shared, &queue));
        let (ops, thread) = match thread {
            Ok(thread) => (Some(ops), Some(thread)),
            Err(error) => {
                // Every operation will be answered with an error, which stops Raft.
                tracing::error!(%error, "the log's writer thread cannot be started");
                (None, None)
            }
        };
        Writer {
            ops: Mutex::new(ops),
            thread: Mutex::new(thread),
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

    /// Returns once everything queued is done and the thread has let go of the files.
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

fn run(records: &Records, shared: &Weak<Shared>, queue: &Receiver<Op>) {
    let mut failure: Option<io::Error> = None;
    let mut stored_commit = None;
    let mut purging: Option<u64> = None;
    loop {
        let mut ops: Vec<Op> = queue.try_iter().collect();
        if ops.is_empty() && purging.is_none() {
            match queue.recv() {
                Ok(op) => ops.push(op),
                Err(_) => break,
            }
            ops.extend(queue.try_iter());
        }
        let stop = ops.iter().any(|op| matches!(op, Op::Stop));
        let committed = shared.upgrade().and_then(|s| s.committed());
        if failure.is_none() {
            let stored = store(records, &ops, committed, &mut stored_commit);
            for op in &ops {
                if let Op::Purge(upto) = op {
                    purging = purging.max(Some(upto.index));
                }
            }
            let purged = stored.and_then(|()| match purging {
                Some(upto) => records.remove_some(upto, REMOVED_AT_ONCE),
                None => Ok(true),
            });
            if !matches!(purged, Ok(false)) {
                purging = None;
            }
            failure = purged.err();
            if let Some(error) = &failure {
                tracing::error!(%error, "the log cannot be written; Raft stops on this node");
            }
        }
        for op in ops {
            if let (Op::Append(entries, _), None, Some(shared)) = (&op, &failure, shared.upgrade())
                && let Some(last) = entries.last()
            {
                shared.written(last.log_id.index + 1);
            }
            finish(op, failure.as_ref());
        }
        if stop {
            break;
        }
    }
}

/// Everything of `ops` is on stable storage on return, as far as anybody waits for it.
fn store(
    records: &Records,
    ops: &[Op],
    committed: Option<LogId>,
    stored_commit: &mut Option<LogId>,
) -> io::Result<()> {
    let mut sync = false;
    for op in ops {
        match op {
            Op::Append(entries, _) => {
                for entry in entries {
                    records.put(entry)?;
                }
                sync = true;
            }
            Op::Vote(vote, _) => {
                records.put_vote(vote)?;
                sync = true;
            }
            Op::Truncate(since) => records.truncate(*since)?,
            Op::Purge(upto) => records.put_purged(*upto)?,
            Op::Stop => sync = true,
        }
    }
    if sync && committed != *stored_commit {
        records.put_committed(committed)?;
        *stored_commit = committed;
    }
    if sync {
        records.store().sync()?;
    }
    Ok(())
}

fn finish(op: Op, failure: Option<&io::Error>) {
    let result = || match failure {
        None => Ok(()),
        Some(error) => Err(io::Error::new(error.kind(), error.to_string())),
    };
    match op {
        Op::Append(_, callback) => callback.log_io_completed(result()),
        // The receiver is gone only when Raft is being shut down.
        Op::Vote(_, done) => drop(done.send(result())),
        Op::Truncate(_) | Op::Purge(_) | Op::Stop => {}
    }
}
