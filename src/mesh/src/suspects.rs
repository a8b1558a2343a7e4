//! Peers that owe us an answer and have fallen silent.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use nebula_domain::NodeId;
use tokio::sync::watch;

use crate::lane::Lane;

/// The set, by connection inside and by node outside.
pub(crate) struct Suspects {
    silent: Mutex<BTreeSet<(NodeId, Lane)>>,
    published: watch::Sender<Arc<BTreeSet<NodeId>>>,
}

impl Suspects {
    pub(crate) fn new() -> Suspects {
        Suspects {
            silent: Mutex::default(),
            published: watch::Sender::new(Arc::default()),
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<BTreeSet<NodeId>>> {
        self.published.subscribe()
    }

    /// Whether this is news.
    pub(crate) fn mark(&self, node: NodeId, lane: Lane) -> bool {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let news = silent.insert((node, lane));
        if news {
            self.publish(&silent);
        }
        news
    }

    pub(crate) fn clear(&self, node: NodeId, lane: Lane) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if silent.remove(&(node, lane)) {
            self.publish(&silent);
        }
    }

    fn publish(&self, silent: &BTreeSet<(NodeId, Lane)>) {
        let nodes: BTreeSet<NodeId> = silent.iter().map(|(node, _)| *node).collect();
        self.published.send_if_modified(|published| {
            let changed = **published != nodes;
            if changed {
                *published = Arc::new(nodes);
            }
            changed
        });
    }
}
