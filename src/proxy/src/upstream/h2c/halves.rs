//! The two directions of a stream of the crate `h2`, as `streams` takes them.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use crate::streams::{Sink, Source};

impl Source for RecvStream {
    type Error = h2::Error;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, h2::Error>> {
        RecvStream::poll_data(self, cx).map(Option::transpose)
    }

    fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        RecvStream::poll_trailers(self, cx)
    }

    fn release(&mut self, bytes: usize) -> io::Result<()> {
        let room = self.flow_control().release_capacity(bytes);
        room.map_err(broken)
    }

    fn broken(error: h2::Error) -> io::Error {
        broken(error)
    }
}

impl Sink for SendStream<Bytes> {
    /// As much as the other end takes and the buffer holds.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        self.reserve_capacity(bytes.len());
        while self.capacity() == 0 {
            match ready!(self.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
        let taken = self.capacity().min(bytes.len());
        let data = Bytes::copy_from_slice(&bytes[..taken]);
        let sent = self.send_data(data, last && taken == bytes.len());
        Poll::Ready(sent.map(|()| taken).map_err(broken))
    }

    fn end(&mut self, trailers: HeaderMap) -> io::Result<()> {
        let ended = match trailers.is_empty() {
            true => self.send_data(Bytes::new(), true),
            false => self.send_trailers(trailers),
        };
        ended.map_err(broken)
    }
}

/// The stream was reset, or its connection has ended.
pub(super) fn broken(error: h2::Error) -> io::Error {
    tracing::trace!(%error, "a stream has broken");
    io::ErrorKind::ConnectionReset.into()
}
