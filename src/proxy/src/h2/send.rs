//! What is sent to a client: heads, content and trailers of answers, as frames one behind the other.

use std::io;
use std::task::{Context, Poll};

use http::HeaderMap;

use super::entry::ResetBy;
use super::frames::{
    CONTINUATION, Code, DATA, END_HEADERS, END_STREAM, FrameHead, HEAD_BYTES, HEADERS,
    PAYLOAD_BYTES, put, put_reset,
};
use super::state::State;
use crate::streams::{BYTES_PER_FRAME, Head};

/// Interim responses for a client that takes none wait up to this: beyond that it has no use for more of them.
const INTERIM_BYTES: usize = 16 * 1024;

impl State {
    /// The head of an answer, or of an interim one.
    pub(super) fn send_head(&mut self, id: u32, head: &Head<'_>, end: bool) -> io::Result<()> {
        let entry = self.live(id).ok_or(io::ErrorKind::ConnectionReset)?;
        entry.sent_end = end;
        let start = self.begin_block();
        let (encoder, out) = (&mut self.encoder, &mut self.out);
        encoder.field(out, b":status", &head.status_text(), false);
        head.each(|name, value, alone| encoder.field(out, name, value, alone));
        self.end_block(start, id, end);
        self.resets.earn(1);
        self.frames.earn(2);
        Ok(())
    }

    pub(super) fn send_interim(&mut self, id: u32, head: &Head<'_>) -> io::Result<()> {
        if self.out.len() > INTERIM_BYTES {
            return Ok(());
        }
        self.send_head(id, head, false)
    }

    /// The end of an answer.
    pub(super) fn send_end(&mut self, id: u32, trailers: &HeaderMap) -> io::Result<()> {
        let entry = self.live(id).ok_or(io::ErrorKind::ConnectionReset)?;
        entry.sent_end = true;
        if trailers.is_empty() {
            put(&mut self.out, DATA, END_STREAM, id, &[]);
            return Ok(());
        }
        let start = self.begin_block();
        for (name, value) in trailers {
            let name = name.as_str().as_bytes();
            self.encoder
                .field(&mut self.out, name, value.as_bytes(), true);
        }
        self.end_block(start, id, true);
        Ok(())
    }

    /// As much of `bytes` as the client takes and the buffer holds; `last` says that the stream ends with them.
    pub(super) fn poll_data(
        &mut self,
        id: u32,
        cx: &Context<'_>,
        bytes: &[u8],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        let (window, most) = (self.send_window, self.bounds.send_buffer);
        let turn = self.queue.front().copied();
        let Some(entry) = self.live(id) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        let free = most.saturating_sub(entry.queued) as i64;
        if free == 0 || entry.send_window <= 0 {
            entry.wait(cx);
            if turn == Some(id) {
                self.queue.pop_front();
                self.wake_next();
            }
            return Poll::Pending;
        }
        // Those that share a window that is too small for all have it in turn.
        if window <= 0 || turn.is_some_and(|turn| turn != id) {
            entry.wait(cx);
            if !self.queue.contains(&id) {
                self.queue.push_back(id);
            }
            if window > 0 {
                self.wake_next();
            }
            return Poll::Pending;
        }
        let room = free.min(entry.send_window).min(window);
        let taken = bytes
            .len()
            .min(PAYLOAD_BYTES)
            .min(usize::try_from(room).unwrap_or(0));
        let end = last && taken == bytes.len();
        entry.send_window -= taken as i64;
        entry.queued += taken;
        entry.sent_end = end;
        self.send_window -= taken as i64;
        self.content += taken;
        let flags = if end { END_STREAM } else { 0 };
        put(&mut self.out, DATA, flags, id, &bytes[..taken]);
        let earned = u32::try_from(taken / BYTES_PER_FRAME).unwrap_or(u32::MAX);
        self.frames.earn(earned.saturating_add(1));
        if turn == Some(id) {
            self.queue.pop_front();
            self.wake_next();
        }
        Poll::Ready(Ok(taken))
    }

    /// Ends a stream so that nobody takes what was sent of it for all.
    pub(super) fn say_reset(&mut self, id: u32, code: Code) {
        // Whoever was told once needs no more.
        if let Some(entry) = self.live(id) {
            entry.reset = Some(ResetBy::Us);
            entry.wake();
        }
        put_reset(&mut self.out, id, code);
    }

    /// Leaves room for the head of a frame of fields; where it is.
    fn begin_block(&mut self) -> usize {
        let start = self.out.len();
        self.out.extend_from_slice(&[0; HEAD_BYTES]);
        self.encoder.begin(&mut self.out);
        start
    }

    /// All behind the head is the block, in as many frames as it needs.
    fn end_block(&mut self, start: usize, stream: u32, end: bool) {
        let length = self.out.len() - start - HEAD_BYTES;
        let end = if end { END_STREAM } else { 0 };
        let mut head = FrameHead {
            length,
            kind: HEADERS,
            flags: END_HEADERS | end,
            stream,
        };
        if length <= PAYLOAD_BYTES {
            self.out[start..start + HEAD_BYTES].copy_from_slice(&head.bytes());
            return;
        }
        let block = self.out.split_off(start + HEAD_BYTES);
        self.out.truncate(start);
        let mut pieces = block.chunks(PAYLOAD_BYTES).peekable();
        head.flags = end;
        while let Some(piece) = pieces.next() {
            let last = if pieces.peek().is_none() {
                END_HEADERS
            } else {
                0
            };
            put(&mut self.out, head.kind, head.flags | last, stream, piece);
            (head.kind, head.flags) = (CONTINUATION, 0);
        }
    }
}
