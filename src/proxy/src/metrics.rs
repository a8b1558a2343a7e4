//! What the proxy counts.
//!
//! A deployment's name is a label, so the number of names is bounded here: names beyond the bound are
//! counted together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nebula_domain::traffic::breaker::BreakerState;
use nebula_telemetry::metrics::{Counter, Family, Gauge, Histogram, Label, Metrics, SECONDS};

/// Deployments with counters of their own; 5 series each.
const DEPLOYMENTS_MAX: usize = 1_000;
/// The label of deployments beyond that, and of requests that no deployment answers to. No
/// deployment can have these names.
const OTHER: &str = "_other";
const NONE: &str = "_none";

type RequestLabels = [(&'static str, String); 2];

/// Why a request was sent once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// The instance did not accept a connection.
    Connect,
    /// The node of the instance did not answer.
    Tunnel,
    /// A kept connection had been closed meanwhile.
    Stale,
    /// The connection broke before a response.
    Broken,
    /// The node of the instance fell silent before a response.
    Suspect,
    /// No response came in the time for a try.
    Silent,
}

impl Retry {
    fn label(self) -> &'static str {
        match self {
            Retry::Connect => "connect",
            Retry::Tunnel => "tunnel",
            Retry::Stale => "stale",
            Retry::Broken => "broken",
            Retry::Suspect => "suspect",
            Retry::Silent => "silent",
        }
    }
}

/// Cheap to clone; one for all edge threads.
#[derive(Clone)]
pub(crate) struct ProxyMetrics {
    requests: Family<RequestLabels, Counter>,
    /// Counters by deployment, so that counting neither allocates nor formats.
    known: Arc<Mutex<HashMap<String, Arc<Classes>>>>,
    duration: Histogram,
    in_flight: Gauge,
    retries: [Counter; 6],
    /// Retries that were not made because too many were.
    pub(crate) budget_spent: Counter,
    ejections: Family<Label, Counter>,
    breakers: Family<RequestLabels, Counter>,
    connections: Gauge,
    pub(crate) thread_restarts: Counter,
    tunnels: Gauge,
}

/// By class of status code, `1xx` to `5xx`.
struct Classes([Counter; 5]);

impl ProxyMetrics {
    pub(crate) fn new(metrics: &Metrics) -> ProxyMetrics {
        let retries = metrics.counters::<Label>(
            "http_retries",
            "Requests sent once more, by what went wrong before",
        );
        let retry =
            |reason: Retry| retries.get_or_create_owned(&[("reason", reason.label().to_owned())]);
        ProxyMetrics {
            requests: metrics.counters(
                "http_requests",
                "Requests answered at the edge, by deployment and class of status code",
            ),
            known: Arc::default(),
            duration: metrics.histogram(
                "http_request_duration_seconds",
                "From a request's head to the end of its response",
                SECONDS,
            ),
            in_flight: metrics.gauge("http_requests_in_flight", "Requests being answered"),
            retries: [
                retry(Retry::Connect),
                retry(Retry::Tunnel),
                retry(Retry::Stale),
                retry(Retry::Broken),
                retry(Retry::Suspect),
                retry(Retry::Silent),
            ],
            budget_spent: metrics.counter(
                "http_retry_budget_spent",
                "Retries that were not made because a deployment's budget for them was spent",
            ),
            ejections: metrics.counters(
                "http_ejections",
                "Instances left out for a while because they did not answer, by deployment",
            ),
            breakers: metrics.counters(
                "http_breaker_changes",
                "Circuit breakers of instances that changed, by deployment and new state",
            ),
            connections: metrics.gauge("http_connections", "Open client connections"),
            thread_restarts: metrics.counter(
                "edge_thread_restarts",
                "Edge threads that ended by mistake and were started again",
            ),
            tunnels: metrics.gauge("tunnels", "Open tunnels from other nodes"),
        }
    }

    pub(crate) fn retry(&self, reason: Retry) {
        self.retries[reason as usize].inc();
    }

    /// An instance of the deployment is left out.
    pub(crate) fn ejected(&self, deployment: &str) {
        let deployment = self.label(deployment);
        let labels = [("deployment", deployment)];
        self.ejections.get_or_create_owned(&labels).inc();
    }

    pub(crate) fn breaker(&self, deployment: &str, state: BreakerState) {
        let state = match state {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half-open",
        };
        let labels = [
            ("deployment", self.label(deployment)),
            ("state", state.to_owned()),
        ];
        self.breakers.get_or_create_owned(&labels).inc();
    }

    /// A deployment's name, as long as it is one of those that are counted by name.
    fn label(&self, deployment: &str) -> String {
        self.classes(deployment);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let label = if known.contains_key(deployment) {
            deployment
        } else {
            OTHER
        };
        label.to_owned()
    }

    /// A request begins; it ends when the value is dropped.
    pub(crate) fn begin(&self, started: Instant) -> Tracked {
        Tracked {
            duration: self.duration.clone(),
            started,
            _in_flight: Held::new(&self.in_flight),
        }
    }

    /// A client connection is open while the value is held.
    pub(crate) fn connection(&self) -> Held {
        Held::new(&self.connections)
    }

    /// A tunnel from another node is open while the value is held.
    pub(crate) fn tunnel(&self) -> Held {
        Held::new(&self.tunnels)
    }

    pub(crate) fn answered(&self, deployment: Option<&str>, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.classes(deployment.unwrap_or(NONE)).0[class].inc();
    }

    fn classes(&self, deployment: &str) -> Arc<Classes> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(classes) = known.get(deployment) {
            return Arc::clone(classes);
        }
        let label = if known.len() < DEPLOYMENTS_MAX {
            deployment
        } else {
            OTHER
        };
        if let Some(classes) = known.get(label) {
            return Arc::clone(classes);
        }
        let counter = |class: &str| {
            self.requests.get_or_create_owned(&[
                ("deployment", label.to_owned()),
                ("code", class.to_owned()),
            ])
        };
        let classes = Arc::new(Classes(["1xx", "2xx", "3xx", "4xx", "5xx"].map(counter)));
        known.insert(label.to_owned(), Arc::clone(&classes));
        classes
    }
}

/// Counts one more while it is held. A value, so that what is cut off in the middle is not counted
/// for ever.
pub(crate) struct Held(Gauge);

impl Held {
    fn new(gauge: &Gauge) -> Held {
        gauge.inc();
        Held(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One request in flight.
pub(crate) struct Tracked {
    duration: Histogram,
    started: Instant,
    _in_flight: Held,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.duration.observe(self.started.elapsed().as_secs_f64());
    }
}
