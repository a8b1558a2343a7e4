//! From many requests to few log entries: everything that waits goes into one batch. The leader
//! writes it to the log; any other node sends it to the leader in one frame.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nebula_domain::{Command, NodeId, Rejection, State};
use nebula_mesh::Net;
use nebula_wire::codec;
use nebula_wire::peer::Protocol;
use nebula_wire::peer::registry::{
    Answer, OperatorToken, Proposal, RegistryAnswer, RegistryRequest,
};
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::limits;
use crate::metrics::RegistryMetrics;
use crate::status::Status;
use crate::types::{Batch, Item, Raft};

/// A request on its way into a batch.
pub struct Waiting {
    pub item: Arc<Item>,
    /// The operator who asked, for the leader to check.
    pub operator: Option<OperatorToken>,
    /// It comes from another node and is not sent on a second time.
    pub forwarded: bool,
    pub deadline: Instant,
    pub done: oneshot::Sender<Attempt>,
}

/// What came of one attempt.
#[derive(Debug, Clone)]
pub enum Attempt {
    Answered(Answer),
    /// Not known; try again, with the same request id.
    Again,
    /// Raft does not run on this node any more.
    Stopped,
}

#[derive(Clone)]
pub struct Proposer {
    pub raft: Raft,
    pub mesh: Arc<dyn Net>,
    pub status: watch::Receiver<Status>,
    pub state: watch::Receiver<Arc<State>>,
    pub metrics: RegistryMetrics,
}

impl Proposer {
    /// Runs until the queue's senders are gone.
    pub async fn run(self, mut queue: mpsc::Receiver<Waiting>) {
        let in_flight = Arc::new(Semaphore::new(limits::BATCHES_IN_FLIGHT));
        let mut ahead: Option<Waiting> = None;
        loop {
            let first = match ahead.take() {
                Some(waiting) => waiting,
                None => match queue.recv().await {
                    Some(waiting) => waiting,
                    None => return,
                },
            };
            // What arrives while all places are taken joins the next batch.
            let Ok(place) = in_flight.clone().acquire_owned().await else {
                return;
            };
            let batch = collect(first, &mut queue, &mut ahead);
            if batch.is_empty() {
                continue;
            }
            let this = self.clone();
            tokio::spawn(async move {
                this.attempt(batch).await;
                drop(place);
            });
        }
    }

    async fn attempt(&self, batch: Vec<Waiting>) {
        let (leader, is_leader, quorum) = {
            let status = self.status.borrow();
            (status.leader, status.is_leader, status.quorum)
        };
        // Nothing enters the log of a leader whom nobody answers: it could only be thrown away later.
        if is_leader && quorum {
            return self.write(batch).await;
        }
        let (forwarded, own): (Vec<_>, Vec<_>) = batch.into_iter().partition(|w| w.forwarded);
        resolve(forwarded, &Attempt::Again);
        match leader {
            Some(leader) if !is_leader && !own.is_empty() => self.forward(leader, own).await,
            _ => resolve(own, &Attempt::Again),
        }
    }

