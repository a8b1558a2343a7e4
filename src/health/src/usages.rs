//! What the instances of this node use, as it was measured last, for people.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use nebula_domain::InstanceId;
use nebula_wire::peer::health::Usage;

/// Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Usages(Arc<Mutex<BTreeMap<InstanceId, Usage>>>);

impl Usages {
    /// All that was measured now: whatever is not in it does not run.
    pub fn replace(&self, usages: BTreeMap<InstanceId, Usage>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = usages;
    }

    /// Nothing for one that was not measured yet.
    pub fn of(&self, instance: InstanceId) -> Usage {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&instance).copied().unwrap_or_default()
    }
}
