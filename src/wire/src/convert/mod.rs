//! Between the API's JSON and the domain's types. Whatever comes in is checked here, once.

mod http;
#[cfg(test)]
mod http_tests;
mod http_told;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use http::{Passwords, policy};
pub use http_told::told_policy;

use nebula_domain::http::HttpPolicy;
use nebula_domain::names::NameError;
use nebula_domain::spec::{
    DEFAULT_STOP_GRACE, ProbeKind, ProbeSpec, Service, Spec, StaticSite, Workload,
};
use nebula_domain::state::Role;
use nebula_domain::{DomainName, Rejection};

use crate::api::{ApiError, DeploymentSpec, ErrorCode, Probe};

/// Longest probe period and time limit: beyond an hour a probe says nothing.
pub const MAX_PROBE_MS: u64 = 3_600_000;
/// Longest wait between SIGTERM and SIGKILL.
pub const MAX_STOP_GRACE_MS: u64 = 3_600_000;

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        ApiError {
            code,
            message: message.into(),
            hint: hint.into(),
        }
    }

    pub fn bad_request(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message, hint)
    }
}

impl From<NameError> for ApiError {
    fn from(error: NameError) -> Self {
        Self::bad_request(error.to_string(), "choose another name")
    }
}

impl From<&Rejection> for ApiError {
    fn from(rejection: &Rejection) -> Self {
        use ErrorCode as C;
        let (code, hint) = match rejection {
            Rejection::AlreadyInitialised => {
                (C::Conflict, "join this machine to the cluster instead")
            }
            Rejection::NotInitialised => {
                (C::Unavailable, "run 'nodectl init' on the first machine")
            }
            Rejection::TokenUnknown | Rejection::TokenExpired | Rejection::TokenUsed => (
                C::InvalidToken,
                "make a new one with 'nodectl token create' on a member",
            ),
            Rejection::NodeNameTaken(_) => (C::AlreadyExists, "choose another name with --name"),
            Rejection::AddressTaken(_) => (
                C::AlreadyExists,
                "choose another address, or remove the old member with 'nodectl remove'",
            ),
            Rejection::NotPermitted { .. } => (
                C::Forbidden,
                "ask a voter, or use a cluster file with an operator's token (--cluster FILE)",
            ),
            Rejection::NodeArrived(_) => (C::Conflict, "see 'nodectl members'"),
            Rejection::NodeUnknown(_) => (C::NotFound, "see 'nodectl members'"),
            Rejection::VoteNeeded(_) => (C::Conflict, "see 'nodectl members'"),
            Rejection::NameTaken { .. } => (
                C::Conflict,
                "use another name, or take it from that deployment first",
            ),
            Rejection::LastVoter(_) => (C::Conflict, "see 'nodectl token create --role voter'"),
            Rejection::DeploymentExists(_) => (
                C::AlreadyExists,
                "choose another name, or use 'nebula deploy update'",
            ),
            Rejection::DeploymentRemoving(_) => (
                C::Conflict,
                "wait until 'nebula deploy list' no longer shows it",
            ),
            Rejection::DeploymentUnknown(_) => (C::NotFound, "see 'nebula deploy list'"),
            Rejection::DeploymentChanged { .. } => (
                C::Conflict,
                "see what it is now with 'nebula deploy status', then update it again",
            ),
            Rejection::StaticScale(_) => (C::Conflict, "leave --instances out for static sites"),
            Rejection::Spec(_) | Rejection::Setting(_) => {
                (C::BadRequest, "correct the value and try again")
            }
            Rejection::SettingUnset(_) => (C::NotFound, "see 'nebula config list'"),
            Rejection::Limit(_) => (
                C::LimitExceeded,
                "ask for less, or remove what is no longer needed",
            ),
            Rejection::StalePlan { .. } => (C::Conflict, "plan again"),
        };
        Self::new(code, rejection.to_string(), hint)
    }
}

