//! The handle: propose, read, watch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nebula_domain::{Command, NodeId, Request, State, View};
use nebula_telemetry::{Clock, Random};
use nebula_wire::peer::registry::{Applied, OperatorToken};
use openraft::EmptyNode;
use openraft::error::{InitializeError, RaftError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::error::{ProposeError, ReadError};
use crate::limits;
use crate::log::LogStore;
use crate::machine::{Published, SnapshotStore};
use crate::metrics::RegistryMetrics;
use crate::proposals::{Attempt, Waiting};
use crate::reads::{ReadIndex, Reader};
use crate::room::{Room, Space};
use crate::status::Status;
use crate::types::{Item, Raft};
use crate::voters::Voters;

/// One node's part of the registry. Clones share it.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

pub(crate) struct Inner {
    pub me: NodeId,
    pub raft: Raft,
    pub log: LogStore,
    pub snapshots: SnapshotStore,
    pub room: Room,
    pub published: Published,
    pub proposals: mpsc::Sender<Waiting>,
    pub readers: mpsc::Sender<Reader>,
    pub status: watch::Receiver<Status>,
    pub random: Random,
    pub clock: Clock,
    pub metrics: RegistryMetrics,
    pub voters_period: Duration,
    pub tasks: Tasks,
}

/// Tasks that end with their owner.
#[derive(Default)]
pub(crate) struct Tasks(Mutex<Vec<JoinHandle<()>>>);

impl Tasks {
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let handle = tokio::spawn(task);
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(handle);
    }

    fn abort(&self) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.drain(..).for_each(|task| task.abort());
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.abort();
    }
}

impl Registry {
    pub(crate) fn new(inner: Inner) -> Registry {
        Registry(Arc::new(inner))
    }

