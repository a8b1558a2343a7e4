//! How an instance is asked after its well-being: three probes, each of one of four kinds.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Codes, MAX_CODES, SpecError};
use crate::excerpt::excerpt;
use crate::limits::COMMAND_BYTES;

/// Shortest period: ten probes a second of one instance are load enough.
pub const MIN_PERIOD: Duration = Duration::from_millis(100);
/// Shortest time limit: less than this fails on a busy machine by itself.
pub const MIN_TIMEOUT: Duration = Duration::from_millis(10);
/// Longest delay, period and time limit: beyond an hour a probe says nothing.
pub const MAX_WAIT: Duration = Duration::from_secs(3600);
/// What stays up for so long has read its configuration and found what it needs: most that do not, end sooner.
pub const PROCESS_DELAY: Duration = Duration::from_secs(3);
/// Most results in a row that a threshold may ask for.
pub const MAX_THRESHOLD: u32 = 1_000;
/// Header fields of one probe: credentials and a few marks.
pub const MAX_HEADERS: usize = 16;
/// Names and values of one probe's header fields together.
pub const MAX_HEADERS_BYTES: usize = 4 * 1024;
/// Longest path, and longest name of a gRPC service.
pub const MAX_TARGET_BYTES: usize = 2 * 1024;

/// Which question a probe answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeRole {
    /// Has the program come up? Until it has, neither other counts.
    Startup,
    /// May it be given requests?
    Readiness,
    /// Is it of any use still? If not it is ended and started again.
    Liveness,
}

impl ProbeRole {
    pub const ALL: [ProbeRole; 3] = [
        ProbeRole::Startup,
        ProbeRole::Readiness,
        ProbeRole::Liveness,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            ProbeRole::Startup => "startup",
            ProbeRole::Readiness => "readiness",
            ProbeRole::Liveness => "liveness",
        }
    }
}

impl fmt::Display for ProbeRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeSpec {
    pub kind: ProbeKind,
    /// From the program's start to the first probe.
    pub delay: Duration,
    /// From the end of one probe to the beginning of the next.
    pub period: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// Failures in a row that count.
    pub failure_threshold: u32,
    /// Successes in a row that make an unready instance ready; the other probes need one.
    pub success_threshold: u32,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeKind {
    /// The port accepts a connection.
    Tcp,
    /// `GET path` with these header fields answers one of these codes.
    Http {
        path: String,
        headers: BTreeMap<String, String>,
        codes: Codes,
    },
    /// This, handed to `/bin/sh -c` beside the program, ends with code 0.
    Exec { command: String },
    /// `grpc.health.v1.Health/Check` of this service (empty: the whole server) answers SERVING.
    Grpc { service: String },
    /// Its process is there.
    Process,
}

/// Values of header fields and commands may hold secrets.
impl fmt::Debug for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProbeKind::Tcp => f.write_str("Tcp"),
            ProbeKind::Http {
                path,
                headers,
                codes,
            } => f
                .debug_struct("Http")
                .field("path", path)
                .field("headers", &headers.keys().collect::<Vec<_>>())
                .field("codes", codes)
                .finish(),
            ProbeKind::Exec { .. } => f.debug_struct("Exec").finish_non_exhaustive(),
            ProbeKind::Grpc { service } => {
                f.debug_struct("Grpc").field("service", service).finish()
            }
            ProbeKind::Process => f.write_str("Process"),
        }
    }
}

impl ProbeKind {
    /// `GET path`, answered with 200 to 399.
    pub fn http(path: impl Into<String>) -> ProbeKind {
        ProbeKind::Http {
            path: path.into(),
            headers: BTreeMap::new(),
            codes: Codes::default(),
        }
    }
}

/// A service's three probes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probes {
    pub startup: Option<ProbeSpec>,
    pub readiness: ProbeSpec,
    pub liveness: Option<ProbeSpec>,
}

