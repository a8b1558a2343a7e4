//! What a deployment is: the part of a release that a person writes.

mod codes;
mod probe;
mod program;
mod stored;
mod strategy;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use codes::{Codes, MAX_CODES};
pub use probe::{ProbeKind, ProbeRole, ProbeSpec, Probes};
pub use program::{
    Concurrency, Cron, DEFAULT_HOOK_TIMEOUT, DEFAULT_RUN_DEADLINE, DEFAULT_STARTING_DEADLINE,
    Hooks, Kind, MAX_HOOK_TIMEOUT, MAX_RETRIES, MAX_RUN_DEADLINE, MAX_STARTING_DEADLINE, RunLimits,
};
pub use strategy::{Amount, CanaryStep, DEFAULT_SURGE, DEFAULT_WARM, Judge, Strategy, Takeover};
pub use volume::VolumeSpec;

use crate::excerpt::excerpt;
use crate::http::{HostPattern, HttpError, HttpPolicy};
use crate::image::{Image, ImageError};
use crate::isolation::{Isolation, Profile};
use crate::limits::{
    COMMAND_BYTES, DEPENDENCIES, ENV_BYTES, LimitExceeded, SECRETS_PER_DEPLOYMENT,
};
use crate::names::{DeploymentName, DomainName, SecretName};
use crate::placement::{Placement, PlacementError};
use crate::port::{FixedPort, PortError};
use crate::resources::{ResourceError, Resources};