    /// Begins a cluster: this node becomes its only voter and proposes `request`, the `Init` command.
    /// After a crash in between it may be called again.
    pub async fn initialise(&self, request: Request) -> Result<Applied, ProposeError> {
        let members = BTreeMap::from([(self.0.me.0, EmptyNode {})]);
        match self.0.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => {
                tracing::error!(%error, "the cluster cannot be initialised");
                return Err(ProposeError::Stopped);
            }
        }
        self.propose_request(request, limits::DEFAULT_DEADLINE)
            .await
    }

    /// What this node has applied; other nodes may be further.
    pub fn state(&self) -> Arc<State> {
        self.0.published.state.borrow().clone()
    }

    /// Follows [`Registry::state`]; moves once for each batch applied.
    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.0.published.state.clone()
    }

    /// Like [`Registry::watch`], but wakes only when nodes, deployments or instances changed: for loops
    /// that would otherwise run once for each write of a setting. Its value is always the latest.
    pub fn watch_plan(&self) -> watch::Receiver<Arc<State>> {
        self.0.published.plan.clone()
    }

    /// Proposes a new request and waits for its outcome for at most five seconds.
    pub async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        let request = Request {
            id: self.0.random.request_id(),
            command,
            stamp: Default::default(),
        };
        self.propose_request(request, limits::DEFAULT_DEADLINE)
            .await
    }

    /// Proposes through whichever node leads, and again with the same id until there is an outcome or
    /// the deadline is over. An outcome is durable on a majority of the voters.
    pub async fn propose_request(
        &self,
        request: Request,
        deadline: Duration,
    ) -> Result<Applied, ProposeError> {
        self.propose_for(None, request, deadline).await
    }

    /// The same for an operator, whose token the leader wants to see when this node is a worker.
    pub async fn propose_for(
        &self,
        operator: Option<OperatorToken>,
        request: Request,
        deadline: Duration,
    ) -> Result<Applied, ProposeError> {
        let begun = Instant::now();
        let request = self.stamped(request);
        // One that cannot be encoded is larger than even the codec allows.
        let item = Item::new(request).map_err(|_| too_large(nebula_wire::codec::MAX_BYTES))?;
        if limits::REQUEST_BYTES
            .check("the request", item.len())
            .is_err()
        {
            return Err(too_large(item.len()));
        }
        self.0.metrics.proposals.inc();
        let deadline = begun + deadline;
        let queued = AtomicBool::new(false);
        let attempts = self.attempts(Arc::new(item), operator, deadline, &queued);
        match self.unless_hopeless(deadline, attempts).await {
            Some(outcome) => {
                self.0
                    .metrics
                    .commit_seconds
                    .observe(begun.elapsed().as_secs_f64());
                outcome
            }
            None if self.0.status.borrow().lacks_space() => Err(disk_full()),
            None if !self.0.status.borrow().quorum => Err(ProposeError::NoQuorum),
            None if !queued.load(Ordering::Relaxed) => Err(ProposeError::Busy {
                limit: limits::PROPOSALS_QUEUED,
            }),
            None => Err(ProposeError::Timeout),
        }
    }

    /// With where and when it was proposed, for the history.
    fn stamped(&self, mut request: Request) -> Request {
        request.stamp.at = self.0.clock.now();
        request.stamp.node = Some(self.0.me);
        request
    }

    /// The work's result; none at the deadline, and none when there has been no quorum for
    /// [`limits::NO_QUORUM_PATIENCE`]: an election takes less.
    async fn unless_hopeless<T>(&self, until: Instant, work: impl Future<Output = T>) -> Option<T> {
        let begun = Instant::now();
        let mut status = self.0.status.clone();
        let hopeless = async {
            loop {
                let since = status.borrow_and_update().no_quorum_since;
                let due = since.map_or(until, |at| at.max(begun) + limits::NO_QUORUM_PATIENCE);
                tokio::select! {
                    () = sleep_until(due.min(until)) => return,
                    changed = status.changed() => if changed.is_err() {
                        return sleep_until(until).await;
                    },
                }
            }
        };
        tokio::select! {
            biased;
            result = work => Some(result),
            () = hopeless => None,
        }
    }

    /// `queued` says whether the request has found room in the queue.
    async fn attempts(
        &self,
        item: Arc<Item>,
        operator: Option<OperatorToken>,
        deadline: Instant,
        queued: &AtomicBool,
    ) -> Result<Applied, ProposeError> {
        loop {
            let before = self.0.status.borrow().clone();
            // Nobody else could take it.
            if before.space != Space::Enough && before.voters == BTreeSet::from([self.0.me]) {
                return Err(disk_full());
            }
            let (done, attempt) = oneshot::channel();
            let waiting = Waiting {
                item: item.clone(),
                operator: operator.clone(),
                forwarded: false,
                deadline,
                done,
            };
            if self.0.proposals.send(waiting).await.is_err() {
                return Err(ProposeError::Stopped);
            }
            queued.store(true, Ordering::Relaxed);
            match attempt.await {
                Ok(Attempt::Answered(answer)) => return answer.map_err(ProposeError::Rejected),
                Ok(Attempt::Again) => self.pause(&before).await,
                Ok(Attempt::Stopped) => return Err(ProposeError::Stopped),
                // The batch was dropped with its task, which only a shutdown does.
                Err(_) if self.0.proposals.is_closed() => return Err(ProposeError::Stopped),
                Err(_) => self.pause(&before).await,
            }
        }
    }

    /// Until leadership changes, or for a moment.
    async fn pause(&self, before: &Status) {
        let mut status = self.0.status.clone();
        let moved = |now: &Status| {
            (now.leader, now.is_leader, now.quorum)
                != (before.leader, before.is_leader, before.quorum)
        };
        let changed = async { status.wait_for(moved).await.is_ok() };
        tokio::select! {
            true = changed => {}
            () = tokio::time::sleep(limits::RETRY_PAUSE) => {}
        }
    }

    /// A state that holds everything acknowledged anywhere before this call.
    pub async fn read(&self, deadline: Duration) -> Result<Arc<State>, ReadError> {
        let until = Instant::now() + deadline;
        let queued = AtomicBool::new(false);
        let attempts = self.read_attempts(&queued);
        match self.unless_hopeless(until, attempts).await {
            Some(result) => result,
            None if !self.0.status.borrow().quorum => Err(ReadError::NoQuorum),
            None if !queued.load(Ordering::Relaxed) => Err(ReadError::Busy {
                limit: limits::READERS_QUEUED,
            }),
            None => Err(ReadError::Timeout),
        }
    }

    async fn read_attempts(&self, queued: &AtomicBool) -> Result<Arc<State>, ReadError> {
        loop {
            let before = self.0.status.borrow().clone();
            let (done, told) = oneshot::channel();
            let reader = Reader {
                forwarded: false,
                done,
            };
            if self.0.readers.send(reader).await.is_err() {
                return Err(ReadError::Stopped);
            }
            queued.store(true, Ordering::Relaxed);
            match told.await {
                Ok(ReadIndex::At(index)) => {
                    let mut applied = self.0.published.applied.clone();
                    if applied.wait_for(|at| *at >= index).await.is_err() {
                        return Err(ReadError::Stopped);
                    }
                    return Ok(self.state());
                }
                Ok(ReadIndex::Stopped) => return Err(ReadError::Stopped),
                Err(_) if self.0.readers.is_closed() => return Err(ReadError::Stopped),
                Ok(ReadIndex::Again) | Err(_) => self.pause(&before).await,
            }
        }
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.0.status.clone()
    }

    /// From now on, while this node leads, keeps Raft's members in step with the state's nodes: all
    /// follow as learners, and 1, 3 or 5 of them vote.
    pub fn manage_voters(&self, view: watch::Receiver<Arc<View>>) {
        let voters = Voters {
            raft: self.0.raft.clone(),
            state: self.watch_plan(),
            view,
            status: self.status(),
            period: self.0.voters_period,
        };
        self.0.tasks.spawn(voters.run());
    }

    /// Stops taking part, finishes what is being written, and lets go of the files.
    pub async fn shutdown(&self) {
        // Raft cannot end while it waits for room on the disk.
        self.0.room.close();
        if let Err(error) = self.0.raft.shutdown().await {
            tracing::error!(%error, "Raft did not stop in order");
        }
        self.0.tasks.abort();
        crate::start::close(self.0.log.clone(), self.0.snapshots.clone()).await;
    }

    #[cfg(test)]
    pub(crate) fn queues(&self) -> (&mpsc::Sender<Waiting>, &mpsc::Sender<Reader>) {
        (&self.0.proposals, &self.0.readers)
    }

    #[cfg(test)]
    pub(crate) fn raft(&self) -> &Raft {
        &self.0.raft
    }
}

fn disk_full() -> ProposeError {
    ProposeError::DiskFull {
        floor: limits::SPACE_LOW_BYTES,
    }
}

fn too_large(actual: usize) -> ProposeError {
    ProposeError::TooLarge(nebula_domain::limits::LimitExceeded {
        what: "the request".to_owned(),
        actual: actual as u64,
        limit: limits::REQUEST_BYTES.max,
        name: limits::REQUEST_BYTES.name.to_owned(),
    })
}
