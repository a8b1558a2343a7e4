//! A client's connection of HTTP/3: its requests, each answered by a task of its own, and what ends it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::control::{self, GREATEST_REQUEST, Opened};
use super::frames::Code;
use super::receive::{Fault, Receive};
use super::send::Sending;
use crate::client::{Client, Kit};
use crate::config::Limits;
use crate::edge::{Edge, Stop, stopped};
use crate::h1::{HeadLimits, Refusal, RequestHead};
use crate::handler;
use crate::metrics::{Abuse, ProxyMetrics};
use crate::origin::{Origin, Scheme};
use crate::streams::{Allowance, BYTES_PER_FRAME, Content, Malformed, Stream};

/// How often `client_stall` is waited for a client that takes the end of its answer slowly: what `http3_send_window` holds is
/// with it by then at some 2 KB a second.
const LOOKS_MAX: u32 = 10;

/// From one request's stream to the next (RFC 9000 section 2.1).
const NEXT_REQUEST: u64 = 4;
/// Round trips that a client gets to hear that no more requests are taken.
const GOODBYE_ROUND_TRIPS: u32 = 2;

/// What the streams of a connection have in common.
pub(super) struct Common {
    connection: Connection,
    metrics: ProxyMetrics,
    /// The greatest size of a field section here, coded and as it is counted.
    pub(super) section_bytes: usize,
    /// The same at the client.
    peer_section_bytes: AtomicU64,
    pub(super) opened: Opened,
    resets: Mutex<Allowance>,
    frames: Mutex<Allowance>,
    abused: AtomicBool,
}

impl Common {
    fn new(connection: Connection, limits: &Limits, metrics: ProxyMetrics) -> Common {
        Common {
            connection,
            metrics,
            section_bytes: limits.max_header_bytes,
            peer_section_bytes: AtomicU64::new(u64::MAX),
            opened: Opened::default(),
            resets: Mutex::new(Allowance::of_resets(limits)),
            frames: Mutex::new(Allowance::of_frames(limits)),
            abused: AtomicBool::new(false),
        }
    }

    /// Ends the connection at once.
    pub(super) fn end(&self, code: Code) {
        tracing::debug!(?code, "a connection of HTTP/3 ends");
        self.connection.close(code.into(), b"");
    }

