//! From flags to what the API is asked for. Everything is checked here before anything is sent.

mod change;
mod http;
mod http_file;
mod password;
mod placement;
mod port;
mod release;
mod run;
mod stateful;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use nebula_domain::DeploymentName;
use nebula_domain::image::ImageDigest;
use nebula_domain::limits::INSTANCES_PER_DEPLOYMENT;
use nebula_wire::api::{DeploymentSpec, Image, Probe};
use nebula_wire::convert::{self, Passwords};

pub use change::ChangeFlags;
pub use http::{HttpChange, HttpFlags};
pub use port::PortFlag;
use release::ReleaseFlags;
use run::RunFlags;
use stateful::StatefulFlags;

use crate::error::{CliError, Outcome};
use crate::{duration, env_file};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Files that every node serves by itself
    Static,
    /// A program that listens on the port in PORT
    Service,
    /// A program that goes on without a port
    Worker,
    /// A program that runs to its end once for each release
    Job,
    /// A program that runs to its end whenever its schedule says so
    Cron,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Static => "static",
            Kind::Service => "service",
            Kind::Worker => "worker",
            Kind::Job => "job",
            Kind::Cron => "cron",
        }
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Kind> {
        let mut all = Kind::value_variants().iter();
        all.find(|kind| kind.as_str() == name).copied()
    }

    /// It has as many instances as somebody says.
    pub fn has_instances(self) -> bool {
        matches!(self, Kind::Service | Kind::Worker)
    }
}

/// The flags that make up a deployment's spec.
#[derive(Debug, Clone, Default, Args)]
pub struct SpecFlags {
    /// What is deployed; a cron deployment when there is a schedule, a service when there is a command, a static site otherwise
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<Kind>,
    /// Program to run in the deployed folder, by /bin/sh; it has to listen on 127.0.0.1:$PORT
    #[arg(long, value_name = "COMMAND")]
    pub command: Option<String>,
    /// Container image to run, as 'docker save' or an OCI layout puts it in an archive; its files take the place of --path
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Port on which the program listens whatever PORT says, so that a node has one instance of it at most; none for the one in PORT
    #[arg(long, value_name = "PORT")]
    pub port: Option<PortFlag>,
    /// Domain under which the deployment gets its name: NAME.DOMAIN
    #[arg(long, value_name = "DOMAIN")]
    pub tld: Option<String>,
    /// Environment variable of the program; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = env_file::flag)]
    pub env: Vec<(String, String)>,
    /// File of KEY=VALUE lines; --env overrides it
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Probe with GET on this path instead of a TCP connection
    #[arg(long, value_name = "PATH")]
    pub health_path: Option<String>,
    /// Start the program again when GET on this path fails 3 times in a row
    #[arg(long, value_name = "PATH")]
    pub liveness_path: Option<String>,
    /// Let no other probe count until GET on this path has succeeded once
    #[arg(long, value_name = "PATH")]
    pub startup_path: Option<String>,
    /// Answer unknown pages of a static site with its index.html
    #[arg(long)]
    pub spa: bool,
    /// From the polite stop (SIGTERM) to the hard one (SIGKILL)
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub stop_grace: Option<Duration>,
    /// How long requests under way have to end before the polite stop; 30s unless said otherwise
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub drain: Option<Duration>,
    /// How long WebSockets have; 10s unless said otherwise
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub socket_grace: Option<Duration>,
    #[command(flatten)]
    pub release: ReleaseFlags,
    #[command(flatten)]
    pub stateful: StatefulFlags,
    #[command(flatten)]
    pub runs: RunFlags,
}

impl SpecFlags {
    /// Whether any flag says something about the spec.
    pub fn is_empty(&self) -> bool {
        let SpecFlags {
            kind,
            command,
            image,
            port,
            tld,
            env,
            env_file,
            health_path,
            liveness_path,
            startup_path,
            spa,
            stop_grace,
            drain,
            socket_grace,
            release,
            stateful,
            runs,
        } = self;
        kind.is_none()
            && command.is_none()
            && image.is_none()
            && port.is_none()
            && tld.is_none()
            && env.is_empty()
            && env_file.is_none()
            && health_path.is_none()
            && liveness_path.is_none()
            && startup_path.is_none()
            && !spa
            && stop_grace.is_none()
            && drain.is_none()
            && socket_grace.is_none()
            && release.is_empty()
            && stateful.is_empty()
            && runs.is_empty()
    }

    /// What the flags make of a deployment that is of the kind `now`.
    fn kind_after(&self, now: Kind) -> Kind {
        let by_schedule = self.runs.schedule.as_ref().map(|_| Kind::Cron);
        // Another command leaves a program what it is.
        let is_program = self.command.is_some() || self.image.is_some();
        let by_command = is_program.then_some(Kind::Service);
        let by_command = by_command.filter(|_| now == Kind::Static);
        self.kind.or(by_schedule).or(by_command).unwrap_or(now)
    }

