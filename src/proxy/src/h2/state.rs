//! What is known of a client's connection: its streams, its windows, and what waits to be sent. No socket and no task: `receive` reads
//! what comes, `send` writes what goes, and `connection` carries both.

use std::collections::VecDeque;
use std::mem;

use http::Method;

use super::entry::{Entry, ResetBy};
use super::frames::{
    Code, ENABLE_CONNECT_PROTOCOL, INITIAL_WINDOW_SIZE, MAX_31_BITS, MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE, put_goaway, put_settings, put_window,
};
use super::hpack::{Decoder, Encoder};
use crate::config::Limits;
use crate::h1::Spelling;
use crate::metrics::Abuse;
use crate::streams::{Allowance, Content, Section};

/// Of every window before anything is said of it (RFC 9113 section 6.9.2).
pub(super) const FIRST_WINDOW: i64 = 65_535;
/// Streams that ended here while their client may still send something on them: that is not held against it.
const FORGOTTEN_STREAMS: usize = 256;
/// Streams that are known to have been there. Of others that the client may not begin any more it is said that they never were.
const ENDED_STREAMS: usize = 64;
/// Kept of buffers while nothing is under way.
const KEPT_BYTES: usize = 1024;

/// Why a connection ends from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fatal {
    pub(super) code: Code,
    /// It was too much of something.
    pub(super) abuse: Option<Abuse>,
}

impl Fatal {
    /// The client is to be calmer.
    pub(super) fn calm(abuse: Abuse) -> Fatal {
        Fatal {
            code: Code::ENHANCE_YOUR_CALM,
            abuse: Some(abuse),
        }
    }
}

impl From<Code> for Fatal {
    fn from(code: Code) -> Fatal {
        Fatal { code, abuse: None }
    }
}

/// What a connection is held to.
pub(super) struct Bounds {
    pub(super) streams: usize,
    pub(super) stream_window: u32,
    pub(super) connection_window: u32,
    pub(super) section_bytes: usize,
    /// Of each answer.
    pub(super) send_buffer: usize,
}

/// A request that has come.
pub(super) struct Opened {
    pub(super) id: u32,
    pub(super) method: Method,
    pub(super) content: Content,
    /// Nothing when it was longer than heads may be.
    pub(super) head: Option<Spelling>,
}

/// How far the client's greeting has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    Preface,
    Settings,
    Done,
}

/// How far ours has come to an end (section 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goodbye {
    None,
    /// The client was told that it will be told which requests are not taken, and is asked for a sign that it was.
    Announced,
    /// It was told.
    Said,
}

/// A block of fields that comes in pieces.
pub(super) struct Block {
    pub(super) stream: u32,
    pub(super) ended: bool,
    pub(super) bytes: Vec<u8>,
    pub(super) pieces: usize,
}

pub(super) struct State {
    pub(super) bounds: Bounds,
    /// Frames that wait to be sent, and how much of them is content of answers.
    pub(super) out: Vec<u8>,
    pub(super) content: usize,
    /// A frame of which a part has come.
    pub(super) inbox: Vec<u8>,
    pub(super) greeting: Greeting,
    pub(super) goodbye: Goodbye,
    /// Our settings have been acknowledged.
    pub(super) acknowledged: bool,
    pub(super) block: Option<Block>,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) section: Section,
    pub(super) entries: Vec<Entry>,
    /// Requests that nobody has begun to answer.
    pub(super) opened: Vec<Opened>,
    /// The greatest number that a stream has had.
    pub(super) last: u32,
    /// Streams that have ended on both sides, and those on which the client may still say something that nobody wants: the latest.
    pub(super) ended: VecDeque<u32>,
    pub(super) forgotten: VecDeque<u32>,
    /// Of the whole connection.
    pub(super) room: i64,
    pub(super) owed: u32,
    pub(super) crumbs: usize,
    pub(super) send_window: i64,
    /// Streams for which there was no room in it, in the order in which they came.
    pub(super) queue: VecDeque<u32>,
    /// The send window that a stream begins with.
    pub(super) first_window: i64,
    pub(super) resets: Allowance,
    pub(super) frames: Allowance,
    /// Streams that went wrong behind their heads.
    pub(super) errors: u32,
    /// The connection's task is at work, and sends what waits before it rests.
    pub(super) at_work: bool,
}

