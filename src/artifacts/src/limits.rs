//! What the store allows and how long it waits.

use std::time::Duration;

/// One archive. More than any site or service of this platform's size; less than a disk.
pub const MAX_ARTIFACT_BYTES: u64 = 10 * 1024 * 1024 * 1024;
/// Room that artifacts leave on the disk. The registry's log and snapshots and the instances' output share
/// it, and a node that cannot write its log is lost to the cluster.
pub const MIN_FREE_BYTES: u64 = 256 * 1024 * 1024;
/// Others write to the disk too: while bytes come in, the room is looked at this often.
pub(crate) const SPACE_CHECK_BYTES: u64 = 16 * 1024 * 1024;
/// Artifacts that nothing needs are kept this long: an upload comes before the release that needs it.
pub const GRACE: Duration = Duration::from_secs(3600);

/// A question that the peer answers from a look at its disk.
pub(crate) const ASK_DEADLINE: Duration = Duration::from_secs(3);
/// No byte of a transfer for so long: the peer, or its disk, is gone.
pub(crate) const STALL: Duration = Duration::from_secs(15);
/// No byte of an upload for so long: the client is gone without a word. More than for a peer, since
/// people's networks are worse.
pub(crate) const UPLOAD_STALL: Duration = Duration::from_secs(60);
/// A peer that fetches from us is given this and the time for the bytes at a slow link's rate.
pub(crate) const FETCH_BASE: Duration = Duration::from_secs(30);
pub(crate) const FETCH_BYTES_PER_SECOND: u64 = 1024 * 1024;
/// Requests and answers are a digest and a sentence.
pub(crate) const MAX_FRAME_BYTES: usize = 4096;
pub(crate) const MAX_MESSAGE_BYTES: usize = 1000;
/// Pieces in which archives are read and sent.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;
/// Archives sent at a time; the rest wait their turn.
pub(crate) const SENDS: usize = 8;
/// Archives fetched at a time on request of others. Counted apart: two nodes that fetch from each other would
/// wait for each other's sends for ever if those waited for the fetches.
pub(crate) const FETCHES: usize = 8;

/// A file larger than this is not compressed: it is held in memory for that, with its forms, and what is
/// that large is seldom text.
pub(crate) const COMPRESSED_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Of one artifact's files, what is compressed in all; the forms take up to about as much of the disk again.
pub(crate) const COMPRESSED_BYTES: u64 = 1024 * 1024 * 1024;
/// Up to this size the slowest and best settings are used: some seconds of one core at most.
pub(crate) const COMPRESSED_BEST_BYTES: u64 = 1024 * 1024;
