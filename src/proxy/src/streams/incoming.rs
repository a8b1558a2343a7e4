//! A stream's content as it comes, handed out as a body of HTTP/1.1: as it is, or in chunks with trailer fields. The
//! other end may send as much again once it was handed out.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use tokio::io::ReadBuf;

use super::Source;
use crate::h1::chunk_size;
use crate::headers::line;

/// What comes next of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Data,
    Trailers,
    End,
}

pub(crate) struct Incoming<S> {
    pub(crate) source: S,
    chunked: bool,
    phase: Phase,
    /// A head, and later what stands around content; so much of its front was handed out.
    coding: Vec<u8>,
    read: usize,
    /// Content that was not handed out yet.
    data: Bytes,
    /// A chunk was handed out whose line is to be ended.
    in_chunk: bool,
}

impl<S: Source> Incoming<S> {
    /// `head` comes before the content.
    pub(crate) fn new(source: S, head: Vec<u8>, chunked: bool) -> Incoming<S> {
        Incoming {
            source,
            chunked,
            phase: Phase::Data,
            coding: head,
            read: 0,
            data: Bytes::new(),
            in_chunk: false,
        }
    }

    /// Puts down what is there, as far as there is room; how much of it was content.
    pub(crate) fn hand_out(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
        let coding = &self.coding[self.read..];
        let taken = coding.len().min(buffer.remaining());
        buffer.put_slice(&coding[..taken]);
        self.read += taken;
        if self.read < self.coding.len() {
            return Ok(0);
        }
        self.coding.clear();
        self.read = 0;
        let taken = self.data.len().min(buffer.remaining());
        if taken > 0 {
            buffer.put_slice(&self.data[..taken]);
            self.data.advance(taken);
            self.source.release(taken)?;
        }
        Ok(taken)
    }

    /// Fetches what is handed out next; ready with `false` at the end.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, S::Error>> {
        match self.phase {
            Phase::Data => match ready!(self.source.poll_data(cx))? {
                Some(data) if data.is_empty() => {}
                Some(data) => self.begin(data),
                None => self.phase = Phase::Trailers,
            },
            Phase::Trailers => {
                let trailers = ready!(self.source.poll_trailers(cx))?;
                self.phase = Phase::End;
                if self.chunked {
                    self.end(trailers.as_ref());
                }
            }
            Phase::End => return Poll::Ready(Ok(false)),
        }
        Poll::Ready(Ok(true))
    }

    fn begin(&mut self, data: Bytes) {
        if self.chunked {
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