impl State {
    /// Begins with our greeting.
    pub(super) fn new(limits: &Limits) -> State {
        let window = limits.http2_connection_window.min(MAX_31_BITS);
        let bounds = Bounds {
            streams: limits.http2_streams as usize,
            stream_window: limits.http2_stream_window.min(MAX_31_BITS),
            connection_window: window.max(FIRST_WINDOW as u32),
            section_bytes: limits.max_header_bytes,
            send_buffer: limits.http2_send_buffer,
        };
        let mut out = Vec::new();
        let section = u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX);
        let settings = [
            (MAX_CONCURRENT_STREAMS, limits.http2_streams),
            (INITIAL_WINDOW_SIZE, bounds.stream_window),
            (MAX_HEADER_LIST_SIZE, section),
            (ENABLE_CONNECT_PROTOCOL, 1),
        ];
        put_settings(&mut out, &settings);
        let more = bounds.connection_window - FIRST_WINDOW as u32;
        if more > 0 {
            put_window(&mut out, 0, more);
        }
        State {
            room: i64::from(bounds.connection_window),
            bounds,
            out,
            content: 0,
            inbox: Vec::new(),
            greeting: Greeting::Preface,
            goodbye: Goodbye::None,
            acknowledged: false,
            block: None,
            decoder: Decoder::new(),
            encoder: Encoder::new(),
            section: Section::default(),
            entries: Vec::new(),
            opened: Vec::new(),
            last: 0,
            ended: VecDeque::new(),
            forgotten: VecDeque::new(),
            owed: 0,
            crumbs: 0,
            send_window: FIRST_WINDOW,
            queue: VecDeque::new(),
            first_window: FIRST_WINDOW,
            resets: Allowance::of_resets(limits),
            frames: Allowance::of_frames(limits),
            errors: 0,
            at_work: false,
        }
    }

    pub(super) fn find(&self, id: u32) -> Option<usize> {
        self.entries.iter().position(|entry| entry.id == id)
    }

    /// A stream that is at work, nothing when it was reset.
    pub(super) fn live(&mut self, id: u32) -> Option<&mut Entry> {
        let mut entries = self.entries.iter_mut();
        let entry = entries.find(|entry| entry.id == id)?;
        entry.reset.is_none().then_some(entry)
    }

    /// Whether the client has as many streams open as it may.
    pub(super) fn is_full(&self) -> bool {
        let most = self.bounds.streams;
        self.entries.len() >= most && self.entries.iter().filter(|e| e.is_open()).count() >= most
    }

    pub(super) fn open(&mut self, id: u32) -> &mut Entry {
        // Before it knows our settings the client goes by the standard's.
        let mut room = i64::from(self.bounds.stream_window);
        if !self.acknowledged {
            room = room.max(FIRST_WINDOW);
        }
        self.entries.push(Entry::new(id, room, self.first_window));
        let at = self.entries.len() - 1;
        &mut self.entries[at]
    }

    /// Whoever answered a stream is done with it.
    pub(super) fn close(&mut self, id: u32) {
        let Some(at) = self.find(id) else {
            return;
        };
        let entry = self.entries.swap_remove(at);
        self.crumbs -= entry.crumbs;
        if entry.reset.is_none() && !(entry.sent_end && entry.received_end) {
            // Section 8.1: the answer is whole, and the rest of the request is not wanted.
            let code = match entry.sent_end {
                true => Code::NO_ERROR,
                false => Code::INTERNAL_ERROR,
            };
            self.say_reset(id, code);
        }
        match entry.received_end || entry.reset == Some(ResetBy::Client) {
            true => remember(&mut self.ended, ENDED_STREAMS, id),
            false => self.forget(id),
        }
        self.give_back(entry.held);
        if let Some(place) = self.queue.iter().position(|queued| *queued == id) {
            self.queue.remove(place);
            self.wake_next();
        }
    }

    /// What the client may still say on it is ignored.
    pub(super) fn forget(&mut self, id: u32) {
        remember(&mut self.forgotten, FORGOTTEN_STREAMS, id);
    }

    /// So much of the connection's window is free again.
    pub(super) fn give_back(&mut self, bytes: u32) {
        self.owed += bytes;
        if self.owed >= self.bounds.connection_window / 2 {
            self.room += i64::from(self.owed);
            put_window(&mut self.out, 0, mem::take(&mut self.owed));
        }
    }

    /// So much of a stream's content was taken.
    pub(super) fn release(&mut self, id: u32, bytes: u32) {
        let threshold = self.bounds.stream_window / 2;
        let Some(at) = self.find(id) else {
            return;
        };
        let entry = &mut self.entries[at];
        let bytes = bytes.min(entry.held);
        entry.held -= bytes;
        entry.owed += bytes;
        if entry.owed >= threshold.max(1) && !entry.received_end && entry.reset.is_none() {
            entry.room += i64::from(entry.owed);
            put_window(&mut self.out, id, mem::take(&mut entry.owed));
        }
        self.give_back(bytes);
    }

    /// A request that came while too many are at work.
    pub(super) fn refuse_begun(&mut self, id: u32) {
        if self.live(id).is_some() {
            self.say_reset(id, Code::REFUSED_STREAM);
        }
        self.close(id);
    }

    /// What waits to be sent and is no content.
    pub(super) fn untaken(&self) -> usize {
        self.out.len() - self.content
    }

    /// There is room in the connection's window: whose turn it is looks again.
    pub(super) fn wake_next(&mut self) {
        if self.send_window <= 0 {
            return;
        }
        while let Some(id) = self.queue.front().copied() {
            match self.live(id) {
                Some(entry) => return entry.wake(),
                None => self.queue.pop_front(),
            };
        }
    }

    /// Moves what waits to be sent to where it is sent from, which is empty; whoever has more may bring it.
    pub(super) fn hand_over(&mut self, to: &mut Vec<u8>) {
        if self.out.is_empty() {
            return;
        }
        mem::swap(&mut self.out, to);
        self.content = 0;
        for entry in &mut self.entries {
            if mem::take(&mut entry.queued) >= self.bounds.send_buffer {
                entry.wake();
            }
        }
    }

    /// The connection is about to end: no more requests, and nothing more of those that are under way.
    pub(super) fn end(&mut self, code: Code) {
        put_goaway(&mut self.out, self.last, code);
        self.break_all();
    }

    pub(super) fn break_all(&mut self) {
        self.opened.clear();
        for entry in &mut self.entries {
            entry.reset.get_or_insert(ResetBy::Us);
            entry.wake();
        }
    }

    /// Lets go of memory that an idle connection has no use for.
    pub(super) fn shrink(&mut self) {
        for buffer in [&mut self.out, &mut self.inbox] {
            if buffer.is_empty() && buffer.capacity() > KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        self.section.shrink(KEPT_BYTES);
    }
}

fn remember(ids: &mut VecDeque<u32>, most: usize, id: u32) {
    if ids.len() == most {
        ids.pop_front();
    }
    ids.push_back(id);
}
