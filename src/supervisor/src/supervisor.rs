//! The reconciler: reads what is wanted and what runs, asks [`crate::slot`] what to do, does it.

mod cleanup;
mod local;
mod once;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nebula_actors::{BoxError, Reconciler};
use nebula_artifacts::Artifacts;
use nebula_domain::observed::{GivenUp, LocalInstances};
use nebula_domain::spec::{DEFAULT_DRAIN, DEFAULT_SOCKET_GRACE, Spec, Workload};
use nebula_domain::state::{Desired, Instance};
use nebula_domain::{InstanceId, State, View};
use nebula_drivers::Runs;
use nebula_membership::{Membership, PhaseFacts};
use nebula_registry::Status;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};

use crate::brought::Brought;
use crate::contact::Contact;
use crate::files::{Files, OnDisk};
use crate::handle::{Handle, Shared};
use crate::ports;
use crate::registrar::Registrar;
use crate::slot::{Effect, Farewell, Slot, Stage, Want};

/// Artifacts fetched, unpacked and copied at once. A few, since one may wait for a node that is silent.
const FETCHES: usize = 8;
/// Programs started at once: after a reboot all are due in the same moment, and each start is a
/// burst of work on the machine that the data plane shares.
const STARTS: usize = 8;
/// Without a reason to look, look all the same.
const PERIOD: Duration = Duration::from_secs(30);
/// Between two questions whether this node has caught up.
const ASK_AGAIN: Duration = Duration::from_secs(1);

enum Done {
    Fetched(InstanceId, Result<Brought, String>),
    Started(InstanceId, Result<(), String>),
    NotStopped(InstanceId),
    /// Whether a site's files are all here.
    Checked(InstanceId, bool),
    /// The question of this contact, and whether this node has caught up.
    CaughtUp(u64, bool),
    /// An ended instance's output is deleted.
    Removed(InstanceId),
    Cleaned,
}

pub struct Supervisor {
    shared: Arc<Shared>,
    registry: Arc<dyn Registrar>,
    contact: Contact,
    state: watch::Receiver<Arc<State>>,
    status: watch::Receiver<Status>,
    view: watch::Receiver<Arc<View>>,
    runs: watch::Receiver<Arc<Runs>>,
    given_up: watch::Receiver<Arc<GivenUp>>,
    membership: Membership,
    files: Arc<dyn Files>,
    slots: BTreeMap<InstanceId, Slot>,
    folders: BTreeMap<InstanceId, Brought>,
    /// Ports of starts that do not show as runs yet.
    starting: BTreeMap<InstanceId, u16>,
    /// Ended instances whose output is being deleted, or could not be.
    removing: BTreeSet<InstanceId>,
    /// What the registry knows no more, and the `State::revision` in which that was seen first.
    forgotten: BTreeMap<InstanceId, u64>,
    fetches: Arc<Semaphore>,
    starts: Arc<Semaphore>,
    tasks: JoinSet<Done>,
    /// Collected by `wake`, taken in by `pass`.
    ended: Vec<Result<Done, JoinError>>,
    next_port: u16,
    first: bool,
    unswept: bool,
}

impl Supervisor {
    pub fn new(
        handle: &Handle,
        registry: Arc<dyn Registrar>,
        membership: Membership,
        artifacts: Artifacts,
    ) -> Supervisor {
        let files = OnDisk {
            artifacts,
            work_dir: handle.shared().config.work_dir.clone(),
        };
        Supervisor::with_files(handle, registry, membership, Arc::new(files))
    }

    /// The same with files of another kind.
    pub fn with_files(
        handle: &Handle,
        registry: Arc<dyn Registrar>,
        membership: Membership,
        files: Arc<dyn Files>,
    ) -> Supervisor {
        let shared = handle.shared();
        Supervisor {
            state: registry.watch(),
            status: registry.status(),
            registry,
            contact: Contact::default(),
            view: membership.view(),
            runs: shared.driver.runs(),
            given_up: shared.given_up.clone(),
            membership,
            files,
            slots: BTreeMap::new(),
            folders: BTreeMap::new(),
            starting: BTreeMap::new(),
            removing: BTreeSet::new(),
            forgotten: BTreeMap::new(),
            fetches: Arc::new(Semaphore::new(FETCHES)),
            starts: Arc::new(Semaphore::new(STARTS)),
            tasks: JoinSet::new(),
            ended: Vec::new(),
            next_port: ports::begin(&shared.config.port_range, shared.config.me.0),
            first: true,
            unswept: true,
            shared,
        }
    }

    fn next_look(&self) -> Duration {
        let now = now();
        let due = self.slots.values().filter_map(Slot::due);
        let next = due.filter(|at| *at > now).min();
        next.map_or(PERIOD, |at| at - now).min(PERIOD)
    }

    fn is_draining(&self) -> bool {
        self.slots
            .values()
            .any(|slot| matches!(slot.stage, Stage::Draining(..)))
    }

