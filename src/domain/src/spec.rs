//! What a deployment is: the part of a release that a person writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::excerpt::excerpt;
use crate::http::{HostPattern, HttpError, HttpPolicy};
use crate::limits::{COMMAND_BYTES, ENV_BYTES, LimitExceeded};
use crate::names::{DeploymentName, DomainName};

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
    #[error(
        "the host name '<name>.<tld>' would have {host_bytes} characters, over the {HOST_BYTES_MAX} of RFC 1123: use a shorter name or domain"
    )]
    HostTooLong { host_bytes: usize },
    #[error("{0}")]
    Limit(#[from] LimitExceeded),
    #[error("{0}")]
    Http(#[from] HttpError),
}

/// RFC 1123 section 2.1: a host name has at most 253 octets (255 on the wire).
pub const HOST_BYTES_MAX: usize = 253;

/// One deployment's wishes, checked by [`Spec::check`] before they are proposed and again on apply.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Stored")]
pub struct Spec {
    pub workload: Workload,
    /// The domain the deployment's host name hangs under: `<name>.<tld>`.
    pub tld: DomainName,
    /// Its names besides that one, and how the proxy treats its requests.
    pub http: Arc<HttpPolicy>,
}

/// A spec as the log and snapshots hold it. One with the default policy is written without it: that is how
/// specs were written before there were policies, and most have none.
#[derive(Deserialize)]
#[serde(rename = "Spec")]
enum Stored {
    Static(StaticSite, DomainName),
    Service(Service, DomainName),
    StaticWithHttp(StaticSite, DomainName, Arc<HttpPolicy>),
    ServiceWithHttp(Service, DomainName, Arc<HttpPolicy>),
}

/// The same, to be written.
#[derive(Serialize)]
#[serde(rename = "Spec")]
enum StoredRef<'a> {
    Static(&'a StaticSite, &'a DomainName),
    Service(&'a Service, &'a DomainName),
    StaticWithHttp(&'a StaticSite, &'a DomainName, &'a HttpPolicy),
    ServiceWithHttp(&'a Service, &'a DomainName, &'a HttpPolicy),
}

impl Serialize for Spec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (tld, http) = (&self.tld, &*self.http);
        let plain = self.http == HttpPolicy::shared();
        let stored = match &self.workload {
            Workload::Static(site) if plain => StoredRef::Static(site, tld),
            Workload::Service(service) if plain => StoredRef::Service(service, tld),
            Workload::Static(site) => StoredRef::StaticWithHttp(site, tld, http),
            Workload::Service(service) => StoredRef::ServiceWithHttp(service, tld, http),
        };
        stored.serialize(serializer)
    }
}

impl From<Stored> for Spec {
    fn from(stored: Stored) -> Spec {
        let default = HttpPolicy::shared;
        let (workload, tld, http) = match stored {
            Stored::Static(site, tld) => (Workload::Static(site), tld, default()),
            Stored::Service(service, tld) => (Workload::Service(service), tld, default()),
            Stored::StaticWithHttp(site, tld, http) => (Workload::Static(site), tld, http),
            Stored::ServiceWithHttp(service, tld, http) => (Workload::Service(service), tld, http),
        };
        Spec {
            workload,
            tld,
            http,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Workload {
    /// Files that every node's proxy serves by itself.
    Static(StaticSite),
    /// A program that listens on `PORT`.
    Service(Service),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticSite {
    /// Answer unknown paths that look like pages with `/index.html` (single-page applications).
    pub spa: bool,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Handed to `/bin/sh -c`, run in the artifact's folder.
    pub command: String,
    pub env: BTreeMap<String, String>,
    pub probe: ProbeSpec,
    /// From SIGTERM to SIGKILL.
    pub stop_grace: Duration,
}

/// Names of variables only: their values and the command may hold secrets.
impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("probe", &self.probe)
            .field("stop_grace", &self.stop_grace)
            .finish_non_exhaustive()
    }
}

/// How an instance is asked whether it can take requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeSpec {
    pub kind: ProbeKind,
    /// Between two probes of a settled instance.
    pub period: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// Failures in a row that make a ready instance unready.
    pub failure_threshold: u32,
    /// Successes in a row that make an unready instance ready.
    pub success_threshold: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeKind {
    /// The port accepts a connection.
    Tcp,
    /// `GET path` answers 200 to 399.
    Http { path: String },
}

impl Default for ProbeSpec {
    fn default() -> Self {
        ProbeSpec {
            kind: ProbeKind::Tcp,
            period: Duration::from_secs(2),
            timeout: Duration::from_secs(2),
            failure_threshold: 3,
            success_threshold: 1,
        }
    }
}

/// Kubernetes, Nomad and Kamal all wait about this long before they kill.
pub const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);

impl Spec {
    pub fn check(&self) -> Result<(), SpecError> {
        self.http.check()?;
        match &self.workload {
            Workload::Static(_) => Ok(()),
            Workload::Service(service) => service.check(),
        }
    }

    /// Where people find a deployment of this name: under its own host, then its other names but those with a star.
    pub fn urls(&self, name: &DeploymentName) -> Vec<String> {
        let own = format!("http://{name}.{}/", self.tld);
        let exact = self.http.names.iter().filter_map(|name| match &name.host {
            HostPattern::Exact(host) => Some(format!("http://{host}{}", name.path)),
            HostPattern::Wildcard(_) => None,
        });
        std::iter::once(own).chain(exact).collect()
    }

    pub fn is_static(&self) -> bool {
        matches!(self.workload, Workload::Static(_))
    }
}

impl Service {
    fn check(&self) -> Result<(), SpecError> {
        if self.command.trim().is_empty() {
            return Err(SpecError::EmptyCommand);
        }
        COMMAND_BYTES.check("the command's length in bytes", self.command.len())?;
        let mut env_bytes = 0;
        for (name, value) in &self.env {
            check_env(name, value)?;
            env_bytes += name.len() + value.len() + 2;
        }
        ENV_BYTES.check("the environment's size in bytes", env_bytes)?;
        if let ProbeKind::Http { path } = &self.probe.kind
            && (!path.starts_with('/') || path.bytes().any(|b| b <= b' ' || b == 0x7f))
        {
            return Err(SpecError::BadProbePath(excerpt(path)));
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
