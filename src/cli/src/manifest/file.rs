//! The file's fields. The comments here are what the JSON Schema tells editors, and `docs/nebula-toml.md` people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use nebula_wire::api::{
    Cron, Hooks, Http, Isolation, Job, Placement, Probe, ReleaseStrategy, Resources, SecretRef,
    Volume,
};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use utoipa::ToSchema;

use crate::duration;
use crate::spec::Kind;

/// One deployment. In an environment: what differs there.
#[derive(serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The deployment's name, and the first part of its host name: lower-case letters, digits and dashes.
    pub name: Option<String>,
    /// `static` (files that every node serves), `service` (a program that listens on the port in PORT), `worker` (one without a port), `job` (one that runs to its end once for each release) or `cron` (whenever its schedule says so); cron when there is a schedule, a service when there is a command, a static site otherwise.
    #[serde(rename = "type")]
    #[schema(inline)]
    pub kind: Option<Kind>,
    /// Program to run in the deployed folder, by /bin/sh; it has to listen on 127.0.0.1:$PORT. An image has its own unless one is given.
    pub command: Option<String>,
    /// Port on which the program listens whatever PORT says, such as 8080; a node then has at most one instance of it.
    pub port: Option<u32>,
    /// Archive with the container image to run, seen from this file, as `docker save` or an OCI layout has it; in place of `path`.
    pub image: Option<String>,
    /// Folder with the files to deploy, seen from this file; its own folder unless said otherwise.
    pub path: Option<String>,
    /// Domain under which the deployment gets its name: NAME.DOMAIN; the cluster's default one unless said otherwise.
    pub tld: Option<String>,
    /// Further names that it answers under, such as `shop.test`, `*.shop.test` or `shop.test/eu`. An environment does not inherit them.
    pub names: Option<Vec<String>>,
    /// Copies of the program; left out, the number stays what it is, and is 1 at first.
    pub instances: Option<u32>,
    /// Environment variables of the program; `${VAR}` stands for a variable of whoever deploys, `$$` for a dollar sign.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    pub env: BTreeMap<String, EnvValue>,
    /// File of KEY=VALUE lines, seen from this file; `env` overrides it.
    pub env_file: Option<String>,
    /// May an instance be sent requests? A TCP probe unless said otherwise.
    pub probe: Option<ProbeTable>,
    /// Has the program come up? Until it has, the other probes do not count.
    pub startup: Option<ProbeTable>,
    /// Is it of any use still? If not it is started again.
    pub liveness: Option<ProbeTable>,
    /// From the polite stop (SIGTERM) to the hard one (SIGKILL), such as `10s`.
    #[schema(value_type = Option<String>)]
    pub stop_grace: Option<Time>,
    /// How long requests under way have to end before the polite stop, such as `30s`.
    #[schema(value_type = Option<String>)]
    pub drain: Option<Time>,
    /// How long WebSockets have to end before it, such as `10s`.
    #[schema(value_type = Option<String>)]
    pub socket_grace: Option<Time>,
    /// Whether unknown pages of a static site are answered with its index.html.
    pub spa: Option<bool>,
    /// What one instance may use.
    #[serde(default)]
    pub resources: Resources,
    /// What one instance may reach.
    #[serde(default)]
    pub isolation: Isolation,
    /// Folders that outlive its instances and releases.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Deployments that have to be ready before an instance is started; the program is told their addresses.
    #[serde(default)]
    pub depends_on: Vec<String>,
    /// Secrets that the program is given: names, or tables that also name the variable. Never values.
    #[serde(default)]
    pub secrets: Vec<SecretEntry>,
    /// On which nodes instances may be, and had better be.
    #[serde(default)]
    pub placement: Placement,
    /// How a release takes over from the one before.
    #[serde(default)]
    pub strategy: ReleaseStrategy,
    /// How often and how long a run of a job or a cron deployment may try.
    #[serde(default)]
    pub job: Job,
    /// When a cron deployment is due.
    #[serde(default)]
    pub cron: Cron,
    /// Commands that run once for each release.
    #[serde(default)]
    pub hooks: Hooks,
    /// How the proxy treats its requests.
    #[serde(default)]
    pub http: Http,
    /// Overlays by name, chosen by `--env NAME`: what one says replaces what stands above.
    #[serde(default)]
    #[schema(no_recursion)]
    #[expect(
        dead_code,
        reason = "they are taken out of the text's tree, to lay one over it; here they have their name and schema"
    )]
    pub environments: BTreeMap<String, File>,
}

