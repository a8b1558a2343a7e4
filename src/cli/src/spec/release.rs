//! The flags about how a release takes over, what an instance may use and what it may reach.

use clap::Args;
use nebula_wire::api::{DeploymentSpec, Isolation, ReleaseStrategy, Resources};

use super::placement::PlacementFlags;

/// In place of a value: none.
pub(super) const NONE: &str = "none";

#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ReleaseFlags {
    #[command(flatten)]
    resources: ResourceFlags,
    #[command(flatten)]
    isolation: IsolationFlags,
    #[command(flatten)]
    placement: PlacementFlags,
    #[command(flatten)]
    strategy: StrategyFlags,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
struct ResourceFlags {
    /// Memory of an instance, such as 512Mi or 1Gi, or none for no limit
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    memory: Option<String>,
    /// Processor time of an instance, such as 500m (half a core) or 2, or none for no limit
    #[arg(long, value_name = "CORES", help_heading = "Limits")]
    cpu: Option<String>,
    /// Processes and threads of an instance
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pids: Option<u32>,
    /// Open files of each of its processes
    #[arg(long, value_name = "N", help_heading = "Limits")]
    files: Option<u32>,
    /// What an instance may keep in its own folder, such as 1Gi, or none for no limit
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    disk: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
struct IsolationFlags {
    /// How much of the machine is hidden from it: default, strict or none
    #[arg(long, value_name = "PROFILE", help_heading = "Limits")]
    isolation: Option<String>,
    /// The network that it sees: host or none
    #[arg(long, value_name = "NETWORK", help_heading = "Limits")]
    network: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
struct StrategyFlags {
    /// How a release takes over: rolling, blue-green, canary or recreate
    #[arg(long, value_name = "STRATEGY", help_heading = "Releases")]
    strategy: Option<String>,
    /// Rolling: instances above the wanted number, such as 1 or 25%
    #[arg(long, value_name = "N|%", help_heading = "Releases")]
    surge: Option<String>,
    /// Rolling: instances below it
    #[arg(long, value_name = "N|%", help_heading = "Releases")]
    unavailable: Option<String>,
    /// Blue-green: how long the old instances stay ready after the switch
    #[arg(long, value_name = "DURATION", help_heading = "Releases")]
    warm: Option<String>,
    /// Canary: percent of the visitors and time, such as '10% 2m'; may be repeated
    #[arg(long = "step", value_name = "STEP", help_heading = "Releases")]
    steps: Vec<String>,
    /// For so long a release is watched before it counts as good
    #[arg(long, value_name = "DURATION", help_heading = "Releases")]
    watch: Option<String>,
    /// Without progress for so long a release has failed
    #[arg(long, value_name = "DURATION", help_heading = "Releases")]
    deadline: Option<String>,
    /// Take a release that failed back (the default)
    #[arg(long, overrides_with = "no_rollback", help_heading = "Releases")]
    rollback: bool,
    /// Leave a release that failed as it is
    #[arg(long, overrides_with = "rollback", help_heading = "Releases")]
    no_rollback: bool,
    /// What speaks against a release, such as 'requests=50 errors=5% p95=200%', or off
    #[arg(long, value_name = "JUDGE", help_heading = "Releases")]
    judge: Option<String>,
}

impl ReleaseFlags {
    pub fn is_empty(&self) -> bool {
        *self == ReleaseFlags::default()
    }

    /// The flags that only a program can have, and whether they are given.
    pub fn of_programs(&self) -> Vec<(bool, &'static str)> {
        let ResourceFlags {
            memory,
            cpu,
            pids,
            files,
            disk,
        } = &self.resources;
        let IsolationFlags { isolation, network } = &self.isolation;
        [
            (memory.is_some(), "--memory"),
            (cpu.is_some(), "--cpu"),
            (pids.is_some(), "--pids"),
            (files.is_some(), "--files"),
            (disk.is_some(), "--disk"),
            (isolation.is_some(), "--isolation"),
            (network.is_some(), "--network"),
        ]
        .into_iter()
        .chain(self.placement.given())
        .collect()
    }

