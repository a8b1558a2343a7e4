//! The response's direction of a stream, as `streams` writes it.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use quinn::{SendStream, StoppedError, VarInt, WriteError};

use super::connection::{Common, Signs};
use super::fields::{write_response, write_trailers};
use super::frames::{Code, DATA, HEADERS, put_frame};
use super::qpack::Encoder;
use crate::streams::{Cut, Head, Reply, Sink};

/// Content of one frame. Larger ones would save little, and are held here while the client does not take them.
const FRAME_BYTES: usize = 16 * 1024;

type Stopped = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send>>;

pub(super) struct Sending {
    stream: SendStream,
    common: Arc<Common>,
    signs: Arc<Signs>,
    /// Frames that the stream has not taken yet.
    pending: Bytes,
    /// So much content is in them that its writer does not know to be taken.
    promised: usize,
    /// The stream ends behind them.
    ends: bool,
    finished: bool,
    /// Tells of a client that takes no more.
    stopped: Stopped,
    is_stopped: Option<bool>,
}

impl Sending {
    pub(super) fn new(stream: SendStream, common: Arc<Common>, signs: Arc<Signs>) -> Sending {
        Sending {
            stopped: Box::pin(stream.stopped()),
            is_stopped: None,
            stream,
            common,
            signs,
            pending: Bytes::new(),
            promised: 0,
            ends: false,
            finished: false,
        }
    }

    fn section(&mut self, encoder: &Encoder) -> io::Result<()> {
        // RFC 9114 section 4.2.2: a client would not take it.
        if encoder.size as u64 > self.common.peer_section_bytes() {
            tracing::debug!(
                size = encoder.size,
                "a client takes no answer of such a size"
            );
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut frames = self.pending.to_vec();
        put_frame(&mut frames, HEADERS, &encoder.section);
        self.pending = frames.into();
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let part = std::slice::from_mut(&mut self.pending);
            // Nothing is lost with a write that is given up.
            let written = ready!(pin!(self.stream.write_chunks(part)).poll(cx));
            match written {
                Ok(written) => self.common.sent(written.bytes),
                Err(error) => {
                    if let WriteError::Stopped(_) = error {
                        self.signs.cancel();
                    }
                    tracing::trace!(%error, "a stream has broken");
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
            }
        }
        if self.ends && !self.finished {
            self.finished = true;
            self.signs.end();
            // One that was stopped shows it when it is asked.
            let _ = self.stream.finish();
        }
        Poll::Ready(Ok(()))
    }
}

impl Sink for Sending {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        if self.promised == 0 {
            ready!(self.poll_write(cx))?;
            let taken = bytes.len().min(FRAME_BYTES);
            let mut frame = Vec::new();
            put_frame(&mut frame, DATA, &bytes[..taken]);
            self.pending = frame.into();
            self.promised = taken;
            self.ends = last && taken == bytes.len();
        }
        ready!(self.poll_write(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut self.promised)))
    }

    fn end(&mut self, trailers: HeaderMap) -> io::Result<()> {
        if !trailers.is_empty() {
            self.section(&write_trailers(&trailers))?;
        }
        self.ends = true;
        Ok(())
    }
}

impl Reply for Sending {
    fn interim(&mut self, head: &Head<'_>) -> io::Result<()> {
        if self.pending.len() > FRAME_BYTES {
            // A client that takes none has no use for more of them.
            return Ok(());
        }
        self.section(&write_response(head))
    }

    fn head(&mut self, head: &Head<'_>, end: bool) -> io::Result<()> {
        self.section(&write_response(head))?;
        self.ends = end;
        self.common.answered();
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write(cx)
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let is_stopped = match self.is_stopped {
            Some(known) => known,
            None => {
                let stopped = ready!(self.stopped.as_mut().poll(cx));
                if let Ok(Some(_)) = stopped {
                    self.signs.cancel();
                }
                // Otherwise the client has all of it, and the stream has ended.
                !matches!(stopped, Ok(None))
            }
        };
        self.is_stopped = Some(is_stopped);
        match is_stopped {
            true => Poll::Ready(io::ErrorKind::ConnectionReset.into()),
            false => Poll::Pending,
        }
    }

    fn cut(&mut self, cut: Cut) {
        self.reset(match cut {
            // RFC 9114 section 4.1.2.
            _ if self.signs.is_malformed() => Code::MESSAGE_ERROR,
            _ if self.signs.is_cancelled() => Code::REQUEST_CANCELLED,
            Cut::Answer => Code::INTERNAL_ERROR,
            Cut::Tunnel => Code::CONNECT_ERROR,
        });
    }
}

impl Sending {
    /// Ends the stream so that nobody takes what was sent for all.
    pub(super) fn reset(&mut self, code: Code) {
        self.pending = Bytes::new();
        self.finished = true;
        let _ = self.stream.reset(code.into());
    }
}

impl Drop for Sending {
    /// A stream that is let go of is ended as if all had been well, which what still waits here has not been.
    fn drop(&mut self) {
        if !self.finished {
            self.cut(Cut::Answer);
        }
    }
}
