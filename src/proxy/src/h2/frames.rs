//! Looks at the frames that pass between a client and `h2`, and counts those that cost work and carry nothing. `h2` bounds
//! what it holds; how often it may be made to do something for nothing it leaves to its user (docs/proxy-conformance.md
//! lists what is bounded where).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::Limits;
use crate::metrics::Abuse;
use crate::streams::{Allowance, BYTES_PER_FRAME};

const HEADER_BYTES: usize = 9;
/// RFC 9113 section 3.4.
const PREFACE_BYTES: usize = 24;
const END_STREAM: u8 = 1;

/// RFC 9113 section 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Headers,
    Reset,
    WindowUpdate,
    /// PRIORITY, SETTINGS, PING, GOAWAY, CONTINUATION, and what nobody knows.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    kind: Kind,
    flags: u8,
    length: usize,
}

/// Finds frames in the bytes of one direction, however they are cut.
struct Scanner {
    /// Bytes up to the next frame's header.
    skip: usize,
    header: [u8; HEADER_BYTES],
    have: usize,
}

impl Scanner {
    fn after(skip: usize) -> Scanner {
        Scanner {
            skip,
            header: [0; HEADER_BYTES],
            have: 0,
        }
    }

    fn scan(&mut self, mut bytes: &[u8], mut see: impl FnMut(Frame)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEADER_BYTES - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < HEADER_BYTES {
                return;
            }
            let [high, middle, low, kind, flags, ..] = self.header;
            self.have = 0;
            self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
            see(Frame {
                kind: match kind {
                    0 => Kind::Data,
                    1 => Kind::Headers,
                    3 => Kind::Reset,
                    8 => Kind::WindowUpdate,
                    _ => Kind::Other,
                },
                flags,
                length: self.skip,
            });
        }
    }
}

/// What was seen, for the connection that `h2` keeps from looking.
#[derive(Clone, Default)]
pub(super) struct Signs(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    abuse: Option<Abuse>,
    stalled_since: Option<Instant>,
}

impl Signs {
    /// What the client was found to do too often.
    pub(super) fn abuse(&self) -> Option<Abuse> {
        self.with(|seen| seen.abuse)
    }

    /// Something waits that the client does not take.
    pub(super) fn is_stalled(&self) -> bool {
        self.with(|seen| seen.stalled_since.is_some())
    }

    /// Until when the client is to take something of what waits for it.
    pub(super) fn stall_deadline(&self, patience: Duration) -> Option<Instant> {
        self.with(|seen| seen.stalled_since.map(|since| since + patience))
    }

