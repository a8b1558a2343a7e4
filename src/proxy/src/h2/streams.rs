//! The streams of a connection that are being answered, each by a worker.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::bells::{Bell, Bells};
use super::workers::{Job, Polled, Worker, Workers};

/// Of the parts of a connection, those before it are no streams.
const FIRST_STREAM: usize = 2;
/// Parts of a connection that are polled before other tasks have their turn.
pub(super) const POLLS_PER_RUN: usize = 256;

pub(super) struct Streams {
    bells: Arc<Bells>,
    slots: Vec<Slot>,
    free: Vec<usize>,
}

struct Slot {
    bell: Arc<Bell>,
    waker: Waker,
    worker: Option<Worker>,
}

impl Streams {
    pub(super) fn new(bells: Arc<Bells>) -> Streams {
        Streams {
            bells,
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives a request to a worker, which begins when its part is polled.
    pub(super) fn begin(&mut self, workers: &Workers, job: Job) {
        let worker = workers.take();
        worker.begin(job);
        let at = self.free.pop().unwrap_or_else(|| {
            let bell = self.bells.hang(FIRST_STREAM + self.slots.len());
            self.slots.push(Slot {
                waker: Waker::from(Arc::clone(&bell)),
                bell,
                worker: None,
            });
            self.slots.len() - 1
        });
        let slot = &mut self.slots[at];
        slot.worker = Some(worker);
        slot.bell.ring();
    }

    /// Polls the stream that is this part of the connection. It may have ended: others keep its bell for a while.
    pub(super) fn poll(&mut self, workers: &Workers, part: usize) {
        let at = part - FIRST_STREAM;
        let slot = &mut self.slots[at];
        slot.bell.silence();
        let Some(mut worker) = slot.worker.take() else {
            return;
        };
        match worker.poll(&mut Context::from_waker(&slot.waker)) {
            Polled::AtWork => {
                slot.worker = Some(worker);
                return;
            }
            Polled::Done => workers.put(worker),
            Polled::Broken => tracing::error!("a request's worker broke"),
        }
        self.free.push(at);
    }

    /// Ready when the last has ended.
    pub(super) fn poll_end(&mut self, workers: &Workers, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..POLLS_PER_RUN {
            if self.is_empty() {
                return Poll::Ready(());
            }
            match self.bells.next() {
                Some(part) if part >= FIRST_STREAM => self.poll(workers, part),
                Some(_) => {}
                None => break,
            }
        }
        self.bells.rest(cx);
        Poll::Pending
    }
}
