//! Nodes that could not be reached a moment ago are avoided while there is another. What single instances do is counted by
//! `nebula_domain::traffic`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nebula_domain::NodeId;

/// Shared by all edge threads, so that one request's failure spares the others theirs. As many entries as nodes.
pub(crate) struct Ejections {
    lasts: Duration,
    /// Entries, to answer without a lock while nothing fails.
    count: AtomicUsize,
    nodes: Mutex<HashMap<NodeId, Instant>>,
}

impl Ejections {
    pub(crate) fn new(lasts: Duration) -> Ejections {
        Ejections {
            lasts,
            count: AtomicUsize::new(0),
            nodes: Mutex::default(),
        }
    }

    /// A node that did not answer at all: none of its instances will.
    pub(crate) fn node(&self, node: NodeId) {
        let until = Instant::now() + self.lasts;
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.insert(node, until);
        self.count.store(nodes.len(), Ordering::Relaxed);
    }

    pub(crate) fn contains(&self, node: NodeId) -> bool {
        // Relaxed: a moment's delay only costs a retry.
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let now = Instant::now();
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|_, until| *until > now);
        self.count.store(nodes.len(), Ordering::Relaxed);
        nodes.contains_key(&node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_avoided_until_its_time_is_over() {
        let ejections = Ejections::new(Duration::from_secs(3600));
        assert!(!ejections.contains(NodeId(2)));
        ejections.node(NodeId(2));
        assert!(ejections.contains(NodeId(2)));
        assert!(!ejections.contains(NodeId(1)));

        let over = Ejections::new(Duration::ZERO);
        over.node(NodeId(1));
        assert!(!over.contains(NodeId(1)));
        assert_eq!(over.count.load(Ordering::Relaxed), 0);
    }
}
