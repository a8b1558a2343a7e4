//! How far an upload is, so that waiting for a response begins when the request is through.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Written by the request's body, read by who waits for the response.
pub(crate) struct Progress(Mutex<State>);

#[derive(Clone, Copy)]
struct State {
    last: Instant,
    ended: bool,
}

impl Progress {
    pub(crate) fn new(now: Instant) -> Progress {
        Progress(Mutex::new(State {
            last: now,
            ended: false,
        }))
    }

    pub(crate) fn moved(&self, now: Instant) {
        self.with(|state| state.last = now);
    }

    pub(crate) fn ended(&self, now: Instant) {
        self.with(|state| {
            if !state.ended {
                *state = State {
                    last: now,
                    ended: true,
                };
            }
        });
    }

    /// Returns once nothing of the upload has moved for `patience`; whether it was complete by then.
    pub(crate) async fn stalled(&self, patience: Duration) -> bool {
        loop {
            let seen = self.with(|state| *state);
            tokio::time::sleep_until((seen.last + patience).into()).await;
            let now = self.with(|state| *state);
            if now.last == seen.last {
                return now.ended;
            }
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