/// `voter` or `worker`.
pub fn role(text: &str) -> Result<Role, ApiError> {
    match text {
        "voter" => Ok(Role::Voter),
        "worker" => Ok(Role::Worker),
        other => Err(ApiError::bad_request(
            format!("'{other}' is not a role"),
            "use 'voter' or 'worker'",
        )),
    }
}

pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Voter => "voter",
        Role::Worker => "worker",
    }
}

/// A spec as it arrives, with the cluster's default domain for one that names none.
pub fn spec(
    wire: &DeploymentSpec,
    default_tld: Option<&str>,
    passwords: Passwords<'_>,
) -> Result<Spec, ApiError> {
    let tld = wire.tld.as_deref().or(default_tld).ok_or_else(|| {
        ApiError::bad_request(
            "the deployment names no domain and the cluster has no default one",
            "add --tld mycompany.com, or run 'nebula config set scheduler.default_tld mycompany.com'",
        )
    })?;
    let tld: DomainName = tld.parse().map_err(|e: NameError| {
        ApiError::bad_request(e.to_string(), "use a domain such as mycompany.com")
    })?;
    let workload = match wire.kind.as_str() {
        "static" => static_site(wire)?,
        "service" => service(wire)?,
        other => {
            return Err(ApiError::bad_request(
                format!("'{other}' is not a deployment type"),
                "use 'static' or 'service'",
            ));
        }
    };
    let http = match wire.http.is_empty() {
        true => HttpPolicy::shared(),
        false => policy(&wire.http, passwords)
            .map(Arc::new)
            .map_err(|e| ApiError::from(&Rejection::Spec(e.into())))?,
    };
    let spec = Spec {
        workload,
        tld,
        http,
    };
    spec.check()
        .map_err(|e| ApiError::from(&Rejection::Spec(e)))?;
    Ok(spec)
}

fn static_site(wire: &DeploymentSpec) -> Result<Workload, ApiError> {
    if wire.command.is_some() || !wire.env.is_empty() || wire.probe.is_some() {
        return Err(ApiError::bad_request(
            "a static site has no command, environment or probe",
            "leave them out, or use --type service",
        ));
    }
    Ok(Workload::Static(StaticSite { spa: wire.spa }))
}

fn service(wire: &DeploymentSpec) -> Result<Workload, ApiError> {
    if wire.spa {
        return Err(ApiError::bad_request(
            "only a static site can have an SPA fallback",
            "leave --spa out",
        ));
    }
    let command = wire.command.clone().ok_or_else(|| {
        ApiError::bad_request(
            "a service needs a command",
            "add --command \"python3 app.py\"",
        )
    })?;
    let stop_grace = match wire.stop_grace_ms {
        None => DEFAULT_STOP_GRACE,
        Some(ms) => Duration::from_millis(in_range("stop_grace_ms", ms, 0, MAX_STOP_GRACE_MS)?),
    };
    let probe = wire
        .probe
        .as_ref()
        .map_or_else(|| Ok(ProbeSpec::default()), probe)?;
    Ok(Workload::Service(Service {
        command,
        env: wire.env.clone(),
        probe,
        stop_grace,
    }))
}

fn probe(wire: &Probe) -> Result<ProbeSpec, ApiError> {
    let kind = match (wire.kind.as_str(), &wire.path) {
        ("tcp", None) => ProbeKind::Tcp,
        ("tcp", Some(_)) => {
            return Err(ApiError::bad_request(
                "a TCP probe has no path",
                "use an HTTP probe",
            ));
        }
        ("http", path) => ProbeKind::Http {
            path: path.clone().unwrap_or_else(|| "/".to_owned()),
        },
        (other, _) => {
            return Err(ApiError::bad_request(
                format!("'{other}' is not a probe type"),
                "use 'tcp' or 'http'",
            ));
        }
    };
    let mut spec = ProbeSpec {
        kind,
        ..ProbeSpec::default()
    };
    if let Some(ms) = wire.period_ms {
        spec.period = Duration::from_millis(in_range("period_ms", ms, 100, MAX_PROBE_MS)?);
    }
    if let Some(ms) = wire.timeout_ms {
        spec.timeout = Duration::from_millis(in_range("timeout_ms", ms, 10, MAX_PROBE_MS)?);
    }
    Ok(spec)
}