/// Why a spec was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum SpecError {
    #[error("the command is empty: give the program to run, such as --command \"python3 app.py\"")]
    EmptyCommand,
    #[error(
        "'{0}' is not an environment variable name: use letters, digits and '_', not beginning with a digit"
    )]
    BadEnvName(String),
    #[error(
        "the environment variable PORT is set by Nebula: read it in the program instead of setting it"
    )]
    ReservedEnv,
    #[error("the value of the environment variable '{0}' contains a NUL byte")]
    BadEnvValue(String),
    #[error("the probe path '{0}' must begin with '/' and hold no spaces or control characters")]
    BadProbePath(String),
    #[error("'{0}' are not codes of HTTP: use such as 200-399, or 204,301")]
    BadCodes(String),
    #[error("the {role} probe: {what}")]
    BadProbe { role: ProbeRole, what: String },
    #[error(
        "the host name '<name>.<tld>' would have {host_bytes} characters, over the {HOST_BYTES_MAX} of RFC 1123: use a shorter name or domain"
    )]
    HostTooLong { host_bytes: usize },
    #[error("{0}")]
    Limit(#[from] LimitExceeded),
    #[error("{0}")]
    Http(#[from] HttpError),
    #[error("{0}")]
    Resources(#[from] ResourceError),
    #[error("'{0}' is not a number of instances: use a number such as 2, or a part such as 25%")]
    Amount(String),
    #[error("surge and unavailable are parts of the wanted instances: at most 100%")]
    Percent,
    #[error("surge and unavailable are both 0, so that no instance could ever be replaced")]
    NoStep,
    #[error("'{0}' is not a canary's step: write percent and time, such as '10% 2m'")]
    CanaryStep(String),
    #[error("the canary's steps have to grow, from 1 to 99 percent, and be 1 to 20")]
    CanarySteps,
    #[error("the deadline is 0: give a release some time, such as 10m")]
    NoDeadline,
    #[error("the strategy's {what} is longer than a day")]
    StrategyWait { what: String },
    #[error("the variable '{0}' is both a secret and in the environment: leave one of them out")]
    EnvTwice(String),
    #[error("the volume '{name}': {what}")]
    BadVolume { name: String, what: String },
    #[error(
        "a deployment with volumes is released by the strategy 'recreate': two instances must never have one volume at once, so there is no surge, canary or second set"
    )]
    VolumeStrategy,
    #[error("{0}")]
    Runs(String),
    #[error("{0}")]
    Placement(#[from] PlacementError),
    #[error("{0}")]
    Port(#[from] PortError),
    #[error("{0}")]
    Image(#[from] ImageError),
    #[error("placement.{list} names the deployment itself, '{name}'")]
    OwnNeighbour { list: String, name: DeploymentName },
    #[error("the judge needs at least 1 request, and errors of at most 100 percent")]
    Judge,
}

/// RFC 1123 section 2.1: a host name has at most 253 octets (255 on the wire).
pub const HOST_BYTES_MAX: usize = 253;

/// One deployment's wishes, checked by [`Spec::check`] before they are proposed and again on apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub workload: Workload,
    /// The domain the deployment's host name hangs under: `<name>.<tld>`.
    pub tld: DomainName,
    /// Its names besides that one, and how the proxy treats its requests.
    #[serde(with = "stored::policy")]
    pub http: Arc<HttpPolicy>,
    #[serde(with = "stored::strategy")]
    pub strategy: Strategy,
    #[serde(with = "stored::hooks")]
    pub hooks: Hooks,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Workload {
    /// Files that every node's proxy serves by itself.
    Static(StaticSite),
    /// A program.
    Service(Service),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticSite {
    /// Answer unknown paths that look like pages with `/index.html` (single-page applications).
    pub spa: bool,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Handed to `/bin/sh -c`, run in the artifact's folder; empty: what its image says.
    pub command: String,
    /// The artifact is this image, and the program sees its files in place of the machine's.
    pub image: Option<Image>,
    /// What is expected of it.
    pub kind: Kind,
    /// It listens there on every node, and nowhere else; none: wherever its node tells it to.
    pub port: Option<FixedPort>,
    pub env: BTreeMap<String, String>,
    /// Whether it may be given requests.
    pub probe: ProbeSpec,
    pub startup: Option<ProbeSpec>,
    pub liveness: Option<ProbeSpec>,
    /// From SIGTERM to SIGKILL.
    pub stop_grace: Duration,
    /// Requests under way have so long to end before SIGTERM.
    pub drain: Duration,
    /// Connections of another protocol (WebSocket) have so long.
    pub socket_grace: Duration,
    pub resources: Resources,
    pub isolation: Isolation,
    /// Folders that outlive its instances and releases.
    pub volumes: Vec<VolumeSpec>,
    /// Deployments that have to be ready before an instance is started, and that it is told the addresses of.
    pub depends_on: BTreeSet<DeploymentName>,
    /// Environment variables whose values are secrets of the cluster.
    pub secrets: BTreeMap<String, SecretName>,
    /// On which nodes instances may be, and had better be.
    pub placement: Placement,
}

/// Names of variables only: their values and the command may hold secrets.
impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("kind", &self.kind)
            .field("image", &self.image)
            .field("port", &self.port)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("probe", &self.probe)
            .field("startup", &self.startup)
            .field("liveness", &self.liveness)
            .field("stop_grace", &self.stop_grace)
            .field("resources", &self.resources)
            .field("isolation", &self.isolation)
            .field("volumes", &self.volumes)
            .field("depends_on", &self.depends_on)
            .field("secrets", &self.secrets)
            .field("placement", &self.placement)
            .finish_non_exhaustive()
    }
}

/// Kubernetes, Nomad and Kamal all wait about this long before they kill.
pub const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);

/// As long as a proxy lets a whole request last by default would be two minutes; nearly all are over in seconds, and
/// nobody waits for a stop for so long. Docker and Kubernetes count this as part of their 10 and 30 s.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(30);
/// Clients of WebSockets connect again by themselves; a moment lets those end that are about to.
pub const DEFAULT_SOCKET_GRACE: Duration = Duration::from_secs(10);

impl Spec {
    /// With defaults for all else.
    pub fn new(workload: Workload, tld: DomainName) -> Spec {
        Spec {
            workload,
            tld,
            http: HttpPolicy::shared(),
            strategy: Strategy::default(),
            hooks: Hooks::default(),
        }
    }

    pub fn check(&self) -> Result<(), SpecError> {
        self.http.check()?;
        self.strategy.check()?;
        let replaced = !self.volumes().is_empty() && !self.is_finite();
        if replaced && self.strategy.takeover != Takeover::Recreate {
            return Err(SpecError::VolumeStrategy);
        }
        self.hooks.check()?;
        self.check_fit()?;
        match &self.workload {
            Workload::Static(_) => Ok(()),
            Workload::Service(service) => service.check(),
        }
    }

    /// What each of its instances keeps.
    pub fn volumes(&self) -> &[VolumeSpec] {
        match &self.workload {
            Workload::Static(_) => &[],
            Workload::Service(service) => &service.volumes,
        }
    }

    /// Where people find a deployment of this name: under its own host, then its other names but those with a star.
    pub fn urls(&self, name: &DeploymentName) -> Vec<String> {
        if !self.takes_requests() {
            return Vec::new();
        }
        let own = format!("http://{name}.{}/", self.tld);
        let exact = self.http.names.iter().filter_map(|name| match &name.host {
            HostPattern::Exact(host) => Some(format!("http://{host}{}", name.path)),
            HostPattern::Wildcard(_) => None,
        });
        std::iter::once(own).chain(exact).collect()
    }

    /// What it waits for; empty for a static site.
    pub fn depends_on(&self) -> impl Iterator<Item = &DeploymentName> {
        let names = match &self.workload {
            Workload::Static(_) => None,
            Workload::Service(service) => Some(&service.depends_on),
        };
        names.into_iter().flatten()
    }

    /// The secrets that its program is given, by the variables they are given in.
    pub fn secrets(&self) -> Option<&BTreeMap<String, SecretName>> {
        match &self.workload {
            Workload::Static(_) => None,
            Workload::Service(service) => Some(&service.secrets),
        }
    }

    /// What cannot be for a deployment of this name, besides [`Spec::check`].
    pub fn check_for(&self, name: &DeploymentName) -> Result<(), SpecError> {
        let Workload::Service(Service { placement, .. }) = &self.workload else {
            return Ok(());
        };
        for (list, names) in [
            ("apart_from", &placement.apart_from),
            ("near", &placement.near),
        ] {
            if names.contains(name) {
                return Err(SpecError::OwnNeighbour {
                    list: list.to_owned(),
                    name: name.clone(),
                });
            }
        }
        Ok(())
    }

    /// What a program's instances are; none of a static site.
    pub fn service(&self) -> Option<&Service> {
        match &self.workload {
            Workload::Service(service) => Some(service),
            Workload::Static(_) => None,
        }
    }

    pub fn is_static(&self) -> bool {
        matches!(self.workload, Workload::Static(_))
    }

    /// What is expected of its program; none for a static site.
    pub fn kind(&self) -> Option<&Kind> {
        match &self.workload {
            Workload::Static(_) => None,
            Workload::Service(service) => Some(&service.kind),
        }
    }

    pub fn type_name(&self) -> &'static str {
        self.kind().map_or("static", Kind::as_str)
    }

    /// Its program comes to an end by itself.
    pub fn is_finite(&self) -> bool {
        self.kind().is_some_and(Kind::is_finite)
    }

    /// It is reached by names.
    pub fn takes_requests(&self) -> bool {
        self.kind().is_none_or(|kind| *kind == Kind::Server)
    }

    /// What is said of one kind of deployment and means nothing to another.
    fn check_fit(&self) -> Result<(), SpecError> {
        let kind = self.type_name();
        let refuse = |what: &str| Err(SpecError::Runs(format!("a {kind} has no {what}")));
        if !self.takes_requests() && self.http != HttpPolicy::shared() {
            return refuse("names and no http: it is sent no requests");
        }
        let port = self.service().and_then(|service| service.port);
        if !self.takes_requests() && port.is_some() {
            return refuse("port: it is sent no requests");
        }
        if self.is_finite() && self.strategy != Strategy::default() {
            return refuse("strategy: it has no instances that a release could replace");
        }
        let beside = |cron: &Cron| cron.concurrency == Concurrency::Allow;
        if !self.volumes().is_empty()
            && matches!(self.kind(), Some(Kind::Cron(cron)) if beside(cron))
        {
            return Err(SpecError::Runs(
                "a cron deployment with volumes cannot have the concurrency 'allow': two runs must never have one volume at once; use 'forbid' or 'replace'".to_owned(),
            ));
        }
        let has_hooks = matches!(self.kind(), Some(Kind::Server | Kind::Worker));
        if !has_hooks && !self.hooks.is_empty() {
            return refuse("hooks");
        }
        Ok(())
    }
}

