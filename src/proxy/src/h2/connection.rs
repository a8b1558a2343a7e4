//! A client's connection of HTTP/2: its frames, its streams, and what ends it. All of it is one task.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::task::coop::has_budget_remaining;
use tokio::time::timeout;

use super::bells::{Bell, Bells};
use super::frames::{Signs, Watched};
use super::stream::stream;
use super::streams::{POLLS_PER_RUN, Streams};
use super::workers::Job;
use crate::client::{Client, Drain, Socket};
use crate::config::Limits;
use crate::edge::Edge;
use crate::h1::Timer;
use crate::metrics::Abuse;
use crate::origin::Origin;

/// Streams at work here for each that the client may have open: one that was cancelled is no longer counted by the client,
/// and may take a moment to end.
const LINGERING_STREAMS: usize = 2;

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
    let (mut io, signs) = Watched::new(io, ahead, limits);
    let handshake = builder(limits).handshake(&mut io);
    if let Ok(Ok(connection)) = timeout(limits.header_read_timeout, handshake).await {
        let bells = Arc::new(Bells::default());
        let (frames, stop) = (bells.hang(FRAMES), bells.hang(STOP));
        let serving = Serving {
            edge,
            origin: Arc::new(origin.of_http2()),
            connection,
            signs,
            frames_waker: Waker::from(Arc::clone(&frames)),
            frames,
            stop_waker: Waker::from(Arc::clone(&stop)),
            stop,
            streams: Streams::new(Arc::clone(&bells)),
            bells,
            malformed: 0,
            timer: Timer::default(),
            idle_since: Some(Instant::now()),
            stage: Stage::Open,
        };
        serving.run(stopping).await;
    }
    // The last frames say why it ends, and are to arrive.
    Client::new(io.io, Drain::never()).close(limits).await;
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.http2_streams)
        .initial_window_size(limits.http2_stream_window)
        .initial_connection_window_size(limits.http2_connection_window)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        // A client's cancelled streams may arrive with the streams themselves when a thread is late to read them.
        .max_pending_accept_reset_streams(limits.http2_streams as usize)
        .max_send_buffer_size(limits.http2_send_buffer)
        .enable_connect_protocol();
    builder
}

struct Serving<'a, T> {
    edge: &'a Arc<Edge>,
    origin: Arc<Origin>,
    connection: Connection<&'a mut Watched<T>, Bytes>,
    signs: Signs,
    bells: Arc<Bells>,
    frames: Arc<Bell>,
    frames_waker: Waker,
    stop: Arc<Bell>,
    stop_waker: Waker,
    streams: Streams,
    /// Requests that were none.
    malformed: u32,
    timer: Timer,
    /// Since when no stream has been open.
    idle_since: Option<Instant>,
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

impl<T: Socket> Serving<'_, T> {
    async fn run(mut self, stopping: &mut (impl Future<Output = ()> + Unpin)) {
        poll_fn(|cx| self.poll(cx, stopping)).await;
        drop(self.connection);
        // They have lost their client and end by themselves.
        let workers = &self.edge.workers;
        poll_fn(|cx| self.streams.poll_end(workers, cx)).await;
    }

    /// Ready when the connection is to end.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stopping: &mut (impl Future<Output = ()> + Unpin),
    ) -> Poll<()> {
        for _ in 0..POLLS_PER_RUN {
            let Some(part) = self.bells.next() else { break };
            match part {
                FRAMES => {
                    if self.poll_frames().is_ready() {
                        return Poll::Ready(());
                    }
                }
                STOP => {
                    self.stop.silence();
                    let mut cx = Context::from_waker(&self.stop_waker);
                    if self.stage == Stage::Open
                        && Pin::new(&mut *stopping).poll(&mut cx).is_ready()
                    {
                        self.drain();
                    }
                }
                part => self.streams.poll(&self.edge.workers, part),
            }
            // Reads that are put off say that they are ready.
            if !has_budget_remaining() {
                break;
            }
        }
        while let Some(deadline) = self.deadline()
            && self.timer.poll(cx, deadline).is_ready()
        {
            if self.stage != Stage::Open || self.signs.is_stalled() {
                return Poll::Ready(());
            }
            self.drain();
        }
        self.bells.rest(cx);
        Poll::Pending
    }

    /// Reads and writes what there is, and begins the requests that come. Ready when the connection has ended.
    fn poll_frames(&mut self) -> Poll<()> {
        self.frames.silence();
        let waker = self.frames_waker.clone();
        let mut cx = Context::from_waker(&waker);
        loop {
            let accepted = self.connection.poll_accept(&mut cx);
            // Looked at before what came with it is begun.
            if !matches!(self.stage, Stage::Ending(_))
                && let Some(abuse) = self.signs.abuse()
            {
                self.end(abuse);
                continue;
            }
            match ready!(accepted) {
                Some(Ok((request, respond))) => self.begin(request, respond),
                Some(Err(error)) => {
                    let calmed = error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
                    if calmed && error.is_library() {
                        self.edge.shared.metrics.abused(Abuse::Protocol);
                    }
                    tracing::debug!(%error, "a connection of HTTP/2 broke");
                    return Poll::Ready(());
                }
                None => return Poll::Ready(()),
            }
        }
    }

    /// No stream is open, and nothing of one waits to be sent.
    fn is_idle(&self) -> bool {
        self.streams.is_empty() && !self.connection.has_streams()
    }

    fn deadline(&mut self) -> Option<Instant> {
        let limits = &self.edge.shared.limits;
        let idle = match self.is_idle() {
            true => Some(*self.idle_since.get_or_insert_with(Instant::now)),
            false => {
                self.idle_since = None;
                None
            }
        };
        let stall = self.signs.stall_deadline(limits.client_stall);
        let end = match self.stage {
            Stage::Open => idle.map(|since| since + limits.header_read_timeout),
            // Time to hear that no more is wanted.
            Stage::Draining => idle.map(|since| since + limits.linger),
            Stage::Ending(deadline) => Some(deadline),
        };
        [stall, end].into_iter().flatten().min()
    }

    fn drain(&mut self) {
        self.stage = Stage::Draining;
        self.idle_since = None;
        self.connection.graceful_shutdown();
        self.frames.ring();
    }

    fn end(&mut self, abuse: Abuse) {
        self.edge.shared.metrics.abused(abuse);
        self.stage = Stage::Ending(Instant::now() + self.edge.shared.limits.linger);
        self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        self.frames.ring();
    }

    fn begin(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        if matches!(self.stage, Stage::Ending(_)) {
            return;
        }
        let limits = &self.edge.shared.limits;
        let most = LINGERING_STREAMS.saturating_mul(limits.http2_streams as usize);
        if self.streams.len() >= most {
            // RFC 9113 section 8.7: it may be sent again.
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        match stream(request, respond) {
            Ok((stream, head)) => {
                let job = Job {
                    edge: Arc::clone(self.edge),
                    origin: Arc::clone(&self.origin),
                    stream,
                    head,
                };
                self.streams.begin(&self.edge.workers, job);
            }
            Err(malformed) => {
                tracing::debug!(?malformed, "a stream carried no request");
                self.malformed += 1;
                if self.malformed > limits.http2_resets {
                    self.end(Abuse::Resets);
                }
            }
        }
    }
}
