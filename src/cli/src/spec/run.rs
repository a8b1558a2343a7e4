//! The flags about what runs to its end: jobs, schedules, hooks.

use clap::Args;
use nebula_wire::api::DeploymentSpec;

/// In place of a hook's command: no hook any more.
const NONE: &str = "none";

#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct RunFlags {
    /// When a cron deployment is due: minute, hour, day, month and weekday, such as '0 3 * * *', or @daily
    #[arg(long, value_name = "SCHEDULE", help_heading = "Runs")]
    pub schedule: Option<String>,
    /// Whose clock the schedule follows, such as Europe/Berlin; UTC unless said otherwise
    #[arg(long, value_name = "ZONE", help_heading = "Runs")]
    time_zone: Option<String>,
    /// What becomes of a run that is due while an earlier one goes on: forbid, allow or replace
    #[arg(long, value_name = "POLICY", help_heading = "Runs")]
    concurrency: Option<String>,
    /// How late a run may begin that could not when it was due; 10m unless said otherwise
    #[arg(long, value_name = "DURATION", help_heading = "Runs")]
    starting_deadline: Option<String>,
    /// Tries after a run has failed; 0 unless said otherwise
    #[arg(long, value_name = "N", help_heading = "Runs")]
    retries: Option<u32>,
    /// From the beginning of a run's first try to the end of its last; 1h unless said otherwise
    #[arg(long, value_name = "DURATION", help_heading = "Runs")]
    run_deadline: Option<String>,
    /// Command that runs once before any instance of a release begins, or none; if it fails, the release is stopped
    #[arg(long, value_name = "COMMAND", help_heading = "Runs")]
    pre_release: Option<String>,
    /// Command that runs once when a release is fully out, or none
    #[arg(long, value_name = "COMMAND", help_heading = "Runs")]
    post_release: Option<String>,
    /// How long each of the two may take; 10m unless said otherwise
    #[arg(long, value_name = "DURATION", help_heading = "Runs")]
    hook_timeout: Option<String>,
}

impl RunFlags {
    pub fn is_empty(&self) -> bool {
        *self == RunFlags::default()
    }

    /// The flags, and whether they are given: a static site has none of them.
    pub fn of_programs(&self) -> Vec<(bool, &'static str)> {
        let RunFlags {
            schedule,
            time_zone,
            concurrency,
            starting_deadline,
            retries,
            run_deadline,
            pre_release,
            post_release,
            hook_timeout,
        } = self;
        vec![
            (schedule.is_some(), "--schedule"),
            (time_zone.is_some(), "--time-zone"),
            (concurrency.is_some(), "--concurrency"),
            (starting_deadline.is_some(), "--starting-deadline"),
            (retries.is_some(), "--retries"),
            (run_deadline.is_some(), "--run-deadline"),
            (pre_release.is_some(), "--pre-release"),
            (post_release.is_some(), "--post-release"),
            (hook_timeout.is_some(), "--hook-timeout"),
        ]
    }

    /// Puts what these flags say in place of what the spec says; the rest stays.
    pub fn onto(&self, spec: &mut DeploymentSpec) {
        let flag = |flag: &Option<String>, known: &mut Option<String>| {
            if flag.is_some() {
                known.clone_from(flag);
            }
        };
        let hook = |flag: &Option<String>, known: &mut Option<String>| match flag.as_deref() {
            None => {}
            Some(NONE) => *known = None,
            Some(command) => *known = Some(command.to_owned()),
        };
        flag(&self.schedule, &mut spec.cron.schedule);
        flag(&self.time_zone, &mut spec.cron.time_zone);
        flag(&self.concurrency, &mut spec.cron.concurrency);
        flag(&self.starting_deadline, &mut spec.cron.starting_deadline);
        flag(&self.run_deadline, &mut spec.job.deadline);
        flag(&self.hook_timeout, &mut spec.hooks.timeout);
        spec.job.retries = self.retries.or(spec.job.retries);
        hook(&self.pre_release, &mut spec.hooks.pre_release);
        hook(&self.post_release, &mut spec.hooks.post_release);
    }
}

#[cfg(test)]
mod tests {
    use nebula_wire::api::{Cron, Hooks, Job};

    use super::*;

    #[test]
    fn each_flag_changes_its_part_and_nothing_else() {
        let some = |text: &str| Some(text.to_owned());
        let mut spec = DeploymentSpec::default();
        RunFlags {
            schedule: some("@daily"),
            time_zone: some("Europe/Berlin"),
            retries: Some(2),
            pre_release: some("migrate"),
            post_release: some("notify"),
            ..RunFlags::default()
        }
        .onto(&mut spec);
        RunFlags {
            concurrency: some("allow"),
            starting_deadline: some("1h"),
            run_deadline: some("5m"),
            post_release: some("none"),
            hook_timeout: some("1m"),
            ..RunFlags::default()
        }
        .onto(&mut spec);
        let expected = Cron {
            schedule: some("@daily"),
            time_zone: some("Europe/Berlin"),
            concurrency: some("allow"),
            starting_deadline: some("1h"),
        };
        assert_eq!(spec.cron, expected);
        let expected = Job {
            retries: Some(2),
            deadline: some("5m"),
        };
        assert_eq!(spec.job, expected);
        let expected = Hooks {
            pre_release: some("migrate"),
            post_release: None,
            timeout: some("1m"),
        };
        assert_eq!(spec.hooks, expected);
    }
}
