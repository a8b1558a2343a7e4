//! An answer that is kept, and one that is still coming in: those who wait for it read along.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream;
use http::header::{self, HeaderMap};
use http::{HeaderName, StatusCode};
use nebula_domain::http::cache::{Freshness, Lines, Validators, Vary};
use nebula_telemetry::metrics::Gauge;
use tokio::sync::Notify;

use super::incoming::Incoming;
use crate::body::FrameStream;

/// What a piece of an answer takes besides its bytes while the answer comes in.
const PIECE_BYTES: usize = 64;
/// What an answer takes besides its fields and its body.
const ANSWER_BYTES: usize = 512;
/// What a field takes besides its name and value.
const FIELD_BYTES: usize = 64;

/// All that cached answers take in memory: those that are kept, those that come in, and those that were pushed out and are still
/// being sent.
pub(super) struct Memory {
    max: usize,
    taken: AtomicUsize,
    shown: Gauge,
}

/// Some of it, until this is dropped.
pub(super) struct Charge {
    of: Arc<Memory>,
    bytes: usize,
}

impl Memory {
    pub(super) fn new(max: usize, shown: Gauge) -> Arc<Memory> {
        Arc::new(Memory {
            max,
            taken: AtomicUsize::new(0),
            shown,
        })
    }

    pub(super) fn charge(self: &Arc<Memory>, bytes: usize) -> Option<Charge> {
        let mut charge = Charge {
            of: Arc::clone(self),
            bytes: 0,
        };
        charge.grow(bytes).then_some(charge)
    }
}

impl Charge {
    /// Takes more; whether there was as much.
    fn grow(&mut self, bytes: usize) -> bool {
        let taken = self.of.taken.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.bytes += bytes;
        if taken > self.of.max {
            self.bytes -= bytes;
            self.of.taken.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.of.shown.inc_by(signed(bytes));
        true
    }

    fn give_back(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.of.taken.fetch_sub(bytes, Ordering::Relaxed);
        self.of.shown.dec_by(signed(bytes));
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

/// Everything before the body.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    /// Without those of one connection and one request, and without `Age`.
    pub(super) fields: HeaderMap,
    pub(super) fresh: Freshness,
}

impl Head {
    pub(super) fn validators(&self) -> Validators<'_> {
        Validators::of(&lines(&self.fields))
    }

    /// What it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        let fields = self.fields.iter();
        let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES);
        ANSWER_BYTES + fields.sum::<usize>()
    }

    /// The same after the instance has said that it still holds (RFC 9111 section 3.2): what it says anew replaces what it
    /// said, but for what describes the body that is kept.
    pub(super) fn refreshed(&self, said: &HeaderMap) -> HeaderMap {
        const OF_BODY: [HeaderName; 4] = [
            header::CONTENT_ENCODING,
            header::CONTENT_LENGTH,
            header::CONTENT_RANGE,
            header::CONTENT_TYPE,
        ];
        let mut fields = self.fields.clone();
        for name in said.keys().filter(|name| !OF_BODY.contains(name)) {
            fields.remove(name);
            for value in said.get_all(name) {
                fields.append(name, value.clone());
            }
        }
        fields
    }
}

pub(super) fn lines(fields: &HeaderMap) -> impl Lines<'_> {
    |name: &str| fields.get_all(name).iter().map(|v| v.as_bytes()).collect()
}

