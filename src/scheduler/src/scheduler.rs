//! The loop: wake, plan, propose, see it applied, plan again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nebula_actors::{BoxError, Reconciler};
use nebula_domain::command::Change;
use nebula_domain::observed::{NodeView, View};
use nebula_domain::plan::{Plan, Planner};
use nebula_domain::{Command, NodeId, Rejection, State, events};
use nebula_registry::{ProposeError, Status};
use nebula_telemetry::Metrics;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::calm::Calm;
use crate::metrics::SchedulerMetrics;
use crate::registrar::Registrar;

/// A leader plans at least this often: nothing depends on a change being noticed.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Passes are at least this far apart, so that a burst of gossip costs one plan and not hundreds.
pub const MIN_GAP: Duration = Duration::from_millis(20);
/// Plans in one pass. A plan is limited to 256 changes, and each stale one is made again; were
/// neither to end, the next wake goes on.
pub const PLANS_PER_PASS: usize = 16;
/// A cluster that could not decide for longer than this lost a majority of its voters, and not only its
/// leader: they come back one after the other, and the view takes a moment to hear them.
pub const LOST_FOR: Duration = Duration::from_secs(1);
/// For so long after that nobody is replaced. Each of them may be starting, with all it ran before.
pub const RETURN_GRACE: Duration = Duration::from_secs(2);
/// How long to wait for the local state to show what the leader (this node) has applied. Longer
/// means that leadership is gone or the registry is in trouble; the next wake finds out.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

