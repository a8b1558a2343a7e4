//! Between the API's JSON and the domain's types. Whatever comes in is checked here, once.

mod dependency;
mod http;
#[cfg(test)]
mod http_tests;
mod http_told;
mod image;
mod placement;
mod probe;
mod release;
mod run;
mod secret;
mod volume;

use std::sync::Arc;
use std::time::Duration;

pub use http::{Passwords, policy};
pub use http_told::told_policy;
pub use placement::{label_key, labels, told_labels};
pub use release::order;

use nebula_domain::http::HttpPolicy;
use nebula_domain::names::NameError;
use nebula_domain::port::FixedPort;
use nebula_domain::spec::{
    DEFAULT_DRAIN, DEFAULT_SOCKET_GRACE, DEFAULT_STOP_GRACE, Kind, ProbeRole, ProbeSpec, Service,
    Spec, StaticSite, Workload,
};
use nebula_domain::state::Role;
use nebula_domain::{DomainName, Rejection};

use crate::api::{ApiError, DeploymentSpec, ErrorCode};

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
            Rejection::LevelTooLow { .. } => (
                C::Conflict,
                "install the version that the other members run",
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
            Rejection::ReleaseUnknown { .. } => (
                C::NotFound,
                "see 'nebula deploy history' for those that are kept",
            ),
            Rejection::ReleaseWanted { .. } | Rejection::NothingToGoBackTo(_) => {
                (C::Conflict, "see 'nebula deploy history'")
            }
            Rejection::NoRollout(_) | Rejection::FirstRelease(_) | Rejection::CannotPause(_) => {
                (C::Conflict, "see 'nebula deploy status'")
            }
            Rejection::StaleStep(_) => (C::Conflict, "look again"),
            Rejection::StaticScale(_) => (C::Conflict, "leave --instances out for static sites"),
            Rejection::StaticCache(_) => (
                C::Conflict,
                "its files are served as they are: a new release shows at once",
            ),
            Rejection::Spec(_) | Rejection::Setting(_) => {
                (C::BadRequest, "correct the value and try again")
            }
            Rejection::LabelReserved(_) => (C::BadRequest, "use another label"),
            Rejection::SettingUnset(_) => (C::NotFound, "see 'nebula config list'"),
            Rejection::Limit(_) => (
                C::LimitExceeded,
                "ask for less, or remove what is no longer needed",
            ),
            Rejection::VolumesNeeded(_) => (
                C::Conflict,
                "remove it together with them: 'nebula deploy remove NAME --volumes'",
            ),
            Rejection::SecretUnknown(_) => (
                C::NotFound,
                "set it with 'nebula secrets set'; see 'nebula secrets list'",
            ),
            Rejection::SecretNeeded { .. } => (
                C::Conflict,
                "take it out of that deployment first, or remove the deployment",
            ),
            Rejection::DependencyUnknown { .. } => (
                C::Conflict,
                "deploy that one first; see 'nebula deploy list'",
            ),
            Rejection::DependencyCycle(_) | Rejection::DependencyFinite { .. } => {
                (C::BadRequest, "leave one of them out of 'depends_on'")
            }
            Rejection::DependencyNeeded { .. } => (
                C::Conflict,
                "remove that one first, or take the dependency out of it",
            ),
            Rejection::VolumesUnknown(_) => (C::NotFound, "see 'nebula volume list'"),
            Rejection::NoRuns(_) | Rejection::Finite(_) | Rejection::OtherType { .. } => (
                C::Conflict,
                "see docs/jobs.md for what each type of deployment can do",
            ),
            Rejection::RunOpen { .. } => (
                C::Conflict,
                "wait for it, or end it with 'nebula deploy cancel'",
            ),
            Rejection::RunUnknown { .. } => (C::NotFound, "see 'nebula deploy runs'"),
            Rejection::RunOver { .. } => (C::Conflict, "see 'nebula deploy runs'"),
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
    role.as_str()
}

