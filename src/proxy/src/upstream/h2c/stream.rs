//! One stream as a connection to an instance on which one HTTP/1.1 request goes out and one response comes in.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::halves::broken;
use super::heads::{self, Asked, Content};
use super::link::Handle;
use super::links::Slot;
use crate::h1::{End, find_lenient_end};
use crate::streams::{Framing, Incoming, Sink};

/// What an instance has said of a request that it does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing was done about it, so that it may be sent again (RFC 9113 section 8.7).
    Unprocessed,
    /// HTTP/2 has no words for the request, which it therefore has not got.
    Unspeakable,
    /// It was given up, as servers of gRPC do when a call's deadline is over. That is no sign of a broken instance.
    Cancelled,
    /// It has failed, and its connection is as good as before.
    Failed,
}

pub(crate) struct Stream {
    request: Request,
    response: Response,
    told: Option<Told>,
    /// Others use its connection, too, or have done so.
    shared: bool,
    /// How long a stream may take to end whose response is through.
    linger: Duration,
    /// Until the request is sent the connection has to be kept open for it.
    handle: Handle,
    slot: Option<Slot>,
}

/// The request's direction.
enum Request {
    Head {
        bytes: Vec<u8>,
        /// So much of it has no head's end.
        searched: usize,
    },
    /// Without a framing the stream was ended from here.
    Content(SendStream<Bytes>, Option<Framing>),
    Broken,
}

impl Request {
    fn end(&mut self) {
        if let Request::Content(_, framing) = self {
            *framing = None;
        }
    }
}

/// The response's direction.
enum Response {
    Unasked,
    Waiting(Box<Waiting>),
    Content(Incoming<RecvStream>, Content),
    Broken,
}

struct Waiting {
    asked: Asked,
    response: ResponseFuture,
    /// Interim responses that were not read yet, as heads of HTTP/1.1.
    interim: Vec<u8>,
}

impl Stream {
    pub(super) fn new(handle: Handle, slot: Slot, shared: bool, linger: Duration) -> Stream {
        Stream {
            request: Request::Head {
                bytes: Vec::new(),
                searched: 0,
            },
            response: Response::Unasked,
            told: None,
            shared,
            linger,
            handle,
            slot: Some(slot),
        }
    }

    pub(crate) fn told(&self) -> Option<Told> {
        self.told
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// Looks why a stream has broken.
    fn hear(&mut self, error: &h2::Error) {
        if !error.is_remote() {
            return;
        }
        // It lies beyond the last stream that a GOAWAY names (RFC 9113 section 6.8).
        if error.is_go_away() {
            self.told = Some(Told::Unprocessed);
        }
        let reset = error.reason().filter(|_| error.is_reset());
        match reset {
            Some(Reason::REFUSED_STREAM) => self.told = Some(Told::Unprocessed),
            Some(Reason::CANCEL) => self.told = Some(Told::Cancelled),
            // Of its connection: another one may have room.
            Some(Reason::ENHANCE_YOUR_CALM) | None => {}
            Some(_) => self.told = Some(Told::Failed),
        }
        if let Some(Reason::REFUSED_STREAM | Reason::ENHANCE_YOUR_CALM) = reset
            && let Some(slot) = &self.slot
        {
            slot.crowded();
        }
    }

    fn cancelled(&self) {
        if let Some(slot) = &self.slot {
            slot.cancelled();
        }
    }

    /// The instance opens tunnels for WebSocket (RFC 8441 section 3).
    pub(crate) fn takes_websocket(&self) -> bool {
        self.handle.sender.is_extended_connect_protocol_enabled()
    }

    fn head(&mut self, more: &[u8]) -> io::Result<usize> {
        let Request::Head { bytes, searched } = &mut self.request else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let before = bytes.len();
        bytes.extend_from_slice(more);
        let end = match find_lenient_end(bytes, *searched) {
            End::At(end) => end,
            End::After(to) => {
                *searched = to;
                return Ok(more.len());
            }
        };
        bytes.truncate(end);
        let bytes = std::mem::take(bytes);
        self.request = Request::Broken;
        let translated = heads::request(bytes);
        if translated.is_err() {
            self.told = Some(Told::Unspeakable);
        }
        let (request, framing, asked) = translated?;
        let sent = self.handle.sender.send_request(request, framing.is_none());
        let (response, stream) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                // It never left.
                self.told = Some(Told::Unprocessed);
                return Err(broken(error));
            }
        };
        self.request = Request::Content(stream, framing);
        self.response = Response::Waiting(Box::new(Waiting {
            asked,
            response,
            interim: Vec::new(),
        }));
        Ok(end - before)
    }

    /// Fetches what is handed out next; ready with `false` at the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let fetched = match &mut self.response {
            Response::Unasked => {
                return match self.request {
                    // Whoever writes is woken, and reads then.
                    Request::Head { .. } => Poll::Pending,
                    _ => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                };
            }
            Response::Waiting(waiting) => match ready!(waiting.poll(cx)) {
                Ok(Some((incoming, content))) => {
                    self.response = Response::Content(incoming, content);
                    Ok(true)
                }
                Ok(None) => Ok(true),
                Err(error) => Err(error),
            },
            Response::Content(incoming, _) => ready!(incoming.poll_next(cx)).map_err(Fault::Stream),
            Response::Broken => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        };
        Poll::Ready(fetched.map_err(|fault| {
            self.response = Response::Broken;
            match fault {
                Fault::Stream(error) => {
                    self.hear(&error);
                    broken(error)
                }
                Fault::Head(error) => error,
            }
        }))
    }

    /// Puts down what is there, as far as there is room.
    fn hand_out(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        match &mut self.response {
            Response::Waiting(waiting) => {
                let taken = waiting.interim.len().min(buffer.remaining());
                buffer.put_slice(&waiting.interim[..taken]);
                waiting.interim.drain(..taken);
            }
            Response::Content(incoming, content) => {
                let taken = incoming.hand_out(buffer)?;
                if let Content::Sized(left) = content {
                    *left = left.saturating_sub(taken as u64);
                }
            }
            Response::Unasked | Response::Broken => {}
        }
        Ok(())
    }
}

