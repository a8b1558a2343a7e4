//! Carries between the nodes' proxies what is asked of the rate limits that they share.

use std::sync::Arc;
use std::time::Instant;

use nebula_actors::{BoxError, Reconciler};
use nebula_membership::{Demands, Membership};
use nebula_proxy::SharedRates;
use tokio::sync::watch;

pub(crate) struct RatesKeeper {
    membership: Membership,
    rates: Arc<SharedRates>,
    demands: watch::Receiver<Demands>,
    last: Instant,
}

impl RatesKeeper {
    pub(crate) fn new(membership: Membership, rates: Arc<SharedRates>) -> RatesKeeper {
        RatesKeeper {
            demands: membership.demands(),
            membership,
            rates,
            last: Instant::now(),
        }
    }
}

#[async_trait::async_trait]
impl Reconciler for RatesKeeper {
    async fn wake(&mut self) {
        // Most clusters have no such limit, and then this costs nothing.
        self.rates.used().await;
        self.last = Instant::now();
        tokio::time::sleep(SharedRates::PERIOD).await;
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        let alive = {
            let view = self.membership.view();
            let view = view.borrow();
            view.nodes.values().filter(|node| node.alive).count()
        };
        let demand = {
            let others = self.demands.borrow();
            self.rates.turn(alive, others.values(), self.last.elapsed())
        };
        self.membership.publish_demand(demand);
        Ok(())
    }
}
