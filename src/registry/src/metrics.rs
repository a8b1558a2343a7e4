//! What the registry counts.

use nebula_telemetry::metrics::SECONDS;
use nebula_telemetry::{Counter, Gauge, Histogram, Metrics};

#[derive(Clone)]
pub struct RegistryMetrics {
    pub proposals: Counter,
    pub batches: Counter,
    pub refused: Counter,
    pub commit_seconds: Histogram,
    pub log_syncs: Counter,
    pub state_syncs: Counter,
    pub snapshot_bytes: Gauge,
    pub term: Gauge,
    pub leads: Gauge,
    pub applied_index: Gauge,
    pub free_bytes: Gauge,
    pub space: Gauge,
}

impl RegistryMetrics {
    pub fn new(metrics: &Metrics) -> RegistryMetrics {
        RegistryMetrics {
            proposals: metrics.counter("registry_proposals", "Requests proposed on this node"),
            batches: metrics.counter("registry_batches", "Log entries written as the leader"),
            refused: metrics.counter(
                "registry_refused_proposals",
                "Requests handed on by nodes that may not ask for them",
            ),
            commit_seconds: metrics.histogram(
                "registry_commit_seconds",
                "From a proposal on this node to its outcome",
                SECONDS,
            ),
            log_syncs: metrics.counter("registry_log_syncs", "Syncs of the log's journal"),
            state_syncs: metrics.counter("registry_state_syncs", "Syncs of the snapshots' store"),
            snapshot_bytes: metrics.gauge("registry_snapshot_bytes", "Size of the latest snapshot"),
            term: metrics.gauge("registry_term", "Raft's term on this node"),
            leads: metrics.gauge("registry_leads", "1 while this node leads, otherwise 0"),
            free_bytes: metrics.gauge(
                "registry_disk_free_bytes",
                "Free space on the disk of the registry",
            ),
            space: metrics.gauge(
                "registry_disk_space",
                "0 while there is enough, 1 when it is low and this node does not lead, 2 when it is full",
            ),
            applied_index: metrics.gauge("registry_applied_index", "Last applied log entry"),
        }
    }
}