    /// Asks whether this node has caught up, if that has to be known.
    fn follow_contact(&mut self) {
        let quorum = self.status.borrow_and_update().quorum;
        let Some(question) = self.contact.see(quorum) else {
            return;
        };
        let registry = self.registry.clone();
        self.tasks.spawn(async move {
            let result = registry.catch_up().await;
            if let Err(error) = &result {
                tracing::debug!(%error, "this node has not caught up with the registry yet");
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Done::CaughtUp(question, result.is_ok())
        });
    }

    /// What is wanted of an instance; `None` while that is not known.
    fn want(&self, state: &State, view: &View, id: InstanceId) -> Option<Want> {
        let me = self.shared.config.me;
        let assigned = state.instances.get(&id).filter(|i| i.node == me);
        let Some(instance) = assigned else {
            // A registry that lags does not know all that this node was given.
            let sure = self.contact.is_sure();
            return sure.then(|| Want::Stop(self.farewell_to_forgotten(state, view, id)));
        };
        match instance.desired {
            Desired::Stop if !self.contact.is_sure() => Some(Want::Hold),
            Desired::Stop => Some(Want::Stop(farewell(state, view, instance))),
            // A registry that lags does not know that an attempt was given up, and has begun elsewhere.
            Desired::Run if instance.run.is_some() => {
                let begun = self.runs.borrow().contains_key(&id);
                Some(match begun || self.contact.is_sure() {
                    true => Want::Once,
                    false => Want::Hold,
                })
            }
            Desired::Run => match state.release_of(instance)?.spec.workload {
                Workload::Static(_) => Some(Want::Files),
                Workload::Service(_) => Some(Want::Program),
            },
        }
    }

    /// This node was away while it was replaced elsewhere. Its own proxies chose it until they heard of that, just as the
    /// supervisor did.
    fn farewell_to_forgotten(&self, state: &State, view: &View, id: InstanceId) -> Farewell {
        let runs = self.runs.borrow();
        if runs.get(&id).is_none_or(|run| run.port.is_none()) {
            return Farewell::NOW;
        }
        let since = self.forgotten.get(&id).copied();
        Farewell {
            let_go: let_go(view, since.unwrap_or(state.revision)),
            busy: view.busy(id),
            drain: DEFAULT_DRAIN,
            socket_grace: DEFAULT_SOCKET_GRACE,
        }
    }

    fn take_in(&mut self, done: Done, state: &State, view: &View, now: Instant) {
        match done {
            // Removed while it was fetched.
            Done::Fetched(id, _) if !self.slots.contains_key(&id) => self.clear_folder(id),
            Done::Fetched(id, result) => {
                let result = result.map(|folder| {
                    self.folders.insert(id, folder);
                });
                let unknown = Want::Stop(Farewell::NOW);
                let want = self.want(state, view, id).unwrap_or(unknown);
                let effect = self
                    .slots
                    .get_mut(&id)
                    .and_then(|slot| slot.fetched(want, result, now));
                if let Some(effect) = effect {
                    self.carry_out(state, view, id, effect);
                }
            }
            Done::Started(id, result) => {
                self.starting.remove(&id);
                if let Err(reason) = result {
                    self.not_started(id, reason, now);
                }
            }
            Done::NotStopped(id) => {
                if let Some(slot) = self.slots.get_mut(&id) {
                    slot.not_stopped(now);
                }
            }
            Done::Checked(id, whole) => {
                if let Some(slot) = self.slots.get_mut(&id) {
                    slot.checked(whole, now, now + self.shared.config.files_check);
                }
            }
            Done::CaughtUp(question, caught_up) => self.contact.answered(question, caught_up),
            Done::Removed(id) => {
                self.removing.remove(&id);
            }
            Done::Cleaned => {}
        }
    }

    fn not_started(&mut self, id: InstanceId, reason: String, now: Instant) {
        tracing::warn!(instance = %id, reason, "an instance was not started");
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        // It may have begun: what becomes of the run decides, or an attempt would be made twice.
        let begun = self.runs.borrow().get(&id).map(|run| run.run);
        if begun == Some(slot.run) {
            self.shared.driver.note(id, &reason);
            return;
        }
        // Said once, however often it is tried: nothing rotates a log that only has notes.
        if slot.stage == Stage::Starting && slot.reason != reason {
            self.shared.driver.note(id, &reason);
        }
        slot.not_started(reason, now);
    }

    /// Tells peers what became of each instance, and this node's proxy and probes where it listens.
    fn publish(&mut self, state: &State, runs: &Runs) {
        let mut locals = LocalInstances::new();
        let known = self.shared.locals.borrow().clone();
        for (id, slot) in &self.slots {
            let facts = PhaseFacts {
                phase: slot.phase(),
                restarts: slot.restarts(),
                reason: slot.reason.clone(),
                last_end: slot.last_end,
                run: slot.run,
                exit: once::exit(state, *id, slot),
            };
            self.membership.publish_phase(*id, facts);
            if let Some(health) = slot.health() {
                self.membership.publish_health(*id, health, "");
            }
            let listening = matches!(slot.stage, Stage::Running | Stage::Draining(..));
            if let Some(run) = runs.get(id).filter(|run| listening && run.is_running())
                && let Some(local) = local::local(state, *id, run, &self.shared.config.node_name)
                    // Of one that the registry has forgotten there is no more than was said before.
                    .or_else(|| known.get(id).filter(|known| known.run == run.run).cloned())
            {
                locals.insert(*id, local);
            }
        }
        self.shared.locals.send_if_modified(|current| {
            let changed = **current != locals;
            if changed {
                *current = Arc::new(locals);
            }
            changed
        });
    }
}

/// Of the runtime's clock, which simulations set.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Whether every live node routes by this state, in which the instance is to stop, or by a later one. One that restarts is among them until it is
/// silent: it finishes what it was sent.
fn let_go(view: &View, revision: u64) -> bool {
    let mut alive = view.nodes.values().filter(|node| node.alive);
    alive.all(|node| node.facts.routed_revision >= revision)
}

/// Of what takes no requests no proxy has to let go.
fn asked_by_anybody(instance: &Instance, spec: Option<&Spec>) -> bool {
    instance.run.is_none() && spec.is_none_or(Spec::takes_requests)
}

fn farewell(state: &State, view: &View, instance: &Instance) -> Farewell {
    let release = state.release_of(instance);
    if !asked_by_anybody(instance, release.map(|release| &release.spec)) {
        return Farewell::NOW;
    }
    let (drain, socket_grace) = match release.map(|release| &release.spec.workload) {
        Some(Workload::Service(service)) => (service.drain, service.socket_grace),
        // Of files what is under way goes on: they are read to the end, whatever becomes of their names.
        Some(Workload::Static(_)) | None => (Duration::ZERO, Duration::ZERO),
    };
    Farewell {
        let_go: let_go(view, instance.since_revision),
        busy: view.busy(instance.id),
        drain,
        socket_grace,
    }
}

fn running(runs: &Runs) -> impl Iterator<Item = InstanceId> + '_ {
    let running = runs.iter().filter(|(_, run)| run.is_running());
    running.map(|(id, _)| *id)
}