impl Probes {
    pub fn get(&self, role: ProbeRole) -> Option<&ProbeSpec> {
        match role {
            ProbeRole::Startup => self.startup.as_ref(),
            ProbeRole::Readiness => Some(&self.readiness),
            ProbeRole::Liveness => self.liveness.as_ref(),
        }
    }
}

impl Default for ProbeSpec {
    fn default() -> Self {
        ProbeSpec::of(ProbeRole::Readiness)
    }
}

impl ProbeSpec {
    /// Ready once the process has been there for [`PROCESS_DELAY`].
    pub fn process() -> ProbeSpec {
        ProbeSpec {
            kind: ProbeKind::Process,
            delay: PROCESS_DELAY,
            ..ProbeSpec::of(ProbeRole::Readiness)
        }
    }

    /// Whether it needs a port that the program listens on.
    pub fn asks_port(&self) -> bool {
        match self.kind {
            ProbeKind::Tcp | ProbeKind::Http { .. } | ProbeKind::Grpc { .. } => true,
            ProbeKind::Exec { .. } | ProbeKind::Process => false,
        }
    }

    /// A TCP probe with what is usual in this role.
    pub fn of(role: ProbeRole) -> ProbeSpec {
        let seconds = Duration::from_secs;
        let (period, timeout, failure_threshold) = match role {
            // A start is seen at most half a second late, and may take a minute.
            ProbeRole::Startup => (Duration::from_millis(500), seconds(2), 120),
            // Some six seconds of silence are no hiccup any more.
            ProbeRole::Readiness => (seconds(2), seconds(2), 3),
            // To start a program again costs what it had in memory: half a minute of failures is sure enough, and one
            // try may take longer than for readiness. Kubernetes waits as long (10 s, 3 times).
            ProbeRole::Liveness => (seconds(10), seconds(5), 3),
        };
        ProbeSpec {
            kind: ProbeKind::Tcp,
            delay: Duration::ZERO,
            period,
            timeout,
            failure_threshold,
            success_threshold: 1,
        }
    }

    pub fn check(&self, role: ProbeRole) -> Result<(), SpecError> {
        let bad = |what: String| Err(SpecError::BadProbe { role, what });
        let times = [
            ("delay", self.delay, Duration::ZERO),
            ("period", self.period, MIN_PERIOD),
            ("timeout", self.timeout, MIN_TIMEOUT),
        ];
        for (name, value, min) in times {
            if !(min..=MAX_WAIT).contains(&value) {
                return bad(format!(
                    "{name} is {} ms, and has to be from {} to {} ms",
                    value.as_millis(),
                    min.as_millis(),
                    MAX_WAIT.as_millis()
                ));
            }
        }
        let thresholds = [
            ("failure_threshold", self.failure_threshold),
            ("success_threshold", self.success_threshold),
        ];
        for (name, value) in thresholds {
            if !(1..=MAX_THRESHOLD).contains(&value) {
                return bad(format!(
                    "{name} is {value}, and has to be from 1 to {MAX_THRESHOLD}"
                ));
            }
        }
        if role != ProbeRole::Readiness && self.success_threshold != 1 {
            return bad(
                "success_threshold has to be 1: only readiness counts successes".to_owned(),
            );
        }
        self.kind.check(role)
    }
}