impl Service {
    /// With defaults for all else.
    pub fn new(command: impl Into<String>) -> Service {
        Service {
            command: command.into(),
            image: None,
            kind: Kind::Server,
            port: None,
            env: BTreeMap::new(),
            probe: ProbeSpec::default(),
            startup: None,
            liveness: None,
            stop_grace: DEFAULT_STOP_GRACE,
            drain: DEFAULT_DRAIN,
            socket_grace: DEFAULT_SOCKET_GRACE,
            resources: Resources::default(),
            isolation: Isolation::default(),
            volumes: Vec::new(),
            depends_on: BTreeSet::new(),
            secrets: BTreeMap::new(),
            placement: Placement::default(),
        }
    }

    /// One that goes on without a port, and is ready when it has stayed up for a while.
    pub fn worker(command: impl Into<String>) -> Service {
        Service {
            kind: Kind::Worker,
            probe: ProbeSpec::process(),
            ..Service::new(command)
        }
    }

    pub fn probe_of(&self, role: ProbeRole) -> Option<&ProbeSpec> {
        match role {
            ProbeRole::Startup => self.startup.as_ref(),
            ProbeRole::Readiness => Some(&self.probe),
            ProbeRole::Liveness => self.liveness.as_ref(),
        }
    }

    pub fn probes(&self) -> Probes {
        Probes {
            startup: self.startup.clone(),
            readiness: self.probe.clone(),
            liveness: self.liveness.clone(),
        }
    }

