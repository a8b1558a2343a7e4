//! How long a rollout's stage has lasted, by the leader's own clock where it can be had.
//!
//! The times in the state are of the wall, and of several machines: who asked for a release wrote when it began, a former
//! leader when a stage began. A deadline that was over before the release had begun would take it back at once.

use std::collections::BTreeMap;

use nebula_domain::rollout::stage_began;
use nebula_domain::state::Deployment;
use nebula_domain::time::Millis;
use nebula_domain::{DeploymentName, ReleaseNumber};
use tokio::time::Instant;

use crate::scheduler::RETURN_GRACE;

#[derive(Debug, Default)]
pub struct Stages {
    /// Since when this node leads; `None`: it does not, or nobody answers it.
    leads_since: Option<Instant>,
    known: BTreeMap<DeploymentName, Known>,
}

#[derive(Debug)]
struct Known {
    release: ReleaseNumber,
    began: Millis,
    seen_at: Instant,
    /// This node led before the stage began.
    whole: bool,
}

impl Stages {
    /// What comes after another leader, or after an outage, was not seen to begin.
    pub fn lose_sight(&mut self) {
        self.leads_since = None;
        self.known.clear();
    }

    /// Takes in which stages there are.
    pub fn look<'a>(&mut self, under_way: impl Iterator<Item = &'a Deployment>, now: Instant) {
        let whole = self.leads_since.is_some();
        self.leads_since.get_or_insert(now);
        let mut before = std::mem::take(&mut self.known);
        for deployment in under_way {
            let Some(rollout) = &deployment.rollout else {
                continue;
            };
            let (release, began) = (deployment.target, stage_began(rollout));
            let same = |known: &Known| (known.release, known.began) == (release, began);
            let known = before.remove(&deployment.name).filter(same);
            let known = known.unwrap_or(Known {
                release,
                began,
                seen_at: now,
                whole,
            });
            self.known.insert(deployment.name.clone(), known);
        }
    }

    /// The time as far as the deployment's stage is concerned. For a stage that waits for instances and was seen to
    /// begin here it is when it began and what has passed since, whatever the wall says. For others it is the wall's, but
    /// never less than what has passed here; and none has passed before the view of a new leader can be trusted.
    pub fn time_of(&self, deployment: &Deployment, wall: Millis, now: Instant) -> Millis {
        let Some(known) = self.known.get(&deployment.name) else {
            return wall;
        };
        let here = known.began.plus(now - known.seen_at);
        let lasts = deployment.rollout.as_ref().is_some_and(|r| r.is_settled());
        let new = self
            .leads_since
            .is_none_or(|since| now - since < RETURN_GRACE);
        match (known.whole, lasts, new) {
            (true, false, _) | (false, _, true) => here,
            _ => here.max(wall),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nebula_domain::Digest;
    use nebula_domain::rollout::{Rollout, Stage};
    use nebula_domain::spec::{Service, Spec, Workload};
    use nebula_domain::state::Release;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: Millis = Millis(1_800_000_000_000);

    fn released() -> Deployment {
        let service = Workload::Service(Service::new("serve"));
        let spec = Spec::new(service, "example.test".parse().unwrap());
        let release = Release::new(ReleaseNumber(1), spec, (Digest([1; 32]), 1), NOW);
        let mut deployment = Deployment::new("app".parse().unwrap(), 1, release);
        deployment.rollout = Some(Rollout {
            from: None,
            from_epoch: 1,
            since_revision: 0,
            stage: Stage::Replacing,
            seq: 0,
            began_at: NOW,
            progress_at: NOW,
            ready: 0,
            restarts: 0,
            paused: None,
        });
        deployment
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_clock_makes_no_deadline_pass() {
        let (deployment, mut stages) = (released(), Stages::default());
        let ahead = NOW.plus(HOUR);
        stages.look(std::iter::empty(), Instant::now());
        stages.look(std::iter::once(&deployment), Instant::now());
        let at = stages.time_of(&deployment, ahead, Instant::now());
        assert_eq!(at, NOW, "it began a moment ago, whatever the clock says");
        tokio::time::advance(Duration::from_secs(9)).await;
        let at = stages.time_of(&deployment, ahead, Instant::now());
        assert_eq!(at, NOW.plus(Duration::from_secs(9)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_believes_the_wall_after_a_moment() {
        let (deployment, mut stages) = (released(), Stages::default());
        let later = NOW.plus(HOUR);
        stages.look(std::iter::once(&deployment), Instant::now());
        assert_eq!(stages.time_of(&deployment, later, Instant::now()), NOW);
        tokio::time::advance(RETURN_GRACE).await;
        assert_eq!(stages.time_of(&deployment, later, Instant::now()), later);
        // A wall that is behind does not stand still.
        let behind = stages.time_of(&deployment, Millis(0), Instant::now());
        assert_eq!(behind, NOW.plus(RETURN_GRACE));
        stages.lose_sight();
        stages.look(std::iter::once(&deployment), Instant::now());
        assert_eq!(stages.time_of(&deployment, later, Instant::now()), NOW);
    }
}