    pub(super) fn peer_section_bytes(&self) -> u64 {
        self.peer_section_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn peer_takes(&self, section_bytes: u64) {
        self.peer_section_bytes
            .store(section_bytes, Ordering::Relaxed);
    }

    /// A frame came that carries nothing.
    pub(super) fn idle_frame(&self) {
        if !lock(&self.frames).spend(1) {
            self.abused(Abuse::Frames);
        }
    }

    /// A request was taken back before it was answered, or was none.
    fn in_vain(&self) {
        if !lock(&self.resets).spend(1) {
            self.abused(Abuse::Resets);
        }
    }

    pub(super) fn answered(&self) {
        lock(&self.resets).earn(1);
        lock(&self.frames).earn(2);
    }

    pub(super) fn sent(&self, bytes: usize) {
        let earned = u32::try_from(bytes / BYTES_PER_FRAME).unwrap_or(u32::MAX);
        lock(&self.frames).earn(earned);
    }

    fn abused(&self, abuse: Abuse) {
        if !self.abused.swap(true, Ordering::Relaxed) {
            self.metrics.http3.abused(abuse);
            self.end(Code::EXCESSIVE_LOAD);
        }
    }
}

fn lock(allowance: &Mutex<Allowance>) -> std::sync::MutexGuard<'_, Allowance> {
    allowance.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the two directions of a stream have seen.
#[derive(Default)]
pub(super) struct Signs {
    cancelled: AtomicBool,
    malformed: AtomicBool,
    /// All of the answer was handed over, with its end.
    ended: AtomicBool,
}

impl Signs {
    /// The client has taken its request back.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// It was no request, which may show when it has begun to be answered.
    pub(super) fn malformed(&self, malformed: Malformed) {
        tracing::debug!(reason = malformed.0, "a stream carried no request");
        self.malformed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_malformed(&self) -> bool {
        self.malformed.load(Ordering::Relaxed)
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn was_in_vain(&self) -> bool {
        self.is_cancelled() || self.is_malformed()
    }
}

/// Serves a connection until it ends. With the word to stop it takes no more requests.
pub(super) async fn serve(
    edge: &Arc<Edge>,
    connection: Connection,
    mut stop: watch::Receiver<Stop>,
) {
    let limits = &edge.shared.limits;
    let _open = edge.shared.metrics.connection();
    let greeted = timeout(limits.header_read_timeout, greet(&connection, limits)).await;
    let Ok(Some(control)) = greeted else {
        return connection.close(Code::NO_ERROR.into(), b"");
    };
    let common = Common::new(connection.clone(), limits, edge.shared.metrics.clone());
    let serving = Serving {
        edge,
        common: Arc::new(common),
        origin: Arc::new(origin(edge, &connection)),
        connection,
        control,
        requests: JoinSet::new(),
        others: JoinSet::new(),
        next: 0,
        idle_since: Some(Instant::now()),
        stage: Stage::Open,
    };
    serving.run(&mut stop).await;
}

/// RFC 9114 section 3.2: each side begins with its settings.
async fn greet(connection: &Connection, limits: &Limits) -> Option<SendStream> {
    let mut control = connection.open_uni().await.ok()?;
    let greeting = control::greeting(limits.max_header_bytes);
    control.write_all(&greeting).await.ok()?;
    Some(control)
}

/// The client's address is the one that it has shown to be its own with the handshake. Where it moves to later counts before it
/// is known to be there (RFC 9000 section 9.3), so that anybody's could be borrowed for a request.
fn origin(edge: &Edge, connection: &Connection) -> Origin {
    let peer = connection.remote_address().ip();
    Origin::new(peer, Scheme::Https, &edge.shared.trusted_proxies).of_http3()
}

struct Serving<'a> {
    edge: &'a Arc<Edge>,
    common: Arc<Common>,
    connection: Connection,
    origin: Arc<Origin>,
    control: SendStream,
    requests: JoinSet<()>,
    /// Streams of one direction.
    others: JoinSet<()>,
    /// The number of the first request that has not come.
    next: u64,
    /// Since when no request has been under way.
    idle_since: Option<Instant>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// The client was told that it will be told which requests are not taken, and has until then to send none (GOAWAY,
    /// RFC 9114 section 5.2).
    Leaving(Instant),
    /// It was told; those that are under way are answered.
    Draining,
}

impl Serving<'_> {
    async fn run(mut self, stop: &mut watch::Receiver<Stop>) {
        loop {
            let deadline = self.deadline();
            let late = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = stopped(stop), if self.stage == Stage::Open => self.leave().await,
                Some(ended) = self.requests.join_next() => look(ended),
                Some(ended) = self.others.join_next() => look(ended),
                opened = self.connection.accept_bi() => match opened {
                    Ok((send, receive)) => self.begin(send, receive),
                    Err(_) => break,
                },
                opened = self.connection.accept_uni() => match opened {
                    Ok(stream) => {
                        let common = Arc::clone(&self.common);
                        self.others.spawn(async move { control::read(&common, stream).await });
                    }
                    Err(_) => break,
                },
                () = late => match self.stage {
                    Stage::Open => self.leave().await,
                    Stage::Leaving(_) => self.drain().await,
                    Stage::Draining => break,
                },
            }
        }
        self.common.end(Code::NO_ERROR);
        // They have lost their client and end by themselves.
        while let Some(ended) = self.requests.join_next().await {
            look(ended);
        }
    }

    fn deadline(&mut self) -> Option<Instant> {
        let limits = &self.edge.shared.limits;
        let idle = match self.requests.is_empty() {
            true => Some(*self.idle_since.get_or_insert_with(Instant::now)),
            false => {
                self.idle_since = None;
                None
            }
        };
        match self.stage {
            Stage::Open => idle.map(|since| since + limits.header_read_timeout),
            Stage::Leaving(until) => Some(until),
            // Time to hear that no more is wanted.
            Stage::Draining => idle.map(|since| since + self.goodbye()),
        }
    }

