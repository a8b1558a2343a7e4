//! What could not be reached a moment ago is avoided while there is another: a preference of this node's, whatever a deployment's
//! policy says of ejection (`nebula_domain::traffic::ejection`), because nothing quicker than a refusal would draw requests.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nebula_domain::routes::Endpoint;
use nebula_domain::{InstanceId, NodeId};

/// Entries of each kind; when there are more, the new one is not remembered and only costs a retry.
const ENTRIES_MAX: usize = 1024;

/// Shared by all edge threads, so that one request's failure spares the others theirs.
pub(crate) struct Ejections {
    lasts: Duration,
    /// Entries in all, to answer without a lock while nothing fails.
    count: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    instances: HashMap<InstanceId, Instant>,
    nodes: HashMap<NodeId, Instant>,
}

impl Ejections {
    pub(crate) fn new(lasts: Duration) -> Ejections {
        Ejections {
            lasts,
            count: AtomicUsize::new(0),
            inner: Mutex::default(),
        }
    }

    pub(crate) fn instance(&self, instance: InstanceId) {
        self.add(instance, |inner| &mut inner.instances);
    }

    /// A node that did not answer at all: none of its instances will.
    pub(crate) fn node(&self, node: NodeId) {
        self.add(node, |inner| &mut inner.nodes);
    }

    pub(crate) fn contains(&self, endpoint: &Endpoint) -> bool {
        // Relaxed: a moment's delay only costs a retry.
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let now = Instant::now();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let live = |until: Option<&Instant>| until.is_some_and(|until| *until > now);
        let ejected =
            live(inner.instances.get(&endpoint.instance)) || live(inner.nodes.get(&endpoint.node));
        if !ejected {
            inner.instances.retain(|_, until| *until > now);
            inner.nodes.retain(|_, until| *until > now);
            self.publish(&inner);
        }
        ejected
    }

    fn add<K: Eq + Hash>(&self, key: K, of: impl FnOnce(&mut Inner) -> &mut HashMap<K, Instant>) {
        let until = Instant::now() + self.lasts;
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let map = of(&mut inner);
        if map.len() < ENTRIES_MAX || map.contains_key(&key) {
            map.insert(key, until);
        }
        self.publish(&inner);
    }

    fn publish(&self, inner: &Inner) {
        self.count
            .store(inner.instances.len() + inner.nodes.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(instance: u64, node: u64) -> Endpoint {
        Endpoint {
            instance: InstanceId(instance),
            node: NodeId(node),
        }
    }

    #[test]
    fn an_entry_avoids_what_it_names_until_it_is_over() {
        let ejections = Ejections::new(Duration::from_secs(3600));
        assert!(!ejections.contains(&endpoint(1, 1)));
        ejections.instance(InstanceId(1));
        ejections.node(NodeId(2));
        assert!(ejections.contains(&endpoint(1, 1)));
        assert!(ejections.contains(&endpoint(5, 2)));
        assert!(!ejections.contains(&endpoint(2, 1)));

        let over = Ejections::new(Duration::ZERO);
        over.instance(InstanceId(1));
        assert!(!over.contains(&endpoint(1, 1)));
        assert_eq!(over.count.load(Ordering::Relaxed), 0);
    }
}