/// A spec as it arrives, with the cluster's default domain for one that names none.
pub fn spec(
    wire: &DeploymentSpec,
    default_tld: Option<&str>,
    passwords: Passwords<'_>,
) -> Result<Spec, ApiError> {
    let takes_requests = ["static", "service"].contains(&wire.kind.as_str());
    let default_tld = match takes_requests {
        true => default_tld,
        false => Some(NO_DOMAIN),
    };
    if !takes_requests && wire.tld.is_some() {
        return Err(ApiError::bad_request(
            "what is sent no requests has no domain",
            "leave --tld out, or see docs/jobs.md",
        ));
    }
    let tld = wire.tld.as_deref().or(default_tld).ok_or_else(|| {
        ApiError::bad_request(
            "the deployment names no domain and the cluster has no default one",
            "add --tld mycompany.com (in nebula.toml: tld = \"mycompany.com\"), or run 'nebula config set scheduler.default_tld mycompany.com'",
        )
    })?;
    let tld: DomainName = tld.parse().map_err(|e: NameError| {
        ApiError::bad_request(e.to_string(), "use a domain such as mycompany.com")
    })?;
    let workload = match wire.kind.as_str() {
        "static" => static_site(wire)?,
        kind if run::TYPES.contains(&kind) => service(wire)?,
        other => {
            return Err(ApiError::bad_request(
                format!("'{other}' is not a deployment type"),
                format!("use one of {}", run::TYPES.join(", ")),
            ));
        }
    };
    let http = match wire.http.is_empty() {
        true => HttpPolicy::shared(),
        false => policy(&wire.http, passwords)
            .map(Arc::new)
            .map_err(|e| ApiError::from(&Rejection::Spec(e.into())))?,
    };
    // What runs to its end has no strategy, and one run has the volumes after the other.
    let finite = matches!(&workload, Workload::Service(service) if service.kind.is_finite());
    let keeps = !wire.volumes.is_empty() && !finite;
    let spec = Spec {
        workload,
        tld,
        http,
        strategy: release::strategy(&wire.strategy, keeps)?,
        hooks: run::hooks(&wire.hooks)?,
    };
    spec.check()
        .map_err(|e| ApiError::from(&Rejection::Spec(e)))?;
    Ok(spec)
}

/// Hosts that nobody can ask for (RFC 2606, section 2): of what is sent no requests.
const NO_DOMAIN: &str = "none.invalid";

