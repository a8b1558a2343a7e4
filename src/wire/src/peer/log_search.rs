//! Searching the output that another node keeps: of its own instances, and the copies it holds of others'.
//!
//! The asker opens a stream of [`Protocol::LogSearch`], sends one [`Search`] frame and keeps its side
//! open; closing it ends the answer, a sequence of [`Found`] frames of at most
//! [`logs::FRAME_BYTES`](super::logs::FRAME_BYTES). A node of an older version does not serve it, and is
//! asked by [`Protocol::Logs`], which has no filters.
//!
//! [`Protocol::LogSearch`]: super::Protocol::LogSearch
//! [`Protocol::Logs`]: super::Protocol::Logs

use nebula_domain::loglevel::Level;
use nebula_domain::{DeploymentName, InstanceId, NodeId, ReleaseNumber};
use serde::{Deserialize, Serialize};

use super::logs::{Line, Source};

/// Largest [`Search`] frame.
pub const SEARCH_BYTES: usize = 16 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Search {
    pub deployment: DeploymentName,
    /// The latest lines to begin with, of those that match.
    pub tail: u32,
    /// Go on with new lines after the tail.
    pub follow: bool,
    pub place: Place,
    pub filter: Filter,
}

/// Whose lines are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// Of instances that run or ran on the node that is asked.
    Own,
    /// The copies it holds of other nodes' instances, but of these.
    CopiesBut(Vec<NodeId>),
    /// The copies it holds of this node's instances.
    CopiesOf(NodeId),
}

/// All that is said has to hold of a line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    pub instance: Option<InstanceId>,
    pub release: Option<ReleaseNumber>,
    pub source: Option<Source>,
    /// Of this level or a more serious one. Lines without a level are left out.
    pub level: Option<Level>,
    /// Not before this time (see [`Line::time`]).
    pub since: Option<String>,
    /// Before this time.
    pub until: Option<String>,
    /// A regular expression that is found in the line as it is shown.
    pub grep: Option<String>,
    /// Also of earlier deployments that had the same name.
    pub past: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// Lines in the order of their time, before [`Found::Live`]; after it as they were written.
    Lines(Vec<Line>),
    /// The same, of copies of this node's lines.
    Copied {
        owner: NodeId,
        /// Its name: it may be a member no more.
        name: String,
        lines: Vec<Line>,
    },
    /// Nothing yet; the search goes on.
    Searching,
    /// Not all of the output was looked at: the node has more than it searches at once.
    Cut,
    /// The tail is complete. The last frame unless the request said `follow`.
    Live,
    /// The node does not serve this request; why, in one line.
    Refused(String),
}
