//! One node's metrics, in the Prometheus text format.
//!
//! Asking twice for a name gives the same metric, so that a component that is restarted goes on
//! counting where it left off instead of registering a second metric of the same name.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::family::MetricConstructor;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// Upper bounds in seconds that suit latencies from 100 microseconds to 10 seconds.
pub const SECONDS: &[f64] = &[
    0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Histograms told apart by labels.
pub type Histograms<L> = Family<L, Histogram, Buckets>;

/// Makes histograms with these upper bounds.
#[derive(Clone)]
pub struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// One label with its value, such as `[("reason", "unknown_sender".into())]`: the simplest label set
/// for [`Metrics::counters`].
pub type Label = [(&'static str, String); 1];

/// One node's registry of metrics. Names get the prefix `nebula_`; counters the suffix `_total`.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Inner>>);

struct Inner {
    registry: Registry,
    by_name: BTreeMap<String, Box<dyn Any + Send>>,
}

impl Default for Inner {
    fn default() -> Self {
        Inner {
            registry: Registry::with_prefix("nebula"),
            by_name: BTreeMap::new(),
        }
    }
}

impl Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    pub fn new() -> Metrics {
        Metrics::default()
    }

    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.get_or_register(name, help, Counter::default)
    }

    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.get_or_register(name, help, Gauge::default)
    }

    /// Counters told apart by labels. Label values must come from a small fixed set, never from
    /// what a user or a peer sent.
    pub fn counters<L>(&self, name: &str, help: &str) -> Family<L, Counter>
    where
        L: EncodeLabelSet + Clone + Debug + Eq + Hash + Send + Sync + 'static,
    {
        self.get_or_register(name, help, Family::<L, Counter>::default)
    }

    /// Gauges told apart by labels.
    pub fn gauges<L>(&self, name: &str, help: &str) -> Family<L, Gauge>
    where
        L: EncodeLabelSet + Clone + Debug + Eq + Hash + Send + Sync + 'static,
    {
        self.get_or_register(name, help, Family::<L, Gauge>::default)
    }

    /// A histogram with these upper bounds, such as [`SECONDS`].
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.get_or_register(name, help, || Histogram::new(buckets.iter().copied()))
    }

    /// Histograms told apart by labels, under the same rule as [`Metrics::counters`].
    pub fn histograms<L>(&self, name: &str, help: &str, buckets: &'static [f64]) -> Histograms<L>
    where
        L: EncodeLabelSet + Clone + Debug + Eq + Hash + Send + Sync + 'static,
    {
        let make = || Family::new_with_constructor(Buckets(buckets));
        self.get_or_register(name, help, make)
    }

    /// Everything in the Prometheus (OpenMetrics 1.0) text format.
    pub fn encode(&self) -> String {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        // Writing to a String does not fail; a metric that refused to be encoded would leave the
        // text without its end mark, which a scraper notices.
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &inner.registry) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        text
    }

    fn get_or_register<M>(&self, name: &str, help: &str, make: impl FnOnce() -> M) -> M
    where
        M: Metric + Clone + Send + 'static,
    {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = inner
            .by_name
            .get(name)
            .map(|known| known.downcast_ref::<M>().cloned());
        match known {
            Some(Some(metric)) => metric,
            Some(None) => {
                // Two components claim one name for different things: a mistake in the code, which
                // must not take the node down. The second one counts for itself.
                tracing::error!(name, "a metric of another type has this name");
                make()
            }
            None => {
                let metric = make();
                inner
                    .registry
                    .register(name, help.trim_end_matches('.'), metric.clone());
                inner
                    .by_name
                    .insert(name.to_owned(), Box::new(metric.clone()));
                metric
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_registered_once() {
        let metrics = Metrics::new();
        metrics.counter("things", "Things seen").inc();
        metrics.counter("things", "Things seen").inc();
        let text = metrics.encode();
        assert!(text.contains("nebula_things_total 2\n"), "{text}");
        assert_eq!(text.matches("# HELP nebula_things").count(), 1, "{text}");
        // Another type under the same name does no harm.
        metrics.gauge("things", "Things seen").set(9);
        assert!(metrics.encode().contains("nebula_things_total 2\n"));
    }

    #[test]
    fn labels_and_histograms_are_shown() {
        let metrics = Metrics::new();
        let drops = metrics.counters::<Label>("drops", "Drops");
        drops
            .get_or_create(&[("reason", "oversize".to_owned())])
            .inc();
        metrics
            .histogram("wait_seconds", "Waits", SECONDS)
            .observe(0.003);
        let text = metrics.encode();
        assert!(
            text.contains("nebula_drops_total{reason=\"oversize\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("nebula_wait_seconds_bucket{le=\"0.005\"} 1\n"),
            "{text}"
        );
    }

    #[test]
    fn registries_are_separate() {
        let (a, b) = (Metrics::new(), Metrics::new());
        a.counter("things", "Things").inc();
        assert!(!b.encode().contains("things"));
    }
}