/// A watch whose sender is gone is a node that is stopping.
async fn changed<T>(watch: &mut watch::Receiver<T>) {
    if watch.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Of the rest of the status something changes all the time.
async fn turned(status: &mut watch::Receiver<Status>, quorum: bool) {
    if status.wait_for(|now| now.quorum != quorum).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[async_trait::async_trait]
impl Reconciler for Supervisor {
    async fn wake(&mut self) {
        if std::mem::take(&mut self.first) {
            self.delete_folders(|id| id.is_none());
            return;
        }
        let next = self.next_look();
        let draining = self.is_draining();
        let seen = self.contact.quorum();
        tokio::select! {
            Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => self.ended.push(done),
            () = changed(&mut self.state) => {}
            () = changed(&mut self.runs) => {}
            () = changed(&mut self.given_up) => {}
            () = turned(&mut self.status, seen) => {}
            () = changed(&mut self.view), if draining => {}
            () = tokio::time::sleep(next) => {}
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        let now = now();
        let state = self.state.borrow_and_update().clone();
        let view = self.view.borrow_and_update().clone();
        for done in std::mem::take(&mut self.ended) {
            self.take_in(done?, &state, &view, now);
        }
        self.follow_contact();
        let runs = self.runs.borrow_and_update().clone();
        let given_up = self.given_up.borrow_and_update().clone();
        let me = self.shared.config.me;
        let ids: BTreeSet<InstanceId> = state
            .instances_on(me)
            .map(|instance| instance.id)
            .chain(running(&runs))
            .chain(self.slots.keys().copied())
            .collect();
        self.sweep(&ids);
        for id in ids {
            match state.instances.contains_key(&id) {
                true => drop(self.forgotten.remove(&id)),
                false => {
                    self.forgotten.entry(id).or_insert(state.revision);
                }
            }
            let Some(want) = self.want(&state, &view, id) else {
                continue;
            };
            let run = runs.get(&id);
            loop {
                let slot = self.slots.entry(id).or_insert_with(|| Slot::new(run, now));
                let Some(effect) = slot.step(want, run, now) else {
                    break;
                };
                self.carry_out(&state, &view, id, effect);
            }
            if let (Some(lost), Some(slot)) = (given_up.get(&id), self.slots.get_mut(&id))
                && let Some(effect) = slot.give_up(want, lost.run, &lost.reason)
            {
                self.carry_out(&state, &view, id, Effect::Note(lost.reason.clone()));
                self.carry_out(&state, &view, id, effect);
            }
        }
        self.publish(&state, &runs);
        self.forget(&state, &runs);
        self.forgotten.retain(|id, _| self.slots.contains_key(id));
        let spoken_of = self.slots.keys().copied().chain(running(&runs)).collect();
        self.membership.keep_instances(&spoken_of);
        Ok(())
    }
}
