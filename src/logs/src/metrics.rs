//! What an operator may want to know of output.

use nebula_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

pub(crate) struct Counters {
    pub(crate) written: Counter,
    pub(crate) dropped_lines: Counter,
    pub(crate) dropped_bytes: Counter,
    pub(crate) deleted: Counter,
    pub(crate) copied: Counter,
    pub(crate) copy_failures: Counter,
    kept: Family<Kind, Gauge>,
}

impl Counters {
    pub(crate) fn new(metrics: &Metrics) -> Counters {
        let counter = |name, help| metrics.counter(name, help);
        Counters {
            written: counter(
                "output_written_bytes",
                "Bytes that instances' logs have grown by",
            ),
            dropped_lines: counter(
                "output_dropped_lines",
                "Lines of instances over the rate that each may write at",
            ),
            dropped_bytes: counter("output_dropped_bytes", "Bytes of those lines"),
            deleted: counter("output_segments_deleted", "Segments deleted by age or size"),
            copied: counter(
                "output_copied_bytes",
                "Bytes of output that a second node has taken",
            ),
            copy_failures: counter(
                "output_copy_failures",
                "Times that the second node could not be given output",
            ),
            kept: metrics.gauges("output_kept_bytes", "Bytes of output on this node's disk"),
        }
    }

    /// `kind`: `own` or `copies`.
    pub(crate) fn kept(&self, kind: &'static str, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.kept.get_or_create(&Kind { kind }).set(bytes);
    }
}