/// A plan that the registry refuses for good is a fault of the rules, not of the moment.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    #[error("the registry refused the plan")]
    Refused(#[source] Rejection),
    #[error("the plan is too large for the registry")]
    TooLarge(#[source] nebula_domain::limits::LimitExceeded),
}

/// Plans placements while this node leads.
pub struct Scheduler<R> {
    registry: R,
    state: watch::Receiver<Arc<State>>,
    status: watch::Receiver<Status>,
    view: watch::Receiver<Arc<View>>,
    metrics: SchedulerMetrics,
    last_pass: Option<Instant>,
    quorum: Quorum,
    planner: Planner,
    calm: Calm,
}

/// When the quorum was lost, and until when those who return with it are given time.
#[derive(Default)]
struct Quorum {
    lost_since: Option<Instant>,
    grace_until: Option<Instant>,
}

impl Quorum {
    fn note(&mut self, status: &Status, now: Instant) {
        if !status.quorum {
            self.lost_since = self.lost_since.or(status.no_quorum_since);
        } else if let Some(since) = self.lost_since.take()
            && now.duration_since(since) > LOST_FOR
        {
            self.grace_until = Some(now + RETURN_GRACE);
        }
    }

    fn is_back_just_now(&self, now: Instant) -> bool {
        self.grace_until.is_some_and(|until| now < until)
    }
}

impl<R: Registrar> Scheduler<R> {
    pub fn new(registry: R, view: watch::Receiver<Arc<View>>, metrics: &Metrics) -> Scheduler<R> {
        Scheduler {
            state: registry.watch(),
            status: registry.status(),
            registry,
            view,
            metrics: SchedulerMetrics::new(metrics),
            last_pass: None,
            quorum: Quorum::default(),
            planner: Planner::default(),
            calm: Calm::default(),
        }
    }

    fn leads(&self) -> bool {
        self.status.borrow().is_leader
    }

    /// Plans and proposes once; whether to plan again at once.
    async fn step(&mut self) -> Result<bool, SchedulerError> {
        let state = self.state.borrow_and_update().clone();
        let mut view = self.view.borrow_and_update().to_patient();
        if let Some(node) = unseen(&state, &view) {
            tracing::debug!(%node, "no plan before the view has an entry for every member");
            return Ok(false);
        }
        let now = Instant::now();
        let is_back_just_now = self.quorum.is_back_just_now(now);
        if is_back_just_now {
            // As if not heard of yet: nothing is moved away, nothing is added.
            for node in Arc::make_mut(&mut view).nodes.values_mut() {
                if !node.alive {
                    *node = NodeView::unheard();
                }
            }
        }
        let Plan {
            plan_revision,
            mut changes,
            unplaced,
        } = self.planner.plan(&state, &view);
        self.metrics.set_unplaced(&unplaced);
        let may_even_out = self.calm.lasts(&state, &view, now) && !is_back_just_now;
        if changes.is_empty() && may_even_out {
            changes = self.planner.rebalance(&state);
            let moves = changes.iter().filter(|c| matches!(c, Change::Move { .. }));
            self.metrics.moves.inc_by(moves.count() as u64);
            self.calm.looked(now);
        }
        if changes.is_empty() {
            return Ok(false);
        }
        self.tell(&state, &view, &changes).await;
        tracing::debug!(plan_revision, changes = changes.len(), "proposing a plan");
        let command = Command::Assign {
            plan_revision,
            changes,
        };
        match self.registry.propose(command).await {
            Ok(applied) => {
                self.metrics.plans.inc();
                tracing::info!(
                    revision = applied.revision,
                    outcome = ?applied.outcome,
                    "placements changed"
                );
                let seen = self.see(|state| state.revision >= applied.revision).await;
                Ok(seen)
            }
            Err(ProposeError::Rejected(Rejection::StalePlan { planned, current })) => {
                self.metrics.stale.inc();
                tracing::debug!(planned, current, "the state moved on; planning again");
                Ok(self.see(|state| state.plan_revision >= current).await)
            }
            // Another node leads by now; its scheduler plans.
            Err(ProposeError::Rejected(Rejection::NotPermitted { .. })) => Ok(false),
            Err(ProposeError::Rejected(rejection)) => Err(SchedulerError::Refused(rejection)),
            Err(ProposeError::TooLarge(limit)) => Err(SchedulerError::TooLarge(limit)),
            // No quorum, a time-out, or the registry is on its way down: the next wake tries
            // again. Should the proposal be applied after all, the next plan sees that, or is stale.
            Err(error) => {
                tracing::debug!(%error, "the plan was not accepted");
                Ok(false)
            }
        }
    }

    /// That a node is gone, or that is ready what others wait for, is in the history before what follows from it. Should it not
    /// get there, the plan goes on.
    async fn tell(&self, state: &State, view: &View, changes: &[Change]) {
        let begun = changes.iter().filter_map(|change| match change {
            Change::Start { deployment, .. } => Some(deployment),
            _ => None,
        });
        let sightings = events::sightings_behind(state, view, begun);
        if sightings.is_empty() {
            return;
        }
        if let Err(error) = self.registry.propose(Command::Record { sightings }).await {
            tracing::debug!(%error, "what was seen is not written down");
        }
    }

    /// Whether the local state came to satisfy `condition` in time.
    async fn see(&mut self, condition: impl FnMut(&Arc<State>) -> bool) -> bool {
        matches!(
            timeout(SEEN_WITHIN, self.state.wait_for(condition)).await,
            Ok(Ok(_))
        )
    }
}

#[async_trait]
impl<R: Registrar> Reconciler for Scheduler<R> {
    async fn wake(&mut self) {
        let Some(last_pass) = self.last_pass else {
            return;
        };
        if self.leads() {
            tokio::select! {
                () = changed(&mut self.state) => {}
                () = changed(&mut self.view) => {}
                () = changed(&mut self.status) => {}
                () = tokio::time::sleep_until(last_pass + PERIOD) => {}
            }
            tokio::time::sleep_until(last_pass + MIN_GAP).await;
        } else {
            // A follower has nothing to do but to wait for its turn.
            changed(&mut self.status).await;
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        let now = Instant::now();
        self.last_pass = Some(now);
        for _ in 0..PLANS_PER_PASS {
            let is_leader = {
                let status = self.status.borrow_and_update();
                self.quorum.note(&status, now);
                status.is_leader
            };
            if !is_leader {
                // What it remembers would only grow old.
                self.planner = Planner::default();
                self.calm = Calm::default();
                self.metrics.set_unplaced(&Default::default());
                return Ok(());
            }
            if !self.step().await? {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// A member that the view has no entry for. The view lists every member, dead ones too, but it
/// learns of them from the state, and so a moment later: for that moment, above all right after a
/// start, a missing entry says nothing about the node, and a plan would replace all it runs.
pub(crate) fn unseen(state: &State, view: &View) -> Option<NodeId> {
    let mut members = state.nodes.keys();
    members.find(|node| !view.nodes.contains_key(node)).copied()
}

/// A source that is gone never changes again.
pub(crate) async fn changed<T>(watch: &mut watch::Receiver<T>) {
    if watch.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
