//! Where verdicts go: the node's membership and its supervisor, or a record of them in a test.

use std::sync::Arc;

use nebula_domain::InstanceId;
use nebula_domain::observed::{GivenUp, GivenUpRun, Health, LocalInstances};
use nebula_membership::Membership;
use tokio::sync::watch;

pub trait Verdicts: Send + Sync + 'static {
    /// Called after every probe with the verdict that holds now, and why the instance is not ready (empty when there is
    /// nothing to say); the same one again must be cheap and change nothing.
    fn publish(&self, instance: InstanceId, health: Health, reason: &str);

    /// This run is to be ended and the program started again.
    fn give_up(&self, instance: InstanceId, run: GivenUpRun);

    /// What was given up and runs no more is forgotten.
    fn keep(&self, locals: &LocalInstances);
}

/// The verdicts of a node.
#[derive(Clone)]
pub struct Published {
    pub membership: Membership,
    /// Watched by the supervisor.
    pub given_up: Arc<watch::Sender<Arc<GivenUp>>>,
}

impl Verdicts for Published {
    fn publish(&self, instance: InstanceId, health: Health, reason: &str) {
        self.membership.publish_health(instance, health, reason);
    }

    fn give_up(&self, instance: InstanceId, run: GivenUpRun) {
        self.given_up.send_modify(|all| {
            Arc::make_mut(all).insert(instance, run);
        });
    }

    fn keep(&self, locals: &LocalInstances) {
        let runs = |id: &InstanceId, given_up: &GivenUpRun| {
            locals
                .get(id)
                .is_some_and(|local| local.run == given_up.run)
        };
        self.given_up.send_if_modified(|all| {
            let stale = all.iter().any(|(id, given_up)| !runs(id, given_up));
            if stale {
                Arc::make_mut(all).retain(|id, given_up| runs(id, given_up));
            }
            // Nobody waits for less of it.
            false
        });
    }
}
