//! The response's direction of a stream: HTTP/1.1 bytes as they are written for a client of that protocol, taken apart
//! and sent as frames. Only the framing is read here; what a head and trailer fields may say was decided before.

use std::io;
use std::mem::MaybeUninit;
use std::task::{Context, Poll, ready};

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method};

use super::outgoing::{Framing, invalid};
use super::{Cut, Reply};
use crate::h1::{End, FIELDS_MAX, Fields, Kind, Length, find_lenient_end};

/// Names up to this length are put in lower case without memory of their own. None that is in use is longer.
const NAME_BYTES: usize = 64;

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
        if before == 0 {
            // As nearly all are written.
            return match find_lenient_end(bytes, 0) {
                End::At(end) => self.whole(&bytes[..end]).map(|()| end),
                End::After(searched) => {
                    heading.searched = searched;
                    heading.bytes.extend_from_slice(bytes);
                    Ok(bytes.len())
                }
            };
        }
        heading.bytes.extend_from_slice(bytes);
        match find_lenient_end(&heading.bytes, heading.searched) {
            End::After(searched) => {
                heading.searched = searched;
                Ok(bytes.len())
            }
            End::At(end) => {
                let head = std::mem::take(heading).bytes;
                self.whole(&head[..end]).map(|()| end - before)
            }
        }
    }

    /// Acts on a head.
    fn whole(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let head = Head::read(bytes, &mut slots, self.tunnel)?;
        if head.is_interim() {
            return self.reply.interim(&head);
        }
        self.state = State::Broken;
        self.state = self.begin(head)?;
        Ok(())
    }

    /// Sends the head of the response proper.
    fn begin(&mut self, mut head: Head<'_>) -> io::Result<State> {
        let framing = match (head.status, self.tunnel) {
            // RFC 8441 section 5: any 2xx says that the tunnel is open.
            (101, true) => {
                head.status = 200;
                Some(Framing::Tunnel)
            }
            (200..300, true) => {
                let refused = Head {
                    status: 502,
                    fields: &[],
                    ..head
                };
                self.reply.head(&refused, true)?;
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
        self.reply.head(&head, framing.is_none())?;
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
pub(crate) struct Head<'a> {
    pub(crate) status: u16,
    fields: &'a [httparse::Header<'a>],
    length: Length,
    /// It answers a request for a tunnel.
    tunnel: bool,
}

impl<'a> Head<'a> {
    /// `bytes` are one whole head.
    pub(crate) fn read(
        bytes: &'a [u8],
        slots: &'a mut [MaybeUninit<httparse::Header<'a>>],
        tunnel: bool,
    ) -> io::Result<Head<'a>> {
        let mut parsed = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let read = parser.parse_response_with_uninit_headers(&mut parsed, bytes, slots);
        let (Ok(httparse::Status::Complete(_)), Some(status)) = (read, parsed.code) else {
            return Err(invalid("it is no response"));
        };
        if status < 100 {
            return Err(invalid("its status is none"));
        }
        let fields: &[_] = parsed.headers;
        let mut length = Length::UntilClose;
        for field in fields {
            match Kind::of(field.name.as_bytes()) {
                Kind::TransferEncoding => length = Length::Chunked,
                Kind::ContentLength => length = Length::Sized(size(field.value)?),
                _ => {}
            }
        }
        Ok(Head {
            status,
            fields,
            length,
            tunnel,
        })
    }

    fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// Three digits.
    pub(crate) fn status_text(&self) -> [u8; 3] {
        let digit = |place: u16| b"0123456789"[usize::from(self.status / place % 10)];
        [digit(100), digit(10), digit(1)]
    }

    /// Shows each field that goes out: its name in lower case, its value, and whether it is likely to be another's in the next answer.
    /// In the table of a connection's fields such a one would take the place of those that come again.
    pub(crate) fn each(&self, mut show: impl FnMut(&[u8], &[u8], bool)) {
        let mut lower = [0; NAME_BYTES];
        for field in self.fields {
            let name = field.name.as_bytes();
            let kind = Kind::of(name);
            // The key that the one answers was made here.
            let ours = self.tunnel && name.eq_ignore_ascii_case(b"sec-websocket-accept");
            if stays(kind) || ours {
                continue;
            }
            let alone = matches!(kind, Kind::RequestId | Kind::Date | Kind::ContentLength);
            match lower.get_mut(..name.len()) {
                Some(lower) => {
                    lower.copy_from_slice(name);
                    lower.make_ascii_lowercase();
                    show(lower, field.value, alone);
                }
                None => show(&name.to_ascii_lowercase(), field.value, alone),
            }
        }
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

    /// Status, length, and the fields that go out.
    type Seen = (u16, Length, Vec<(String, bool)>);

    fn read(text: &str, tunnel: bool) -> io::Result<Seen> {
        let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let head = Head::read(text.as_bytes(), &mut slots, tunnel)?;
        let mut seen = Vec::new();
        head.each(|name, _, alone| {
            seen.push((String::from_utf8(name.to_vec()).unwrap(), alone));
        });
        Ok((head.status, head.length, seen))
    }

    #[test]
    fn what_no_other_answer_has_stays_out_of_tables() {
        let text = "HTTP/1.1 200 OK\r\nServer: x\r\nDate: now\r\nX-Request-Id: a-1\r\nContent-Length: 3\r\n\
                    Connection: close\r\nKeep-Alive: 5\r\n\r\n";
        let (status, length, fields) = read(text, false).unwrap();
        assert_eq!((status, length), (200, Length::Sized(3)));
        let expected = [
            ("server", false),
            ("date", true),
            ("x-request-id", true),
            ("content-length", true),
        ];
        assert_eq!(
            fields,
            expected.map(|(name, alone)| (name.to_owned(), alone))
        );
    }

    #[test]
    fn heads_that_are_none_are_refused() {
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
        ] {
            assert!(read(bad, false).is_err(), "{bad:?}");
        }
        let text = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n";
        assert!(read(text, true).unwrap().2.is_empty());
        assert_eq!(read(text, false).unwrap().2.len(), 1);
        let long = format!(
            "HTTP/1.1 200 OK\r\n{}: y\r\n\r\n",
            "X".repeat(NAME_BYTES + 1)
        );
        let name = "x".repeat(NAME_BYTES + 1);
        assert_eq!(read(&long, false).unwrap().2, [(name, false)]);
    }
}
