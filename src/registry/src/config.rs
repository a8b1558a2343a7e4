//! What a registry is started with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nebula_telemetry::Clock;

use crate::limits;
use crate::medium::Medium;

#[derive(Clone)]
pub struct Config {
    pub storage: Storage,
    pub timing: Timing,
    pub compaction: Compaction,
    /// What a leader holds the times against that others' clocks say.
    pub clock: Clock,
}

impl Config {
    pub fn new(dir: impl Into<PathBuf>) -> Config {
        Config {
            storage: Storage::Files(dir.into()),
            timing: Timing::default(),
            compaction: Compaction::default(),
            clock: Clock::system(),
        }
    }
}

/// Where log and snapshots are kept.
#[derive(Clone)]
pub enum Storage {
    /// The folder of `raft-log` with its `raft-journal`, and of `raft-state`; made if it is missing.
    Files(PathBuf),
    /// Nothing runs on threads of its own then.
    Medium(Arc<dyn Medium>),
}

/// Raft's timers; see the module `elections`.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Between two signs of life of the leader.
    pub pulse: Duration,
    /// Between two empty appends, which also tell the leader that it is heard; and as long as one append
    /// may take.
    pub heartbeat: Duration,
    /// A leader that was heard within this time is not replaced.
    pub lease: Duration,
    /// Pause between two passes of the voters' management when nothing wakes it.
    pub voters_period: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        // Two signs of life in a row may be lost or late. An append may take 125 ms each way.
        Timing {
            pulse: Duration::from_millis(125),
            heartbeat: Duration::from_millis(350),
            lease: Duration::from_millis(400),
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
