//! What is expected of a program, between text and the domain's types.

use nebula_domain::runs::{Schedule, UTC};
use nebula_domain::spec::{
    Concurrency, Cron, DEFAULT_HOOK_TIMEOUT, DEFAULT_RUN_DEADLINE, DEFAULT_STARTING_DEADLINE,
    Hooks, Kind, RunLimits, Spec,
};
use nebula_domain::text::show_duration;

use super::release::{optional, time};
use crate::api::{self, ApiError, DeploymentSpec};

pub(super) const TYPES: [&str; 5] = ["static", "service", "worker", "job", "cron"];

/// The kind of a program.
pub(super) fn kind(wire: &DeploymentSpec) -> Result<Kind, ApiError> {
    let name = wire.kind.as_str();
    let refuse = |table: &str, of: &str| {
        Err(ApiError::bad_request(
            format!("only {of} has '{table}', and this is of type '{name}'"),
            "leave it out, or see docs/jobs.md",
        ))
    };
    if wire.job != api::Job::default() && !["job", "cron"].contains(&name) {
        return refuse("job", "a job or a cron deployment");
    }
    if wire.cron != api::Cron::default() && name != "cron" {
        return refuse("cron", "a cron deployment");
    }
    Ok(match name {
        "worker" => Kind::Worker,
        "job" => Kind::Job(limits(&wire.job)?),
        "cron" => Kind::Cron(cron(wire)?),
        _ => Kind::Server,
    })
}

fn limits(wire: &api::Job) -> Result<RunLimits, ApiError> {
    Ok(RunLimits {
        retries: wire.retries.unwrap_or(0),
        deadline: time("job.deadline", wire.deadline.as_ref(), DEFAULT_RUN_DEADLINE)?,
    })
}

fn cron(wire: &DeploymentSpec) -> Result<Cron, ApiError> {
    let limits = limits(&wire.job)?;
    let wire = &wire.cron;
    let schedule = wire.schedule.clone().ok_or_else(|| {
        ApiError::bad_request(
            "a cron deployment needs a schedule",
            "add --schedule '0 3 * * *', or cron.schedule",
        )
    })?;
    let concurrency: Option<Concurrency> = optional("cron.concurrency", wire.concurrency.as_ref())?;
    Ok(Cron {
        schedule: Schedule {
            cron: schedule,
            time_zone: wire.time_zone.clone().unwrap_or_else(|| UTC.to_owned()),
        },
        concurrency: concurrency.unwrap_or_default(),
        starting_deadline: time(
            "cron.starting_deadline",
            wire.starting_deadline.as_ref(),
            DEFAULT_STARTING_DEADLINE,
        )?,
        limits,
    })
}

pub(super) fn hooks(wire: &api::Hooks) -> Result<Hooks, ApiError> {
    Ok(Hooks {
        pre_release: wire.pre_release.clone(),
        post_release: wire.post_release.clone(),
        timeout: time("hooks.timeout", wire.timeout.as_ref(), DEFAULT_HOOK_TIMEOUT)?,
    })
}

/// As [`kind`] and [`hooks`] read it; what has its default is left out.
pub(super) fn told(spec: &Spec, wire: &mut DeploymentSpec) {
    let shown = |time, default| (time != default).then(|| show_duration(time).to_string());
    if let Some(limits) = spec.kind().and_then(Kind::limits) {
        wire.job = api::Job {
            retries: (limits.retries != 0).then_some(limits.retries),
            deadline: shown(limits.deadline, DEFAULT_RUN_DEADLINE),
        };
    }
    if let Some(Kind::Cron(cron)) = spec.kind() {
        let (schedule, zone) = (&cron.schedule.cron, &cron.schedule.time_zone);
        let concurrency = cron.concurrency;
        wire.cron = api::Cron {
            schedule: Some(schedule.clone()),
            time_zone: (zone != UTC).then(|| zone.clone()),
            concurrency: (concurrency != Concurrency::default()).then(|| concurrency.to_string()),
            starting_deadline: shown(cron.starting_deadline, DEFAULT_STARTING_DEADLINE),
        };
    }
    wire.hooks = api::Hooks {
        pre_release: spec.hooks.pre_release.clone(),
        post_release: spec.hooks.post_release.clone(),
        timeout: shown(spec.hooks.timeout, DEFAULT_HOOK_TIMEOUT),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::{Passwords, spec, told_spec};

    fn wire(kind: &str) -> DeploymentSpec {
        DeploymentSpec {
            kind: kind.to_owned(),
            command: Some("run".to_owned()),
            stop_grace_ms: Some(10_000),
            ..DeploymentSpec::default()
        }
    }

    fn read(wire: &DeploymentSpec) -> Result<Spec, ApiError> {
        spec(wire, None, Passwords::Unseen)
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn what_runs_to_its_end_survives_being_told() {
        let job = DeploymentSpec {
            job: api::Job {
                retries: Some(2),
                deadline: some("30m"),
            },
            ..wire("job")
        };
        let cron = DeploymentSpec {
            cron: api::Cron {
                schedule: some("0 3 * * mon-fri"),
                time_zone: some("Europe/Berlin"),
                concurrency: some("replace"),
                starting_deadline: some("1h"),
            },
            ..wire("cron")
        };
        for told in [wire("job"), job, cron] {
            assert_eq!(told_spec(&read(&told).unwrap()), told);
        }
        let worker = told_spec(&read(&wire("worker")).unwrap());
        assert_eq!(worker.probe.as_ref().unwrap().kind, "process");
        assert_eq!(told_spec(&read(&worker).unwrap()), worker);
    }

    #[test]
    fn what_does_not_fit_is_refused_in_a_sentence() {
        let said = |wire: &DeploymentSpec| read(wire).unwrap_err().message;
        let schedule = |text: &str| DeploymentSpec {
            cron: api::Cron {
                schedule: some(text),
                ..api::Cron::default()
            },
            ..wire("cron")
        };
        assert!(said(&wire("cron")).contains("needs a schedule"));
        assert!(said(&schedule("0 25 * * *")).starts_with("cron.schedule: "));
        assert!(said(&schedule("0 0 30 2 *")).contains("never comes"));
        let mut zone = schedule("@daily");
        zone.cron.time_zone = some("Europe/Berln");
        assert!(said(&zone).contains("did you mean 'Europe/Berlin'?"));
        let service = DeploymentSpec {
            tld: some("a.test"),
            job: api::Job {
                retries: Some(1),
                ..api::Job::default()
            },
            ..wire("service")
        };
        assert!(said(&service).contains("only a job"));
        let probed = DeploymentSpec {
            probe: Some(api::Probe {
                kind: "tcp".to_owned(),
                ..api::Probe::default()
            }),
            ..wire("worker")
        };
        assert!(said(&probed).contains("a worker has no port"));
        let hooked = DeploymentSpec {
            hooks: api::Hooks {
                pre_release: some("migrate"),
                ..api::Hooks::default()
            },
            ..wire("job")
        };
        assert!(said(&hooked).contains("a job has no hooks"));
        let named = DeploymentSpec {
            tld: some("a.test"),
            ..wire("job")
        };
        assert!(said(&named).contains("no domain"));
    }
}
