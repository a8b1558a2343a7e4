//! A line, and where it was written.

use nebula_domain::NodeId;
use nebula_wire::peer::logs::Line;

use crate::tail::Timed;

impl Timed for Line {
    fn time(&self) -> &str {
        &self.time
    }

    fn bytes(&self) -> usize {
        self.text.len()
    }
}

/// As it lies on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    /// Another node, and its name, when this is a copy.
    pub(crate) owner: Option<(NodeId, String)>,
    pub(crate) line: Line,
}

impl Timed for Written {
    fn time(&self) -> &str {
        self.line.time()
    }

    fn bytes(&self) -> usize {
        self.line.bytes()
    }
}

/// As the asking node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) node: NodeId,
    /// For nodes that are members no more.
    pub(crate) name: Option<String>,
    pub(crate) line: Line,
}

impl Timed for Placed {
    fn time(&self) -> &str {
        self.line.time()
    }

    fn bytes(&self) -> usize {
        self.line.bytes()
    }
}
