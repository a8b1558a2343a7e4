//! The flags of an update: what they name changes, everything else stays as it is.

use clap::Args;
use nebula_wire::api::{DeploymentSpec, ErrorCode};

use super::{HttpChange, HttpFlags, Kind, SpecFlags, blank, checked, refuse_given, tcp_probe};
use crate::env_file;
use crate::error::{CliError, Exit, Outcome};

#[derive(Debug, Clone, Default, Args)]
pub struct ChangeFlags {
    #[command(flatten)]
    pub spec: SpecFlags,
    #[command(flatten)]
    pub http: HttpFlags,
    /// Remove an environment variable; may be repeated
    #[arg(long, value_name = "KEY", value_parser = env_file::name)]
    pub unset_env: Vec<String>,
    /// Probe with a TCP connection again
    #[arg(long, conflicts_with = "health_path")]
    pub no_health_path: bool,
    /// Have no liveness probe any more
    #[arg(long, conflicts_with = "liveness_path")]
    pub no_liveness: bool,
    /// Have no startup probe any more
    #[arg(long, conflicts_with = "startup_path")]
    pub no_startup: bool,
    /// Answer unknown pages of a static site with 404 again
    #[arg(long, conflicts_with = "spa")]
    pub no_spa: bool,
    /// Give a name back; may be repeated
    #[arg(long, value_name = "HOST", help_heading = "HTTP")]
    pub unset_name: Vec<String>,
    /// Ask no more for this user's password; may be repeated
    #[arg(long, value_name = "USER", help_heading = "HTTP")]
    pub unset_basic_auth: Vec<String>,
}

impl ChangeFlags {
    pub fn is_empty(&self) -> bool {
        let ChangeFlags {
            spec,
            unset_env,
            no_health_path,
            no_liveness,
            no_startup,
            no_spa,
            ..
        } = self;
        spec.is_empty()
            && unset_env.is_empty()
            && !no_health_path
            && !no_liveness
            && !no_startup
            && !no_spa
            && !self.changes_http()
    }

    fn changes_http(&self) -> bool {
        !self.http.is_empty() || !self.unset_name.is_empty() || !self.unset_basic_auth.is_empty()
    }

    /// Reads what the flags about HTTP name: files, and passwords at the terminal.
    pub fn read_http(&self) -> Outcome<HttpChange> {
        let mut change = self.http.read()?;
        change.unset_names.clone_from(&self.unset_name);
        change.unset_users.clone_from(&self.unset_basic_auth);
        Ok(change)
    }

    /// Refuses what cannot be right whatever the deployment is.
    pub fn check(&self, http: &HttpChange) -> Outcome {
        http.check()?;
        if self.spec.command.is_some() && self.spec.image.is_none() && self.spec.runs.is_empty() {
            self.spec.to_spec(&HttpChange::default())?;
        }
        let both = |key: &&String| self.spec.env.iter().any(|(name, _)| name == *key);
        match self.unset_env.iter().find(both) {
            Some(key) => Err(CliError::usage(
                format!("--env and --unset-env both name '{key}'"),
                "leave one of them out",
            )),
            None => Ok(()),
        }
    }

