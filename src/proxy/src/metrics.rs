//! What the proxy counts.
//!
//! A deployment's name is a label, so the number of names is bounded here: names beyond the bound are
//! counted together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

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
}

impl Retry {
    fn label(self) -> &'static str {
        match self {
            Retry::Connect => "connect",
            Retry::Tunnel => "tunnel",
            Retry::Stale => "stale",
            Retry::Broken => "broken",
            Retry::Suspect => "suspect",
        }
    }
}

/// Why a connection of HTTP/2 was ended with ENHANCE_YOUR_CALM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abuse {
    /// Requests that were cancelled before they were answered, or were none.
    Resets,
    /// Frames that carry nothing.
    Frames,
    /// What the library bounds: empty and tiny DATA, CONTINUATION, far too long field lists, its own resets.
    Protocol,
}

impl Abuse {
    fn label(self) -> &'static str {
        match self {
            Abuse::Resets => "resets",
            Abuse::Frames => "frames",
            Abuse::Protocol => "protocol",
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
    retries: [Counter; 5],
    connections: Gauge,
    abuses: [Counter; 3],
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
        let abuses = metrics.counters::<Label>(
            "http2_abuses",
            "Client connections of HTTP/2 that were ended because of what they sent, by what it was",
        );
        let abuse =
            |abuse: Abuse| abuses.get_or_create_owned(&[("reason", abuse.label().to_owned())]);
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
            ],
            connections: metrics.gauge("http_connections", "Open client connections"),
            abuses: [
                abuse(Abuse::Resets),
                abuse(Abuse::Frames),
                abuse(Abuse::Protocol),
            ],
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

    pub(crate) fn abused(&self, abuse: Abuse) {
        self.abuses[abuse as usize].inc();
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
