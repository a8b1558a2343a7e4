//! What a node's proxy knows of one instance beyond the route table. Shared by all threads.
//!
//! It is made when the instance first appears in a table and lives as long as it is in one, across tables: an instance
//! that was not ready for a while begins anew, with a slow start. After a restart of the proxy all are new, and equal.

use super::Nanos;
use super::breaker::Breaker;
use super::ejection::Outlier;
use super::load::Load;

#[derive(Debug, Default)]
pub struct Instance {
    pub load: Load,
    pub outlier: Outlier,
    pub breaker: Breaker,
    /// Since when it takes requests.
    pub ready_since: Nanos,
}

impl Instance {
    pub fn new(ready_since: Nanos) -> Instance {
        Instance {
            ready_since,
            ..Instance::default()
        }
    }
}
