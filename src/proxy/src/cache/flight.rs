//! A fetch under way: one asks an instance, and all who want the same wait for what comes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nebula_domain::http::cache::Asker;
use tokio::sync::watch;
use tokio::time::Instant;

use super::entry::{Growing, Stored};
use super::key::Key;
use super::space::Space;

/// How far it has come.
#[derive(Clone)]
pub(super) enum State {
    Asked,
    /// It is to be kept and comes in.
    Filling(Arc<Growing>),
    /// What was kept holds still.
    Renewed(Arc<Stored>),
    /// It is for the one who asked: everybody else asks an instance.
    Alone,
    /// Nothing came of it, so that something old is better.
    Failed,
}

pub(super) struct Flight {
    pub(super) url: Key,
    began: Instant,
    state: watch::Sender<State>,
    spoiled: AtomicBool,
}

/// Where a fetch is known: what it is to be kept under, for whom it is, and a number if nobody is to wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) key: Key,
    pub(super) asker: Asker,
    pub(super) alone: u64,
}

impl Flight {
    pub(super) fn new(url: Key) -> Flight {
        Flight {
            url,
            began: Instant::now(),
            state: watch::Sender::new(State::Asked),
            spoiled: AtomicBool::new(false),
        }
    }

    /// What it is of has been changed since it began.
    pub(super) fn spoil(&self) {
        self.spoiled.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_spoiled(&self) -> bool {
        self.spoiled.load(Ordering::Relaxed)
    }

    pub(super) fn tell(&self, state: State) {
        self.state.send_replace(state);
    }

    /// One more waits for it, until that is dropped.
    pub(super) fn join(self: &Arc<Flight>) -> Waiter {
        Waiter {
            state: self.state.subscribe(),
            flight: Arc::clone(self),
        }
    }

    /// Nobody waits for it, and what it comes to is not known.
    pub(super) fn is_in_vain(&self) -> bool {
        self.state.receiver_count() == 0 && !self.is_known()
    }

    pub(super) fn is_known(&self) -> bool {
        !matches!(*self.state.borrow(), State::Asked)
    }

    /// Ends when nobody waits for it; somebody may again by then.
    pub(super) async fn left(&self) {
        self.state.closed().await;
    }
}

/// Somebody who waits for what a fetch comes to.
pub(super) struct Waiter {
    state: watch::Receiver<State>,
    flight: Arc<Flight>,
}

impl Waiter {
    pub(super) fn began(&self) -> Instant {
        self.flight.began
    }

    /// What it comes to, once that is known.
    pub(super) async fn outcome(&mut self) -> State {
        let known = self.state.wait_for(|state| !matches!(state, State::Asked));
        // The sender is in the flight, so that it cannot be gone.
        known.await.map_or(State::Alone, |state| state.clone())
    }
}

/// The right, and the duty, to fetch. Those who wait are let go when it is dropped, however that comes.
pub(super) struct Lead {
    pub(super) space: Arc<Space>,
    pub(super) flight: Arc<Flight>,
    pub(super) place: Place,
    /// What is kept and is to be asked about, or to be given if that fails.
    pub(super) known: Option<Arc<Stored>>,
}

impl Lead {
    pub(super) fn tell(&self, state: State) {
        self.flight.tell(state);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.space.land(&self.place, &self.flight);
        self.flight.state.send_if_modified(|state| {
            let unfinished = match state {
                State::Asked => true,
                // Whoever reads along is not to wait for what nobody sends.
                State::Filling(growing) => growing.fail(),
                State::Renewed(_) | State::Alone | State::Failed => false,
            };
            if unfinished {
                *state = State::Alone;
            }
            unfinished
        });
    }
}
