//! A client's connection: requests are read from it one after another, and each is answered on it.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::Response;
use nebula_domain::http::HttpPolicy;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;

use crate::body::{FilePart, ResponseBody};
use crate::config::Limits;
use crate::edge::Stop;
use crate::exchange::gone;
use crate::finish::Finish;
use crate::h1::{
    Buffers, End, Framing, HeadLimits, Length, Moved, Pace, READ_BYTES, Refusal, Relay,
    RequestHead, Timer, Trailers, Wire, chunk_size, find_end,
};
use crate::headers::{self, Delivery};
use crate::sendfile;

/// Read and thrown away of a body that nobody wanted, so that the connection can carry another request, or so that the
/// client sees its answer before it sees the connection's end.
const DISCARDED_BYTES_MAX: u64 = 256 * 1024;

/// What looks like a head of HTTP/1.1 at the beginning of a connection of HTTP/2 (RFC 9113 section 3.4).
const HTTP2_HEAD: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// What a client's bytes come by.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin {
    /// The socket itself, when what is written goes out as it is.
    fn plain(&self) -> Option<&TcpStream> {
        None
    }

    /// Makes the end of the connection an error for the other side.
    fn reset(&self) {}

    /// Whether HTTP/2 or HTTP/1.1 was agreed on before (ALPN, RFC 7301); nothing where nobody asked.
    fn is_http2(&self) -> Option<bool> {
        None
    }
}

impl Socket for TcpStream {
    fn plain(&self) -> Option<&TcpStream> {
        Some(self)
    }

    fn reset(&self) {
        // Without it the connection ends as if all had been well, which is no worse than HTTP/1.0 ever was.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

impl Socket for TlsStream<TcpStream> {
    fn reset(&self) {
        self.get_ref().0.reset();
    }

    fn is_http2(&self) -> Option<bool> {
        let agreed = self.get_ref().1.alpn_protocol();
        agreed.map(|protocol| protocol == b"h2")
    }
}

impl Socket for nebula_mesh::Stream {}

pub(crate) struct Client<T> {
    pub(crate) wire: Wire<T>,
    pub(crate) head: RequestHead,
    pub(crate) timer: Timer,
    /// Something of the latest request's body may be gone.
    pub(crate) body_begun: bool,
    /// An answer that only the connection's end would end was cut off: a clean end would make it look whole.
    pub(crate) cut_off: bool,
    pub(crate) drain: Drain,
    /// The latest request came over TLS.
    pub(crate) secure: bool,
    /// What the client is told of HTTP/3 with the answer to the latest request.
    pub(crate) alternative: Option<Arc<str>>,
    /// Bytes sent and received up to the end of the latest request.
    counted: (u64, u64),
}

/// What streams need one after another.
#[derive(Default)]
pub(crate) struct Kit {
    buffers: Buffers,
    timer: Timer,
}

/// Tells an answer that its connection is to end with it, because the edge drains.
pub(crate) struct Drain(Option<watch::Receiver<Stop>>);

impl Drain {
    pub(crate) fn never() -> Drain {
        Drain(None)
    }

    /// `stop` as it is at this moment: anything after it is the drain.
    pub(crate) fn by(stop: watch::Receiver<Stop>) -> Drain {
        Drain(Some(stop))
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|stop| !matches!(stop.has_changed(), Ok(false)))
    }
}

/// What came of waiting for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// Its head is in [`Client::head`].
    Head,
    /// What comes is the beginning of a connection of HTTP/2 (RFC 9113 section 3.3); nothing of it was taken.
    Http2,
    Refused(Refusal),
    /// The client has gone, or has been idle for too long, or the edge drains.
    End,
}

impl<T: Socket> Client<T> {
    pub(crate) fn new(io: T, drain: Drain) -> Client<T> {
        Client {
            wire: Wire::new(io),
            head: RequestHead::default(),
            timer: Timer::default(),
            body_begun: false,
            cut_off: false,
            drain,
            secure: false,
            alternative: None,
            counted: (0, 0),
        }
    }

    /// A stream whose request's head has been read, in the place of one that has ended.
    pub(crate) fn of_stream(io: T, head: RequestHead, kit: Kit) -> Client<T> {
        let mut wire = Wire::with_buffers(io, kit.buffers);
        wire.received = head.bytes() as u64;
        Client {
            wire,
            head,
            timer: kit.timer,
            body_begun: false,
            cut_off: false,
            // A stream outlives the word to stop.
            drain: Drain::never(),
            secure: false,
            alternative: None,
            counted: (0, 0),
        }
    }

    /// Ends it, and keeps what the next one can use.
    pub(crate) fn into_kit(self) -> Kit {
        Kit {
            buffers: self.wire.into_buffers(),
            timer: self.timer,
        }
    }

    /// Bytes sent and received since this was asked last.
    pub(crate) fn moved(&mut self) -> (u64, u64) {
        let now = (self.wire.sent, self.wire.received);
        let before = std::mem::replace(&mut self.counted, now);
        (now.0 - before.0, now.1 - before.1)
    }

