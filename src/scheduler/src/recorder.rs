//! Writes into the registry's history what only gossip says: how instances and nodes are. The leader does, so that it is
//! in one order with what is decided; what was told is in the state, so whoever leads next goes on from there.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nebula_actors::{BoxError, Reconciler};
use nebula_domain::observed::View;
use nebula_domain::{Command, State, events};
use nebula_registry::Status;
use nebula_telemetry::{Counter, Metrics};
use tokio::sync::watch;

use crate::registrar::Registrar;
use crate::scheduler::{changed, unseen};

/// A leader looks at least so often.
const PERIOD: Duration = Duration::from_secs(1);
/// Records are at least so far apart: a node full of programs that end again and again costs the log four entries a
/// second, and not hundreds. What happens in between is told by the next one.
const MIN_GAP: Duration = Duration::from_millis(250);

pub struct Recorder<R> {
    registry: R,
    state: watch::Receiver<Arc<State>>,
    status: watch::Receiver<Status>,
    view: watch::Receiver<Arc<View>>,
    records: Counter,
    first: bool,
}

impl<R: Registrar> Recorder<R> {
    pub fn new(registry: R, view: watch::Receiver<Arc<View>>, metrics: &Metrics) -> Recorder<R> {
        Recorder {
            state: registry.watch(),
            status: registry.status(),
            registry,
            view,
            records: metrics.counter(
                "event_records",
                "Records of what was seen of instances and nodes, written by this node while it led",
            ),
            first: true,
        }
    }

    fn leads(&self) -> bool {
        self.status.borrow().is_leader
    }
}

#[async_trait]
impl<R: Registrar> Reconciler for Recorder<R> {
    async fn wake(&mut self) {
        if std::mem::take(&mut self.first) {
            return;
        }
        if !self.leads() {
            changed(&mut self.status).await;
            return;
        }
        tokio::time::sleep(MIN_GAP).await;
        tokio::select! {
            () = changed(&mut self.view) => {}
            () = changed(&mut self.state) => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        self.status.borrow_and_update();
        if !self.leads() {
            return Ok(());
        }
        let state = self.state.borrow_and_update().clone();
        let view = self.view.borrow_and_update().to_patient();
        if unseen(&state, &view).is_some() {
            return Ok(());
        }
        let sightings = events::sightings(&state, &view);
        if sightings.is_empty() {
            return Ok(());
        }
        match self.registry.propose(Command::Record { sightings }).await {
            Ok(_) => {
                self.records.inc();
            }
            // Nobody can decide now, or another leads: the next look sees what is left to tell.
            Err(error) => tracing::debug!(%error, "what was seen is not written down yet"),
        }
        Ok(())
    }
}
