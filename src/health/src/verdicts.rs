//! Where verdicts go: the node's membership, or a record of them in a test.

use nebula_domain::InstanceId;
use nebula_domain::observed::Health;
use nebula_membership::Membership;

pub trait Verdicts: Send + Sync + 'static {
    /// Called after every probe with the verdict that holds now; the same one again must be cheap
    /// and change nothing.
    fn publish(&self, instance: InstanceId, health: Health);
}

impl Verdicts for Membership {
    fn publish(&self, instance: InstanceId, health: Health) {
        self.publish_health(instance, health);
    }
}