    /// Waits for the next request's head. `stop` ends the waiting while nothing of one has come.
    pub(crate) async fn read(
        &mut self,
        limits: &Limits,
        stop: &mut (impl Future<Output = ()> + Unpin),
    ) -> Read {
        self.body_begun = false;
        let deadline = Instant::now() + limits.header_read_timeout;
        let mut searched = 0;
        poll_fn(|cx| {
            loop {
                match self.look(limits, &mut searched) {
                    Ok(Some(read)) => return Poll::Ready(read),
                    Ok(None) => {}
                    Err(refusal) => return Poll::Ready(Read::Refused(refusal)),
                }
                match self.wire.poll_fill(cx, READ_BYTES) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) => return Poll::Ready(Read::End),
                    Poll::Pending => break,
                }
            }
            self.wait(cx, deadline, stop)
        })
        .await
    }

    /// Whether the inbox holds a whole head; it is taken then.
    fn look(&mut self, limits: &Limits, searched: &mut usize) -> Result<Option<Read>, Refusal> {
        let inbox = &mut self.wire.inbox;
        // RFC 9112 section 2.2: empty lines before a request are ignored.
        let lines = inbox.chunks_exact(2).take_while(|line| line == b"\r\n");
        let empty = 2 * lines.count();
        if empty > 0 {
            inbox.consume(empty);
            *searched = 0;
        }
        if is_idle(inbox) {
            return Ok(None);
        }
        match find_end(inbox, *searched)? {
            End::At(_) if inbox.starts_with(HTTP2_HEAD) => Ok(Some(Read::Http2)),
            End::At(end) if end <= limits.max_header_bytes => {
                self.head.take(inbox, end, HeadLimits::of(limits))?;
                Ok(Some(Read::Head))
            }
            End::After(end) if end <= limits.max_header_bytes => {
                *searched = end;
                Ok(None)
            }
            _ => Err(Refusal::HeadTooLarge),
        }
    }

    fn wait(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Instant,
        stop: &mut (impl Future<Output = ()> + Unpin),
    ) -> Poll<Read> {
        let idle = is_idle(&self.wire.inbox);
        if idle {
            self.wire.shrink();
            self.head.shrink();
            if Pin::new(stop).poll(cx).is_ready() {
                return Poll::Ready(Read::End);
            }
        }
        self.timer.poll(cx, deadline).map(|()| match idle {
            true => Read::End,
            false => Read::Refused(Refusal::Slow),
        })
    }

    /// Sends an answer that is made here, finished by the deployment's policy; whether the connection may carry another request. `persistent` says so as far as
    /// the answer goes.
    pub(crate) async fn respond(
        &mut self,
        limits: &Limits,
        response: Response<ResponseBody>,
        policy: Option<&HttpPolicy>,
        persistent: bool,
    ) -> bool {
        let (parts, body) = response.into_parts();
        let status = parts.status.as_u16();
        let length = match body.length() {
            Some(length) => Length::Sized(length),
            None => Length::Chunked,
        };
        let wanted = headers::has_body(&self.head.method, status);
        // Where the next request begins is not known any more.
        // Nor where the client may or may not send a body that it was not told to.
        let unsure = self.head.has_body() && self.head.expects_continue;
        let persistent = persistent && !self.body_begun && !unsure && self.is_persistent();
        let mut delivery = Delivery::of(self.head.version, persistent, length);
        if !wanted {
            delivery.framing = Framing::Plain;
        }
        let finish = policy.map_or(Finish::NONE, |policy| {
            Finish::of(policy, &self.head, self.secure).telling(self.alternative.as_deref())
        });
        headers::write_own(self.wire.outbox(), &parts, body.length(), finish, delivery);
        let mut sent = match body {
            _ if !wanted => self.flush(limits).await,
            body => self.body(limits, body, delivery.framing).await,
        };
        if sent && delivery.persistent && self.head.has_body() {
            sent = self.discard(limits).await;
        }
        self.cut_off |= !sent && delivery.ends_with_connection(length);
        sent && delivery.persistent
    }

    fn is_persistent(&self) -> bool {
        self.head.persistent && !self.drain.has_begun()
    }

    /// Whether all of it could be written.
    async fn body(&mut self, limits: &Limits, body: ResponseBody, framing: Framing) -> bool {
        match body {
            ResponseBody::Whole(bytes) if bytes.len() < READ_BYTES => {
                self.wire.outbox().extend_from_slice(&bytes);
            }
            ResponseBody::Whole(bytes) => {
                for piece in bytes.chunks(READ_BYTES) {
                    if !self.flush(limits).await {
                        return false;
                    }
                    self.write(piece, Framing::Plain);
                }
            }
            ResponseBody::File(part) if self.wire.io.plain().is_some() => {
                return self.flush(limits).await && self.send_file(limits, part).await;
            }
            ResponseBody::File(part) => {
                if !self.pieces(limits, pin!(part.into_pieces()), framing).await {
                    return false;
                }
            }
            ResponseBody::Pieces(pieces, _) => {
                if !self.pieces(limits, pieces, framing).await {
                    return false;
                }
            }
        }
        self.flush(limits).await
    }

    async fn pieces(
        &mut self,
        limits: &Limits,
        mut pieces: impl Stream<Item = io::Result<Bytes>> + Unpin,
        framing: Framing,
    ) -> bool {
        // What is there is not to wait for what may take long.
        if !self.flush(limits).await {
            return false;
        }
        loop {
            let piece = tokio::select! {
                biased;
                piece = pieces.next() => piece,
                // What is still to come may take long, and nobody waits for it.
                () = gone(&mut self.wire) => return false,
            };
            let Some(piece) = piece else { break };
            let Ok(piece) = piece else {
                return false;
            };
            if piece.is_empty() {
                continue;
            }
            self.write(&piece, framing);
            if !self.flush(limits).await {
                return false;
            }
        }
        if framing == Framing::Chunked {
            self.wire.outbox().extend_from_slice(b"0\r\n\r\n");
        }
        true
    }

    async fn send_file(&mut self, limits: &Limits, mut part: FilePart) -> bool {
        let mut pace = Pace::default();
        while part.left > 0 {
            let (left, timer, sent) = (part.left, &mut self.timer, self.wire.sent);
            let Some(socket) = self.wire.io.plain() else {
                return false;
            };
            let moved = poll_fn(|cx| match sendfile::poll(cx, socket, &mut part) {
                Poll::Ready(sent) => Poll::Ready(sent.is_ok()),
                Poll::Pending => {
                    let moved = sent + (left - part.left);
                    let Some(due) = pace.due(moved, limits, Instant::now()) else {
                        self.cut_off = true;
                        return Poll::Ready(false);
                    };
                    // What went out before the socket was full counts as well.
                    match part.left < left {
                        true => Poll::Ready(true),
                        false => timer.poll(cx, due).map(|()| true),
                    }
                }
            });
            let moved = moved.await;
            self.wire.sent += left - part.left;
            if !moved {
                return false;
            }
            if part.left > 0 {
                tokio::task::yield_now().await;
            }
        }
        true
    }

    fn write(&mut self, bytes: &[u8], framing: Framing) {
        if framing == Framing::Chunked {
            let mut line = [0; 18];
            let outbox = self.wire.outbox();
            outbox.extend_from_slice(chunk_size(bytes.len(), &mut line));
            outbox.extend_from_slice(bytes);
            outbox.extend_from_slice(b"\r\n");
            return;
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.wire.write_through(&mut cx, bytes);
    }

    async fn flush(&mut self, limits: &Limits) -> bool {
        let mut pace = Pace::default();
        poll_fn(|cx| {
            let flushed = self.wire.poll_flush(cx);
            if let Poll::Ready(flushed) = flushed {
                return Poll::Ready(flushed.is_ok());
            }
            while let Some(due) = pace.due(self.wire.sent, limits, Instant::now()) {
                ready!(self.timer.poll(cx, due));
            }
            self.cut_off = true;
            Poll::Ready(false)
        })
        .await
    }

    /// Reads the body of the request that was answered, to where the next one begins; whether it came to that.
    async fn discard(&mut self, limits: &Limits) -> bool {
        let mut nowhere = Wire::new(tokio::io::empty());
        let mut relay = Relay::new(
            self.head.body_length(),
            Framing::Plain,
            DISCARDED_BYTES_MAX,
            Trailers::Drop,
        );
        let deadline = Instant::now() + limits.linger;
        poll_fn(|cx| {
            loop {
                match relay.poll(cx, &mut self.wire, &mut nowhere) {
                    Poll::Ready(Ok(Moved::Some)) => {}
                    Poll::Ready(Ok(Moved::All)) => return Poll::Ready(true),
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending => break,
                }
            }
            self.timer.poll(cx, deadline).map(|()| false)
        })
        .await
    }

    /// Ends a connection on which nothing is under way. Over TLS the client is told, as far as that goes at once.
    pub(crate) fn end(mut self) {
        if self.wire.io.plain().is_none() {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let _ = self.wire.poll_shutdown(&mut cx);
        }
    }

    /// Ends the connection so that its last answer arrives: one that is closed while the client still sends is reset,
    /// and what was sent before is lost with it.
    pub(crate) async fn close(mut self, limits: &Limits) {
        if self.cut_off {
            return self.wire.io.reset();
        }
        let deadline = Instant::now() + limits.linger;
        let mut left = DISCARDED_BYTES_MAX;
        // Over TLS the end is a message, which has to go out as well (RFC 8446 section 6.1).
        let ended = poll_fn(|cx| match self.wire.poll_shutdown(cx) {
            Poll::Ready(ended) => Poll::Ready(ended.is_ok()),
            Poll::Pending => self.timer.poll(cx, deadline).map(|()| false),
        })
        .await;
        if !ended {
            return;
        }
        poll_fn(|cx| {
            loop {
                self.wire.inbox.clear();
                match self.wire.poll_fill(cx, READ_BYTES) {
                    Poll::Ready(Ok(read @ 1..)) if read as u64 <= left => left -= read as u64,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            self.timer.poll(cx, deadline)
        })
        .await;
    }
}

/// Nothing of a request has come; perhaps half of an empty line.
fn is_idle(inbox: &[u8]) -> bool {
    matches!(inbox, b"" | b"\r")
}
