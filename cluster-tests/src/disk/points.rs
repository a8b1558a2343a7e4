//! The named points at which a node can be ended, as `nebula-registry` has them.

/// Those of the log and of snapshots.
pub const STORES: [&str; 17] = [
    "journal-before-write",
    "journal-before-sync",
    "journal-after-sync",
    "checkpoint-begin",
    "checkpoint-before-purge",
    "checkpoint-before-mark",
    "checkpoint-before-sync",
    "checkpoint-after-sync",
    "snapshot-before-parts-sync",
    "snapshot-after-parts-sync",
    "snapshot-before-name-sync",
    "snapshot-after-name-sync",
    "install-begin",
    "install-end",
    "purge-begin",
    "vote-begin",
    "vote-end",
];

/// Those that a daemon reaches soon, when clients write much.
pub const DAEMON: [&str; 11] = [
    "journal-before-write",
    "journal-before-sync",
    "journal-after-sync",
    "checkpoint-begin",
    "checkpoint-before-mark",
    "checkpoint-after-sync",
    "vote-begin",
    "vote-end",
    "apply-begin",
    "apply-end",
    "checkpoint-before-sync",
];
