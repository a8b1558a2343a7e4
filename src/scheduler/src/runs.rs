//! Takes runs from attempt to attempt and follows schedules while this node leads. What follows from what is seen is
//! `domain::runs`' decision; a leader that dies in between leaves nothing that the next one would need.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nebula_actors::{BoxError, Reconciler};
use nebula_domain::observed::View;
use nebula_domain::runs::{self, Absence, RunStep};
use nebula_domain::{Command, State, events};
use nebula_registry::Status;
use nebula_telemetry::{Clock, Metrics};
use tokio::sync::watch;

use crate::metrics::RunMetrics;
use crate::registrar::Registrar;
use crate::scheduler::changed;

/// Without a change, and when nothing is due sooner, looks are so far apart.
const PERIOD: Duration = Duration::from_secs(1);
/// Looks are at least so far apart: a burst of gossip costs one look and not hundreds.
const MIN_GAP: Duration = Duration::from_millis(20);

/// Makes runs begin, be tried again, and be over.
pub struct Runs<R> {
    registry: R,
    clock: Clock,
    state: watch::Receiver<Arc<State>>,
    status: watch::Receiver<Status>,
    view: watch::Receiver<Arc<View>>,
    absence: Absence,
    metrics: RunMetrics,
    first: bool,
}

impl<R: Registrar> Runs<R> {
    pub fn new(
        registry: R,
        view: watch::Receiver<Arc<View>>,
        clock: Clock,
        metrics: &Metrics,
    ) -> Runs<R> {
        Runs {
            state: registry.watch(),
            status: registry.status(),
            registry,
            clock,
            view,
            absence: Absence::default(),
            metrics: RunMetrics::new(metrics),
            first: true,
        }
    }

    /// Whether it may say what has become of others. A leader whom nobody answers sees all others gone, and would have every
    /// run begun again as soon as it is heard.
    fn leads(&self) -> bool {
        let status = self.status.borrow();
        status.is_leader && status.quorum
    }

    /// Until something is due; at most [`PERIOD`].
    fn next_look(&self) -> Duration {
        let now = self.clock.now();
        let due = runs::due(&self.state.borrow(), now);
        let due = due.into_iter().chain(self.absence.due(now)).min();
        due.map_or(PERIOD, |at| at.since(now))
            .clamp(MIN_GAP, PERIOD)
    }

    /// That what a run has waited for is ready is in the history before its beginning. Should it not get there, it begins all
    /// the same.
    async fn tell(&self, state: &State, view: &View, steps: &[Command]) {
        let begun = steps.iter().filter_map(|step| match step {
            Command::StepRun {
                name,
                step: RunStep::Start { .. },
                ..
            } => Some(name),
            _ => None,
        });
        if begun.clone().next().is_none() {
            return;
        }
        let sightings = events::sightings_behind(state, view, begun);
        if sightings.is_empty() {
            return;
        }
        if let Err(error) = self.registry.propose(Command::Record { sightings }).await {
            tracing::debug!(%error, "what was seen is not written down");
        }
    }

    async fn take(&self, command: Command) {
        let said = match &command {
            Command::StepRun {
                name, run, step, ..
            } => {
                let what = match step {
                    RunStep::Start { node } => format!("begins on node {node}"),
                    RunStep::Ended(exit) => exit.said.clone(),
                    RunStep::Late => "has had its time".to_owned(),
                    RunStep::NoPlace { why } => format!("finds no place: {why}"),
                };
                format!("{run} of {name} {what}")
            }
            Command::TickCron { name, come, .. } => match (come.due, &come.missed) {
                (None, None) => format!("the schedule of {name} is followed"),
                (Some(due), None) => format!("{name} is due since {}", runs::told(due)),
                (_, Some(missed)) => format!("{} due times of {name} have passed", missed.count),
            },
            _ => return,
        };
        match self.registry.propose(command).await {
            Ok(_) => {
                self.metrics.steps.inc();
                tracing::info!("{said}");
            }
            // Somebody was faster, or nobody can decide now; the next look sees how it stands.
            Err(error) => tracing::debug!(%error, "a step was not taken: {said}"),
        }
    }
}

#[async_trait]
impl<R: Registrar> Reconciler for Runs<R> {
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
        self.status.borrow_and_update();
        if !self.leads() {
            // What another leader has seen since then is not known here.
            self.absence = Absence::default();
            self.metrics.open.set(0);
            return Ok(());
        }
        let state = self.state.borrow_and_update().clone();
        let view = self.view.borrow_and_update().to_patient();
        let now = self.clock.now();
        self.absence.note(&view, now);
        let open: usize = state.work.values().map(|work| work.open().count()).sum();
        self.metrics
            .open
            .set(i64::try_from(open).unwrap_or(i64::MAX));
        let steps = runs::steps(&state, &view, &self.absence.lost(now), now);
        self.tell(&state, &view, &steps).await;
        for command in steps {
            self.take(command).await;
        }
        Ok(())
    }
}