    fn with<R>(&self, look: impl FnOnce(&mut Seen) -> R) -> R {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A client's connection, with what was read of it before it was known to be one of HTTP/2.
pub(super) struct Watched<T> {
    pub(super) io: T,
    ahead: Vec<u8>,
    received: Scanner,
    sent: Scanner,
    resets: Allowance,
    frames: Allowance,
    abused: bool,
    stalled: bool,
    signs: Signs,
}

impl<T> Watched<T> {
    pub(super) fn new(io: T, ahead: Vec<u8>, limits: &Limits) -> (Watched<T>, Signs) {
        let signs = Signs::default();
        let watched = Watched {
            io,
            ahead,
            received: Scanner::after(PREFACE_BYTES),
            sent: Scanner::after(0),
            resets: Allowance::of_resets(limits),
            frames: Allowance::of_frames(limits),
            abused: false,
            stalled: false,
            signs: signs.clone(),
        };
        (watched, signs)
    }

    fn receive(&mut self, bytes: &[u8]) {
        let (resets, frames) = (&mut self.resets, &mut self.frames);
        let mut abuse = None;
        self.received.scan(bytes, |frame| {
            let empty = frame.length == 0 && frame.flags & END_STREAM == 0;
            let cost = match frame.kind {
                Kind::Headers => 0,
                Kind::Data => u32::from(empty),
                Kind::WindowUpdate => 2,
                Kind::Other => 1,
                Kind::Reset => {
                    if !resets.spend(1) {
                        abuse = Some(Abuse::Resets);
                    }
                    0
                }
            };
            if cost > 0 && !frames.spend(cost) {
                abuse = Some(Abuse::Frames);
            }
        });
        if abuse.is_some() && !self.abused {
            self.abused = true;
            self.signs.with(|seen| seen.abuse = abuse);
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        let (resets, frames) = (&mut self.resets, &mut self.frames);
        self.sent.scan(bytes, |frame| match frame.kind {
            Kind::Headers => {
                resets.earn(1);
                frames.earn(2);
            }
            Kind::Data => {
                let earned = u32::try_from(frame.length / BYTES_PER_FRAME).unwrap_or(u32::MAX);
                frames.earn(earned.saturating_add(1));
            }
            Kind::Reset | Kind::WindowUpdate | Kind::Other => {}
        });
    }

    fn written(&mut self, written: &Poll<io::Result<usize>>) {
        if written.is_pending() != self.stalled {
            self.stalled = written.is_pending();
            let since = self.stalled.then(Instant::now);
            self.signs.with(|seen| seen.stalled_since = since);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.abused {
            // Nothing more is done for it; the connection is about to end.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        if !this.ahead.is_empty() {
            let taken = this.ahead.len().min(buffer.remaining());
            buffer.put_slice(&this.ahead[..taken]);
            this.ahead.drain(..taken);
        } else if Pin::new(&mut this.io).poll_read(cx, buffer)?.is_pending() {
            return Poll::Pending;
        }
        this.receive(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.written(&written);
        if let Poll::Ready(Ok(written)) = written {
            self.send(&bytes[..written]);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        self.written(&written);
        if let Poll::Ready(Ok(mut left)) = written {
            for part in parts {
                let taken = left.min(part.len());
                self.send(&part[..taken]);
                left -= taken;
            }
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        [&head[..], &vec![7; payload]].concat()
    }

    fn watched() -> (Watched<tokio::io::Empty>, Signs) {
        let (mut watched, signs) = Watched::new(tokio::io::empty(), Vec::new(), &Limits::default());
        watched.receive(&[0; PREFACE_BYTES]);
        (watched, signs)
    }

    #[test]
    fn idle_frames_and_resets_are_bounded_apart() {
        let limits = Limits::default();
        for (kind, max, abuse) in [
            (4, limits.http2_idle_frames, Abuse::Frames),
            (6, limits.http2_idle_frames, Abuse::Frames),
            (8, limits.http2_idle_frames / 2, Abuse::Frames),
            (0x20, limits.http2_idle_frames, Abuse::Frames),
            (0, limits.http2_idle_frames, Abuse::Frames),
            (3, limits.http2_resets, Abuse::Resets),
        ] {
            let (mut watched, signs) = watched();
            let one = frame(kind, 0, 0);
            watched.receive(&one.repeat(max as usize));
            assert_eq!(signs.abuse(), None, "{kind}");
            // More than the time that this takes can earn.
            watched.receive(&one.repeat(max as usize));
            assert_eq!(signs.abuse(), Some(abuse), "{kind}");
        }
    }

    #[test]
    fn a_client_that_takes_much_may_say_much() {
        let (mut watched, signs) = watched();
        for _ in 0..10_000 {
            watched.receive(&[frame(8, 0, 4), frame(8, 0, 4), frame(6, 0, 8)].concat());
            watched.send(&frame(0, 0, 16_384));
            watched.receive(&[frame(1, 4, 20), frame(3, 0, 4)].concat());
            watched.send(&frame(1, 4, 50));
        }
        assert_eq!(signs.abuse(), None);
        // A window that is opened byte by byte.
        for _ in 0..3_000 {
            watched.receive(&frame(8, 0, 4));
            watched.send(&frame(0, 0, 1));
        }
        assert_eq!(signs.abuse(), Some(Abuse::Frames));
    }

    proptest! {
        #[test]
        fn however_they_are_cut_frames_are_the_same(
            sizes in prop::collection::vec((0u8..12, 0usize..300), 1..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let bytes: Vec<u8> = sizes.iter().flat_map(|(kind, size)| frame(*kind, 0, *size)).collect();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let (mut scanner, mut seen) = (Scanner::after(0), Vec::new());
            for cut in at.windows(2) {
                scanner.scan(&bytes[cut[0]..cut[1]], |frame| seen.push(frame.length));
            }
            prop_assert_eq!(seen, sizes.iter().map(|(_, size)| *size).collect::<Vec<_>>());
        }
    }
}