fn static_site(wire: &DeploymentSpec) -> Result<Workload, ApiError> {
    let is_program = wire.command.is_some()
        || wire.image.is_some()
        || wire.port.is_some()
        || !wire.env.is_empty()
        || [&wire.probe, &wire.startup, &wire.liveness]
            .iter()
            .any(|probe| probe.is_some())
        || wire.resources != Default::default()
        || wire.job != Default::default()
        || wire.cron != Default::default()
        || wire.isolation != Default::default()
        || !wire.volumes.is_empty()
        || !wire.depends_on.is_empty()
        || !wire.secrets.is_empty()
        || wire.placement != Default::default();
    if is_program {
        return Err(ApiError::bad_request(
            "a static site has no command, image, port, environment, probe, resources, isolation, volumes, dependencies, secrets or placement",
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
    let image = wire.image.as_ref().map(image::image).transpose()?;
    let of_image = image.as_ref().map(|_| String::new());
    let command = wire.command.clone().or(of_image).ok_or_else(|| {
        ApiError::bad_request(
            format!("a {} needs a command", wire.kind),
            "add --command \"python3 app.py\"",
        )
    })?;
    let grace = |field: &str, ms: Option<u64>, default| match ms {
        None => Ok(default),
        Some(ms) => in_range(field, ms, 0, MAX_STOP_GRACE_MS).map(Duration::from_millis),
    };
    let probe = |wire: &Option<_>, role| {
        wire.as_ref()
            .map(|wire| probe::probe(wire, role))
            .transpose()
    };
    let readiness = probe(&wire.probe, ProbeRole::Readiness)?;
    let stop_grace = grace("stop_grace_ms", wire.stop_grace_ms, DEFAULT_STOP_GRACE)?;
    let drain = grace("drain_ms", wire.drain_ms, DEFAULT_DRAIN)?;
    let sockets = wire.socket_grace_ms;
    let socket_grace = grace("socket_grace_ms", sockets, DEFAULT_SOCKET_GRACE)?;
    let port = wire.port.map(FixedPort::try_from).transpose();
    let port = port.map_err(|e| ApiError::from(&Rejection::Spec(e.into())))?;
    let kind = run::kind(wire)?;
    let unasked = match kind {
        Kind::Worker => ProbeSpec::process(),
        _ => ProbeSpec::default(),
    };
    Ok(Workload::Service(Service {
        command,
        image,
        kind,
        port,
        env: wire.env.clone(),
        probe: readiness.unwrap_or(unasked),
        startup: probe(&wire.startup, ProbeRole::Startup)?,
        liveness: probe(&wire.liveness, ProbeRole::Liveness)?,
        stop_grace,
        drain,
        socket_grace,
        resources: release::resources(&wire.resources)?,
        isolation: release::isolation(&wire.isolation)?,
        volumes: volume::volumes(&wire.volumes)?,
        depends_on: dependency::dependencies(&wire.depends_on)?,
        secrets: secret::secrets(&wire.secrets)?,
        placement: placement::placement(&wire.placement)?,
    }))
}

/// A spec as it is told, without passwords. [`spec`] makes the same of it again where they are stored.
pub fn told_spec(spec: &Spec) -> DeploymentSpec {
    let tld = spec.takes_requests().then(|| spec.tld.to_string());
    let http = told_policy(&spec.http);
    let strategy = release::told_strategy(&spec.strategy);
    let told = |service: &Service, role| {
        let probe = service.probe_of(role)?;
        Some(probe::told_probe(probe, role))
    };
    let mut wire = match &spec.workload {
        Workload::Static(site) => DeploymentSpec {
            kind: "static".to_owned(),
            tld,
            spa: site.spa,
            http,
            strategy,
            ..DeploymentSpec::default()
        },
        Workload::Service(service) => DeploymentSpec {
            kind: service.kind.as_str().to_owned(),
            command: Some(service.command.clone()).filter(|command| !command.is_empty()),
            image: service.image.as_ref().map(image::told),
            port: service.port.map(u32::from),
            tld,
            env: service.env.clone(),
            probe: told(service, ProbeRole::Readiness).filter(|_| !service.kind.is_finite()),
            startup: told(service, ProbeRole::Startup),
            liveness: told(service, ProbeRole::Liveness),
            stop_grace_ms: Some(millis(service.stop_grace)),
            drain_ms: (service.drain != DEFAULT_DRAIN).then(|| millis(service.drain)),
            socket_grace_ms: (service.socket_grace != DEFAULT_SOCKET_GRACE)
                .then(|| millis(service.socket_grace)),
            spa: false,
            http,
            strategy,
            resources: release::told_resources(&service.resources),
            isolation: release::told_isolation(&service.isolation),
            placement: placement::told_placement(&service.placement),
            volumes: volume::told(&service.volumes),
            depends_on: service.depends_on.iter().map(ToString::to_string).collect(),
            secrets: secret::told(&service.secrets),
            ..DeploymentSpec::default()
        },
    };
    run::told(spec, &mut wire);
    wire
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
    use crate::api::Probe;

    fn wire(kind: &str) -> DeploymentSpec {
        DeploymentSpec {
            kind: kind.into(),
            tld: Some("example.test".into()),
            ..DeploymentSpec::default()
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
            port: Some(8080),
            env: [("PASSWORD".to_owned(), "hush".to_owned())].into(),
            probe: Some(Probe {
                kind: "http".into(),
                path: Some("/up".into()),
                period_ms: Some(700),
                timeout_ms: Some(300),
                ..Probe::default()
            }),
            liveness: Some(Probe {
                kind: "exec".into(),
                command: Some("check hush".into()),
                period_ms: Some(30_000),
                timeout_ms: Some(300),
                ..Probe::default()
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