    fn goodbye(&self) -> Duration {
        let linger = self.edge.shared.limits.linger;
        (self.connection.rtt() * GOODBYE_ROUND_TRIPS).min(linger)
    }

    async fn leave(&mut self) {
        self.stage = Stage::Leaving(Instant::now() + self.goodbye());
        self.say_goodbye(GREATEST_REQUEST).await;
    }

    async fn drain(&mut self) {
        self.stage = Stage::Draining;
        self.idle_since = None;
        self.say_goodbye(self.next).await;
    }

    async fn say_goodbye(&mut self, request: u64) {
        let said = control::goaway(request);
        // A client that takes nothing hears of it when the connection ends.
        let _ = timeout(
            self.edge.shared.limits.linger,
            self.control.write_all(&said),
        )
        .await;
    }

    fn begin(&mut self, mut send: SendStream, mut receive: RecvStream) {
        let id = VarInt::from(send.id()).into_inner();
        if self.stage == Stage::Draining && id >= self.next {
            // Section 4.1.1: it may be sent again.
            let _ = send.reset(Code::REQUEST_REJECTED.into());
            let _ = receive.stop(Code::REQUEST_REJECTED.into());
            return;
        }
        self.next = self.next.max(id + NEXT_REQUEST);
        let (edge, origin) = (Arc::clone(self.edge), Arc::clone(&self.origin));
        let common = Arc::clone(&self.common);
        let connection = self.connection.clone();
        self.requests.spawn(async move {
            let signs = Arc::new(Signs::default());
            // Until the client has all of it: when the connection ends what is under way is lost.
            let taken = send.stopped();
            let receive = Receive::new(receive, Arc::clone(&common), Arc::clone(&signs));
            let send = Sending::new(send, Arc::clone(&common), Arc::clone(&signs));
            answer(&edge, &origin, &signs, receive, send).await;
            // One that was cut off has nothing that its client could take.
            if signs.has_ended() {
                tokio::pin!(taken);
                let stall = edge.shared.limits.client_stall;
                for _ in 0..LOOKS_MAX {
                    let heard = connection.stats().frame_rx.acks;
                    let waited = timeout(stall, &mut taken).await;
                    // One that takes it slowly says so.
                    if waited.is_ok() || connection.stats().frame_rx.acks == heard {
                        break;
                    }
                }
            }
            if signs.was_in_vain() {
                common.in_vain();
            }
        });
    }
}

fn look(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a stream's task broke");
    }
}

/// Answers the one request of a stream.
async fn answer(
    edge: &Arc<Edge>,
    origin: &Origin,
    signs: &Signs,
    mut receive: Receive,
    mut send: Sending,
) {
    let limits = &edge.shared.limits;
    let head = timeout(limits.header_read_timeout, receive.head()).await;
    let (method, content, read) = match head {
        Ok(Ok((section, asking, ended))) => {
            let content = asking.content(ended);
            let head = asking.spell(&section, content);
            let read = head.read(HeadLimits::of(limits), limits.max_header_bytes);
            (asking.method, content, read)
        }
        Ok(Err(Fault::TooLarge)) => (Method::GET, Content::Nothing, Err(Refusal::HeadTooLarge)),
        Err(_) => (Method::GET, Content::Nothing, Err(Refusal::Slow)),
        Ok(Err(Fault::Incomplete)) => {
            signs.malformed(Malformed("it ended before its head"));
            return send.reset(Code::REQUEST_INCOMPLETE);
        }
        Ok(Err(Fault::Connection(_) | Fault::Malformed(_) | Fault::Gone)) => return,
    };
    let (head, refusal) = match read {
        Ok(head) => (head, None),
        Err(refusal) => (RequestHead::default(), Some(refusal)),
    };
    let stream = Stream::new(method, content, receive, send);
    let mut client = Client::of_stream(stream, head, Kit::default());
    match refusal {
        // On the heap, for a task is moved several times before it runs.
        None => {
            Box::pin(handler::answer(edge, origin, &mut client)).await;
        }
        Some(refusal) => handler::refuse(edge, &mut client, refusal).await,
    }
}
