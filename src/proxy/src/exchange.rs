//! One request and its response over two connections. Both directions move at once: a response may begin before its
//! request has ended, and an upload that nobody reads stops its sender.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::client::Drain;
use crate::config::Limits;
use crate::finish::Finish;
use crate::h1::{
    End, Framing, Length, Moved, Pace, READ_BYTES, Refusal, Relay, RelayError, RequestHead, Timer,
    Trailers, Wire, find_lenient_end,
};
use crate::headers::{self, Asked, Delivery};
use crate::switch;
use crate::upstream::{Io, Told, Upstream};

/// A request that was read, and what is known of it.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) head: &'a RequestHead,
    pub(crate) asked: Asked<'a>,
    pub(crate) finish: Finish<'a>,
    /// Bytes of the body's content.
    pub(crate) max_body: u64,
    /// Its body, where [`collect`] has read it. Otherwise it is still with the client.
    pub(crate) kept: Option<&'a [u8]>,
    /// When the instance was chosen.
    pub(crate) since: Instant,
    /// For the head of the response, since something of the request moved last.
    pub(crate) patience: Duration,
    /// How long nothing may move once the response has begun.
    pub(crate) idle: Duration,
    pub(crate) drain: &'a Drain,
    /// Whether the client is to keep up with the least speed. Not where it is a part of this proxy, which reads on only when the
    /// one behind it has taken what it read, and sees to that one itself.
    pub(crate) paced: bool,
    /// The value of a `Set-Cookie` to add to the response.
    pub(crate) cookie: Option<&'a str>,
    /// The number of the instance that gets it.
    pub(crate) asked_last: &'a AtomicU64,
    /// Told of the status, before the client is.
    pub(crate) answered: &'a (dyn Fn(u16) + Send + Sync),
}

/// The client's connection, behind its request's head.
pub(crate) struct Link<'a, T> {
    pub(crate) wire: &'a mut Wire<T>,
    pub(crate) timer: &'a mut Timer,
    /// `100 Continue` was sent.
    pub(crate) continued: bool,
    /// Something of the request's body may be gone.
    pub(crate) body_begun: &'a mut bool,
    /// As in [`crate::client::Client::cut_off`].
    pub(crate) cut_off: &'a mut bool,
}

/// The response is through.
pub(crate) struct Exchanged {
    /// The client's connection may carry another request.
    pub(crate) persistent: bool,
    /// The connection to the instance may carry another request.
    pub(crate) reusable: bool,
}

/// Why there is no response; nothing has been written to the client.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The connection was gone before anything was sent, or the instance says that it did nothing about what was.
    NotSent,
    /// Sent, at least in part, and then the connection broke, or the answer was not HTTP.
    Broken,
    /// The instance says that it has given the request up.
    Cancelled,
    /// The node of the instance fell silent.
    Silent,
    /// No response in time; whether the request had been sent to its end.
    TimedOut {
        complete: bool,
    },
    /// The request's body is not what its head says.
    Request(Refusal),
    ClientGone,
}

/// The request's body on its way.
pub(crate) struct Upload {
    relay: Relay,
    state: UploadState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UploadState {
    Moving,
    /// All of it has been written.
    Done,
    /// The instance takes no more of it; it may answer all the same.
    Unwanted,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Link<'_, T> {
    /// Tells the client to send the body, with the next flush.
    fn go_on(&mut self) {
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
        self.wire.outbox().extend_from_slice(interim);
        self.continued = true;
    }
}

/// Reads the whole of a body of `length` bytes, which has not been begun. The client is waited for as long as it is anywhere.
pub(crate) async fn collect<T>(
    limits: &Limits,
    request: &Request<'_>,
    link: &mut Link<'_, T>,
    length: usize,
) -> Result<Vec<u8>, Fault>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    *link.body_begun |= length > 0;
    if length > 0 && request.head.expects_continue && !link.continued {
        link.go_on();
    }
    let mut last = Instant::now();
    let mut pace = Pace::default();
    poll_fn(|cx| {
        if link.wire.has_unsent()
            && let Poll::Ready(Err(_)) = link.wire.poll_flush(cx)
        {
            return Poll::Ready(Err(Fault::ClientGone));
        }
        loop {
            let missing = length.saturating_sub(link.wire.inbox.len());
            if missing == 0 {
                return Poll::Ready(Ok(link.wire.inbox.split_to(length)));
            }
            match link.wire.poll_fill(cx, missing) {
                Poll::Ready(Ok(1..)) => last = Instant::now(),
                Poll::Ready(_) => return Poll::Ready(Err(Fault::ClientGone)),
                Poll::Pending => {
                    let patience = last + request.patience;
                    let now = Instant::now();
                    let due = pace.due(link.wire.received, limits, now);
                    let Some(due) = due.filter(|_| now < patience) else {
                        return Poll::Ready(Err(Fault::TimedOut { complete: false }));
                    };
                    ready!(link.timer.poll(cx, due.min(patience)));
                }
            }
        }
    })
    .await
}

