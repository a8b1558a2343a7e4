//! One instance under probes: its state, and when to ask next.

use nebula_domain::observed::{Health, LocalInstance};
use nebula_domain::probe::{self, Event, ProbeState};
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub(crate) struct Target {
    pub(crate) local: LocalInstance,
    state: ProbeState,
    /// When to ask next; not looked at while a probe is under way.
    pub(crate) due: Instant,
    pub(crate) under_way: Option<AbortHandle>,
}

impl Target {
    pub(crate) fn new(local: LocalInstance, now: Instant) -> Target {
        Target {
            local,
            state: ProbeState::default(),
            due: now,
            under_way: None,
        }
    }

    pub(crate) fn health(&self) -> Health {
        self.state.health()
    }

    /// Takes in one probe's result; the new verdict, if it changed.
    pub(crate) fn ended(&mut self, ok: bool, now: Instant) -> Option<Health> {
        self.under_way = None;
        let event = if ok { Event::Success } else { Event::Failure };
        let (state, verdict) = probe::step(self.state, &self.local.probe, event);
        self.state = state;
        self.due = now + self.state.next_delay(&self.local.probe);
        verdict
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(under_way) = &self.under_way {
            under_way.abort();
        }
    }
}