/// A spec as it is told, without passwords. [`spec`] makes the same of it again where they are stored.
pub fn told_spec(spec: &Spec) -> DeploymentSpec {
    let tld = Some(spec.tld.to_string());
    let http = told_policy(&spec.http);
    match &spec.workload {
        Workload::Static(site) => DeploymentSpec {
            kind: "static".to_owned(),
            command: None,
            tld,
            env: BTreeMap::new(),
            probe: None,
            stop_grace_ms: None,
            spa: site.spa,
            http,
        },
        Workload::Service(service) => DeploymentSpec {
            kind: "service".to_owned(),
            command: Some(service.command.clone()),
            tld,
            env: service.env.clone(),
            probe: Some(told_probe(&service.probe)),
            stop_grace_ms: Some(millis(service.stop_grace)),
            spa: false,
            http,
        },
    }
}

fn told_probe(probe: &ProbeSpec) -> Probe {
    let (kind, path) = match &probe.kind {
        ProbeKind::Tcp => ("tcp", None),
        ProbeKind::Http { path } => ("http", Some(path.clone())),
    };
    Probe {
        kind: kind.to_owned(),
        path,
        period_ms: Some(millis(probe.period)),
        timeout_ms: Some(millis(probe.timeout)),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn in_range(name: &str, value: u64, min: u64, max: u64) -> Result<u64, ApiError> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(ApiError::bad_request(
        format!("{name} is {value}, and has to be from {min} to {max}"),
        "use a value in that range",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(kind: &str) -> DeploymentSpec {
        DeploymentSpec {
            kind: kind.into(),
            command: None,
            tld: Some("example.test".into()),
            env: Default::default(),
            probe: None,
            stop_grace_ms: None,
            spa: false,
            http: Default::default(),
        }
    }

    fn read(wire: &DeploymentSpec) -> Result<Spec, ApiError> {
        spec(wire, None, Passwords::Stored(&[]))
    }

    #[test]
    fn services_need_a_command_and_static_sites_refuse_one() {
        assert!(read(&wire("static")).is_ok());
        assert_eq!(
            read(&wire("service")).unwrap_err().code,
            ErrorCode::BadRequest
        );
        let service = DeploymentSpec {
            command: Some("run".into()),
            ..wire("service")
        };
        assert!(read(&service).is_ok());
        assert!(
            read(&DeploymentSpec {
                kind: "static".into(),
                ..service
            })
            .is_err()
        );
        assert!(read(&wire("lambda")).is_err());
    }

    #[test]
    fn a_spec_survives_being_told_and_its_debug_text_tells_no_secret() {
        let service = DeploymentSpec {
            command: Some("run --key hush".into()),
            env: [("PASSWORD".to_owned(), "hush".to_owned())].into(),
            probe: Some(Probe {
                kind: "http".into(),
                path: Some("/up".into()),
                period_ms: Some(700),
                timeout_ms: Some(300),
            }),
            stop_grace_ms: Some(1500),
            ..wire("service")
        };
        let site = DeploymentSpec {
            spa: true,
            ..wire("static")
        };
        for told in [service, site] {
            assert_eq!(told_spec(&read(&told).unwrap()), told);
            assert!(!format!("{told:?}").contains("hush"));
        }
    }

    #[test]
    fn the_default_domain_fills_in() {
        let without = DeploymentSpec {
            tld: None,
            ..wire("static")
        };
        assert!(read(&without).is_err());
        assert_eq!(
            spec(&without, Some("a.test"), Passwords::Unseen)
                .unwrap()
                .tld
                .as_str(),
            "a.test"
        );
    }
}