    fn kind(&self) -> Kind {
        self.kind_after(Kind::Static)
    }

    /// The checked spec of a new deployment. Without a `--tld` the cluster's default domain decides later.
    pub fn to_spec(&self, http: &HttpChange) -> Outcome<DeploymentSpec> {
        let spec = self.onto(blank(self.kind(), None))?;
        let http = http.onto(spec.http)?;
        checked(DeploymentSpec { http, ..spec })
    }

    /// The spec with what these flags say in place of what it says; the rest stays.
    fn onto(&self, mut spec: DeploymentSpec) -> Outcome<DeploymentSpec> {
        if spec.kind == Kind::Static.as_str() {
            self.check_static()?;
        }
        if let Some(path) = &self.env_file {
            spec.env.extend(env_file::read(path)?);
        }
        spec.env.extend(self.env.iter().cloned());
        let paths = [
            (&self.health_path, &mut spec.probe),
            (&self.liveness_path, &mut spec.liveness),
            (&self.startup_path, &mut spec.startup),
        ];
        for (path, told) in paths {
            if let Some(path) = path {
                *told = Some(http_probe(path, told.take()));
            }
        }
        if self.image.is_some() {
            // The command of a folder's program is none of an image's.
            spec.command = spec.command.filter(|_| spec.image.is_some());
            spec.image = Some(unread());
        }
        spec.command = self.command.clone().or(spec.command);
        if let Some(PortFlag(port)) = self.port {
            spec.port = port;
        }
        spec.tld = self.tld.clone().or(spec.tld);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        spec.stop_grace_ms = self.stop_grace.map(millis).or(spec.stop_grace_ms);
        spec.drain_ms = self.drain.map(millis).or(spec.drain_ms);
        spec.socket_grace_ms = self.socket_grace.map(millis).or(spec.socket_grace_ms);
        spec.spa |= self.spa;
        self.release.onto(&mut spec);
        self.stateful.onto(&mut spec);
        self.runs.onto(&mut spec);
        Ok(spec)
    }

    fn check_static(&self) -> Outcome {
        refuse_given(&[
            (self.command.is_some(), "--command"),
            (self.image.is_some(), "--image"),
            (self.port.is_some(), "--port"),
            (!self.env.is_empty(), "--env"),
            (self.env_file.is_some(), "--env-file"),
            (self.health_path.is_some(), "--health-path"),
            (self.liveness_path.is_some(), "--liveness-path"),
            (self.startup_path.is_some(), "--startup-path"),
            (self.stop_grace.is_some(), "--stop-grace"),
            (self.drain.is_some(), "--drain"),
            (self.socket_grace.is_some(), "--socket-grace"),
        ])?;
        refuse_given(&self.release.of_programs())?;
        refuse_given(&self.stateful.of_programs())?;
        refuse_given(&self.runs.of_programs())
    }

    /// How many instances to ask for. Static sites have none to choose.
    pub fn instances(&self, asked: Option<u32>) -> Outcome<u32> {
        match (self.kind(), asked) {
            (Kind::Static, Some(_)) => Err(CliError::usage(
                "a static site is served by every node and has no instances to count",
                "leave --instances out, or add --command with the program to run",
            )),
            (Kind::Job | Kind::Cron, Some(_)) => Err(CliError::usage(
                "what runs to its end has no instances to count",
                "leave --instances out, or use --type worker",
            )),
            (_, None) => Ok(1),
            (Kind::Service | Kind::Worker, Some(n)) => check_instances(n),
        }
    }
}

/// A spec that says nothing yet.
fn blank(kind: Kind, tld: Option<String>) -> DeploymentSpec {
    DeploymentSpec {
        kind: kind.as_str().to_owned(),
        tld,
        ..DeploymentSpec::default()
    }
}

/// Stands in for an image until its archive is read.
pub fn unread() -> Image {
    Image {
        name: "image".to_owned(),
        digest: ImageDigest([0; 32]).to_string(),
    }
}

/// A probe of this path, as often and as patient as the one before, and as it was asked if that was HTTP.
fn http_probe(path: &str, before: Option<Probe>) -> Probe {
    let before = before.unwrap_or_default();
    let (headers, codes) = match before.kind.as_str() {
        "http" => (before.headers.clone(), before.codes.clone()),
        _ => Default::default(),
    };
    Probe {
        kind: "http".to_owned(),
        path: Some(path.to_owned()),
        headers,
        codes,
        ..tcp_probe(Some(before))
    }
}

/// A probe of the port, as often and as patient as the one before.
fn tcp_probe(before: Option<Probe>) -> Probe {
    Probe {
        kind: "tcp".to_owned(),
        path: None,
        headers: Default::default(),
        codes: None,
        command: None,
        service: None,
        ..before.unwrap_or_default()
    }
}

