//! A client's connection of HTTP/2: what it reads and writes, its streams, and what ends it. All of it is one task.

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::task::coop::has_budget_remaining;

use super::bells::{Bell, Bells};
use super::state::{Fatal, Goodbye, Greeting, Opened, State};
use super::stream::{Shared, stream};
use super::streams::{POLLS_PER_RUN, Streams};
use super::workers::Job;
use crate::client::{Client, Drain, Socket};
use crate::edge::Edge;
use crate::h1::{READ_BYTES, Timer, Wire};
use crate::origin::Origin;

/// Streams at work here for each that the client may have open: one that was cancelled is no longer counted by the client,
/// and may take a moment to end.
const LINGERING_STREAMS: usize = 2;

/// Answers of the connection itself (settings, pings, resets) that a client does not take: beyond that nothing more is read of it.
const UNTAKEN_BYTES: usize = 64 * 1024;

/// A connection that has been idle for so long keeps no buffers: the next request is not likely to come at once.
const TIDY_AFTER: Duration = Duration::from_secs(1);

/// Parts of a connection beside its streams: what comes and goes, and the word to stop.
const FRAMES: usize = 0;
const STOP: usize = 1;

/// Serves a connection whose client speaks HTTP/2 by negotiation or by its first bytes, until it ends. `ahead` was
/// read of it already; with the end of `stopping` it takes no more requests.
pub(crate) async fn serve<T>(
    edge: &Arc<Edge>,
    origin: Origin,
    io: T,
    ahead: Vec<u8>,
    stopping: &mut (impl Future<Output = ()> + Unpin),
) where
    T: Socket,
{
    let limits = &edge.shared.limits;
    let bells = Arc::new(Bells::default());
    let (frames, stop) = (bells.hang(FRAMES), bells.hang(STOP));
    let shared = Shared::new(State::new(limits), Arc::clone(&frames));
    let mut serving = Serving {
        edge,
        origin: Arc::new(origin.of_http2()),
        wire: Wire::new(io),
        shared: Arc::new(shared),
        opened: Vec::new(),
        frames_waker: Waker::from(Arc::clone(&frames)),
        frames,
        stop_waker: Waker::from(Arc::clone(&stop)),
        stop,
        streams: Streams::new(Arc::clone(&bells)),
        bells,
        timer: Timer::default(),
        idle_since: Some(Instant::now()),
        stall: None,
        is_tidy: false,
        is_held_up: false,
        stage: Stage::Open,
    };
    serving.receive(&ahead);
    drop(ahead);
    serving.run(stopping).await;
    // The last frames say why it ends, and are to arrive.
    let (io, _) = serving.wire.into_parts();
    Client::new(io, Drain::never()).close(limits).await;
}

struct Serving<'a, T> {
    edge: &'a Arc<Edge>,
    origin: Arc<Origin>,
    wire: Wire<T>,
    shared: Arc<Shared>,
    /// Requests that are about to be begun.
    opened: Vec<Opened>,
    bells: Arc<Bells>,
    frames: Arc<Bell>,
    frames_waker: Waker,
    stop: Arc<Bell>,
    stop_waker: Waker,
    streams: Streams,
    timer: Timer,
    /// Since when no stream has been open.
    idle_since: Option<Instant>,
    /// Since when the client has taken nothing of what waits for it, and what it had taken by then.
    stall: Option<(Instant, u64)>,
    /// It has given back the memory that it has no use for.
    is_tidy: bool,
    /// Nothing is read before the client takes something.
    is_held_up: bool,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// The client was told to send no more requests (GOAWAY); those that are under way are answered.
    Draining,
    /// It was told why its connection ends now, and has until then to hear it.
    Ending(Instant),
}

/// The connection is over.
struct Over;

