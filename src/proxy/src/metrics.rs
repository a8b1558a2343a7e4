//! What the proxy counts.
//!
//! A deployment's name is a label, so the number of names is bounded here: names beyond the bound are
//! counted together.

mod http3;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nebula_domain::traffic::breaker::BreakerState;
use nebula_telemetry::metrics::{
    Counter, Family, Gauge, Histogram, Histograms, Label, Metrics, SECONDS,
};

pub(crate) use http3::Attempt;
use http3::Http3Metrics;

/// Deployments with figures of their own; some 30 series each.
const DEPLOYMENTS_MAX: usize = 1_000;
/// The label of deployments beyond that, and of requests that no deployment answers to. No
/// deployment can have these names.
const OTHER: &str = "_other";
const NONE: &str = "_none";

type Two = [(&'static str, String); 2];

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
    /// Not a retry but a second copy, sent while the first was waited for.
    Hedge,
}

impl Retry {
    const ALL: [Retry; 7] = [
        Retry::Connect,
        Retry::Tunnel,
        Retry::Stale,
        Retry::Broken,
        Retry::Suspect,
        Retry::Silent,
        Retry::Hedge,
    ];

    fn label(self) -> &'static str {
        match self {
            Retry::Connect => "connect",
            Retry::Tunnel => "tunnel",
            Retry::Stale => "stale",
            Retry::Broken => "broken",
            Retry::Suspect => "suspect",
            Retry::Silent => "silent",
            Retry::Hedge => "hedge",
        }
    }
}

/// What a deployment's cache did for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cached {
    Hit,
    /// An instance was asked.
    Miss,
    /// Something old, while a new one is fetched or because none can be.
    Stale,
    /// An instance has said that what is kept holds still.
    Revalidated,
    /// It waited for another request's answer.
    Collapsed,
    /// It went to an instance by itself.
    Bypass,
}

impl Cached {
    const ALL: [Cached; 6] = [
        Cached::Hit,
        Cached::Miss,
        Cached::Stale,
        Cached::Revalidated,
        Cached::Collapsed,
        Cached::Bypass,
    ];

