//! Every bound of the registry, each with its reason.

use std::time::Duration;

use nebula_domain::limits::Limit;

/// One request. Two hundred times the usual size; the log holds intent, not files.
pub const REQUEST_BYTES: Limit = Limit {
    name: "request_bytes",
    max: 128 * 1024,
};
/// Requests in one log entry: enough that 64 clients share one fsync.
pub const BATCH_REQUESTS: usize = 256;
/// The same for a batch that another node hands on.
pub const FORWARDED_REQUESTS: Limit = Limit {
    name: "forwarded_requests",
    max: BATCH_REQUESTS as u64,
};
/// Bytes in one log entry: an entry is replicated within one heartbeat interval.
pub const BATCH_BYTES: usize = 512 * 1024;
/// Batches under way at once. Raft writes them one by one; one is synced here while others are on their
/// way to the followers. Beside etcd in one run, two gave more than four at 16 clients, whose batches
/// would be too small, and more than one at 64.
pub const BATCHES_IN_FLIGHT: usize = 2;
/// Proposals waiting to be batched; further callers wait for room until their deadline.
pub const PROPOSALS_QUEUED: usize = 4096;
/// Readers waiting for a round; further callers wait for room until their deadline.
pub const READERS_QUEUED: usize = 4096;
/// Frames of proposals and read indexes: a full batch and its framing.
pub const REGISTRY_FRAME_BYTES: usize = 1024 * 1024;
/// One append or snapshot frame: a batch of entries and its framing stay far below it.
pub const RAFT_FRAME_BYTES: usize = 8 * 1024 * 1024;
/// What is read of a Raft request that is refused whatever it says, to say so.
pub const REFUSED_FRAME_BYTES: usize = 4 * 1024;
/// Entries sent to a follower at once, by bytes; it has one heartbeat interval to store them.
pub const REPLICATION_BYTES: usize = 1024 * 1024;
/// One of the journal's two files: sled takes in this much at once, a restart reads at most twice as
/// much, and an append waits for neither as long as sled is done before the next file is full.
pub const JOURNAL_BYTES: u64 = 2 * 1024 * 1024;
/// Space that each of them has from the start: what may come with the write that fills it, a full append
/// of a leader or follower, fits as well, so that nothing of the journal waits for room on the disk.
pub const JOURNAL_FILE_BYTES: u64 = JOURNAL_BYTES + 2 * 1024 * 1024;
/// Memory kept between two writes to the journal.
pub const JOURNAL_BUFFER_BYTES: usize = 64 * 1024;
/// Latest log entries kept decoded in memory, by bytes, so that replication and apply read no disk.
pub const TAIL_BYTES: usize = 4 * 1024 * 1024;
/// A part of a stored entry or snapshot. sled moves what is larger than a quarter of a segment into a
/// file of its own, and a leaf holds up to 17 values: 17 × 6 KiB < 512 KiB / 4. sled's cache also keeps
/// the latest 16,384 values it touched whatever their size, which is another reason to keep them small.
pub const PART_BYTES: usize = 6 * 1024;
/// Page cache of each of the two stores; the tail in memory does most of the caching.
pub const STORE_CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// See [`PART_BYTES`].
pub const STORE_SEGMENT_BYTES: usize = 512 * 1024;
/// How long another handle of this process may take to let go of a store.
pub const STORE_UNLOCK: Duration = Duration::from_secs(5);
/// A snapshot that is being received, in memory. Over 50 times the state of 10,000 deployments.
pub const SNAPSHOT_BYTES: Limit = Limit {
    name: "snapshot_bytes",
    max: 1024 * 1024 * 1024,
};
/// One piece of a snapshot in transit.
pub const SNAPSHOT_CHUNK_BYTES: u64 = 512 * 1024;
/// Log entries between snapshots, and kept behind one for followers that are slightly late.
pub const SNAPSHOT_EVERY_ENTRIES: u64 = 5000;
pub const LOG_KEPT_ENTRIES: u64 = 1000;
/// Log bytes between snapshots, which bounds the disk when entries are large.
pub const SNAPSHOT_EVERY_BYTES: u64 = 16 * 1024 * 1024;
/// A follower at most this many entries behind the leader has caught up.
pub const CAUGHT_UP_ENTRIES: u64 = 64;
/// How long an installed snapshot may take, and each of its chunks.
pub const INSTALL_SNAPSHOT: Duration = Duration::from_secs(20);
/// Without a quorum for so long, a change or a linearizable read is given up before its deadline.
pub const NO_QUORUM_PATIENCE: Duration = Duration::from_secs(2);
/// How long the others may take to say whether they miss the leader.
pub const PRE_VOTE: Duration = Duration::from_millis(350);
/// Signs of life not yet looked at; the latest says all.
pub const SIGNS_QUEUED: usize = 16;
/// A proposal without a deadline of its own.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);
/// Pause before an attempt is repeated when nothing tells that another would fare better.
pub const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Longest that a proposal of another node is worked on; whoever wants to wait longer asks again.
pub const FORWARDED_DEADLINE: Duration = Duration::from_secs(30);
/// One change of Raft's members; it is looked at again after that.
pub const MEMBERSHIP_CHANGE: Duration = Duration::from_secs(10);
/// Free space below which a node does not lead and takes no proposals: its followers' logs and its own
/// still have room for what is under way. Three times what the next floor keeps.
pub const SPACE_LOW_BYTES: u64 = 24 * 1024 * 1024;
/// A node that was below it leads again only above this, so that it does not come and go.
pub const SPACE_ENOUGH_BYTES: u64 = SPACE_LOW_BYTES + SPACE_LOW_BYTES / 4;
/// Free space that must be left when a store is written: four times what a file of the journal brings
/// into sled. Below it the stores wait, and with them this node's part in Raft.
pub const SPACE_STOP_BYTES: u64 = 8 * 1024 * 1024;
/// Between two looks at the free space.
pub const SPACE_LOOK: Duration = Duration::from_millis(500);
/// Between two tries to read from a store that is being opened again after it found no room.
pub const STORE_RENEWAL_LOOK: Duration = Duration::from_millis(100);
/// Terms that a recovery leaps over: elections that the lost may have held unseen. At one each half a second,
/// without a pause, six days of them.
pub const RECOVERY_TERMS: u64 = 1_000_000;
/// Entries that a recovery leaps over: more than the lost can have written that no survivor has, or a worker holds.
pub const RECOVERY_ENTRIES: u64 = 1_000_000;
/// How long a member may take for one answer before a recovery: longer than a dial, which fails by itself after 3 s.
pub const RECOVERY_QUESTION: Duration = Duration::from_secs(4);
/// How long members are asked before those that stay silent count as lost: three dials, a dozen lost packets.
pub const RECOVERY_ASKING: Duration = Duration::from_secs(10);
/// Between two questions to one member.
pub const RECOVERY_PAUSE: Duration = Duration::from_millis(250);
