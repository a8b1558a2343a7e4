//! What HTTP/2 and HTTP/3 have in common here: a stream is carried as one HTTP/1.1 connection with one request on it.
//!
//! `stream` makes of a stream's two directions what `client` reads from and writes to; `request` and `answer` translate heads
//! and bodies; `allowance` bounds what a client may ask for in vain. Frames are the protocols' own.

mod allowance;
mod answer;
mod request;
mod stream;

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};

pub(crate) use allowance::{Allowance, BYTES_PER_FRAME};
pub(crate) use request::Malformed;
pub(crate) use stream::Stream;

/// The request's direction of a stream, behind its head.
pub(crate) trait Source: Unpin {
    /// The next content; nothing at its end.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<HeaderMap>>>;

    /// So many bytes of content have been read, and the client may send as many again.
    fn release(&mut self, bytes: usize) -> io::Result<()>;
}

/// The response's direction of a stream.
pub(crate) trait Reply: Unpin {
    fn interim(&mut self, response: Response<()>) -> io::Result<()>;

    /// `end` says that nothing follows.
    fn head(&mut self, response: Response<()>, end: bool) -> io::Result<()>;

    /// Takes some of the front of `bytes`; `last` says that the stream ends with them. Whoever is told to wait comes again with
    /// the same bytes, and perhaps more behind them.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        last: bool,
    ) -> Poll<io::Result<usize>>;

    fn end(&mut self, trailers: HeaderMap) -> io::Result<()>;

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
    /// It carried no request.
    Malformed,
}
