//! One connection's bytes in both directions, with what has been read and not used, and what could not be written yet.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::has_budget_remaining;

use super::inbox::Inbox;

/// Read at once. Larger ones cost no fewer system calls over loopback and real networks, and one that its reader does not
/// keep up with holds as much.
pub(crate) const READ_BYTES: usize = 64 * 1024;
/// What an idle connection keeps of each buffer: heads of usual requests and responses fit.
pub(super) const KEPT_BYTES: usize = 1024;
/// Content that is at least as long goes out beside what waits before it instead of being copied behind that.
const BESIDE_BYTES: usize = 1024;

thread_local! {
    /// Where reads go, before it is known whether anything has come: a connection that waits holds no buffer.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// The connection `io`.
pub(crate) struct Wire<T> {
    pub(crate) io: T,
    /// Read and not yet used.
    pub(crate) inbox: Inbox,
    outbox: Vec<u8>,
    /// So much of the front of `outbox` has been written.
    written: usize,
    /// Bytes in either direction since the connection began.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// `io` may hold something that it has taken and not sent yet, as TLS does.
    unflushed: bool,
}

/// The memory of a connection that has ended, for the next one.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    inbox: Inbox,
    outbox: Vec<u8>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire<T> {
    pub(crate) fn new(io: T) -> Wire<T> {
        Wire {
            io,
            inbox: Inbox::default(),
            outbox: Vec::new(),
            written: 0,
            sent: 0,
            received: 0,
            unflushed: false,
        }
    }

    /// The same with the buffers of a connection that has ended.
    pub(crate) fn with_buffers(io: T, buffers: Buffers) -> Wire<T> {
        Wire {
            inbox: buffers.inbox,
            outbox: buffers.outbox,
            ..Wire::new(io)
        }
    }

    /// Its empty buffers, as far as they are worth keeping.
    pub(crate) fn into_buffers(mut self) -> Buffers {
        self.inbox.clear();
        self.outbox.clear();
        self.shrink();
        Buffers {
            inbox: self.inbox,
            outbox: self.outbox,
        }
    }

    /// The connection, and what was read of it and not used.
    pub(crate) fn into_parts(self) -> (T, Vec<u8>) {
        (self.io, self.inbox.into_vec())
    }

    /// Reads up to `max` bytes and shows them to `use_`, with what is to be told of them. Zero bytes are the end.
    pub(crate) fn poll_read_with<R>(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        use_: impl FnOnce(&mut Self, &mut Context<'_>, &[u8]) -> R,
    ) -> Poll<io::Result<R>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let room = scratch.len().min(max);
            let mut buffer = ReadBuf::new(&mut scratch[..room]);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            let read = buffer.filled().len();
            self.received += read as u64;
            Poll::Ready(Ok(use_(self, cx, &scratch[..read])))
        })
    }

    /// Reads more into the inbox; how much, where zero is the end.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        self.poll_read_with(cx, max, |wire, _, bytes| {
            wire.inbox.extend_from_slice(bytes);
            bytes.len()
        })
    }

    /// The same without a copy of what is long: for one whose bytes go on at once.
    pub(crate) fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = ready!(self.inbox.poll_take(cx, &mut self.io))?;
        self.received += read as u64;
        Poll::Ready(Ok(read))
    }

    /// Written with the next flush.
    pub(crate) fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.outbox
    }

    pub(crate) fn unwritten(&self) -> usize {
        self.outbox.len() - self.written
    }

    /// Whether something waits to be sent, here or in `io`.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unwritten() > 0 || self.unflushed
    }

    /// Writes what waits; ready when nothing waits any more.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.outbox.len() {
            let waiting = &self.outbox[self.written..];
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.sent += written as u64;
            self.unflushed = true;
        }
        self.outbox.clear();
        self.written = 0;
        if self.outbox.capacity() > READ_BYTES {
            self.outbox = Vec::new();
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Takes bytes to be written: at once as far as that goes without copying, the rest with the next flush. Nothing
    /// may wait already. They are taken in any case: a connection that is broken says so with the next flush, when it is
    /// known that they were on their way.
    pub(crate) fn write_through(&mut self, cx: &mut Context<'_>, bytes: &[u8]) {
        debug_assert_eq!(self.unwritten(), 0);
        let written = match Pin::new(&mut self.io).poll_write(cx, bytes) {
            Poll::Ready(Ok(written)) => written,
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        self.sent += written as u64;
        self.outbox.extend_from_slice(&bytes[written..]);
        self.unflushed |= written > 0;
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(Ok(())) => self.unflushed = false,
            Poll::Ready(Err(_)) => self.unflushed = true,
            Poll::Pending => {}
        }
    }

    /// Takes bytes to be written behind what waits: both at once as far as that goes without copying, the rest with the next flush.
    /// As with [`Wire::write_through`], they are taken in any case.
    pub(crate) fn write_behind(&mut self, cx: &mut Context<'_>, bytes: &[u8]) {
        if self.unwritten() == 0 {
            return self.write_through(cx, bytes);
        }
        if bytes.len() < BESIDE_BYTES || !self.io.is_write_vectored() {
            self.outbox.extend_from_slice(bytes);
            return;
        }
        let waiting = &self.outbox[self.written..];
        let both = [IoSlice::new(waiting), IoSlice::new(bytes)];
        let written = match Pin::new(&mut self.io).poll_write_vectored(cx, &both) {
            Poll::Ready(Ok(written)) => written,
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        let of_waiting = written.min(waiting.len());
        self.sent += written as u64;
        self.written += of_waiting;
        self.outbox
            .extend_from_slice(&bytes[written - of_waiting..]);
        self.unflushed |= written > 0;
    }

    /// Forgets what waits to be written: the connection takes nothing more.
    pub(crate) fn discard(&mut self) {
        self.outbox.clear();
        self.written = 0;
        self.unflushed = false;
    }

    /// Ends the sending direction.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Lets go of memory that an idle connection has no use for.
    pub(crate) fn shrink(&mut self) {
        self.inbox.shrink(KEPT_BYTES);
        if self.outbox.is_empty() && self.outbox.capacity() > KEPT_BYTES {
            self.outbox = Vec::new();
        }
    }

    /// Whether a connection that nobody is using may be used again: it is open, and nothing came that nobody asked for.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        // Out of its turn a task is told that nothing has come whatever has.
        has_budget_remaining()
            && self.inbox.is_empty()
            && !self.has_unsent()
            && self.poll_fill(&mut cx, 1).is_pending()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_is_not_written_waits_and_what_is_read_stays() {
        let (one, mut other) = tokio::io::duplex(8);
        let mut wire = Wire::new(one);
        std::future::poll_fn(|cx| {
            wire.write_through(cx, b"0123456789");
            Poll::Ready(())
        })
        .await;
        assert_eq!(wire.unwritten(), 2);
        let mut seen = [0; 10];
        let (flushed, read) = tokio::join!(
            std::future::poll_fn(|cx| wire.poll_flush(cx)),
            other.read_exact(&mut seen)
        );
        flushed.unwrap();
        read.unwrap();
        assert_eq!(&seen, b"0123456789");
        assert!(wire.is_quiet());
        other.write_all(b"abc").await.unwrap();
        let read = std::future::poll_fn(|cx| wire.poll_fill(cx, 2)).await;
        assert_eq!((read.unwrap(), &wire.inbox[..]), (2, &b"ab"[..]));
        assert!(!wire.is_quiet());
        wire.inbox.clear();
        drop(other);
        assert!(!wire.is_quiet());
    }

    #[tokio::test]
    async fn what_comes_behind_what_waits_goes_out_behind_it() {
        for (room, length) in [(8, 2000), (500, 2000), (5000, 2000), (5000, 20)] {
            let (one, mut other) = tokio::io::duplex(room);
            let mut wire = Wire::new(one);
            let content = vec![b'x'; length];
            wire.outbox().extend_from_slice(b"head: ");
            std::future::poll_fn(|cx| {
                wire.write_behind(cx, &content);
                Poll::Ready(())
            })
            .await;
            assert!(wire.has_unsent());
            let mut seen = vec![0; 6 + length];
            let (flushed, read) = tokio::join!(
                std::future::poll_fn(|cx| wire.poll_flush(cx)),
                other.read_exact(&mut seen)
            );
            flushed.unwrap();
            read.unwrap();
            assert_eq!(seen, [&b"head: "[..], &content].concat());
            assert_eq!((wire.sent, wire.has_unsent()), (6 + length as u64, false));
        }
    }
}
