//! A stream's content as it goes: the bytes of a body of HTTP/1.1, taken apart and sent as frames. Only the framing is read
//! here; what trailer fields may say was decided before.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::stream::broken;
use crate::h1::{Decoder, Malformed, Piece, TRAILERS_MAX};

/// Where the content ends that is written.
pub(crate) enum Framing {
    Sized(u64),
    Chunked {
        decoder: Box<Decoder>,
        /// So many bytes of what is written next are known to be content.
        known: usize,
    },
    /// When the writer says so.
    Tunnel,
}

impl Framing {
    pub(crate) fn chunked() -> Framing {
        Framing::Chunked {
            decoder: Box::new(Decoder::new()),
            known: 0,
        }
    }
}

pub(crate) struct Outgoing {
    stream: SendStream<Bytes>,
    /// None once the stream was ended from here.
    framing: Option<Framing>,
}

impl Outgoing {
    /// Without a framing there is no content, and the stream has ended with its head.
    pub(crate) fn new(stream: SendStream<Bytes>, framing: Option<Framing>) -> Outgoing {
        Outgoing { stream, framing }
    }

    pub(crate) fn is_tunnel(&self) -> bool {
        matches!(self.framing, Some(Framing::Tunnel))
    }

    /// The stream was ended from here.
    pub(crate) fn is_ended(&self) -> bool {
        self.framing.is_none()
    }

    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        self.stream.poll_reset(cx)
    }

    pub(crate) fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    /// Takes some of the front of `bytes`, which are not empty. A writer that was told to wait comes again with the same
    /// bytes, and perhaps more behind them.
    pub(crate) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = &mut self.stream;
        let taken = match &mut self.framing {
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Some(Framing::Sized(left)) => {
                let most = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                let last = most as u64 == *left;
                let taken = ready!(poll_send(cx, stream, &bytes[..most], last))?;
                *left -= taken as u64;
                if *left == 0 {
                    self.framing = None;
                }
                taken
            }
            Some(Framing::Chunked { decoder, known }) => {
                if *known == 0 {
                    match decoder.next(bytes) {
                        Ok(Piece::Data(data)) => *known = data,
                        Ok(Piece::Coding(coding)) => return Poll::Ready(Ok(coding)),
                        Ok(Piece::End(coding)) => {
                            let trailers = trailers(decoder.trailer());
                            end(stream, trailers).map_err(|error| broken(&error))?;
                            self.framing = None;
                            return Poll::Ready(Ok(coding));
                        }
                        Err(Malformed(why)) => return Poll::Ready(Err(invalid(why))),
                    }
                }
                let taken = ready!(poll_send(cx, stream, &bytes[..*known], false))?;
                *known -= taken;
                taken
            }
            Some(Framing::Tunnel) => ready!(poll_send(cx, stream, bytes, false))?,
        };
        Poll::Ready(Ok(taken))
    }

    /// The writer has written all it has. Where content has an end of its own that says nothing.
    pub(crate) fn shutdown(&mut self) -> io::Result<()> {
        if self.is_tunnel() {
            end(&mut self.stream, HeaderMap::new()).map_err(|error| broken(&error))?;
            self.framing = None;
        }
        Ok(())
    }
}

/// `lines` are fields that were read before they were written.
fn trailers(lines: &[u8]) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if lines.is_empty() {
        return trailers;
    }
    let whole = [lines, b"\r\n"].concat();
    let mut slots = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    if let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&whole, &mut slots)
    {
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(field.value)) {
                trailers.append(name, value);
            }
        }
    }
    trailers
}

fn end(stream: &mut SendStream<Bytes>, trailers: HeaderMap) -> Result<(), h2::Error> {
    match trailers.is_empty() {
        true => stream.send_data(Bytes::new(), true),
        false => stream.send_trailers(trailers),
    }
}

/// Sends as much as the other end takes and the buffer holds.
fn poll_send(
    cx: &mut Context<'_>,
    stream: &mut SendStream<Bytes>,
    bytes: &[u8],
    last: bool,
) -> Poll<io::Result<usize>> {
    stream.reserve_capacity(bytes.len());
    while stream.capacity() == 0 {
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(broken(&error))),
            None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
    let taken = stream.capacity().min(bytes.len());
    let data = Bytes::copy_from_slice(&bytes[..taken]);
    let sent = stream.send_data(data, last && taken == bytes.len());
    Poll::Ready(sent.map(|()| taken).map_err(|error| broken(&error)))
}

pub(crate) fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
