//! An instance runs on one node at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use nebula_domain::{InstanceId, NodeId};
use nebula_drivers::Runs;
use tokio::sync::watch;

use crate::sim::trace::Trace;

#[derive(Clone)]
pub struct Exclusive {
    trace: Trace,
    holders: Arc<Mutex<BTreeMap<InstanceId, NodeId>>>,
}

impl Exclusive {
    pub fn new(trace: Trace) -> Exclusive {
        Exclusive {
            trace,
            holders: Arc::default(),
        }
    }

    /// Looks at everything that runs on a machine, whether it has a daemon or not.
    pub fn follow(&self, node: NodeId, mut runs: watch::Receiver<Arc<Runs>>) {
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                let now = runs.borrow_and_update().clone();
                this.look(node, &now);
                if runs.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    fn look(&self, node: NodeId, runs: &Runs) {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.retain(|id, holder| {
            *holder != node || runs.get(id).is_some_and(|run| run.is_running())
        });
        for (id, run) in runs.iter().filter(|(_, run)| run.is_running()) {
            let holder = *holders.entry(*id).or_insert(node);
            self.trace
                .tick(format_args!("{node} runs {id}, run {}", run.run));
            if holder != node {
                self.trace.violate(
                    "exclusive",
                    format_args!("{id} runs on {node} and on {holder}"),
                );
            }
        }
    }
}
