//! How releases that are on their way do, by their requests: what this node's proxy counts is told to the other nodes, and what
//! all have counted is the leader's evidence.

use std::collections::BTreeMap;
use std::sync::Arc;

use nebula_actors::{BoxError, Reconciler};
use nebula_domain::rollout::{Figures, Trial};
use nebula_domain::routes::RouteTable;
use nebula_domain::{DeploymentName, ReleaseNumber, State};
use nebula_membership::{Membership, Tallies};
use nebula_proxy::Trials;
use nebula_scheduler::Evidence;
use tokio::sync::watch;

/// Tells the other nodes.
pub(crate) struct TrialsKeeper {
    pub(crate) membership: Membership,
    pub(crate) trials: Arc<Trials>,
    pub(crate) table: watch::Receiver<Arc<RouteTable>>,
}

#[async_trait::async_trait]
impl Reconciler for TrialsKeeper {
    async fn wake(&mut self) {
        // Mostly no release is on its way, and then this costs nothing.
        self.trials.begun().await;
        tokio::time::sleep(Trials::PERIOD).await;
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        let table = Arc::clone(&self.table.borrow());
        self.membership.publish_tally(self.trials.take(&table));
        Ok(())
    }
}

/// What all nodes have counted.
pub(crate) struct Counted {
    pub(crate) state: watch::Receiver<Arc<State>>,
    pub(crate) trials: Arc<Trials>,
    /// Of the others. One that started again has begun again with nothing, and its part is lost.
    pub(crate) tallies: watch::Receiver<Tallies>,
}

impl Evidence for Counted {
    fn figures(&self, name: &DeploymentName) -> BTreeMap<ReleaseNumber, Figures> {
        let trial = self
            .state
            .borrow()
            .deployments
            .get(name)
            .and_then(Trial::of);
        let Some(trial) = trial else {
            return BTreeMap::new();
        };
        let mut sum = self.trials.pair(trial.number).unwrap_or_default();
        let tallies = self.tallies.borrow();
        for pair in tallies
            .values()
            .filter_map(|tally| tally.get(&trial.number))
        {
            sum.merge(pair);
        }
        BTreeMap::from([(trial.from, sum.old), (trial.to, sum.new)])
    }
}

#[cfg(test)]
mod tests {
    use nebula_domain::rollout::{Pair, Rollout, Stage, Tally};
    use nebula_domain::spec::{Service, Spec, Workload};
    use nebula_domain::state::{Deployment, Release};
    use nebula_domain::time::Millis;
    use nebula_domain::{Digest, NodeId};

    use super::*;

    /// `app` with release 2 on its way.
    fn under_way() -> Deployment {
        let spec = Spec::new(
            Workload::Service(Service::new("serve")),
            "example.test".parse().unwrap(),
        );
        let release = |number: u8| {
            let artifact = (Digest([number; 32]), 1);
            Release::new(
                ReleaseNumber(number.into()),
                spec.clone(),
                artifact,
                Millis(0),
            )
        };
        let mut app = Deployment::new("app".parse().unwrap(), 1, release(1));
        app.releases.push_back(Arc::new(release(2)));
        app.target = ReleaseNumber(2);
        app.rollout = Some(Rollout {
            from: Some(ReleaseNumber(1)),
            from_epoch: 1,
            since_revision: 0,
            stage: Stage::Replacing,
            seq: 0,
            began_at: Millis(1),
            progress_at: Millis(1),
            ready: 0,
            restarts: 0,
            paused: None,
        });
        app
    }

    #[test]
    fn all_nodes_are_summed_and_other_rollouts_are_not() {
        let app = under_way();
        let number = Trial::of(&app).unwrap().number;
        let mut state = State::default();
        state.deployments.insert(app.name.clone(), app.clone());
        let told = |number: u64, requests: u64| {
            let mut pair = Pair::default();
            (pair.old.requests, pair.new.requests) = (requests, 10 * requests);
            Arc::new(Tally::from([(number, pair)]))
        };
        let tallies = Tallies::from([
            (NodeId(2), told(number, 3)),
            (NodeId(3), told(number, 4)),
            (NodeId(4), told(number ^ 1, 100)),
        ]);
        let (state, state_seen) = watch::channel(Arc::new(state));
        let (_tallies, tallies) = watch::channel(tallies);
        let counted = Counted {
            state: state_seen,
            trials: Arc::default(),
            tallies,
        };
        let figures = counted.figures(&app.name);
        let requests: Vec<_> = figures.iter().map(|(r, f)| (r.0, f.requests)).collect();
        assert_eq!(requests, [(1, 7), (2, 70)]);
        assert!(counted.figures(&"other".parse().unwrap()).is_empty());
        state.send_modify(|state| {
            let state = Arc::make_mut(state);
            state.deployments.remove(&app.name);
        });
        assert!(counted.figures(&app.name).is_empty());
    }
}