/// The spec, if the cluster would take it.
fn checked(spec: DeploymentSpec) -> Outcome<DeploymentSpec> {
    // Any domain stands in for the default one: it is not part of what is sent.
    convert::spec(&spec, Some("default.invalid"), Passwords::Unseen)
        .map_err(|e| CliError::usage(e.message, e.hint))?;
    Ok(spec)
}

/// Refuses flags about programs for what is no program.
fn refuse_given(flags: &[(bool, &str)]) -> Outcome {
    match flags.iter().find(|(given, _)| *given) {
        Some((_, flag)) => Err(CliError::usage(
            format!("{flag} is for services, and this is a static site"),
            "add --command with the program to run, or leave the flag out",
        )),
        None => Ok(()),
    }
}

/// Checks a number of instances against the cluster's limit.
pub fn check_instances(n: u32) -> Outcome<u32> {
    INSTANCES_PER_DEPLOYMENT
        .check(
            "the number of instances",
            usize::try_from(n).unwrap_or(usize::MAX),
        )
        .map(|()| n)
        .map_err(|e| {
            CliError::usage(
                e.to_string(),
                format!("use at most {}", INSTANCES_PER_DEPLOYMENT.max),
            )
        })
}

/// A deployment's name as typed.
pub fn deployment_name(text: &str) -> Outcome<DeploymentName> {
    text.parse().map_err(|e: nebula_domain::names::NameError| {
        CliError::usage(e.to_string(), "choose a name such as 'my-app'")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> SpecFlags {
        SpecFlags {
            command: Some("run".into()),
            ..SpecFlags::default()
        }
    }

    #[test]
    fn a_command_makes_a_service_and_none_a_site() {
        assert_eq!(
            service().to_spec(&HttpChange::default()).unwrap().kind,
            "service"
        );
        let site = SpecFlags {
            spa: true,
            ..SpecFlags::default()
        };
        let spec = site.to_spec(&HttpChange::default()).unwrap();
        assert_eq!((spec.kind.as_str(), spec.spa), ("static", true));
        assert!(SpecFlags::default().is_empty());
        assert!(!site.is_empty());
    }

    #[test]
    fn flags_override_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        std::fs::write(&file, "A=file\nB=file\n").unwrap();
        let flags = SpecFlags {
            env: vec![("A".into(), "flag".into())],
            env_file: Some(file),
            health_path: Some("/health".into()),
            liveness_path: Some("/live".into()),
            stop_grace: Some(Duration::from_secs(3)),
            ..service()
        };
        let spec = flags.to_spec(&HttpChange::default()).unwrap();
        assert_eq!(spec.env["A"], "flag");
        assert_eq!(spec.env["B"], "file");
        assert_eq!(spec.probe.unwrap().path.as_deref(), Some("/health"));
        assert_eq!(spec.liveness.unwrap().path.as_deref(), Some("/live"));
        assert_eq!(spec.startup, None);
        assert_eq!(spec.stop_grace_ms, Some(3000));
        assert_eq!(spec.tld, None, "the stand-in domain is not sent");
    }

    #[test]
    fn what_does_not_fit_is_refused_before_anything_is_sent() {
        let bad = [
            SpecFlags {
                kind: Some(Kind::Service),
                ..SpecFlags::default()
            },
            SpecFlags {
                command: Some("  ".into()),
                ..SpecFlags::default()
            },
            SpecFlags {
                kind: Some(Kind::Static),
                ..service()
            },
            SpecFlags {
                env: vec![("A".into(), "1".into())],
                ..SpecFlags::default()
            },
            SpecFlags {
                env: vec![("PORT".into(), "1".into())],
                ..service()
            },
            SpecFlags {
                env: vec![("A".into(), "x".repeat(40_000))],
                ..service()
            },
            SpecFlags {
                command: Some("x".repeat(5000)),
                ..SpecFlags::default()
            },
            SpecFlags {
                health_path: Some("health".into()),
                ..service()
            },
            SpecFlags {
                tld: Some("Not A Domain".into()),
                ..service()
            },
            SpecFlags {
                spa: true,
                ..service()
            },
            SpecFlags {
                stop_grace: Some(Duration::from_secs(7200)),
                ..service()
            },
        ];
        for flags in bad {
            let error = flags
                .to_spec(&HttpChange::default())
                .expect_err(&format!("{flags:?}"));
            assert_eq!(error.exit as u8, 2, "{error}");
            assert!(!error.error.hint.is_empty(), "{error}");
        }
    }

    #[test]
    fn instances_are_for_services() {
        assert_eq!(service().instances(Some(3)), Ok(3));
        assert_eq!(service().instances(None), Ok(1));
        assert!(service().instances(Some(501)).is_err());
        assert!(SpecFlags::default().instances(Some(1)).is_err());
        assert!(deployment_name("my-app").is_ok());
        assert_eq!(deployment_name("My_App").unwrap_err().exit as u8, 2);
    }
}
