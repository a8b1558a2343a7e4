//! One reconciler as a ractor actor.
//!
//! ractor's mailboxes are unbounded. This one never holds more than a single message: `post_start`
//! sends the first `Cycle`, and each handled `Cycle` sends the next as its last act. Nobody else
//! has a reference typed to send one; the guardian and [`crate::Child`] only stop or kill, which
//! travel on ractor's own bounded channels.

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;

use crate::Reconciler;

/// Wait for a reason, then make a pass.
pub(crate) struct Cycle;

pub(crate) struct ReconcilerActor;

pub(crate) struct Running {
    pub(crate) reconciler: Box<dyn Reconciler>,
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Actor for ReconcilerActor {
    type Msg = Cycle;
    type State = Running;
    type Arguments = Running;

    async fn pre_start(
        &self,
        _myself: ActorRef<Cycle>,
        running: Running,
    ) -> Result<Running, ActorProcessingErr> {
        Ok(running)
    }

    async fn post_start(
        &self,
        myself: ActorRef<Cycle>,
        _running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        Ok(myself.cast(Cycle)?)
    }

    async fn handle(
        &self,
        myself: ActorRef<Cycle>,
        Cycle: Cycle,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        // ractor looks for a stop only between messages, so the wait has to look by itself. A
        // closed channel is a guardian that went away: a reason to stop as well.
        tokio::select! {
            biased;
            _ = running.stopping.wait_for(|stopping| *stopping) => {
                myself.stop(None);
                return Ok(());
            }
            () = running.reconciler.wake() => {}
        }
        running.reconciler.pass().await?;
        Ok(myself.cast(Cycle)?)
    }
}
