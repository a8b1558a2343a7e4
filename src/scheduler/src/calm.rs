//! When nodes may be evened out: once the set of those that take instances has stayed the same for a while, so that a
//! machine that comes and goes is not filled each time.

use std::collections::BTreeSet;
use std::time::Duration;

use nebula_domain::{NodeId, State, View};
use tokio::time::Instant;

/// For so long the same nodes have to take instances before any is moved to another.
pub const EVEN_OUT_AFTER: Duration = Duration::from_secs(10);
/// Looks for something to move are so far apart, since each finds at most a few.
pub const EVEN_OUT_PERIOD: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Calm {
    open: BTreeSet<NodeId>,
    since: Option<Instant>,
    looked: Option<Instant>,
}

impl Calm {
    /// Takes note of the nodes, and says whether it is time for another look.
    pub(crate) fn lasts(&mut self, state: &State, view: &View, now: Instant) -> bool {
        let open = state.nodes.values();
        let open = open.filter(|node| !node.draining && view.is_alive(node.id));
        let open: BTreeSet<NodeId> = open.map(|node| node.id).collect();
        if self.since.is_none() || open != self.open {
            self.open = open;
            self.since = Some(now);
        }
        let is_past =
            |at: Option<Instant>, time| at.is_none_or(|at| now.duration_since(at) >= time);
        is_past(self.since, EVEN_OUT_AFTER) && is_past(self.looked, EVEN_OUT_PERIOD)
    }

    pub(crate) fn looked(&mut self, now: Instant) {
        self.looked = Some(now);
    }
}