/// A body counts for as long as anybody has some of it.
struct Charged {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A whole answer.
pub(super) struct Stored {
    pub(super) head: Head,
    /// The same may stand behind a newer head.
    pub(super) body: Bytes,
}

impl Stored {
    pub(super) fn bytes(&self) -> usize {
        self.head.bytes() + self.body.len()
    }
}

/// What an answer depends on, and what that was in the request that it is for.
pub(super) struct Variant {
    pub(super) vary: Vary,
    pub(super) values: Vec<u8>,
}

/// An answer that comes in and is to be kept.
pub(super) struct Growing {
    pub(super) head: Head,
    pub(super) variant: Variant,
    /// Of the body, when it is known beforehand.
    pub(super) length: Option<usize>,
    parts: Mutex<Parts>,
    changed: Notify,
}

struct Parts {
    pieces: Vec<Bytes>,
    bytes: usize,
    charge: Option<Charge>,
    end: Option<End>,
}

enum End {
    Whole(Bytes),
    Broken,
    /// It turned out too large; what follows is for the one who asked first.
    Rest(Option<Incoming>),
}

/// What a reader finds.
enum Step {
    Piece(Bytes),
    Wait,
    End,
    Broken,
    Rest(Incoming),
}

impl Growing {
    pub(super) fn new(
        head: Head,
        variant: Variant,
        length: Option<usize>,
        charge: Charge,
    ) -> Growing {
        Growing {
            head,
            variant,
            length,
            parts: Mutex::new(Parts {
                pieces: Vec::new(),
                bytes: 0,
                charge: Some(charge),
                end: None,
            }),
            changed: Notify::new(),
        }
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one more piece. Whether all so far has at most `max` bytes, and there is room for it.
    pub(super) fn add(&self, piece: Bytes, max: usize) -> bool {
        let mut parts = self.parts();
        parts.bytes += piece.len();
        // What is known beforehand has been charged.
        let taken = match self.length {
            Some(_) => PIECE_BYTES,
            None => piece.len() + PIECE_BYTES,
        };
        let fits = parts.bytes <= max && parts.charge.as_mut().is_some_and(|c| c.grow(taken));
        parts.pieces.push(piece);
        drop(parts);
        self.changed.notify_waiters();
        fits
    }

    /// All of it is there.
    pub(super) fn finish(&self) -> Option<Bytes> {
        let mut parts = self.parts();
        let mut charge = parts.charge.take()?;
        let mut pieces = std::mem::take(&mut parts.pieces);
        charge.give_back(pieces.len() * PIECE_BYTES);
        let bytes = match pieces.len() {
            0 | 1 => pieces.pop().unwrap_or_default(),
            _ => pieces.concat().into(),
        };
        let body = Bytes::from_owner(Charged {
            bytes,
            _charge: charge,
        });
        // Whoever reads along goes on in the whole.
        parts.end = Some(End::Whole(body.clone()));
        drop(parts);
        self.changed.notify_waiters();
        Some(body)
    }

    /// Nothing more comes; whether anybody expected it.
    pub(super) fn fail(&self) -> bool {
        self.end(End::Broken)
    }

    /// It is not kept after all.
    pub(super) fn pass_on(&self, rest: Incoming) {
        self.end(End::Rest(Some(rest)));
    }

    fn end(&self, end: End) -> bool {
        let mut parts = self.parts();
        let open = parts.end.is_none();
        if open {
            parts.end = Some(end);
            drop(parts);
            self.changed.notify_waiters();
        }
        open
    }

    /// The body, if it is there.
    pub(super) fn body(&self) -> Option<Bytes> {
        match &self.parts().end {
            Some(End::Whole(body)) => Some(body.clone()),
            _ => None,
        }
    }

    /// The body once it is there; nothing if it will not be.
    pub(super) async fn whole(&self) -> Option<Bytes> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            match &self.parts().end {
                Some(End::Whole(body)) => return Some(body.clone()),
                Some(_) => return None,
                None => {}
            }
            changed.await;
        }
    }

    /// What follows the first `piece` pieces, or the first `at` bytes.
    fn step(&self, piece: usize, at: usize) -> Step {
        let mut parts = self.parts();
        if let Some(End::Whole(body)) = &parts.end {
            return match body.len() > at {
                true => Step::Piece(body.slice(at..)),
                false => Step::End,
            };
        }
        if let Some(piece) = parts.pieces.get(piece) {
            return Step::Piece(piece.clone());
        }
        match &mut parts.end {
            Some(End::Rest(rest)) => rest.take().map_or(Step::Broken, Step::Rest),
            Some(_) => Step::Broken,
            None => Step::Wait,
        }
    }
}

/// Hands out a body piece by piece.
enum Reader {
    Along(Along),
    Rest(Incoming),
}

struct Along {
    growing: Arc<Growing>,
    piece: usize,
    at: usize,
}

impl Along {
    async fn next(&mut self) -> Step {
        loop {
            let changed = self.growing.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.growing.step(self.piece, self.at) {
                Step::Wait => {}
                Step::Piece(bytes) => {
                    self.piece += 1;
                    self.at += bytes.len();
                    return Step::Piece(bytes);
                }
                step => return step,
            }
            changed.await;
        }
    }
}

impl Reader {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            match self {
                Reader::Rest(incoming) => return incoming.next().await,
                Reader::Along(along) => match along.next().await {
                    Step::Piece(bytes) => return Some(Ok(bytes)),
                    Step::End => return None,
                    Step::Rest(rest) => *self = Reader::Rest(rest),
                    Step::Broken | Step::Wait => {
                        return Some(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                },
            }
        }
    }

    fn into_stream(self) -> FrameStream {
        Box::pin(stream::unfold(Some(self), async |reader| {
            let mut reader = reader?;
            match reader.next().await? {
                Ok(piece) => Some((Ok(piece), Some(reader))),
                // Nothing can follow.
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

/// The body as it comes.
pub(super) fn read_along(growing: Arc<Growing>) -> FrameStream {
    let along = Along {
        growing,
        piece: 0,
        at: 0,
    };
    Reader::Along(along).into_stream()
}

/// The body of an answer that is not kept.
pub(super) fn pass_through(incoming: Incoming) -> FrameStream {
    Reader::Rest(incoming).into_stream()
}