/// Passes a request to an instance and waits for the head of its response. `silent` ends when the instance's node is given up.
pub(crate) async fn ask<T, S>(
    limits: &Limits,
    request: &Request<'_>,
    link: &mut Link<'_, T>,
    upstream: &mut Upstream,
    mut silent: S,
) -> Result<Upload, Fault>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Future<Output = ()> + Unpin,
{
    headers::write_request(upstream.wire.outbox(), request.head, &request.asked);
    let length = match request.kept {
        Some(content) => {
            upstream.wire.outbox().extend_from_slice(content);
            Length::None
        }
        None => request.head.body_length(),
    };
    let mut upload = Upload::new(length, request.max_body);
    *link.body_begun |= upload.state == UploadState::Moving;
    if upload.state == UploadState::Moving && request.head.expects_continue && !link.continued {
        // Now that somebody takes the body. It goes out while the response is waited for.
        link.go_on();
    }
    let mut waiting = Waiting {
        limits,
        request,
        upload: &mut upload,
        silent: &mut silent,
        last: request.since,
        pace: Pace::default(),
        head_bytes: upstream.wire.unwritten(),
        searched: 0,
    };
    poll_fn(|cx| waiting.poll(cx, link, upstream)).await?;
    Ok(upload)
}

/// Passes the response whose head is there to the client, with what is left of the request to the instance.
pub(crate) async fn deliver<T>(
    limits: &Limits,
    request: &Request<'_>,
    link: &mut Link<'_, T>,
    upstream: &mut Upstream,
    upload: Upload,
) -> Exchanged
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    (request.answered)(upstream.head.status);
    match upstream.head.status {
        101 => switched(limits, request, link, upstream).await,
        _ => respond(limits, request, link, upstream, upload).await,
    }
}

/// Ends when the client has closed its connection.
pub(crate) async fn gone<T>(wire: &mut Wire<T>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| match has_gone(cx, wire) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

impl Upload {
    fn new(length: Length, max: u64) -> Upload {
        let framing = match length {
            Length::Chunked => Framing::Chunked,
            _ => Framing::Plain,
        };
        let relay = Relay::new(length, framing, max, Trailers::Pass);
        let state = match relay.is_read() {
            true => UploadState::Done,
            false => UploadState::Moving,
        };
        Upload { relay, state }
    }

    /// Moves what can be moved; whether anything did.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Wire<T>,
        to: &mut Wire<Io>,
    ) -> Result<bool, Fault>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let mut moved = false;
        while self.state == UploadState::Moving {
            match self.relay.poll(cx, from, to) {
                Poll::Pending => break,
                Poll::Ready(Ok(Moved::Some)) => moved = true,
                Poll::Ready(Ok(Moved::All)) => self.state = UploadState::Done,
                Poll::Ready(Err(RelayError::To(_))) => self.state = UploadState::Unwanted,
                Poll::Ready(Err(RelayError::From(_))) => return Err(Fault::ClientGone),
                Poll::Ready(Err(RelayError::Malformed(why))) => {
                    return Err(Fault::Request(Refusal::Body(why)));
                }
                Poll::Ready(Err(RelayError::TooLarge)) => {
                    return Err(Fault::Request(Refusal::BodyTooLarge));
                }
            }
        }
        Ok(moved || self.state != UploadState::Moving)
    }
}

/// Until the response's head is there.
struct Waiting<'a, S> {
    limits: &'a Limits,
    request: &'a Request<'a>,
    upload: &'a mut Upload,
    silent: &'a mut S,
    /// When something of the request moved last.
    last: Instant,
    /// Of the client while more of its body is waited for.
    pace: Pace,
    head_bytes: usize,
    /// So much of the inbox has no head's end.
    searched: usize,
}