    /// The removal of a node that votes. Whoever has applied it refuses that node from then on, while the configuration
    /// still counts its vote: some would have stopped to hear their own leader, and of two voters one could decide
    /// nothing, for good. Its vote is taken first, by marking it as leaving, also when it is dead.
    fn forbidden(&self, waiting: &Waiting) -> Option<Rejection> {
        let Ok(Command::RemoveNode { node }) = waiting.item.request().map(|r| &r.command) else {
            return None;
        };
        if !self.state.borrow().nodes.contains_key(node) {
            return None;
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let mut voters = metrics.membership_config.membership().voter_ids();
        voters
            .any(|id| id == node.0)
            .then_some(Rejection::VoteNeeded(*node))
    }

    async fn write(&self, batch: Vec<Waiting>) {
        let mut allowed = Vec::with_capacity(batch.len());
        for waiting in batch {
            match self.forbidden(&waiting) {
                None => allowed.push(waiting),
                Some(rejection) => answer(vec![waiting], vec![Err(rejection)]),
            }
        }
        let batch = allowed;
        if batch.is_empty() {
            return;
        }
        self.metrics.batches.inc();
        let items = batch.iter().map(|w| w.item.clone()).collect();
        let deadline = latest(&batch);
        let write = self.raft.client_write(Batch::new(items));
        match tokio::time::timeout_at(deadline, write).await {
            Ok(Ok(written)) => answer(batch, written.data),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) | Err(_) => {
                resolve(batch, &Attempt::Again);
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "a batch was not written");
                resolve(batch, &Attempt::Stopped);
            }
        }
    }

    async fn forward(&self, leader: NodeId, batch: Vec<Waiting>) {
        let left = latest(&batch).saturating_duration_since(Instant::now());
        let request = RegistryRequest::Propose {
            proposals: batch
                .iter()
                .map(|w| Proposal {
                    request: w.item.encoded().clone(),
                    operator: w.operator.clone(),
                })
                .collect(),
            deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
        };
        let answered = ask_leader(
            self.mesh.as_ref(),
            self.status.clone(),
            leader,
            &request,
            left,
        )
        .await;
        match answered {
            Some(RegistryAnswer::Proposed(answers)) => answer(batch, answers),
            Some(RegistryAnswer::Refused(reason)) => {
                tracing::warn!(%leader, reason, "the leader refused what was handed on");
                resolve(batch, &Attempt::Again);
            }
            _ => resolve(batch, &Attempt::Again),
        }
    }
}

/// One question to the leader; given up as soon as this node knows of another leader.
pub async fn ask_leader(
    mesh: &dyn Net,
    mut status: watch::Receiver<Status>,
    leader: NodeId,
    request: &RegistryRequest,
    deadline: Duration,
) -> Option<RegistryAnswer> {
    let bytes = codec::encode(request)
        .inspect_err(|error| tracing::error!(%error, "a request for the leader cannot be encoded"))
        .ok()?;
    let call = mesh.call(leader, Protocol::Registry, Bytes::from(bytes), deadline);
    let replaced = async { status.wait_for(|s| s.leader != Some(leader)).await.is_ok() };
    let answer = tokio::select! {
        answer = call => answer,
        _ = replaced => return None,
    };
    let decoded = match answer {
        Ok(bytes) => codec::decode(&bytes).map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    decoded
        .inspect_err(|error| tracing::debug!(%leader, error, "the leader did not answer"))
        .ok()
}

/// Takes what waits, up to the limits of a batch. Whoever gave up waiting is left out.
fn collect(
    first: Waiting,
    queue: &mut mpsc::Receiver<Waiting>,
    ahead: &mut Option<Waiting>,
) -> Vec<Waiting> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(waiting) = next {
        if !waiting.done.is_closed() {
            bytes += waiting.item.len();
            if !batch.is_empty() && bytes > limits::BATCH_BYTES {
                *ahead = Some(waiting);
                break;
            }
            batch.push(waiting);
        }
        if batch.len() == limits::BATCH_REQUESTS {
            break;
        }
        next = queue.try_recv().ok();
    }
    batch
}

fn latest(batch: &[Waiting]) -> Instant {
    batch
        .iter()
        .map(|w| w.deadline)
        .max()
        .unwrap_or_else(Instant::now)
}

fn answer(batch: Vec<Waiting>, answers: Vec<Answer>) {
    if batch.len() != answers.len() {
        tracing::error!(
            requests = batch.len(),
            answers = answers.len(),
            "a batch was answered in part"
        );
        return resolve(batch, &Attempt::Again);
    }
    for (waiting, answer) in batch.into_iter().zip(answers) {
        // Whoever gave up waiting does not want the answer.
        let _ = waiting.done.send(Attempt::Answered(answer));
    }
}

fn resolve(batch: Vec<Waiting>, attempt: &Attempt) {
    for waiting in batch {
        let _ = waiting.done.send(attempt.clone());
    }
}
