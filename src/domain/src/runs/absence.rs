//! Which nodes have been dead for so long that what ran there counts as lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::NodeId;
use crate::observed::View;
use crate::time::Millis;

/// A run is begun again only when its node was dead for this long: a daemon that is replaced, and even a machine that
/// starts again, is back sooner, and with it the program or how it ended. An instance that serves has others at its
/// side and is replaced at once; a run has effects, and to do them twice is worse than to wait.
pub const LOST_AFTER: Duration = Duration::from_secs(30);

/// Since when each node is dead, as one leader sees it. The next one begins anew, and waits longer.
#[derive(Debug, Clone, Default)]
pub struct Absence(BTreeMap<NodeId, Millis>);

impl Absence {
    pub fn note(&mut self, view: &View, now: Millis) {
        let dead = |node: &NodeId| !view.is_alive(*node);
        self.0.retain(|node, _| dead(node));
        for node in view.nodes.keys().filter(|node| dead(node)) {
            self.0.entry(*node).or_insert(now);
        }
    }

    pub fn lost(&self, now: Millis) -> BTreeSet<NodeId> {
        let lost = self.0.iter();
        lost.filter(|(_, since)| now.since(**since) >= LOST_AFTER)
            .map(|(node, _)| *node)
            .collect()
    }

    /// When the next of them is lost, if it stays dead.
    pub fn due(&self, now: Millis) -> Option<Millis> {
        let due = self.0.values().map(|since| since.plus(LOST_AFTER));
        due.filter(|at| *at > now).min()
    }
}