impl<S: Future<Output = ()> + Unpin> Waiting<'_, S> {
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        link: &mut Link<'_, T>,
        upstream: &mut Upstream,
    ) -> Poll<Result<(), Fault>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        self.send(cx, link, upstream)?;
        if self.receive(cx, link, upstream)? {
            return Poll::Ready(Ok(()));
        }
        // Interim responses; a client that takes none of them takes no answer either, and the time for that runs.
        if link.wire.has_unsent()
            && let Poll::Ready(Err(_)) = link.wire.poll_flush(cx)
        {
            return Poll::Ready(Err(Fault::ClientGone));
        }
        if self.upload.state != UploadState::Moving && has_gone(cx, link.wire) {
            return Poll::Ready(Err(Fault::ClientGone));
        }
        if Pin::new(&mut *self.silent).poll(cx).is_ready() {
            return Poll::Ready(Err(Fault::Silent));
        }
        // With something unwritten it is the instance that takes no more.
        let complete = self.upload.state != UploadState::Moving || upstream.wire.unwritten() > 0;
        let timed_out = Fault::TimedOut { complete };
        let mut deadline = self.last + self.request.patience;
        if complete || upstream.wire.io.is_http2() {
            // Servers of HTTP/2 take streams that may bring something now and then.
            self.pace.rest();
        } else {
            let moved = link.wire.received;
            let Some(due) = self.pace.due(moved, self.limits, Instant::now()) else {
                return Poll::Ready(Err(timed_out));
            };
            deadline = deadline.min(due);
        }
        loop {
            ready!(link.timer.poll(cx, deadline));
            let patience = self.last + self.request.patience;
            let moved = link.wire.received;
            match self.pace.due(moved, self.limits, Instant::now()) {
                Some(due) if deadline < patience => deadline = patience.min(due),
                _ => return Poll::Ready(Err(timed_out)),
            }
        }
    }

    fn send<T>(
        &mut self,
        cx: &mut Context<'_>,
        link: &mut Link<'_, T>,
        upstream: &mut Upstream,
    ) -> Result<(), Fault>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        if self.upload.state == UploadState::Moving {
            let begun = self.upload.relay.has_begun();
            if self.upload.poll(cx, link.wire, &mut upstream.wire)? {
                self.last = Instant::now();
            }
            if self.upload.state == UploadState::Unwanted && !begun {
                return self.unwritten(upstream);
            }
        } else if upstream.wire.has_unsent()
            && let Poll::Ready(Err(_)) = upstream.wire.poll_flush(cx)
        {
            return self.unwritten(upstream);
        }
        Ok(())
    }

    /// The connection takes nothing more. When nothing has been sent, the request may be sent elsewhere; otherwise the
    /// answer may be under way already.
    fn unwritten(&mut self, upstream: &mut Upstream) -> Result<(), Fault> {
        if upstream.wire.io.told() == Some(Told::Unspeakable) {
            let why = Refusal::Malformed("it cannot be said in HTTP/2, which its instance speaks");
            return Err(Fault::Request(why));
        }
        let head = upstream.wire.unwritten() >= self.head_bytes;
        let nothing = head || upstream.wire.io.told() == Some(Told::Unprocessed);
        let nothing = nothing && !self.upload.relay.has_begun();
        upstream.wire.discard();
        match nothing {
            true => Err(Fault::NotSent),
            false => Ok(()),
        }
    }

    /// Whether the response's head is there.
    fn receive<T>(
        &mut self,
        cx: &mut Context<'_>,
        link: &mut Link<'_, T>,
        upstream: &mut Upstream,
    ) -> Result<bool, Fault>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            while !upstream.wire.inbox.is_empty() {
                match find_lenient_end(&upstream.wire.inbox, self.searched) {
                    End::At(end) => {
                        self.searched = 0;
                        let taken = upstream.head.take(&mut upstream.wire.inbox, end);
                        taken.map_err(|_| Fault::Broken)?;
                        if !upstream.head.is_interim() {
                            return Ok(true);
                        }
                        if upstream.head.status == 101 {
                            let asked = self.request.head.upgrade().is_some();
                            return asked.then_some(true).ok_or(Fault::Broken);
                        }
                        self.interim(link, upstream);
                    }
                    End::After(searched) => {
                        if searched > self.limits.max_header_bytes {
                            return Err(Fault::Broken);
                        }
                        self.searched = searched;
                        break;
                    }
                }
            }
            match upstream.wire.poll_take(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => {
                    return Err(match upstream.wire.io.told() {
                        Some(Told::Unprocessed) if !self.upload.relay.has_begun() => Fault::NotSent,
                        Some(Told::Cancelled) => Fault::Cancelled,
                        _ => Fault::Broken,
                    });
                }
            }
        }
    }

    /// Passes on what an instance says before its answer, to a client that knows of such and takes it.
    fn interim<T>(&self, link: &mut Link<'_, T>, upstream: &Upstream)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let knows = self.request.head.version == crate::h1::Version::Eleven;
        // The edge has said itself that the client may go on.
        if knows && upstream.head.status != 100 && link.wire.unwritten() < READ_BYTES {
            headers::write_interim(link.wire.outbox(), &upstream.head);
        }
    }
}

