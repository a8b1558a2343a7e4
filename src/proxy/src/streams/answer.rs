//! The response's direction of a stream: HTTP/1.1 bytes as they are written for a client of that protocol, taken apart
//! and sent as frames. Only the framing is read here; what a head and trailer fields may say was decided before.

use std::io;
use std::task::{Context, Poll, ready};

use http::header::{HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT};
use http::{HeaderMap, Method, Response, StatusCode};

use super::outgoing::{Framing, invalid};
use super::{Cut, Reply};
use crate::h1::{End, Fields, Kind, Length, ResponseHead, find_lenient_end};

pub(super) struct Answer<R: Reply> {
    reply: R,
    state: State,
    /// Of the request, as it came.
    method: Method,
    /// The stream is to become a tunnel (RFC 8441, RFC 9220).
    tunnel: bool,
}

enum State {
    Head(Box<Heading>),
    Content(Framing),
    /// The stream was ended from here.
    Ended,
    /// Nothing can be said on it any more.
    Broken,
}

/// Until the response's head is there.
#[derive(Default)]
struct Heading {
    bytes: Vec<u8>,
    /// So much of `bytes` has no head's end.
    searched: usize,
    head: ResponseHead,
}

impl<R: Reply> Answer<R> {
    pub(super) fn new(reply: R, method: Method, tunnel: bool) -> Answer<R> {
        Answer {
            reply,
            state: State::Head(Box::default()),
            method,
            tunnel,
        }
    }

    /// The stream carries another protocol now.
    pub(super) fn is_switched(&self) -> bool {
        matches!(self.state, State::Content(Framing::Tunnel))
    }

    /// The answer is whole, though perhaps not sent.
    pub(super) fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Ready when the client wants no answer any more.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self.state {
            State::Broken => Poll::Ready(io::ErrorKind::ConnectionReset.into()),
            _ => self.reply.poll_reset(cx),
        }
    }

    /// A writer that was told to wait comes again with the same bytes, and perhaps more behind them.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut used = 0;
        while used < bytes.len() {
            match self.poll_piece(cx, &bytes[used..]) {
                Poll::Ready(Ok(more)) => used += more,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if used == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(used))
    }

    /// Takes some of the front of `bytes`, which are not empty.
    fn poll_piece(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let reply = &mut self.reply;
        let framing = match &mut self.state {
            State::Head(_) => return Poll::Ready(self.head(bytes)),
            State::Content(framing) => framing,
            State::Ended | State::Broken => {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
        };
        let (taken, ended) = ready!(framing.poll_send(reply, cx, bytes))?;
        if ended {
            self.state = State::Ended;
        }
        Poll::Ready(Ok(taken))
    }

    /// Takes what belongs to a head, and acts on it when it is whole.
    fn head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let State::Head(heading) = &mut self.state else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let before = heading.bytes.len();
        heading.bytes.extend_from_slice(bytes);
        let end = match find_lenient_end(&heading.bytes, heading.searched) {
            End::At(end) => end,
            End::After(searched) => {
                heading.searched = searched;
                return Ok(bytes.len());
            }
        };
        heading.bytes.truncate(end);
        heading.searched = 0;
        let taken = heading.head.take(&mut heading.bytes, end);
        taken.map_err(|_| invalid("it is no response"))?;
        if heading.head.is_interim() && heading.head.status != 101 {
            let interim = response(&heading.head, heading.head.status, false)?;
            self.reply.interim(interim)?;
        } else if let State::Head(heading) = std::mem::replace(&mut self.state, State::Broken) {
            self.state = self.begin(&heading.head)?;
        }
        Ok(end - before)
    }

    /// Sends the head of the response proper.
    fn begin(&mut self, head: &ResponseHead) -> io::Result<State> {
        let (status, framing) = match (head.status, self.tunnel) {
            // RFC 8441 section 5: any 2xx says that the tunnel is open.
            (101, true) => (200, Some(Framing::Tunnel)),
            (200..300, true) => {
                let mut refused = Response::new(());
                *refused.status_mut() = StatusCode::BAD_GATEWAY;
                self.reply.head(refused, true)?;
                return Ok(State::Ended);
            }
            (status, _) => {
                let framing = match head.body_length(&self.method) {
                    Length::None => None,
                    Length::Sized(length) => Some(Framing::Sized(length)),
                    Length::Chunked => Some(Framing::chunked()),
                    Length::UntilClose => return Err(invalid("its content has no end")),
                };
                (status, framing)
            }
        };
        let response = response(head, status, self.tunnel)?;
        self.reply.head(response, framing.is_none())?;
        Ok(framing.map_or(State::Ended, State::Content))
    }

    /// Ready when nothing waits any more of what was taken.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.reply.poll_flush(cx)
    }

    /// The writer has written all it has. Where content has an end of its own that says nothing.
    pub(super) fn shutdown(&mut self) -> io::Result<()> {
        if let State::Content(Framing::Tunnel) = self.state {
            self.reply.end(HeaderMap::new())?;
            self.state = State::Ended;
        }
        Ok(())
    }
}

impl<R: Reply> Drop for Answer<R> {
    /// What was not ended was cut off, and must not look whole.
    fn drop(&mut self) {
        match &mut self.state {
            State::Content(Framing::Tunnel) => self.reply.cut(Cut::Tunnel),
            State::Head(_) | State::Content(_) | State::Broken => self.reply.cut(Cut::Answer),
            State::Ended => {}
        }
    }
}

fn response(head: &ResponseHead, status: u16, tunnel: bool) -> io::Result<Response<()>> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).map_err(io::Error::other)?;
    // The key that it answers was made here.
    let headers = response.headers_mut();
    copy_fields(head.fields(), headers, |kind, name| {
        !(stays(kind) || tunnel && *name == SEC_WEBSOCKET_ACCEPT)
    })?;
    Ok(response)
}

/// What belongs to a connection of HTTP/1.1 (RFC 9113 section 8.2.2, RFC 9114 section 4.2).
pub(crate) fn stays(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Connection | Kind::HopByHop | Kind::Te | Kind::TransferEncoding | Kind::Upgrade
    )
}

/// Copies the fields that `passes` says of.
pub(crate) fn copy_fields(
    fields: &Fields,
    to: &mut HeaderMap,
    passes: impl Fn(Kind, &HeaderName) -> bool,
) -> io::Result<()> {
    to.reserve(fields.list().len());
    for field in fields.list() {
        let name = HeaderName::from_bytes(fields.name(field)).map_err(io::Error::other)?;
        if passes(field.kind, &name) {
            let value = HeaderValue::from_bytes(fields.value(field)).map_err(io::Error::other)?;
            to.append(name, value);
        }
    }
    Ok(())
}
