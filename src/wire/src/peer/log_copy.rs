//! Keeping a node's output on a second node, so that it outlives the first.
//!
//! The owner opens a stream of [`Protocol::LogCopy`] and sends [`Offer`] frames, each of which the holder
//! answers by one [`Kept`] frame. [`Offer::What`] comes first: its answers say where to go on.
//!
//! [`Protocol::LogCopy`]: super::Protocol::LogCopy

use nebula_domain::{DeploymentName, InstanceId, ReleaseNumber};
use serde::{Deserialize, Serialize};

/// Largest frame of this protocol.
pub const FRAME_BYTES: usize = 256 * 1024;
/// Output in one frame before compression, which makes hardly anything longer.
pub const PIECE_BYTES: usize = 192 * 1024;
/// Instances in one frame.
pub const BATCH_INSTANCES: usize = 2_048;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Offer {
    /// What is kept of the asking node's instances above this id?
    What {
        above: Option<InstanceId>,
    },
    Piece(Piece),
}

/// Some of an instance's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub instance: InstanceId,
    pub deployment: DeploymentName,
    pub release: ReleaseNumber,
    /// Of the owner.
    pub node: String,
    pub at: Position,
    /// Length of `bytes` once they are decompressed.
    pub plain_bytes: u32,
    /// Compressed with Zstandard (RFC 8878). Whole lines.
    pub bytes: Vec<u8>,
}

/// A place in an instance's output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Of the segment: bytes of output before it.
    pub segment: u64,
    /// Bytes of the segment before the place.
    pub offset: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    /// In the order of ids, where each copy ends. Fewer than [`BATCH_INSTANCES`]: there are no more.
    Ends(Vec<(InstanceId, Position)>),
    /// The piece is kept, and the copy ends here now.
    Until(Position),
    /// Nothing was done; why, in one line.
    Refused(String),
}
