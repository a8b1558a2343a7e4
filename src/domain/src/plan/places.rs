//! Where the attempts of runs go: the open node with room that has the least to do.

use std::collections::BTreeMap;

use super::fleet::Fleet;
use super::problem::Problem;
use crate::ids::NodeId;
use crate::observed::View;
use crate::state::State;

/// The room there is, and what has been given away of it since.
pub struct Places<'a>(Fleet<'a>);

impl<'a> Places<'a> {
    pub fn new(state: &'a State, view: &View) -> Places<'a> {
        Places(Problem::new(state, view).fleet)
    }

    /// A place for one more program, or why there is none.
    pub fn take(&mut self) -> Result<NodeId, String> {
        let node = self.0.best(&BTreeMap::new());
        let node = node.ok_or_else(|| self.0.why_none())?;
        self.0.take(node);
        Ok(node)
    }
}
