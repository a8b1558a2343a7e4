//! Probes, from JSON and to it.

use std::collections::BTreeMap;
use std::time::Duration;

use nebula_domain::Rejection;
use nebula_domain::spec::{Codes, ProbeKind, ProbeRole, ProbeSpec, SpecError};

use super::millis;
use crate::api::{ApiError, Probe};

/// The probe of this role; the spec's own check says whether its values make sense.
pub(super) fn probe(wire: &Probe, role: ProbeRole) -> Result<ProbeSpec, ApiError> {
    let given = [
        (wire.path.is_some(), "path", "http"),
        (!wire.headers.is_empty(), "headers", "http"),
        (wire.codes.is_some(), "codes", "http"),
        (wire.command.is_some(), "command", "exec"),
        (wire.service.is_some(), "service", "grpc"),
    ];
    let kind = match wire.kind.as_str() {
        "tcp" => ProbeKind::Tcp,
        "http" => ProbeKind::Http {
            path: wire.path.clone().unwrap_or_else(|| "/".to_owned()),
            headers: wire.headers.clone(),
            codes: match &wire.codes {
                None => Codes::default(),
                Some(codes) => codes.parse().map_err(refused)?,
            },
        },
        "exec" => ProbeKind::Exec {
            command: wire.command.clone().unwrap_or_default(),
        },
        "grpc" => ProbeKind::Grpc {
            service: wire.service.clone().unwrap_or_default(),
        },
        "process" => ProbeKind::Process,
        other => {
            return Err(ApiError::bad_request(
                format!("'{other}' is not a probe type"),
                "use 'tcp', 'http', 'exec', 'grpc' or 'process'",
            ));
        }
    };
    let stray = given
        .iter()
        .find(|(given, _, of)| *given && *of != wire.kind);
    if let Some((_, field, of)) = stray {
        return Err(ApiError::bad_request(
            format!(
                "the {role} probe is of type '{}', which has no {field}",
                wire.kind
            ),
            format!("leave {field} out, or use type '{of}'"),
        ));
    }
    let usual = usual(&kind, role);
    let time = |ms: Option<u64>, usual| ms.map_or(usual, Duration::from_millis);
    let spec = ProbeSpec {
        kind,
        delay: time(wire.delay_ms, usual.delay),
        period: time(wire.period_ms, usual.period),
        timeout: time(wire.timeout_ms, usual.timeout),
        failure_threshold: wire.failure_threshold.unwrap_or(usual.failure_threshold),
        success_threshold: wire.success_threshold.unwrap_or(usual.success_threshold),
    };
    spec.check(role).map_err(refused)?;
    Ok(spec)
}

/// What a probe is unless somebody says otherwise.
fn usual(kind: &ProbeKind, role: ProbeRole) -> ProbeSpec {
    match (kind, role) {
        (ProbeKind::Process, ProbeRole::Readiness) => ProbeSpec::process(),
        _ => ProbeSpec::of(role),
    }
}

fn refused(error: SpecError) -> ApiError {
    ApiError::from(&Rejection::Spec(error))
}

pub(super) fn told_probe(probe: &ProbeSpec, role: ProbeRole) -> Probe {
    let usual = usual(&probe.kind, role);
    let unusual = |value: u32, usual: u32| (value != usual).then_some(value);
    let mut told = Probe {
        delay_ms: (probe.delay != usual.delay).then(|| millis(probe.delay)),
        period_ms: Some(millis(probe.period)),
        timeout_ms: Some(millis(probe.timeout)),
        failure_threshold: unusual(probe.failure_threshold, usual.failure_threshold),
        success_threshold: unusual(probe.success_threshold, usual.success_threshold),
        ..Probe::default()
    };
    let kind = match &probe.kind {
        ProbeKind::Tcp => "tcp",
        ProbeKind::Process => "process",
        ProbeKind::Http {
            path,
            headers,
            codes,
        } => {
            told.path = Some(path.clone());
            told.headers = BTreeMap::clone(headers);
            told.codes = (*codes != Codes::default()).then(|| codes.to_string());
            "http"
        }
        ProbeKind::Exec { command } => {
            told.command = Some(command.clone());
            "exec"
        }
        ProbeKind::Grpc { service } => {
            told.service = (!service.is_empty()).then(|| service.clone());
            "grpc"
        }
    };
    kind.clone_into(&mut told.kind);
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str) -> Probe {
        Probe {
            kind: kind.to_owned(),
            period_ms: Some(700),
            timeout_ms: Some(300),
            ..Probe::default()
        }
    }

    #[test]
    fn what_is_told_is_what_was_said() {
        let http = Probe {
            path: Some("/up".into()),
            headers: [("X-Key".to_owned(), "hush".to_owned())].into(),
            codes: Some("204,301".into()),
            delay_ms: Some(5_000),
            failure_threshold: Some(30),
            success_threshold: Some(2),
            ..of("http")
        };
        let exec = Probe {
            command: Some("test -f hush".into()),
            ..of("exec")
        };
        let grpc = Probe {
            service: Some("shop.Cart".into()),
            ..of("grpc")
        };
        for told in [of("tcp"), http, exec, grpc, of("grpc")] {
            let role = ProbeRole::Readiness;
            assert_eq!(told_probe(&probe(&told, role).unwrap(), role), told);
            assert!(!format!("{told:?}").contains("hush"));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_sentence() {
        let refusals = [
            (of("ping"), "'ping' is not a probe type"),
            (
                Probe {
                    path: Some("/".into()),
                    ..of("tcp")
                },
                "the liveness probe is of type 'tcp', which has no path",
            ),
            (
                Probe {
                    codes: Some("all".into()),
                    ..of("http")
                },
                "'all' are not codes of HTTP",
            ),
            (of("exec"), "the liveness probe: its command is empty"),
            (
                Probe {
                    success_threshold: Some(2),
                    ..of("tcp")
                },
                "the liveness probe: success_threshold has to be 1",
            ),
            (
                Probe {
                    period_ms: Some(1),
                    ..of("tcp")
                },
                "the liveness probe: period is 1 ms, and has to be from 100 to 3600000 ms",
            ),
        ];
        for (wire, expected) in refusals {
            let error = probe(&wire, ProbeRole::Liveness).unwrap_err();
            assert!(error.message.contains(expected), "{}", error.message);
        }
    }
}
