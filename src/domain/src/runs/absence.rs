//! Which nodes have been dead for so long that what ran there counts as lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::NodeId;
use crate::observed::{NodeView, View};
use crate::time::Millis;

/// A run is begun again only when its node was dead for this long: a daemon that is replaced, and even a machine that
/// starts again, is back sooner, and with it the program or how it ended. An instance that serves has others at its
/// side and is replaced at once; a run has effects, and to do them twice is worse than to wait.
pub const LOST_AFTER: Duration = Duration::from_secs(30);

/// Since when each node is dead, as one leader sees it. The next one begins anew, and waits longer.
#[derive(Debug, Clone, Default)]
pub struct Absence(BTreeMap<NodeId, Dead>);

#[derive(Debug, Clone, Copy)]
struct Dead {
    /// [`NodeView::deaths`]: it may have lived between two looks.
    death: u64,
    since: Millis,
}

impl Absence {
    pub fn note(&mut self, view: &View, now: Millis) {
        let dead = view.nodes.iter().filter(|(_, node)| !node.alive);
        let note = |(id, node): (&NodeId, &NodeView)| {
            let death = node.deaths;
            let known = self.0.get(id).filter(|known| known.death == death);
            (*id, *known.unwrap_or(&Dead { death, since: now }))
        };
        self.0 = dead.map(note).collect();
    }

    pub fn lost(&self, now: Millis) -> BTreeSet<NodeId> {
        let lost = self.0.iter();
        lost.filter(|(_, dead)| now.since(dead.since) >= LOST_AFTER)
            .map(|(node, _)| *node)
            .collect()
    }

    /// When the next of them is lost, if it stays dead.
    pub fn due(&self, now: Millis) -> Option<Millis> {
        let due = self.0.values().map(|dead| dead.since.plus(LOST_AFTER));
        due.filter(|at| *at > now).min()
    }
}
