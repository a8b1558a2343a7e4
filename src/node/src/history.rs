//! Counts the cluster's events as this node applies them.

use std::sync::Arc;

use nebula_actors::{BoxError, Reconciler};
use nebula_domain::State;
use nebula_domain::events::Kind;
use nebula_telemetry::{Counter, Family, Metrics};
use tokio::sync::watch;

type Label = [(&'static str, String); 1];

pub(crate) struct HistoryMeter {
    state: watch::Receiver<Arc<State>>,
    events: Family<Label, Counter>,
    releases: Family<Label, Counter>,
    /// The latest that was counted; none before the first look.
    seen: Option<u64>,
}

impl HistoryMeter {
    pub(crate) fn new(state: watch::Receiver<Arc<State>>, metrics: &Metrics) -> HistoryMeter {
        HistoryMeter {
            state,
            events: metrics.counters(
                "events",
                "Events of the cluster since this node was started, by kind; every node counts them all",
            ),
            releases: metrics.counters(
                "releases",
                "What became of releases since this node was started; every node counts them all",
            ),
            seen: None,
        }
    }

    fn count(&self, kind: Kind) {
        let label = [("kind", kind.to_string())];
        self.events.get_or_create(&label).inc();
        let outcome = match kind {
            Kind::ReleaseGood => "good",
            Kind::ReleaseTakenBack => "taken_back",
            Kind::ReleaseFailed => "failed",
            Kind::ReleaseAborted => "aborted",
            Kind::ReleaseSuperseded => "superseded",
            _ => return,
        };
        let label = [("outcome", outcome.to_owned())];
        self.releases.get_or_create(&label).inc();
    }
}

#[async_trait::async_trait]
impl Reconciler for HistoryMeter {
    async fn wake(&mut self) {
        let Some(seen) = self.seen else {
            return;
        };
        let news = self.state.wait_for(|state| state.events.last() > seen);
        if news.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        let state = self.state.borrow_and_update().clone();
        let last = state.events.last();
        if let Some(seen) = self.seen.replace(last) {
            for event in state.events.after(seen) {
                self.count(event.kind);
            }
        }
        Ok(())
    }
}