impl ProbeKind {
    fn check(&self, role: ProbeRole) -> Result<(), SpecError> {
        let bad = |what: String| Err(SpecError::BadProbe { role, what });
        match self {
            ProbeKind::Tcp | ProbeKind::Process => Ok(()),
            ProbeKind::Http {
                path,
                headers,
                codes,
            } => {
                let target = path.starts_with('/') && !path.bytes().any(|b| b <= b' ' || b == 0x7f);
                if !target || path.len() > MAX_TARGET_BYTES {
                    return Err(SpecError::BadProbePath(excerpt(path)));
                }
                if !codes.is_sound() {
                    return bad(format!("codes have to be 1 to {MAX_CODES} codes or ranges"));
                }
                if headers.len() > MAX_HEADERS {
                    return bad(format!("it has more than {MAX_HEADERS} headers"));
                }
                let bytes: usize = headers.iter().map(|(n, v)| n.len() + v.len()).sum();
                if bytes > MAX_HEADERS_BYTES {
                    return bad(format!(
                        "its headers have more than {MAX_HEADERS_BYTES} bytes"
                    ));
                }
                match headers.iter().find(|(name, value)| !is_field(name, value)) {
                    Some((name, _)) => {
                        bad(format!("'{}' is not a header it can send", excerpt(name)))
                    }
                    None => Ok(()),
                }
            }
            ProbeKind::Exec { command } => {
                if command.trim().is_empty() || command.contains('\0') {
                    return bad("its command is empty or has a NUL byte".to_owned());
                }
                COMMAND_BYTES.check("the probe's command's length in bytes", command.len())?;
                Ok(())
            }
            ProbeKind::Grpc { service } => {
                if service.len() > MAX_TARGET_BYTES || service.chars().any(char::is_control) {
                    return bad("its service is not the name of a gRPC service".to_owned());
                }
                Ok(())
            }
        }
    }
}

/// RFC 9110, sections 5.1 and 5.5; what frames the message is not the probe's to choose (RFC 9112, section 6).
fn is_field(name: &str, value: &str) -> bool {
    const TOKEN: &[u8] = b"!#$%&'*+-.^_`|~";
    const FRAMING: [&str; 4] = [
        "connection",
        "content-length",
        "transfer-encoding",
        "upgrade",
    ];
    let token = |b: u8| b.is_ascii_alphanumeric() || TOKEN.contains(&b);
    let text = |b: u8| b == b'\t' || (b >= b' ' && b != 0x7f);
    !name.is_empty()
        && name.bytes().all(token)
        && !FRAMING
            .iter()
            .any(|framing| name.eq_ignore_ascii_case(framing))
        && value.bytes().all(text)
        && value.trim() == value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_set_elsewhere_can_be_said() {
        let wishes = [
            (ProbeRole::Startup, 5, 30),
            (ProbeRole::Liveness, 30, 3),
            (ProbeRole::Readiness, 10, 3),
        ];
        for (role, seconds, failure_threshold) in wishes {
            let spec = ProbeSpec {
                period: Duration::from_secs(seconds),
                failure_threshold,
                ..ProbeSpec::of(role)
            };
            spec.check(role).unwrap();
            ProbeSpec::of(role).check(role).unwrap();
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let role = ProbeRole::Liveness;
        let of = |change: fn(&mut ProbeSpec)| {
            let mut spec = ProbeSpec::of(role);
            change(&mut spec);
            spec.check(role)
        };
        let header = |name: &str, value: &str| ProbeKind::Http {
            path: "/".into(),
            headers: [(name.to_owned(), value.to_owned())].into(),
            codes: Codes::default(),
        };
        assert!(of(|s| s.period = Duration::ZERO).is_err());
        assert!(of(|s| s.timeout = MAX_WAIT * 2).is_err());
        assert!(of(|s| s.failure_threshold = 0).is_err());
        assert!(of(|s| s.success_threshold = 2).is_err());
        assert!(of(|s| s.kind = ProbeKind::http("live")).is_err());
        assert!(
            of(|s| s.kind = ProbeKind::Exec {
                command: " ".into()
            })
            .is_err()
        );
        assert!(header("Authorization", "Bearer x").check(role).is_ok());
        for (name, value) in [
            ("", "x"),
            ("a b", "x"),
            ("a", "x\ny"),
            ("Content-Length", "1"),
        ] {
            assert!(header(name, value).check(role).is_err(), "{name}");
        }
    }

    #[test]
    fn debug_text_tells_no_secret() {
        let kinds = [
            ProbeKind::Exec {
                command: "check --key hush".into(),
            },
            ProbeKind::Http {
                path: "/".into(),
                headers: [("Authorization".to_owned(), "hush".to_owned())].into(),
                codes: Codes::default(),
            },
        ];
        assert!(!format!("{kinds:?}").contains("hush"));
    }
}