    /// A program of another kind than a server listens nowhere.
    fn check_probes(&self) -> Result<(), SpecError> {
        let kind = self.kind.as_str();
        if self.kind.is_finite() && self.probes() != Probes::default() {
            return Err(SpecError::Runs(format!("a {kind} has no probes")));
        }
        for role in ProbeRole::ALL {
            let asks_port = self.probe_of(role).is_some_and(ProbeSpec::asks_port);
            if self.kind == Kind::Worker && asks_port {
                let what = "a worker has no port: use a probe of type exec or process".to_owned();
                return Err(SpecError::BadProbe { role, what });
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), SpecError> {
        match &self.image {
            None if self.command.trim().is_empty() => return Err(SpecError::EmptyCommand),
            None => {}
            Some(_) if self.isolation.profile == Profile::None => {
                return Err(ImageError::Isolation.into());
            }
            Some(image) => image.check()?,
        }
        COMMAND_BYTES.check("the command's length in bytes", self.command.len())?;
        let mut env_bytes = 0;
        for (name, value) in &self.env {
            check_env(name, value)?;
            env_bytes += name.len() + value.len() + 2;
        }
        ENV_BYTES.check("the environment's size in bytes", env_bytes)?;
        self.resources.check()?;
        volume::check(&self.volumes)?;
        SECRETS_PER_DEPLOYMENT.check("the number of secrets", self.secrets.len())?;
        for variable in self.secrets.keys() {
            check_env(variable, "")?;
            if self.env.contains_key(variable) {
                return Err(SpecError::EnvTwice(excerpt(variable)));
            }
        }
        DEPENDENCIES.check("the number of dependencies", self.depends_on.len())?;
        self.kind.check()?;
        self.check_probes()?;
        self.placement.check()?;
        for role in ProbeRole::ALL {
            if let Some(probe) = self.probe_of(role) {
                probe.check(role)?;
            }
        }
        Ok(())
    }
}

/// POSIX.1-2017 section 8.1: names of letters, digits and underscores, no leading digit.
fn check_env(name: &str, value: &str) -> Result<(), SpecError> {
    let legal = !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.as_bytes()[0].is_ascii_digit();
    if !legal {
        return Err(SpecError::BadEnvName(excerpt(name)));
    }
    if name == "PORT" {
        return Err(SpecError::ReservedEnv);
    }
    if value.contains('\0') {
        return Err(SpecError::BadEnvValue(excerpt(name)));
    }
    Ok(())
}
