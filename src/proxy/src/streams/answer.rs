//! The response's direction of a stream: HTTP/1.1 bytes as they are written for a client of that protocol, taken apart
//! and sent as frames. Only the framing is read here; what a head and trailer fields may say was decided before.

use std::io;
use std::mem::MaybeUninit;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT};
use http::{HeaderMap, Method, Response, StatusCode};

use super::outgoing::{Framing, invalid};
use super::{Cut, Reply};
use crate::h1::{End, FIELDS_MAX, Fields, Kind, Length, find_lenient_end};
use crate::headers::X_REQUEST_ID;

pub(super) struct Answer<R: Reply> {
    reply: R,
    state: State,
    /// Of the request, as it came.
    method: Method,
    /// The stream is to become a tunnel (RFC 8441, RFC 9220).
    tunnel: bool,
}

enum State {
    Head(Heading),
    Content(Framing),
    /// The stream was ended from here.
    Ended,
    /// Nothing can be said on it any more.
    Broken,
}

/// Of a head that comes in pieces, what is there.
#[derive(Default)]
struct Heading {
    bytes: Vec<u8>,
    /// So much of `bytes` has no head's end.
    searched: usize,
}

impl<R: Reply> Answer<R> {
    pub(super) fn new(reply: R, method: Method, tunnel: bool) -> Answer<R> {
        Answer {
            reply,
            state: State::Head(Heading::default()),
            method,
            tunnel,
        }
    }

    /// The stream carries another protocol now.
    pub(super) fn is_switched(&self) -> bool {
        matches!(self.state, State::Content(Framing::Tunnel))
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
        let head = if before > 0 {
            heading.bytes.extend_from_slice(bytes);
            match find_lenient_end(&heading.bytes, heading.searched) {
                End::After(searched) => {
                    heading.searched = searched;
                    return Ok(bytes.len());
                }
                End::At(end) => {
                    heading.bytes.truncate(end);
                    Bytes::from(std::mem::take(heading).bytes)
                }
            }
        } else {
            match find_lenient_end(bytes, 0) {
                End::After(searched) => {
                    heading.searched = searched;
                    heading.bytes.extend_from_slice(bytes);
                    return Ok(bytes.len());
                }
                // As nearly all are written.
                End::At(end) => Bytes::copy_from_slice(&bytes[..end]),
            }
        };
        let taken = head.len() - before;
        let head = Head::read(&head, self.tunnel)?;
        if head.is_interim() {
            self.reply.interim(head.response)?;
        } else {
            self.state = State::Broken;
            self.state = self.begin(head)?;
        }
        Ok(taken)
    }

    /// Sends the head of the response proper.
    fn begin(&mut self, head: Head) -> io::Result<State> {
        let mut response = head.response;
        let framing = match (response.status().as_u16(), self.tunnel) {
            // RFC 8441 section 5: any 2xx says that the tunnel is open.
            (101, true) => {
                *response.status_mut() = StatusCode::OK;
                Some(Framing::Tunnel)
            }
            (200..300, true) => {
                let mut refused = Response::new(());
                *refused.status_mut() = StatusCode::BAD_GATEWAY;
                self.reply.head(refused, true)?;
                return Ok(State::Ended);
            }
            (100..200 | 204 | 304, _) => None,
            _ if self.method == Method::HEAD => None,
            _ => match head.length {
                Length::None | Length::Sized(0) => None,
                Length::Sized(length) => Some(Framing::Sized(length)),
                Length::Chunked => Some(Framing::chunked()),
                Length::UntilClose => return Err(invalid("its content has no end")),
            },
        };
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

/// A response's head as it is sent, and where HTTP/1.1 says that its content ends.
struct Head {
    response: Response<()>,
    length: Length,
}

impl Head {
    /// `bytes` are one whole head. Its fields' values stay where they are.
    fn read(bytes: &Bytes, tunnel: bool) -> io::Result<Head> {
        let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let read = parser.parse_response_with_uninit_headers(&mut parsed, bytes, &mut slots);
        let (Ok(httparse::Status::Complete(_)), Some(status)) = (read, parsed.code) else {
            return Err(invalid("it is no response"));
        };
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).map_err(io::Error::other)?;
        let headers = response.headers_mut();
        headers.reserve(parsed.headers.len());
        let mut length = Length::UntilClose;
        for field in parsed.headers.iter() {
            let kind = Kind::of(field.name.as_bytes());
            match kind {
                Kind::TransferEncoding => length = Length::Chunked,
                Kind::ContentLength => length = Length::Sized(size(field.value)?),
                _ => {}
            }
            if stays(kind) {
                continue;
            }
            let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value));
            let mut value = value.map_err(io::Error::other)?;
            // No other answer has the one, and soon none the other: in the table of a connection's fields they would take the place
            // of those that come again, and each would be looked for among all that came before (RFC 7541 section 7.1.3).
            value.set_sensitive(matches!(kind, Kind::RequestId | Kind::Date));
            if kind == Kind::RequestId {
                headers.append(X_REQUEST_ID, value);
                continue;
            }
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(io::Error::other)?;
            // The key that it answers was made here.
            if !(tunnel && name == SEC_WEBSOCKET_ACCEPT) {
                headers.append(name, value);
            }
        }
        Ok(Head { response, length })
    }

    fn is_interim(&self) -> bool {
        let status = self.response.status();
        status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// The length was read before it was written.
fn size(value: &[u8]) -> io::Result<u64> {
    let size = std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok());
    size.ok_or_else(|| invalid("its length is no number"))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str, tunnel: bool) -> io::Result<Head> {
        Head::read(&Bytes::from_static(text.as_bytes()), tunnel)
    }

    #[test]
    fn what_no_other_answer_has_stays_out_of_tables() {
        let text = "HTTP/1.1 200 OK\r\nServer: x\r\nDate: now\r\nX-Request-Id: a-1\r\nContent-Length: 3\r\n\
                    Connection: close\r\nKeep-Alive: 5\r\n\r\n";
        let head = read(text, false).unwrap();
        assert_eq!(
            (head.response.status(), head.length),
            (StatusCode::OK, Length::Sized(3))
        );
        let headers = head.response.headers();
        for (name, alone) in [
            ("server", false),
            ("content-length", false),
            ("date", true),
            ("x-request-id", true),
        ] {
            assert_eq!(headers[name].is_sensitive(), alone, "{name}");
        }
        assert_eq!(headers.len(), 4, "{headers:?}");
    }

    #[test]
    fn heads_that_are_none_are_refused() {
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
        ] {
            assert!(read(bad, false).is_err(), "{bad:?}");
        }
        let text = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n";
        assert!(read(text, true).unwrap().response.headers().is_empty());
        assert_eq!(read(text, false).unwrap().response.headers().len(), 1);
    }
}
