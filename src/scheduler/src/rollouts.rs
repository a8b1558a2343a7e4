//! Takes releases on their way from stage to stage while this node leads. What follows from what is seen is
//! `domain::rollout`'s decision; a leader that dies in between leaves nothing that the next one would need.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nebula_actors::{BoxError, Reconciler};
use nebula_domain::observed::View;
use nebula_domain::plan::plan;
use nebula_domain::rollout::judge::Suspicions;
use nebula_domain::rollout::{self, Step, look};
use nebula_domain::state::Deployment;
use nebula_domain::time::Millis;
use nebula_domain::{Command, DeploymentName, State, events};
use nebula_registry::Status;
use nebula_telemetry::{Clock, Metrics};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::evidence::Evidence;
use crate::metrics::RolloutMetrics;
use crate::registrar::Registrar;
use crate::scheduler::unseen;
use crate::stages::Stages;

/// Without a change, and when a stage's time is not over sooner, looks are so far apart.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Looks are at least so far apart: a burst of gossip costs one look and not hundreds.
pub const MIN_GAP: Duration = Duration::from_millis(20);

/// Makes rollouts go on.
pub struct Rollouts<R> {
    registry: R,
    clock: Clock,
    state: watch::Receiver<Arc<State>>,
    status: watch::Receiver<Status>,
    view: watch::Receiver<Arc<View>>,
    evidence: Arc<dyn Evidence>,
    stages: Stages,
    suspicions: Suspicions,
    began: Instant,
    metrics: RolloutMetrics,
    first: bool,
}

impl<R: Registrar> Rollouts<R> {
    pub fn new(
        registry: R,
        view: watch::Receiver<Arc<View>>,
        evidence: Arc<dyn Evidence>,
        clock: Clock,
        metrics: &Metrics,
    ) -> Rollouts<R> {
        Rollouts {
            state: registry.watch(),
            status: registry.status(),
            registry,
            clock,
            view,
            evidence,
            stages: Stages::default(),
            suspicions: Suspicions::default(),
            began: Instant::now(),
            metrics: RolloutMetrics::new(metrics),
            first: true,
        }
    }

    fn leads(&self) -> bool {
        self.status.borrow().is_leader
    }

    /// Until the time of some stage is over; at most [`PERIOD`].
    fn next_look(&self) -> Duration {
        let state = self.state.borrow();
        let now = self.clock.now();
        let due = under_way(&state).filter_map(|d| rollout::due(d, now)).min();
        due.map_or(PERIOD, |at| at.since(now))
            .clamp(MIN_GAP, PERIOD)
    }

    /// What speaks for or against a release is in the history before what follows from it. Should it not get there, the release
    /// goes on, or is taken back, all the same.
    async fn tell(&self, state: &State, view: &View) {
        let sightings = events::sightings(state, view);
        if sightings.is_empty() {
            return;
        }
        if let Err(error) = self.registry.propose(Command::Record { sightings }).await {
            tracing::debug!(%error, "what was seen is not written down");
        }
    }

    async fn take(&self, deployment: &Deployment, step: Step, now: Millis) {
        let Some(rollout) = &deployment.rollout else {
            return;
        };
        let (name, release) = (&deployment.name, deployment.target);
        let command = Command::StepRollout {
            name: name.clone(),
            release,
            seq: rollout.seq,
            step: step.clone(),
            now,
        };
        match self.registry.propose(command).await {
            Ok(_) => match step {
                Step::Fail { why } => {
                    self.metrics.failed.inc();
                    tracing::warn!(deployment = %name, %release, why, "a release has failed");
                }
                Step::Next { .. } => {
                    self.metrics.stages.inc();
                    tracing::info!(deployment = %name, %release, stage = ?rollout.stage, "a stage is over");
                }
                Step::Progress { ready } => {
                    tracing::debug!(deployment = %name, %release, ready, "progress");
                }
            },
            // Somebody was faster, or nobody can decide now; the next look sees how it stands.
            Err(error) => tracing::debug!(deployment = %name, %error, "a step was not taken"),
        }
    }
}

fn under_way(state: &State) -> impl Iterator<Item = &Deployment> {
    let deployments = state.deployments.values();
    deployments.filter(|deployment| deployment.rollout.is_some() && !deployment.removing)
}

/// The reason, and why instances have no node where some have none.
fn with_unplaced(why: String, state: &State, view: &View, name: &DeploymentName) -> String {
    let plan = plan(state, view);
    let unplaced = plan.unplaced.get(name).and_then(|reasons| reasons.first());
    match unplaced {
        Some(unplaced) => format!("{why}; {unplaced}"),
        None => why,
    }
}

#[async_trait]
impl<R: Registrar> Reconciler for Rollouts<R> {
    async fn wake(&mut self) {
        if std::mem::take(&mut self.first) {
            return;
        }
        if !self.leads() {
            changed(&mut self.status).await;
            return;
        }
        tokio::time::sleep(MIN_GAP).await;
        let next_look = self.next_look();
        tokio::select! {
            () = changed(&mut self.state) => {}
            () = changed(&mut self.view) => {}
            () = changed(&mut self.status) => {}
            () = tokio::time::sleep(next_look) => {}
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        let leads = {
            let status = self.status.borrow_and_update();
            status.is_leader && status.quorum
        };
        if !leads {
            self.stages.lose_sight();
            self.suspicions = Suspicions::default();
            self.metrics.under_way.set(0);
            return Ok(());
        }
        let state = self.state.borrow_and_update().clone();
        let view = self.view.borrow_and_update().to_patient();
        // A member that the view does not know of yet would count as none: see the planner.
        if unseen(&state, &view).is_some() {
            return Ok(());
        }
        let wall = self.clock.now();
        self.stages.look(under_way(&state), Instant::now());
        let names: BTreeSet<_> = under_way(&state).map(|d| &d.name).collect();
        self.suspicions.retain(&names);
        let mut running = 0;
        for deployment in under_way(&state) {
            running += 1;
            let now = self.stages.time_of(deployment, wall, Instant::now());
            let mut seen = look(&state, &view, deployment);
            let figures = self.evidence.figures(&deployment.name);
            let elapsed = self.began.elapsed();
            let verdict = self.suspicions.verdict(deployment, &figures, elapsed);
            seen.is_suspected = self.suspicions.holds(&deployment.name, elapsed);
            let late = verdict.is_none() && seen.trouble.is_none() && seen.ready < seen.wanted;
            if let Some(step) = rollout::step(deployment, &seen, verdict, now) {
                if !matches!(step, Step::Progress { .. }) {
                    self.tell(&state, &view).await;
                }
                let step = match step {
                    Step::Fail { why } if late => Step::Fail {
                        why: with_unplaced(why, &state, &view, &deployment.name),
                    },
                    step => step,
                };
                self.take(deployment, step, wall).await;
            }
        }
        self.metrics.under_way.set(running);
        Ok(())
    }
}

/// A source that is gone never changes again.
async fn changed<T>(watch: &mut watch::Receiver<T>) {
    if watch.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