/// Why there is no response.
enum Fault {
    Stream(h2::Error),
    Head(io::Error),
}

impl Waiting {
    /// The response, or none when an interim one was taken note of.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<(Incoming<RecvStream>, Content)>, Fault>> {
        if let Poll::Ready(Some(interim)) = self.response.poll_informational(cx) {
            let (head, ()) = interim.map_err(Fault::Stream)?.into_parts();
            heads::interim(&mut self.interim, &head).map_err(Fault::Head)?;
            return Poll::Ready(Ok(None));
        }
        let response = ready!(Pin::new(&mut self.response).poll(cx)).map_err(Fault::Stream)?;
        let (head, body) = response.into_parts();
        let mut bytes = std::mem::take(&mut self.interim);
        let content = heads::response(&mut bytes, &head, &self.asked, body.is_end_stream());
        let incoming = Incoming::new(body, bytes, content == Content::Chunked);
        Poll::Ready(Ok(Some((incoming, content))))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            self.hand_out(buffer)?;
            let some = buffer.filled().len() > before;
            if buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match self.poll_next(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Err(error)) if !some => return Poll::Ready(Err(error)),
                Poll::Pending if !some => return Poll::Pending,
                // An error and an end are told again.
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl AsyncWrite for Stream {
    /// A writer that was told to wait comes again with the same bytes, and perhaps more behind them.
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut used = 0;
        while used < bytes.len() {
            let rest = &bytes[used..];
            let taken = match &mut self.request {
                Request::Head { .. } => Poll::Ready(self.head(rest)),
                Request::Content(stream, Some(framing)) => {
                    let sent = framing.poll_send(stream, cx, rest);
                    sent.map_ok(|(taken, ended)| {
                        if ended {
                            self.request.end();
                        }
                        taken
                    })
                }
                Request::Content(_, None) | Request::Broken => {
                    Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
                }
            };
            match taken {
                Poll::Ready(Ok(taken)) => used += taken,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if used == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(used))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task sends what was taken.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match &mut self.request {
            // Where content has an end of its own, the writer's end says nothing.
            Request::Content(stream, framing @ Some(Framing::Tunnel)) => {
                *framing = None;
                stream.end(HeaderMap::new())
            }
            Request::Content(..) | Request::Head { .. } | Request::Broken => Ok(()),
        })
    }
}

impl Drop for Stream {
    /// A stream that is not through is cancelled when nobody holds it any more. One whose response was read to its end may be
    /// told of its end a moment later, and is not taken for one that was cancelled.
    fn drop(&mut self) {
        let request = std::mem::replace(&mut self.request, Request::Broken);
        let response = std::mem::replace(&mut self.response, Response::Broken);
        let (outgoing, framing, mut incoming, content) = match (request, response) {
            (Request::Content(outgoing, framing), Response::Content(incoming, content)) => {
                (outgoing, framing, incoming, content)
            }
            (Request::Content(..), Response::Waiting(_)) => return self.cancelled(),
            _ => return,
        };
        let through = matches!(content, Content::Nothing | Content::Sized(0));
        let ended = incoming.source.is_end_stream();
        if !through && !ended {
            self.cancelled();
        }
        if !through || ended || framing.is_some() {
            return;
        }
        let (slot, linger) = (self.slot.take(), self.linger);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = timeout(linger, finish(&mut incoming.source)).await;
                drop((outgoing, slot));
            });
        }
    }
}

/// Reads and drops what is left, to the stream's end or its error.
async fn finish(body: &mut RecvStream) {
    while let Some(Ok(data)) = body.data().await {
        if body.flow_control().release_capacity(data.len()).is_err() {
            return;
        }
    }
    let _ = body.trailers().await;
}
