//! One stream of a connection, as both its sides have left it.

use std::mem;
use std::task::{Context, Waker};

use http::HeaderMap;

/// A stream that is being answered, or whose worker has not noticed yet that nobody wants it any more.
pub(super) struct Entry {
    pub(super) id: u32,
    /// Content that has come and was not taken.
    pub(super) content: Vec<u8>,
    /// Frames of it beside the first, as far as their size does not count them.
    pub(super) crumbs: usize,
    /// Content that has come and was not released.
    pub(super) held: u32,
    /// What the client may send more of it, and what it was not told yet that it may.
    pub(super) room: i64,
    pub(super) owed: u32,
    /// Of the content that is to come by the head's word.
    pub(super) expected: Option<u64>,
    pub(super) trailers: Option<HeaderMap>,
    /// It takes no trailers.
    pub(super) is_connect: bool,
    /// The client has sent all.
    pub(super) received_end: bool,
    /// So has the edge.
    pub(super) sent_end: bool,
    pub(super) reset: Option<ResetBy>,
    /// What the client takes more of the answer; below nothing after a change.
    pub(super) send_window: i64,
    /// Of the answer, what waits to be sent.
    pub(super) queued: usize,
    /// The worker, and whether it waits for something to send or to take.
    pub(super) waker: Option<Waker>,
    pub(super) waits: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResetBy {
    Client,
    Us,
}

impl Entry {
    pub(super) fn new(id: u32, room: i64, send_window: i64) -> Entry {
        Entry {
            id,
            content: Vec::new(),
            crumbs: 0,
            held: 0,
            room,
            owed: 0,
            expected: None,
            trailers: None,
            is_connect: false,
            received_end: false,
            sent_end: false,
            reset: None,
            send_window,
            queued: 0,
            waker: None,
            waits: false,
        }
    }

    /// The client counts it among those that it has open.
    pub(super) fn is_open(&self) -> bool {
        self.reset.is_none() && !(self.received_end && self.sent_end)
    }

    /// It is polled again when something has changed.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        self.waits = true;
        if !self.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    pub(super) fn wake(&mut self) {
        if mem::take(&mut self.waits)
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }
}
