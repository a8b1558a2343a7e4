//! What a registry is started with.

use std::path::PathBuf;
use std::time::Duration;

use crate::limits;

#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of both stores, `raft-log` and `raft-state`; made if it is missing.
    pub dir: PathBuf,
    pub timing: Timing,
    pub compaction: Compaction,
}

impl Config {
    pub fn new(dir: impl Into<PathBuf>) -> Config {
        Config {
            dir: dir.into(),
            timing: Timing::default(),
            compaction: Compaction::default(),
        }
    }
}

/// Raft's timers. A node that hears nothing for a random time between the two election timeouts
/// stands for election.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
    /// Pause between two passes of the voters' management when nothing wakes it.
    pub voters_period: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        // Loose enough for two cores under full load: a heartbeat late by three intervals is no reason
        // for an election.
        Timing {
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(1000),
            election_max: Duration::from_millis(2000),
            voters_period: Duration::from_secs(1),
        }
    }
}

/// When the log is folded into a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Compaction {
    pub every_entries: u64,
    pub every_bytes: u64,
    /// Entries kept although a snapshot holds them, for followers that are slightly late.
    pub kept_entries: u64,
}

impl Default for Compaction {
    fn default() -> Compaction {
        Compaction {
            every_entries: limits::SNAPSHOT_EVERY_ENTRIES,
            every_bytes: limits::SNAPSHOT_EVERY_BYTES,
            kept_entries: limits::LOG_KEPT_ENTRIES,
        }
    }
}
