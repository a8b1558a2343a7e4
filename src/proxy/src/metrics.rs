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

/// How a TLS handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    Full,
    Resumed,
    /// No certificate for the name.
    Unnamed,
    Failed,
    TimedOut,
}

impl Handshake {
    fn label(self) -> &'static str {
        match self {
            Handshake::Full => "full",
            Handshake::Resumed => "resumed",
            Handshake::Unnamed => "unnamed",
            Handshake::Failed => "failed",
            Handshake::TimedOut => "timed_out",
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
    pub(crate) thread_restarts: Counter,
    tunnels: Gauge,
    handshakes: [Counter; 5],
    /// Connections that did not begin with the PROXY header that they had to begin with.
    pub(crate) proxy_headers_refused: Counter,
    certificates: Gauge,
    certificate_errors: Gauge,
    certificate_expiry: Gauge,
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
        let handshakes = metrics.counters::<Label>(
            "edge_tls_handshakes",
            "TLS handshakes with clients, by how they ended",
        );
        let handshake = |ended: Handshake| {
            handshakes.get_or_create_owned(&[("result", ended.label().to_owned())])
        };
        let certificates = metrics.gauges::<Label>(
            "edge_certificates",
            "Certificates in use, and files in their folder that cannot be used",
        );
        let certificate =
            |state: &str| certificates.get_or_create_owned(&[("state", state.to_owned())]);
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
            thread_restarts: metrics.counter(
                "edge_thread_restarts",
                "Edge threads that ended by mistake and were started again",
            ),
            tunnels: metrics.gauge("tunnels", "Open tunnels from other nodes"),
            handshakes: [
                handshake(Handshake::Full),
                handshake(Handshake::Resumed),
                handshake(Handshake::Unnamed),
                handshake(Handshake::Failed),
                handshake(Handshake::TimedOut),
            ],
            proxy_headers_refused: metrics.counter(
                "edge_proxy_headers_refused",
                "Connections that did not begin with the PROXY header that was required of them",
            ),
            certificates: certificate("loaded"),
            certificate_errors: certificate("wrong"),
            certificate_expiry: metrics.gauge(
                "edge_certificates_expiry_timestamp_seconds",
                "When the first certificate in use ends, in seconds since 1970; 0 without one",
            ),
        }
    }

    pub(crate) fn retry(&self, reason: Retry) {
        self.retries[reason as usize].inc();
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

    pub(crate) fn handshake(&self, ended: Handshake) {
        self.handshakes[ended as usize].inc();
    }

    /// The certificates in use: how many, and when the first of them ends, in seconds since 1970.
    pub(crate) fn certificates(&self, loaded: usize, expiry: i64) {
        self.certificates
            .set(i64::try_from(loaded).unwrap_or(i64::MAX));
        self.certificate_expiry.set(expiry);
    }

    pub(crate) fn certificate_errors(&self, wrong: usize) {
        self.certificate_errors
            .set(i64::try_from(wrong).unwrap_or(i64::MAX));
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
