//! Who answers requests: futures that take one stream after another, so that a request needs neither a task of its own nor
//! new memory for its state, its timer and its buffers. An edge thread keeps those that have nothing to do.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::task::coop::unconstrained;

use super::stream::Http2Stream;
use crate::client::{Client, Kit};
use crate::edge::Edge;
use crate::h1::{HeadLimits, Refusal, Spelling};
use crate::handler;
use crate::origin::Origin;

/// Workers that a thread keeps, a dozen kilobytes each. A thread seldom answers more requests of HTTP/2 at the same moment; what comes
/// beyond that is answered by new ones.
const KEPT_WORKERS: usize = 256;

/// One request.
pub(super) struct Job {
    pub(super) edge: Arc<Edge>,
    pub(super) origin: Arc<Origin>,
    pub(super) stream: Http2Stream,
    /// Nothing when it was longer than heads may be.
    pub(super) head: Option<Spelling>,
}

/// Answers one request at a time.
pub(crate) struct Worker {
    desk: Arc<Desk>,
    work: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Where a job lies until it is begun.
#[derive(Default)]
struct Desk(Mutex<Papers>);

#[derive(Default)]
struct Papers {
    job: Option<Job>,
    is_done: bool,
}

/// What became of a worker that was polled.
pub(super) enum Polled {
    AtWork,
    Done,
    /// It must not be used again.
    Broken,
}

impl Worker {
    fn new() -> Worker {
        let desk = Arc::new(Desk::default());
        Worker {
            // The streams of a connection share a task, and what a task may do before it yields is made for one of them: out of
            // its turn, a connection to an instance would look as if it could not be used. What a stream can do at once is
            // bounded by its windows.
            work: Box::pin(unconstrained(work(Arc::clone(&desk)))),
            desk,
        }
    }

    pub(super) fn begin(&self, job: Job) {
        let mut papers = self.desk.lock();
        papers.job = Some(job);
        papers.is_done = false;
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Polled {
        let polled = catch_unwind(AssertUnwindSafe(|| self.work.as_mut().poll(cx)));
        match polled {
            Ok(_) if self.desk.lock().is_done => Polled::Done,
            Ok(_) => Polled::AtWork,
            Err(_) => Polled::Broken,
        }
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Papers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn work(desk: Arc<Desk>) {
    let mut kit = Kit::default();
    loop {
        // Whoever brings a job polls for it.
        let job = poll_fn(|_| match desk.lock().job.take() {
            Some(job) => Poll::Ready(job),
            None => Poll::Pending,
        });
        let Job {
            edge,
            origin,
            stream,
            head,
        } = job.await;
        let limits = &edge.shared.limits;
        let read = match head {
            Some(head) => head.read(HeadLimits::of(limits), limits.max_header_bytes),
            None => Err(Refusal::HeadTooLarge),
        };
        let (head, refusal) = match read {
            Ok(head) => (head, None),
            Err(refusal) => (Default::default(), Some(refusal)),
        };
        let mut client = Client::of_stream(stream, head, kit);
        match refusal {
            None => {
                handler::answer(&edge, &origin, &mut client).await;
            }
            Some(refusal) => handler::refuse(&edge, &mut client, refusal).await,
        }
        kit = client.into_kit();
        desk.lock().is_done = true;
    }
}

/// Those of an edge thread that have nothing to do.
#[derive(Default)]
pub(crate) struct Workers(Mutex<Idle>);

#[derive(Default)]
struct Idle {
    workers: Vec<Worker>,
    /// So many have had nothing to do since the last look.
    unused: usize,
}

impl Workers {
    pub(super) fn take(&self) -> Worker {
        let mut idle = self.lock();
        let worker = idle.workers.pop();
        idle.unused = idle.unused.min(idle.workers.len());
        drop(idle);
        worker.unwrap_or_else(Worker::new)
    }

    pub(super) fn put(&self, worker: Worker) {
        let mut idle = self.lock();
        if idle.workers.len() < KEPT_WORKERS {
            idle.workers.push(worker);
        }
    }

    /// Lets go of those that had nothing to do since this was called last.
    pub(crate) fn expire(&self) {
        let mut idle = self.lock();
        let unused = idle.unused.min(idle.workers.len());
        let gone: Vec<_> = idle.workers.drain(..unused).collect();
        idle.unused = idle.workers.len();
        drop(idle);
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_as_small_as_is_said() {
        let bytes = size_of_val(&work(Arc::default()));
        assert!(bytes < 12 * 1024, "{bytes}");
    }

    #[test]
    fn those_that_nobody_needs_are_let_go() {
        let workers = Workers::default();
        let kept = || workers.lock().workers.len();
        let some: Vec<_> = (0..3).map(|_| workers.take()).collect();
        some.into_iter().for_each(|worker| workers.put(worker));
        workers.expire();
        assert_eq!(kept(), 3);
        // One of them has something to do now and then.
        let one = workers.take();
        workers.put(one);
        workers.expire();
        assert_eq!(kept(), 1);
        workers.expire();
        assert_eq!(kept(), 0);
        let many: Vec<_> = (0..KEPT_WORKERS + 5).map(|_| workers.take()).collect();
        many.into_iter().for_each(|worker| workers.put(worker));
        assert_eq!(kept(), KEPT_WORKERS);
    }
}