    /// The checked spec of the next release.
    pub fn onto(&self, current: &DeploymentSpec, http: &HttpChange) -> Outcome<DeploymentSpec> {
        // A site that becomes a program, or the other way round, keeps its names and how they are treated, no more.
        let now = Kind::named(&current.kind);
        let base = match now.map(|now| self.spec.kind_after(now)) {
            Some(kind) if Some(kind) != now => DeploymentSpec {
                http: current.http.clone(),
                ..blank(kind, current.tld.clone())
            },
            _ => current.clone(),
        };
        let mut spec = self.spec.onto(base)?;
        if spec.kind == Kind::Static.as_str() {
            refuse_given(&[
                (!self.unset_env.is_empty(), "--unset-env"),
                (self.no_health_path, "--no-health-path"),
                (self.no_liveness, "--no-liveness"),
                (self.no_startup, "--no-startup"),
            ])?;
        } else if self.no_spa {
            return Err(CliError::usage(
                "--no-spa is for static sites, and this is a program",
                "leave it out",
            ));
        }
        for key in &self.unset_env {
            if spec.env.remove(key).is_none() {
                return Err(CliError::new(
                    Exit::Failed,
                    ErrorCode::NotFound,
                    format!("the environment variable '{key}' is not set"),
                    "see 'nebula deploy status NAME' for those that are",
                ));
            }
        }
        if self.no_health_path {
            spec.probe = Some(tcp_probe(spec.probe.take()));
        }
        if self.no_liveness {
            spec.liveness = None;
        }
        if self.no_startup {
            spec.startup = None;
        }
        spec.spa &= !self.no_spa;
        spec.http = http.onto(spec.http)?;
        checked(spec)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nebula_wire::api::Probe;

    use super::*;

    fn service() -> DeploymentSpec {
        DeploymentSpec {
            command: Some("run".into()),
            env: [("A", "1"), ("B", "2")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            probe: Some(Probe {
                kind: "http".into(),
                path: Some("/up".into()),
                period_ms: Some(700),
                timeout_ms: Some(300),
                ..Probe::default()
            }),
            stop_grace_ms: Some(5000),
            ..blank(Kind::Service, Some("a.test".into()))
        }
    }

    fn site() -> DeploymentSpec {
        DeploymentSpec {
            spa: true,
            ..blank(Kind::Static, Some("a.test".into()))
        }
    }

    fn of_spec(spec: SpecFlags) -> ChangeFlags {
        ChangeFlags {
            spec,
            ..ChangeFlags::default()
        }
    }

    #[test]
    fn each_flag_changes_its_part_and_nothing_else() {
        let none = SpecFlags::default;
        let env = of_spec(SpecFlags {
            env: vec![("B".into(), "3".into()), ("C".into(), "4".into())],
            ..none()
        });
        let mut expected = service();
        expected.env.insert("B".into(), "3".into());
        expected.env.insert("C".into(), "4".into());
        assert_eq!(env.onto(&service(), &HttpChange::default()), Ok(expected));

        let unset = ChangeFlags {
            unset_env: vec!["A".into()],
            ..ChangeFlags::default()
        };
        let mut expected = service();
        expected.env.remove("A");
        assert_eq!(unset.onto(&service(), &HttpChange::default()), Ok(expected));

        let command = of_spec(SpecFlags {
            command: Some("other".into()),
            tld: Some("b.test".into()),
            stop_grace: Some(Duration::from_secs(1)),
            ..none()
        });
        let expected = DeploymentSpec {
            command: Some("other".into()),
            tld: Some("b.test".into()),
            stop_grace_ms: Some(1000),
            ..service()
        };
        assert_eq!(
            command.onto(&service(), &HttpChange::default()),
            Ok(expected)
        );

        let probed = |flags: ChangeFlags| {
            let probe = flags
                .onto(&service(), &HttpChange::default())
                .unwrap()
                .probe
                .unwrap();
            (probe.kind, probe.path, probe.period_ms, probe.timeout_ms)
        };
        let path = of_spec(SpecFlags {
            health_path: Some("/live".into()),
            ..none()
        });
        let expected = ("http".into(), Some("/live".into()), Some(700), Some(300));
        assert_eq!(probed(path), expected);
        let tcp = ChangeFlags {
            no_health_path: true,
            ..ChangeFlags::default()
        };
        assert_eq!(probed(tcp), ("tcp".into(), None, Some(700), Some(300)));

        let no_spa = ChangeFlags {
            no_spa: true,
            ..ChangeFlags::default()
        };
        assert!(!no_spa.onto(&site(), &HttpChange::default()).unwrap().spa);
        let tld = of_spec(SpecFlags {
            tld: Some("b.test".into()),
            ..none()
        });
        assert!(tld.onto(&site(), &HttpChange::default()).unwrap().spa);
    }

    #[test]
    fn a_change_of_type_keeps_only_names_and_http() {
        let to_service = of_spec(SpecFlags {
            command: Some("run".into()),
            ..SpecFlags::default()
        });
        let expected = DeploymentSpec {
            command: Some("run".into()),
            ..blank(Kind::Service, Some("a.test".into()))
        };
        assert_eq!(
            to_service.onto(&site(), &HttpChange::default()),
            Ok(expected)
        );
        let to_static = of_spec(SpecFlags {
            kind: Some(Kind::Static),
            ..SpecFlags::default()
        });
        let expected = blank(Kind::Static, Some("a.test".into()));
        assert_eq!(
            to_static.onto(&service(), &HttpChange::default()),
            Ok(expected)
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let change = ChangeFlags::default;
        let unset = ChangeFlags {
            unset_env: vec!["A".into()],
            ..change()
        };
        let both = ChangeFlags {
            spec: SpecFlags {
                env: vec![("A".into(), "1".into())],
                ..SpecFlags::default()
            },
            ..unset.clone()
        };
        assert_eq!(
            both.check(&HttpChange::default()).unwrap_err().exit,
            Exit::Usage
        );
        let unknown = ChangeFlags {
            unset_env: vec!["Z".into()],
            ..change()
        };
        let error = unknown
            .onto(&service(), &HttpChange::default())
            .unwrap_err();
        assert_eq!(error.exit, Exit::Failed);
        assert!(error.to_string().contains("'Z' is not set"), "{error}");
        let no_spa = ChangeFlags {
            no_spa: true,
            ..change()
        };
        let spa = of_spec(SpecFlags {
            spa: true,
            ..SpecFlags::default()
        });
        let to_service = of_spec(SpecFlags {
            kind: Some(Kind::Service),
            ..SpecFlags::default()
        });
        let refused = [
            unset.onto(&site(), &HttpChange::default()),
            both.onto(&site(), &HttpChange::default()),
            no_spa.onto(&service(), &HttpChange::default()),
            spa.onto(&service(), &HttpChange::default()),
            to_service.onto(&site(), &HttpChange::default()),
        ];
        for outcome in refused {
            assert_eq!(outcome.unwrap_err().exit, Exit::Usage);
        }
    }
}
