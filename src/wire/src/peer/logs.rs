//! Output of instances: one node asks another for the lines it keeps.
//!
//! The asker opens a stream, sends one [`Request`] frame and keeps its side open; closing it (or
//! resetting the stream) ends the answer. The answer is a sequence of [`Answer`] frames.

use nebula_domain::{DeploymentName, InstanceId, ReleaseNumber};
use serde::{Deserialize, Serialize};

/// Largest frame of this protocol: a batch of [`BATCH_LINES`] ordinary lines, or a few long ones.
pub const FRAME_BYTES: usize = 256 * 1024;
/// Lines in one frame.
pub const BATCH_LINES: usize = 512;
/// Text of a frame's lines together; with the other fields of [`BATCH_LINES`] lines it stays below
/// [`FRAME_BYTES`].
pub const BATCH_BYTES: usize = 192 * 1024;
/// Largest [`Request`] frame.
pub const REQUEST_BYTES: usize = 4 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub deployment: DeploymentName,
    /// Only this instance.
    pub instance: Option<InstanceId>,
    /// The latest lines to begin with.
    pub tail: u32,
    /// Only lines later than this time (see [`Line::time`]): how a reader goes on after a connection
    /// was lost.
    pub after: Option<String>,
    /// Go on with new lines after the tail.
    pub follow: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Lines in the order of their time, before [`Answer::Live`]; after it as they were written.
    Lines(Vec<Line>),
    /// The tail is complete. The last frame unless the request said `follow`.
    Live,
    /// The node does not serve this request; why, in one line.
    Refused(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// By the clock of the node that wrote the line: RFC 3339 in UTC with milliseconds, of fixed
    /// width, so that text order is time order.
    pub time: String,
    pub instance: InstanceId,
    pub release: ReleaseNumber,
    pub source: Source,
    pub text: String,
}

/// Where a line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    Stdout,
    Stderr,
    /// What the platform says about the instance.
    Nebula,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Stdout => "stdout",
            Source::Stderr => "stderr",
            Source::Nebula => "nebula",
        }
    }
}