    fn label(self) -> &'static str {
        match self {
            Cached::Hit => "hit",
            Cached::Miss => "miss",
            Cached::Stale => "stale",
            Cached::Revalidated => "revalidated",
            Cached::Collapsed => "collapsed",
            Cached::Bypass => "bypass",
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

/// Why a connection of HTTP/2 was ended with ENHANCE_YOUR_CALM, or one of HTTP/3 with H3_EXCESSIVE_LOAD.
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
    families: Arc<Families>,
    /// By deployment, so that counting neither allocates nor formats.
    known: Arc<Mutex<HashMap<String, Arc<Figures>>>>,
    connections: Gauge,
    abuses: [Counter; 3],
    pub(crate) http3: Http3Metrics,
    pub(crate) thread_restarts: Counter,
    /// Lines of the access log that were not written.
    pub(crate) log_lines_lost: Counter,
    pub(crate) cache_bytes: Gauge,
    tunnels: Gauge,
    instance_connections: Gauge,
    handshakes: [Counter; 5],
    /// Connections of an address that has as many as it may.
    pub(crate) connections_refused: Counter,
    /// Connections that did not begin with the PROXY header that they had to begin with.
    pub(crate) proxy_headers_refused: Counter,
    certificates: Gauge,
    certificate_errors: Gauge,
    certificate_expiry: Gauge,
}

struct Families {
    requests: Family<Two, Counter>,
    retries: Family<Two, Counter>,
    breakers: Family<Two, Counter>,
    cached: Family<Two, Counter>,
    duration: Histograms<Label>,
    in_flight: Family<Label, Gauge>,
    sent: Family<Label, Counter>,
    received: Family<Label, Counter>,
    budget_spent: Family<Label, Counter>,
    ejections: Family<Label, Counter>,
}

/// One deployment's.
pub(crate) struct Figures {
    label: String,
    /// By class of status code, `1xx` to `5xx`.
    codes: [Counter; 5],
    retries: [Counter; Retry::ALL.len()],
    breakers: Family<Two, Counter>,
    /// Made with the first request that meets a cache: few deployments have one.
    cached: OnceLock<[Counter; 6]>,
    cached_family: Family<Two, Counter>,
    duration: Histogram,
    in_flight: Gauge,
    sent: Counter,
    received: Counter,
    pub(crate) budget_spent: Counter,
    pub(crate) ejections: Counter,
}

impl ProxyMetrics {
    pub(crate) fn new(metrics: &Metrics) -> ProxyMetrics {
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
        let abuses = metrics.counters::<Label>(
            "http2_abuses",
            "Client connections of HTTP/2 that were ended because of what they sent, by what it was",
        );
        let abuse =
            |abuse: Abuse| abuses.get_or_create_owned(&[("reason", abuse.label().to_owned())]);
        let families = Families {
            requests: metrics.counters(
                "http_requests",
                "Requests answered at the edge, by deployment and class of status code",
            ),
            retries: metrics.counters(
                "http_retries",
                "Requests sent once more, by deployment and what went wrong before",
            ),
            breakers: metrics.counters(
                "http_breaker_changes",
                "Circuit breakers of instances that changed, by deployment and new state",
            ),
            cached: metrics.counters(
                "http_cache_requests",
                "Requests of deployments with a cache, by deployment and what the cache did for them",
            ),
            duration: metrics.histograms(
                "http_request_duration_seconds",
                "From a request's head to the end of its response, by deployment",
                SECONDS,
            ),
            in_flight: metrics.gauges(
                "http_requests_in_flight",
                "Requests being answered, by deployment",
            ),
            sent: metrics.counters(
                "http_sent_bytes",
                "Bytes sent to clients, heads included, by deployment",
            ),
            received: metrics.counters(
                "http_received_bytes",
                "Bytes that clients sent, heads included, by deployment",
            ),
            budget_spent: metrics.counters(
                "http_retry_budget_spent",
                "Retries that were not made because the deployment's budget for them was spent",
            ),
            ejections: metrics.counters(
                "http_ejections",
                "Instances left out for a while because they did not answer, by deployment",
            ),
        };
        ProxyMetrics {
            families: Arc::new(families),
            known: Arc::default(),
            connections: metrics.gauge("http_connections", "Open client connections"),
            abuses: [
                abuse(Abuse::Resets),
                abuse(Abuse::Frames),
                abuse(Abuse::Protocol),
            ],
            http3: Http3Metrics::new(metrics),
            thread_restarts: metrics.counter(
                "edge_thread_restarts",
                "Edge threads that ended by mistake and were started again",
            ),
            log_lines_lost: metrics.counter(
                "access_log_lost_lines",
                "Lines of the access log that were not written, because more came than the disk took",
            ),
            cache_bytes: metrics.gauge(
                "http_cache_bytes",
                "Memory taken by answers that are kept, come in, or are still sent after they were let go",
            ),
            tunnels: metrics.gauge("tunnels", "Open tunnels from other nodes"),
            instance_connections: metrics.gauge(
                "h2c_connections",
                "Open connections of HTTP/2 to instances, which carry many requests each",
            ),
            handshakes: [
                handshake(Handshake::Full),
                handshake(Handshake::Resumed),
                handshake(Handshake::Unnamed),
                handshake(Handshake::Failed),
                handshake(Handshake::TimedOut),
            ],
            connections_refused: metrics.counter(
                "edge_connections_refused",
                "Connections closed at once because their client's address has as many as it may",
            ),
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

    /// A connection of HTTP/2 is ended for what it sent.
    pub(crate) fn abused(&self, abuse: Abuse) {
        self.abuses[abuse as usize].inc();
    }

    /// A tunnel from another node is open while the value is held.
    pub(crate) fn tunnel(&self) -> Held {
        Held::new(&self.tunnels)
    }

    /// A connection of HTTP/2 to an instance is open while the value is held.
    pub(crate) fn instance_connection(&self) -> Held {
        Held::new(&self.instance_connections)
    }

    /// A deployment's figures; those of requests that none answers to.
    pub(crate) fn of(&self, deployment: Option<&str>) -> Arc<Figures> {
        let deployment = deployment.unwrap_or(NONE);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(figures) = known.get(deployment) {
            return Arc::clone(figures);
        }
        let label = match known.len() < DEPLOYMENTS_MAX {
            true => deployment,
            false => OTHER,
        };
        if let Some(figures) = known.get(label) {
            return Arc::clone(figures);
        }
        let figures = Arc::new(Figures::new(&self.families, label));
        known.insert(label.to_owned(), Arc::clone(&figures));
        figures
    }
}

impl Figures {
    fn new(families: &Families, label: &str) -> Figures {
        let one = [("deployment", label.to_owned())];
        let two = |name: &'static str, value: &str| {
            [("deployment", label.to_owned()), (name, value.to_owned())]
        };
        let code = |class| families.requests.get_or_create_owned(&two("code", class));
        let retry = |reason: Retry| {
            let labels = two("reason", reason.label());
            families.retries.get_or_create_owned(&labels)
        };
        Figures {
            codes: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(code),
            retries: Retry::ALL.map(retry),
            breakers: families.breakers.clone(),
            cached: OnceLock::new(),
            cached_family: families.cached.clone(),
            duration: families.duration.get_or_create_owned(&one),
            in_flight: families.in_flight.get_or_create_owned(&one),
            sent: families.sent.get_or_create_owned(&one),
            received: families.received.get_or_create_owned(&one),
            budget_spent: families.budget_spent.get_or_create_owned(&one),
            ejections: families.ejections.get_or_create_owned(&one),
            label: label.to_owned(),
        }
    }

    pub(crate) fn answered(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.codes[class].inc();
    }

    pub(crate) fn retry(&self, reason: Retry) {
        self.retries[reason as usize].inc();
    }

    pub(crate) fn cache(&self, cached: Cached) {
        let counters = self.cached.get_or_init(|| {
            Cached::ALL.map(|cached| {
                let labels = [
                    ("deployment", self.label.clone()),
                    ("result", cached.label().to_owned()),
                ];
                self.cached_family.get_or_create_owned(&labels)
            })
        });
        counters[cached as usize].inc();
    }

    pub(crate) fn breaker(&self, state: BreakerState) {
        let state = match state {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half-open",
        };
        let labels = [
            ("deployment", self.label.clone()),
            ("state", state.to_owned()),
        ];
        self.breakers.get_or_create_owned(&labels).inc();
    }

    /// A request is over, after so many bytes in either direction.
    pub(crate) fn ended(&self, took: Duration, sent: u64, received: u64) {
        self.duration.observe(took.as_secs_f64());
        self.sent.inc_by(sent);
        self.received.inc_by(received);
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
    pub(crate) figures: Arc<Figures>,
    _in_flight: Held,
}

impl Tracked {
    pub(crate) fn new(figures: Arc<Figures>) -> Tracked {
        Tracked {
            _in_flight: Held::new(&figures.in_flight),
            figures,
        }
    }
}
