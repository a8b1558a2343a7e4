//! What HTTP/2 and HTTP/3 have in common here: a stream is carried as one HTTP/1.1 connection with one request on it.
//!
//! `stream` makes of a stream's two directions what `client` reads from and writes to; `request` and `answer` translate heads, which
//! are a `section` of fields; `incoming` and `outgoing` content (also for instances that speak HTTP/2, see `upstream`); `allowance`
//! bounds what a client may ask for in vain. `coding` and `huffman` are what HPACK and QPACK are written in. Frames and tables are the
//! protocols' own.

mod allowance;
mod answer;
pub(crate) mod coding;
pub(crate) mod huffman;
mod incoming;
mod outgoing;
mod request;
mod section;
mod stream;

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

pub(crate) use allowance::{Allowance, BYTES_PER_FRAME};
pub(crate) use answer::{Head, copy_fields, stays};
pub(crate) use incoming::Incoming;
pub(crate) use outgoing::{Framing, invalid};
pub(crate) use request::{Asking, Content, Malformed, expects_content, trailers};
pub(crate) use section::Section;
pub(crate) use stream::Stream;

/// The direction of a stream that comes in, behind its head.
pub(crate) trait Source: Unpin {
    type Error;

    /// The next content; nothing at its end.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Self::Error>>;

    fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, Self::Error>>;

    /// So many bytes of content have been read, and the other end may send as many again.
    fn release(&mut self, bytes: usize) -> io::Result<()>;

    /// What whoever reads is told of an error.
    fn broken(error: Self::Error) -> io::Error;
}

/// The direction of a stream that goes out, behind its head.
pub(crate) trait Sink: Unpin {
    /// Takes some of the front of `bytes`; `last` says that the stream ends with them. Whoever is told to wait comes again with
    /// the same bytes, and perhaps more behind them.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        last: bool,
    ) -> Poll<io::Result<usize>>;

    fn end(&mut self, trailers: HeaderMap) -> io::Result<()>;
}

/// The response's direction of a stream, with its head.
pub(crate) trait Reply: Sink {
    fn interim(&mut self, head: &Head<'_>) -> io::Result<()>;

    /// `end` says that nothing follows.
    fn head(&mut self, head: &Head<'_>, end: bool) -> io::Result<()>;

    /// Ready when nothing waits here any more of what was taken.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when the client wants no answer any more.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;

    /// Ends the stream so that what was sent does not look whole.
    fn cut(&mut self, cut: Cut);
}

/// What a stream is that is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Answer,
    Tunnel,
}