/// `"DB_PASSWORD"`, or `{ env = "PGPASSWORD", secret = "DB_PASSWORD" }`.
#[derive(serde::Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a secret's name, or a table with 'env' and 'secret'"
)]
pub enum SecretEntry {
    Name(String),
    As(SecretRef),
}

impl SecretEntry {
    pub fn to_wire(&self) -> SecretRef {
        match self {
            SecretEntry::Name(name) => SecretRef {
                env: name.clone(),
                secret: name.clone(),
            },
            SecretEntry::As(given) => given.clone(),
        }
    }
}

/// How an instance is asked.
#[derive(serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbeTable {
    /// `tcp` (a connection), `http` (a GET), `exec` (a command), `grpc` or `process` (it is there); by what else is said, otherwise `tcp`, and `process` for a worker.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// HTTP: what is asked for, such as `/health`.
    pub path: Option<String>,
    /// HTTP: header fields that are sent.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    pub headers: BTreeMap<String, EnvValue>,
    /// HTTP: codes that are a success, such as `200-399` or `204,301`.
    pub codes: Option<String>,
    /// Exec: run by /bin/sh beside the program.
    pub command: Option<String>,
    /// gRPC: the service that is asked after; the whole server unless said otherwise.
    pub service: Option<String>,
    /// Before the first question, such as `5s`.
    #[schema(value_type = Option<String>)]
    pub delay: Option<Time>,
    /// From one question to the next, such as `2s`.
    #[schema(value_type = Option<String>)]
    pub period: Option<Time>,
    /// How long an answer may take, such as `1s`.
    #[schema(value_type = Option<String>)]
    pub timeout: Option<Time>,
    /// So many failures in a row count.
    pub failure_threshold: Option<u32>,
    /// So many successes in a row count.
    pub success_threshold: Option<u32>,
}

impl ProbeTable {
    /// The readiness probe of a deployment of this kind: a worker has no port to connect to.
    pub fn to_wire_of(&self, kind: Kind) -> Probe {
        let mut probe = self.to_wire();
        if kind == Kind::Worker && self.kind.is_none() && probe.kind == "tcp" {
            "process".clone_into(&mut probe.kind);
        }
        probe
    }

    pub fn to_wire(&self) -> Probe {
        let kind = match (&self.path, &self.command, &self.service) {
            (Some(_), _, _) => "http",
            (_, Some(_), _) => "exec",
            (_, _, Some(_)) => "grpc",
            (None, None, None) => "tcp",
        };
        let headers = self.headers.iter();
        Probe {
            kind: self.kind.clone().unwrap_or_else(|| kind.to_owned()),
            path: self.path.clone(),
            headers: headers
                .map(|(key, value)| (key.clone(), value.0.clone()))
                .collect(),
            codes: self.codes.clone(),
            command: self.command.clone(),
            service: self.service.clone(),
            delay_ms: self.delay.map(Time::millis),
            period_ms: self.period.map(Time::millis),
            timeout_ms: self.timeout.map(Time::millis),
            failure_threshold: self.failure_threshold,
            success_threshold: self.success_threshold,
        }
    }
}

/// A time as the flags take it: `500ms`, `10s`, `1h30m`.
#[derive(Debug, Clone, Copy)]
pub struct Time(Duration);

impl Time {
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Time, D::Error> {
        let text = String::deserialize(from)?;
        duration::parse(&text).map(Time).map_err(D::Error::custom)
    }
}

/// Text that errors never show: it may be a secret.
pub struct EnvValue(pub String);

const NO_TEXT: &str = "this value is text: write it in quotes";

impl<'de> Deserialize<'de> for EnvValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<EnvValue, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = EnvValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text in quotes")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<EnvValue, E> {
                Ok(EnvValue(text.to_owned()))
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<EnvValue, E> {
                Err(E::custom(NO_TEXT))
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<EnvValue, E> {
                Err(E::custom(NO_TEXT))
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<EnvValue, E> {
                Err(E::custom(NO_TEXT))
            }

            fn visit_i128<E: Error>(self, _: i128) -> Result<EnvValue, E> {
                Err(E::custom(NO_TEXT))
            }

            fn visit_u128<E: Error>(self, _: u128) -> Result<EnvValue, E> {
                Err(E::custom(NO_TEXT))
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<EnvValue, E> {
                Err(E::custom(NO_TEXT))
            }
        }
        from.deserialize_any(Text)
    }
}