/// A client that has closed its connection needs no answer. What else it sends is its next request, and is left for later.
fn has_gone<T>(cx: &mut Context<'_>, wire: &mut Wire<T>) -> bool
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    wire.inbox.is_empty() && matches!(wire.poll_fill(cx, READ_BYTES), Poll::Ready(Ok(0) | Err(_)))
}

/// Passes the response on.
async fn respond<T>(
    limits: &Limits,
    request: &Request<'_>,
    link: &mut Link<'_, T>,
    upstream: &mut Upstream,
    mut upload: Upload,
) -> Exchanged
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let length = upstream.head.body_length(&request.head.method);
    // An answer that comes before its request has ended leaves the rest of it behind.
    let ended = upload.state == UploadState::Done;
    let persistent = request.head.persistent && ended && !request.drain.has_begun();
    let delivery = Delivery::of(request.head.version, persistent, length);
    headers::write_response(
        link.wire.outbox(),
        &upstream.head,
        request.asked.id,
        request.finish,
        request.cookie,
        delivery,
    );
    let trailers = match request.head.accepts_trailers() {
        true => Trailers::Pass,
        false => Trailers::Drop,
    };
    let mut relay = Relay::new(length, delivery.framing, u64::MAX, trailers);
    // When the client took something last, and when anything moved in either direction.
    // An answer that is there at once is passed on without a look at the clock.
    let (mut last, mut moved) = (None, None);
    let mut pace = Pace::default();
    let mut stalled = false;
    let whole = poll_fn(|cx| {
        if upload.state == UploadState::Moving {
            match upload.poll(cx, link.wire, &mut upstream.wire) {
                Ok(true) => moved = Some(Instant::now()),
                Ok(false) => {}
                // It shows in what becomes of the connection.
                Err(_) => upload.state = UploadState::Unwanted,
            }
        } else if upstream.wire.has_unsent() {
            // The end of a request whose answer has begun. One that takes no more of it answers all the same.
            let _ = upstream.wire.poll_flush(cx);
        }
        loop {
            match relay.poll(cx, &mut upstream.wire, link.wire) {
                Poll::Ready(Ok(Moved::All)) => return Poll::Ready(true),
                Poll::Ready(Ok(Moved::Some)) => last = None,
                Poll::Ready(Err(_)) => return Poll::Ready(false),
                Poll::Pending => break,
            }
        }
        if upload.state != UploadState::Moving && has_gone(cx, link.wire) {
            return Poll::Ready(false);
        }
        // A stream may be silent for a while; a client that takes nothing may not be for as long.
        if !link.wire.has_unsent() {
            pace.rest();
            let last = *last.get_or_insert_with(Instant::now);
            let deadline = moved.map_or(last, |moved| last.max(moved)) + request.idle;
            return link.timer.poll(cx, deadline).map(|()| false);
        }
        last = None;
        if !request.paced {
            return Poll::Pending;
        }
        while let Some(due) = pace.due(link.wire.sent, limits, Instant::now()) {
            ready!(link.timer.poll(cx, due));
        }
        stalled = true;
        Poll::Ready(false)
    })
    .await;
    // What a client does not take would lie in the kernel for minutes.
    *link.cut_off = stalled || (!whole && delivery.ends_with_connection(length));
    Exchanged {
        persistent: whole && delivery.persistent,
        reusable: whole
            && ended
            && upstream.head.persistent
            && length != Length::UntilClose
            && upstream.wire.inbox.is_empty()
            && !upstream.wire.has_unsent(),
    }
}

/// The instance has changed the protocol: from here on the two connections are one.
async fn switched<T>(
    limits: &Limits,
    request: &Request<'_>,
    link: &mut Link<'_, T>,
    upstream: &mut Upstream,
) -> Exchanged
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    headers::write_switch(
        link.wire.outbox(),
        &upstream.head,
        request.asked.id,
        request.cookie,
    );
    switch::join(
        link.wire,
        &mut upstream.wire,
        link.timer,
        limits.upgraded_idle,
    )
    .await;
    Exchanged {
        persistent: false,
        reusable: false,
    }
}