impl<T: Socket> Serving<'_, T> {
    async fn run(&mut self, stopping: &mut (impl Future<Output = ()> + Unpin)) {
        poll_fn(|cx| self.poll(cx, stopping)).await;
        // They have lost their client and end by themselves.
        self.shared.with(State::break_all);
        let workers = &self.edge.workers;
        poll_fn(|cx| self.streams.poll_end(workers, cx)).await;
    }

    /// Ready when the connection is to end.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stopping: &mut (impl Future<Output = ()> + Unpin),
    ) -> Poll<()> {
        self.shared.with(|state| state.at_work = true);
        let over = self.work(stopping).is_err();
        self.shared.with(|state| state.at_work = false);
        if over {
            return Poll::Ready(());
        }
        while let Some(deadline) = self.deadline()
            && self.timer.poll(cx, deadline).is_ready()
        {
            if self.late().is_err() {
                return Poll::Ready(());
            }
        }
        self.bells.rest(cx);
        Poll::Pending
    }

    /// Sees to all parts that have something to do, and then sends what they have left.
    fn work(&mut self, stopping: &mut (impl Future<Output = ()> + Unpin)) -> Result<(), Over> {
        for _ in 0..POLLS_PER_RUN {
            let mut part = self.bells.next();
            if part.is_none() {
                // Whoever waited for room may have more now.
                self.write()?;
                part = self.bells.next();
            }
            match part {
                None => return self.look(),
                Some(FRAMES) => self.read()?,
                Some(STOP) => {
                    self.stop.silence();
                    let mut cx = Context::from_waker(&self.stop_waker);
                    if self.stage == Stage::Open
                        && Pin::new(&mut *stopping).poll(&mut cx).is_ready()
                    {
                        self.drain();
                    }
                }
                Some(part) => self.streams.poll(&self.edge.workers, part),
            }
            // Reads that are put off say that they are ready.
            if !has_budget_remaining() {
                break;
            }
        }
        self.write()?;
        self.look()
    }

    /// Whether the connection has a reason to go on.
    fn look(&self) -> Result<(), Over> {
        let (leaves, waits) = self.shared.with(|state| {
            let leaves = state.goodbye == Goodbye::Said;
            (leaves, !state.out.is_empty() || !state.opened.is_empty())
        });
        let sent = !waits && !self.wire.has_unsent();
        let done = match self.stage {
            Stage::Ending(_) => sent,
            _ => leaves && sent && self.streams.is_empty(),
        };
        match done {
            true => Err(Over),
            false => Ok(()),
        }
    }

    /// Reads what there is, and begins the requests that come.
    fn read(&mut self) -> Result<(), Over> {
        self.frames.silence();
        let waker = self.frames_waker.clone();
        let mut cx = Context::from_waker(&waker);
        while !matches!(self.stage, Stage::Ending(_)) {
            self.is_held_up = self.shared.with(|state| state.untaken()) > UNTAKEN_BYTES;
            if self.is_held_up {
                break;
            }
            let shared = &self.shared;
            let read = self
                .wire
                .poll_read_with(&mut cx, READ_BYTES, |_, _, bytes| {
                    let taken = shared.with(|state| state.receive(bytes));
                    (bytes.is_empty(), taken)
                });
            match read {
                Poll::Pending => break,
                Poll::Ready(Ok((false, taken))) => self.received(taken),
                Poll::Ready(Ok((true, _)) | Err(_)) => return Err(Over),
            }
        }
        Ok(())
    }

    /// What was read before.
    fn receive(&mut self, ahead: &[u8]) {
        let taken = self.shared.with(|state| state.receive(ahead));
        self.received(taken);
    }

    fn received(&mut self, taken: Result<(), Fatal>) {
        if let Err(fatal) = taken {
            return self.end(fatal);
        }
        let mut opened = mem::take(&mut self.opened);
        self.shared
            .with(|state| mem::swap(&mut opened, &mut state.opened));
        for opened in opened.drain(..) {
            self.begin(opened);
        }
        self.opened = opened;
    }

    /// Sends what waits, as far as the client takes it.
    fn write(&mut self) -> Result<(), Over> {
        loop {
            if self.wire.unwritten() == 0 {
                let wire = &mut self.wire;
                self.shared.with(|state| state.hand_over(wire.outbox()));
            }
            if !self.wire.has_unsent() {
                break;
            }
            let mut cx = Context::from_waker(&self.frames_waker);
            match self.wire.poll_flush(&mut cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(Over),
                Poll::Pending => {
                    let sent = self.wire.sent;
                    if self.stall.is_none_or(|(_, before)| before != sent) {
                        self.stall = Some((Instant::now(), sent));
                    }
                    return Ok(());
                }
            }
        }
        self.stall = None;
        if mem::take(&mut self.is_held_up) {
            self.frames.ring();
        }
        Ok(())
    }

    fn deadline(&mut self) -> Option<Instant> {
        let limits = &self.edge.shared.limits;
        // Nothing of a stream waits to be sent either.
        let is_idle = self.streams.is_empty() && !self.wire.has_unsent();
        if !is_idle {
            self.idle_since = None;
            self.is_tidy = false;
            let stall = self.stall.map(|(since, _)| since + limits.client_stall);
            return match self.stage {
                Stage::Ending(deadline) => Some(stall.map_or(deadline, |s| s.min(deadline))),
                Stage::Open | Stage::Draining => stall,
            };
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        let end = match self.stage {
            Stage::Open => since + limits.header_read_timeout,
            // Time to hear that no more is wanted.
            Stage::Draining => since + limits.linger,
            Stage::Ending(deadline) => deadline,
        };
        Some(match self.is_tidy || self.stage != Stage::Open {
            true => end,
            false => end.min(since + TIDY_AFTER),
        })
    }

    /// A deadline has passed.
    fn late(&mut self) -> Result<(), Over> {
        let waited = self.idle_since.map(|since| since.elapsed());
        let patience = self.edge.shared.limits.header_read_timeout;
        if !self.is_tidy
            && let Some(waited) = waited
            && self.stage == Stage::Open
            && waited < patience
        {
            self.is_tidy = true;
            self.wire.shrink();
            self.shared.with(State::shrink);
            return Ok(());
        }
        let greeted = self.shared.with(|state| state.greeting == Greeting::Done);
        if self.stage != Stage::Open || self.stall.is_some() || !greeted {
            return Err(Over);
        }
        self.drain();
        Ok(())
    }

    fn drain(&mut self) {
        self.stage = Stage::Draining;
        self.idle_since = None;
        self.shared.with(State::announce_goodbye);
        self.frames.ring();
    }

    fn end(&mut self, fatal: Fatal) {
        tracing::debug!(?fatal, "a connection of HTTP/2 ends");
        if let Some(abuse) = fatal.abuse {
            self.edge.shared.metrics.abused(abuse);
        }
        self.stage = Stage::Ending(Instant::now() + self.edge.shared.limits.linger);
        self.shared.with(|state| state.end(fatal.code));
    }

    fn begin(&mut self, opened: Opened) {
        let most = LINGERING_STREAMS * self.shared.with(|state| state.bounds.streams);
        if self.streams.len() >= most {
            return self.shared.with(|state| state.refuse_begun(opened.id));
        }
        let stream = stream(&self.shared, opened.id, opened.method, opened.content);
        let job = Job {
            edge: Arc::clone(self.edge),
            origin: Arc::clone(&self.origin),
            stream,
            head: opened.head,
        };
        self.streams.begin(&self.edge.workers, job);
    }
}
