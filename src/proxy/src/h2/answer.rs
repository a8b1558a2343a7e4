//! The response's direction of a stream: HTTP/1.1 bytes as they are written for a client of that protocol, taken apart
//! and sent as frames. What a head may say was decided before.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::header::{HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT};
use http::{HeaderMap, Method, Response, StatusCode};

use super::outgoing::{Framing, Outgoing, invalid};
use super::stream::broken;
use crate::h1::{End, Fields, Kind, Length, ResponseHead, find_lenient_end};

pub(super) struct Answer {
    state: State,
    /// Of the request, as it came.
    method: Method,
    /// The stream is to become a tunnel (RFC 8441).
    tunnel: bool,
}

enum State {
    Head(Box<Heading>),
    Content(Outgoing),
    /// Nothing can be said on it any more.
    Broken,
}

/// Until the response's head is there.
struct Heading {
    respond: SendResponse<Bytes>,
    bytes: Vec<u8>,
    /// So much of `bytes` has no head's end.
    searched: usize,
    head: ResponseHead,
}

impl Answer {
    pub(super) fn new(respond: SendResponse<Bytes>, method: Method, tunnel: bool) -> Answer {
        Answer {
            state: State::Head(Box::new(Heading {
                respond,
                bytes: Vec::new(),
                searched: 0,
                head: ResponseHead::default(),
            })),
            method,
            tunnel,
        }
    }

    /// The stream carries another protocol now.
    pub(super) fn is_switched(&self) -> bool {
        matches!(&self.state, State::Content(outgoing) if outgoing.is_tunnel())
    }

    /// Ready when the client wants no answer any more.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let reset = match &mut self.state {
            State::Head(heading) => ready!(heading.respond.poll_reset(cx)),
            State::Content(outgoing) => ready!(outgoing.poll_reset(cx)),
            State::Broken => Ok(Reason::CANCEL),
        };
        Poll::Ready(match reset {
            Ok(_) => io::ErrorKind::ConnectionReset.into(),
            Err(error) => broken(&error),
        })
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
        match &mut self.state {
            State::Head(_) => Poll::Ready(self.head(bytes)),
            State::Content(outgoing) => outgoing.poll_piece(cx, bytes),
            State::Broken => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
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
            let sent = heading.respond.send_informational(interim);
            sent.map_err(|error| broken(&error))?;
        } else if let State::Head(heading) = std::mem::replace(&mut self.state, State::Broken) {
            self.state = begin(*heading, &self.method, self.tunnel)?;
        }
        Ok(end - before)
    }

    /// As [`Outgoing::shutdown`].
    pub(super) fn shutdown(&mut self) -> io::Result<()> {
        match &mut self.state {
            State::Content(outgoing) => outgoing.shutdown(),
            State::Head(_) | State::Broken => Ok(()),
        }
    }
}

impl Drop for Answer {
    /// What was not ended was cut off, and must not look whole.
    fn drop(&mut self) {
        match &mut self.state {
            State::Head(heading) => heading.respond.send_reset(Reason::INTERNAL_ERROR),
            // RFC 9113 section 8.5.
            State::Content(outgoing) if outgoing.is_tunnel() => {
                outgoing.reset(Reason::CONNECT_ERROR);
            }
            State::Content(outgoing) if !outgoing.is_ended() => {
                outgoing.reset(Reason::INTERNAL_ERROR);
            }
            State::Content(_) | State::Broken => {}
        }
    }
}

/// Sends the head of the response proper.
fn begin(heading: Heading, method: &Method, tunnel: bool) -> io::Result<State> {
    let Heading {
        mut respond, head, ..
    } = heading;
    let (status, framing) = match (head.status, tunnel) {
        // RFC 8441 section 5: any 2xx says that the tunnel is open.
        (101, true) => (200, Some(Framing::Tunnel)),
        (200..300, true) => {
            let mut refused = Response::new(());
            *refused.status_mut() = StatusCode::BAD_GATEWAY;
            let sent = respond.send_response(refused, true);
            let sent = sent.map_err(|error| broken(&error))?;
            return Ok(State::Content(Outgoing::new(sent, None)));
        }
        (status, _) => {
            let framing = match head.body_length(method) {
                Length::None => None,
                Length::Sized(length) => Some(Framing::Sized(length)),
                Length::Chunked => Some(Framing::chunked()),
                Length::UntilClose => {
                    respond.send_reset(Reason::INTERNAL_ERROR);
                    return Err(invalid("its content has no end"));
                }
            };
            (status, framing)
        }
    };
    let response = response(&head, status, tunnel)?;
    let stream = respond
        .send_response(response, framing.is_none())
        .map_err(|error| broken(&error))?;
    Ok(State::Content(Outgoing::new(stream, framing)))
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

/// What belongs to a connection of HTTP/1.1 (RFC 9113 section 8.2.2).
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
