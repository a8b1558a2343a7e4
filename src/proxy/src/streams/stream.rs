//! One stream as a connection of HTTP/1.1, behind the head of its one request: the content comes in, and one response goes out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use http::Method;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer::Answer;
use super::incoming::Incoming;
use super::{Content, Reply, Source};
use crate::client::Socket;

/// What comes next of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Content,
    End,
}

pub(crate) struct Stream<S, R: Reply> {
    incoming: Incoming<S>,
    content: Content,
    phase: Phase,
    answer: Answer<R>,
    /// Of whoever reads before the protocol has changed.
    reader: Option<Waker>,
}

impl<S: Source, R: Reply> Stream<S, R> {
    /// The stream of a request by that method, behind its head.
    pub(crate) fn new(method: Method, content: Content, source: S, reply: R) -> Stream<S, R> {
        Stream {
            incoming: Incoming::new(source, Vec::new(), content == Content::Chunked),
            content,
            phase: match content {
                Content::Nothing => Phase::End,
                _ => Phase::Content,
            },
            answer: Answer::new(reply, method, content == Content::Tunnel),
            reader: None,
        }
    }

    /// Fetches what is handed out next; ready with `false` at the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        match self.phase {
            Phase::Content if self.content == Content::Tunnel && !self.answer.is_switched() => {
                self.reader = Some(cx.waker().clone());
                return self.answer.poll_reset(cx).map(Err);
            }
            Phase::Content => {
                let fetched = ready!(self.incoming.poll_next(cx));
                if !fetched.map_err(S::broken)? {
                    self.phase = Phase::End;
                }
            }
            Phase::End if self.content == Content::Tunnel => return Poll::Ready(Ok(false)),
            // Of the other requests of its connection a stream knows nothing; it ends when it is answered.
            Phase::End => return self.answer.poll_reset(cx).map(Err),
        }
        Poll::Ready(Ok(true))
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
            self.incoming.hand_out(buffer)?;
            let some = buffer.filled().len() > before;
            if buffer.remaining() == 0 {
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
