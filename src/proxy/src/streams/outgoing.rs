//! A stream's content as it goes: the bytes of a body of HTTP/1.1, taken apart and sent as frames. Only the framing is read
//! here; what trailer fields may say was decided before.

use std::io;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::Sink;
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

    /// Sends some of the front of `bytes`, which are not empty: how much, and whether the content has ended with it. A writer that was
    /// told to wait comes again with the same bytes, and perhaps more behind them.
    pub(crate) fn poll_send(
        &mut self,
        to: &mut impl Sink,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<(usize, bool)>> {
        Poll::Ready(Ok(match self {
            Framing::Sized(left) => {
                let most = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                let last = most as u64 == *left;
                let taken = ready!(to.poll_send(cx, &bytes[..most], last))?;
                *left -= taken as u64;
                (taken, *left == 0)
            }
            Framing::Chunked { decoder, known } => {
                if *known == 0 {
                    match decoder.next(bytes) {
                        Ok(Piece::Data(data)) => *known = data,
                        Ok(Piece::Coding(coding)) => return Poll::Ready(Ok((coding, false))),
                        Ok(Piece::End(coding)) => {
                            to.end(trailers(decoder.trailer()))?;
                            return Poll::Ready(Ok((coding, true)));
                        }
                        Err(Malformed(why)) => return Poll::Ready(Err(invalid(why))),
                    }
                }
                let taken = ready!(to.poll_send(cx, &bytes[..*known], false))?;
                *known -= taken;
                (taken, false)
            }
            Framing::Tunnel => (ready!(to.poll_send(cx, bytes, false))?, false),
        }))
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

pub(crate) fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
