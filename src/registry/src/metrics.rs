//! What the registry counts.

use nebula_telemetry::metrics::SECONDS;
use nebula_telemetry::{Counter, Gauge, Histogram, Metrics};

#[derive(Clone)]
pub struct RegistryMetrics {
    pub proposals: Counter,
    pub batches: Counter,
    pub commit_seconds: Histogram,
    pub log_syncs: Counter,
    pub state_syncs: Counter,
    pub snapshot_bytes: Gauge,
    pub term: Gauge,
    pub leads: Gauge,
    pub applied_index: Gauge,
}

impl RegistryMetrics {
    pub fn new(metrics: &Metrics) -> RegistryMetrics {
        RegistryMetrics {
            proposals: metrics.counter("registry_proposals", "Requests proposed on this node"),
            batches: metrics.counter("registry_batches", "Log entries written as the leader"),
            commit_seconds: metrics.histogram(
                "registry_commit_seconds",
                "From a proposal on this node to its outcome",
                SECONDS,
            ),
            log_syncs: metrics.counter("registry_log_syncs", "Syncs of the log's store"),
            state_syncs: metrics.counter("registry_state_syncs", "Syncs of the snapshots' store"),
            snapshot_bytes: metrics.gauge("registry_snapshot_bytes", "Size of the latest snapshot"),
            term: metrics.gauge("registry_term", "Raft's term on this node"),
            leads: metrics.gauge("registry_leads", "1 while this node leads, otherwise 0"),
            applied_index: metrics.gauge("registry_applied_index", "Last applied log entry"),
        }
    }
}