    /// Puts what these flags say in place of what the spec says; the rest stays.
    pub fn onto(&self, spec: &mut DeploymentSpec) {
        self.resources.onto(&mut spec.resources);
        self.isolation.onto(&mut spec.isolation);
        self.placement.onto(&mut spec.placement);
        self.strategy.onto(&mut spec.strategy);
    }
}

/// What a flag says replaces what is there; `none` takes it away.
fn amount(flag: Option<&String>, known: &mut Option<String>) {
    match flag.map(String::as_str) {
        None => {}
        Some(NONE) => *known = None,
        Some(text) => *known = Some(text.to_owned()),
    }
}

impl ResourceFlags {
    fn onto(&self, known: &mut Resources) {
        amount(self.memory.as_ref(), &mut known.memory);
        amount(self.cpu.as_ref(), &mut known.cpu);
        amount(self.disk.as_ref(), &mut known.disk);
        known.pids = self.pids.or(known.pids);
        known.files = self.files.or(known.files);
    }
}

impl IsolationFlags {
    fn onto(&self, known: &mut Isolation) {
        known.profile = self.isolation.clone().or(known.profile.take());
        known.network = self.network.clone().or(known.network.take());
    }
}

impl StrategyFlags {
    fn onto(&self, known: &mut ReleaseStrategy) {
        let other = |kind: &String| known.kind.as_deref().unwrap_or("rolling") != kind;
        if self.strategy.as_ref().is_some_and(other) {
            // What belongs to one strategy means nothing to another.
            *known = ReleaseStrategy {
                kind: None,
                surge: None,
                unavailable: None,
                warm: None,
                steps: Vec::new(),
                ..known.clone()
            };
        }
        let flag = |flag: &Option<String>, known: &mut Option<String>| {
            if flag.is_some() {
                known.clone_from(flag);
            }
        };
        flag(&self.strategy, &mut known.kind);
        flag(&self.surge, &mut known.surge);
        flag(&self.unavailable, &mut known.unavailable);
        flag(&self.warm, &mut known.warm);
        flag(&self.watch, &mut known.watch);
        flag(&self.deadline, &mut known.deadline);
        flag(&self.judge, &mut known.judge);
        if !self.steps.is_empty() {
            known.steps.clone_from(&self.steps);
        }
        match (self.rollback, self.no_rollback) {
            (true, _) => known.rollback = Some(true),
            (_, true) => known.rollback = Some(false),
            (false, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use nebula_wire::convert::{Passwords, spec};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: ReleaseFlags,
    }

    fn flags(line: &str) -> ReleaseFlags {
        let words = line.split(' ').map(|word| word.replace('_', " "));
        let words = std::iter::once("x".to_owned()).chain(words.filter(|word| !word.is_empty()));
        Line::try_parse_from(words)
            .unwrap_or_else(|e| panic!("{e}"))
            .flags
    }

    fn onto(line: &str, known: &DeploymentSpec) -> DeploymentSpec {
        let mut after = known.clone();
        flags(line).onto(&mut after);
        spec(&after, Some("a.test"), Passwords::Unseen).unwrap_or_else(|e| panic!("{}", e.message));
        after
    }

    fn service() -> DeploymentSpec {
        DeploymentSpec {
            kind: "service".into(),
            command: Some("run".into()),
            ..DeploymentSpec::default()
        }
    }

    #[test]
    fn each_flag_changes_its_part_and_nothing_else() {
        assert!(flags("").is_empty());
        assert!(!flags("--no-rollback").is_empty());
        let some = |text: &str| Some(text.to_owned());
        let first = onto(
            "--memory 512Mi --cpu 500m --pids 64 --disk 1Gi --isolation strict --network none --surge 2 --watch 5s",
            &service(),
        );
        let expected = Resources {
            memory: some("512Mi"),
            cpu: some("500m"),
            pids: Some(64),
            files: None,
            disk: some("1Gi"),
        };
        assert_eq!(first.resources, expected);
        assert_eq!(first.isolation.profile, some("strict"));
        assert_eq!(first.strategy.surge, some("2"));

        let placed = onto(
            "--require disk=ssd --require zone!=eu --prefer gpu --avoid spot --spread zone --near db --apart-from batch",
            &first,
        );
        assert_eq!(placed.placement.require, ["disk=ssd", "zone!=eu"]);
        assert_eq!(placed.placement.spread, some("zone"));
        assert_eq!(placed.resources, first.resources);
        let less = onto("--require none --spread none --near web", &placed);
        assert!(less.placement.require.is_empty() && less.placement.spread.is_none());
        assert_eq!(less.placement.near, ["web"]);
        assert_eq!(less.placement.prefer, placed.placement.prefer);

        let second = onto("--memory none --files 100 --network host", &first);
        let expected = Resources {
            memory: None,
            files: Some(100),
            ..expected
        };
        assert_eq!(second.resources, expected);
        assert_eq!(second.isolation.profile, some("strict"));
        assert_eq!(second.strategy, first.strategy);

        let third = onto(
            "--strategy canary --step 10%_1m --step 50%_1m --judge off --no-rollback",
            &second,
        );
        let expected = ReleaseStrategy {
            kind: some("canary"),
            steps: vec!["10% 1m".into(), "50% 1m".into()],
            judge: some("off"),
            rollback: Some(false),
            watch: some("5s"),
            ..ReleaseStrategy::default()
        };
        assert_eq!(third.strategy, expected);
        let fourth = onto("--rollback --deadline 1m --strategy canary", &third);
        assert_eq!(
            (fourth.strategy.rollback, fourth.strategy.steps.len()),
            (Some(true), 2)
        );
        let fifth = onto("--strategy blue-green --warm 1m", &fourth);
        assert!(fifth.strategy.steps.is_empty());
        let sixth = onto(
            "--no-rollback --rollback --strategy rolling --unavailable 1",
            &fifth,
        );
        assert_eq!(sixth.strategy.rollback, Some(true));
    }
}
