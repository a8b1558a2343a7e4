//! One stream as a connection on which one HTTP/1.1 request comes in and one response goes out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, request as http_request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer::Answer;
use super::request::{self, Content, Malformed, line};
use super::{Cut, Reply, Source};
use crate::client::Socket;
use crate::h1::chunk_size;

/// What comes next of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Head,
    Content,
    Trailers,
    End,
}

pub(crate) struct Stream<S, R: Reply> {
    source: S,
    content: Content,
    phase: Phase,
    /// The head, and later what stands around content; so much of its front was read.
    coding: Vec<u8>,
    read: usize,
    /// Content that was not read yet. The client may send as much again once it was.
    data: Bytes,
    /// A chunk was read whose line is to be ended.
    in_chunk: bool,
    answer: Answer<R>,
    /// Of whoever reads before the protocol has changed: nothing of the client's would wake it then.
    reader: Option<Waker>,
}

impl<S: Source, R: Reply> Stream<S, R> {
    /// `ended` says that the stream ends with its head.
    pub(crate) fn new(
        head: &http_request::Parts,
        ended: bool,
        source: S,
        mut reply: R,
    ) -> Result<Stream<S, R>, Malformed> {
        match request::write(head, ended) {
            Ok((coding, content)) => Ok(Stream {
                source,
                content,
                phase: Phase::Head,
                coding,
                read: 0,
                data: Bytes::new(),
                in_chunk: false,
                answer: Answer::new(reply, head.method.clone(), content == Content::Tunnel),
                reader: None,
            }),
            Err(malformed) => {
                reply.cut(Cut::Malformed);
                Err(malformed)
            }
        }
    }

    /// The answer is whole, though perhaps not sent.
    pub(crate) fn is_answered(&self) -> bool {
        self.answer.is_ended()
    }

    /// Puts down what is there, as far as there is room.
    fn hand_out(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let coding = &self.coding[self.read..];
        let taken = coding.len().min(buffer.remaining());
        buffer.put_slice(&coding[..taken]);
        self.read += taken;
        if self.read < self.coding.len() {
            return Ok(());
        }
        self.coding.clear();
        self.read = 0;
        let taken = self.data.len().min(buffer.remaining());
        if taken > 0 {
            buffer.put_slice(&self.data[..taken]);
            self.data.advance(taken);
            self.source.release(taken)?;
        }
        Ok(())
    }

    /// Fetches what is handed out next; ready with `false` at the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        match self.phase {
            Phase::Head => {
                // The memory that the head took is of no more use.
                self.coding = Vec::new();
                self.phase = match self.content {
                    Content::Nothing => Phase::End,
                    _ => Phase::Content,
                };
            }
            Phase::Content if self.content == Content::Tunnel && !self.answer.is_switched() => {
                self.reader = Some(cx.waker().clone());
                return self.answer.poll_reset(cx).map(Err);
            }
            Phase::Content => match ready!(self.source.poll_data(cx))? {
                Some(data) if data.is_empty() => {}
                Some(data) => self.begin(data),
                None => self.phase = Phase::Trailers,
            },
            Phase::Trailers => {
                let trailers = ready!(self.source.poll_trailers(cx))?;
                self.phase = Phase::End;
                if self.content == Content::Chunked {
                    self.end(trailers.as_ref());
                }
            }
            Phase::End if self.content == Content::Tunnel => return Poll::Ready(Ok(false)),
            // Of the other requests of its connection a stream knows nothing; it ends when it is answered.
            Phase::End => return self.answer.poll_reset(cx).map(Err),
        }
        Poll::Ready(Ok(true))
    }

    fn begin(&mut self, data: Bytes) {
        if self.content == Content::Chunked {
            self.end_chunk();
            let mut line = [0; 18];
            self.coding
                .extend_from_slice(chunk_size(data.len(), &mut line));
            self.in_chunk = true;
        }
        self.data = data;
    }

    fn end_chunk(&mut self) {
        if std::mem::take(&mut self.in_chunk) {
            self.coding.extend_from_slice(b"\r\n");
        }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) {
        self.end_chunk();
        self.coding.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.into_iter().flatten() {
            line(&mut self.coding, name.as_str().as_bytes(), value.as_bytes());
        }
        self.coding.extend_from_slice(b"\r\n");
    }
}

impl<S: Source, R: Reply> Socket for Stream<S, R> {}

impl<S: Source, R: Reply> AsyncRead for Stream<S, R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            self.hand_out(buffer)?;
            let some = buffer.filled().len() > before;
            // What follows the head is left for whoever wants it.
            if buffer.remaining() == 0 || (some && self.phase == Phase::Head) {
                return Poll::Ready(Ok(()));
            }
            match self.poll_next(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Err(error)) if !some => return Poll::Ready(Err(error)),
                Poll::Pending if !some => return Poll::Pending,
                // An error and an end are told again.
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<S: Source, R: Reply> AsyncWrite for Stream<S, R> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.answer.poll_write(cx, bytes);
        if self.answer.is_switched()
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.answer.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.answer.shutdown()?;
        self.answer.poll_flush(cx)
    }
}
