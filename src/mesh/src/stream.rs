//! A stream to or from another node: bytes, or frames of a 4-byte big-endian length and that many
//! bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use bytes::{Bytes, BytesMut};
use nebula_domain::NodeId;
use nebula_wire::peer::Protocol;
use quinn::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use crate::CallError;
use crate::budget::Budget;
use crate::error::{Context, code};
use crate::link::{Busy, Silence};

const LENGTH_BYTES: usize = 4;

/// Room made for a frame before any of it has arrived: a length alone costs the sender nothing.
const FIRST_ROOM_BYTES: usize = 64 * 1024;

/// Both directions of a stream.
pub struct Stream {
    reader: StreamReader,
    writer: StreamWriter,
}

/// The receiving half.
pub struct StreamReader {
    recv: RecvStream,
    context: Context,
    busy: Option<Busy>,
    /// Of a stream that the other end opened.
    budget: Option<Budget>,
    /// For the latest frame, which its reader still works on.
    _held: Option<OwnedSemaphorePermit>,
}

/// The sending half. Dropped after whole frames, it ends the stream; dropped within raw bytes that
/// were not shut down, it resets it, so that a cut-off answer is never taken for a complete one.
pub struct StreamWriter {
    send: SendStream,
    context: Context,
    whole: bool,
    _busy: Option<Busy>,
}

impl Stream {
    pub(crate) fn new(
        send: SendStream,
        recv: RecvStream,
        context: Context,
        busy: Option<Busy>,
        budget: Option<Budget>,
    ) -> Stream {
        Stream {
            reader: StreamReader {
                recv,
                context,
                busy: busy.clone(),
                budget,
                _held: None,
            },
            writer: StreamWriter {
                send,
                context,
                whole: true,
                _busy: busy,
            },
        }
    }

    /// Writes the stream's first byte, which tells the peer that it exists and what it is for.
    pub(crate) async fn announce(&mut self) -> Result<(), CallError> {
        let context = self.writer.context;
        self.writer
            .send
            .write_all(&[context.protocol as u8])
            .await
            .map_err(|e| context.write(e))
    }

    pub fn node(&self) -> NodeId {
        self.reader.context.node
    }

    pub fn protocol(&self) -> Protocol {
        self.reader.context.protocol
    }

    /// Tells when the other end falls silent. `None` for a stream that the other end opened: it is the
    /// opener who waits.
    pub fn silence(&self) -> Option<Silence> {
        self.reader.busy.as_ref().map(Busy::silence)
    }

    /// The next frame; the stream's end before it is [`CallError::Ended`]. Not to be cancelled and
    /// called again: what was read of the frame would be lost.
    pub async fn read_frame(&mut self, max: usize) -> Result<Bytes, CallError> {
        self.reader.read_frame(max).await
    }

    /// The next frame, or `None` when the other end has finished.
    pub async fn next_frame(&mut self, max: usize) -> Result<Option<Bytes>, CallError> {
        self.reader.next_frame(max).await
    }

    pub async fn write_frame(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), CallError> {
        self.writer.write_frame(bytes).await
    }

    /// Throws away what else the other end sends, and tells it so. For a service that has all that it was asked: what is
    /// sent behind a request would otherwise fill a window for as long as the answer takes. The latest frame stays paid
    /// for.
    pub fn stop_reading(&mut self) {
        self.reader.stop();
    }

    /// Says that nothing more will be written. Reading goes on.
    pub async fn finish(&mut self) -> Result<(), CallError> {
        self.writer.finish().await
    }

    pub fn into_split(self) -> (StreamReader, StreamWriter) {
        (self.reader, self.writer)
    }
}

impl StreamReader {
    fn stop(&mut self) {
        // It may have ended, or been stopped, already.
        let _ = self.recv.stop(code::DONE);
    }

    pub async fn read_frame(&mut self, max: usize) -> Result<Bytes, CallError> {
        self.next_frame(max).await?.ok_or(CallError::Ended {
            node: self.context.node,
        })
    }

    pub async fn next_frame(&mut self, max: usize) -> Result<Option<Bytes>, CallError> {
        let mut length = [0; LENGTH_BYTES];
        let first = self
            .recv
            .read(&mut length)
            .await
            .map_err(|e| self.context.read(e))?;
        let Some(got) = first else { return Ok(None) };
        self.recv
            .read_exact(&mut length[got..])
            .await
            .map_err(|e| self.context.read_exact(e))?;
        let length = u32::from_be_bytes(length) as usize;
        if length > max {
            // Whatever follows cannot be understood any more.
            let _ = self.recv.stop(code::MALFORMED);
            return Err(CallError::TooLarge {
                actual: length,
                limit: max,
            });
        }
        self._held = None;
        if let Some(budget) = &self.budget {
            let held = budget.take(self.context.node, length);
            self._held = held.inspect_err(|_| {
                let _ = self.recv.stop(code::MALFORMED);
            })?;
        }
        let mut frame = BytesMut::with_capacity(length.min(FIRST_ROOM_BYTES));
        while frame.len() < length {
            let chunk = self
                .recv
                .read_chunk(length - frame.len(), true)
                .await
                .map_err(|e| self.context.read(e))?
                .ok_or(CallError::Ended {
                    node: self.context.node,
                })?;
            if frame.is_empty() && chunk.bytes.len() == length {
                return Ok(Some(chunk.bytes));
            }
            frame.extend_from_slice(&chunk.bytes);
        }
        Ok(Some(frame.freeze()))
    }
}

impl StreamWriter {
    pub async fn write_frame(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), CallError> {
        self.write_owned(Bytes::copy_from_slice(bytes.as_ref()), None)
            .await
    }

    /// A frame, after the stream's first byte if this is the first, in one go.
    pub(crate) async fn write_owned(
        &mut self,
        bytes: Bytes,
        first: Option<Protocol>,
    ) -> Result<(), CallError> {
        let length = u32::try_from(bytes.len()).map_err(|_| CallError::TooLarge {
            actual: bytes.len(),
            limit: u32::MAX as usize,
        })?;
        let mut head = BytesMut::with_capacity(1 + LENGTH_BYTES);
        head.extend(first.map(|protocol| protocol as u8));
        head.extend_from_slice(&length.to_be_bytes());
        self.whole = false;
        self.send
            .write_all_chunks(&mut [head.freeze(), bytes])
            .await
            .map_err(|e| self.context.write(e))?;
        self.whole = true;
        Ok(())
    }

    pub async fn finish(&mut self) -> Result<(), CallError> {
        self.whole = true;
        // Finishing twice is not a mistake: what was meant is the case.
        let _ = self.send.finish();
        Ok(())
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if !self.whole {
            let _ = self.send.reset(code::ABORTED);
        }
    }
}

impl AsyncRead for StreamReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let context = self.context;
        self.recv
            .poll_read_buf(cx, buf)
            .map_err(|e| context.read(e).into())
    }
}

impl AsyncWrite for StreamWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.whole = false;
        let context = self.context;
        Pin::new(&mut self.send)
            .poll_write(cx, bytes)
            .map_err(|e| context.write(e).into())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.whole = true;
        let _ = self.send.finish();
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
