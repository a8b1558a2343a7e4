//! The reconciler: reads what is wanted and what runs, asks [`crate::slot`] what to do, does it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nebula_actors::{BoxError, Reconciler};
use nebula_artifacts::Artifacts;
use nebula_domain::observed::{Health, LocalInstance, LocalInstances};
use nebula_domain::spec::Workload;
use nebula_domain::state::{Desired, Instance, Release};
use nebula_domain::{DeploymentName, InstanceId, NodeId, State, View};
use nebula_drivers::{Run, Runs, StartSpec};
use nebula_membership::{Membership, PhaseFacts};
use nebula_registry::Status;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};

use crate::handle::{Handle, Shared};
use crate::ports;
use crate::slot::{Effect, Slot, Stage, Want};
use crate::workdir;

/// A registry that lags knows less than this node has already done. An instance is taken for removed
/// only after the registry has been current and without it for this long.
const ABSENT_GRACE: Duration = Duration::from_secs(3);
/// Ended instances of one deployment whose output is kept.
const KEPT_PER_DEPLOYMENT: usize = 20;
/// And of all deployments together: at most 16 MiB each, so that output never fills a disk.
const KEPT_IN_ALL: usize = 100;
/// Artifacts fetched, unpacked and copied at once. A few, since one may wait for a node that is silent.
const FETCHES: usize = 8;
/// Programs started at once: after a reboot all are due in the same moment, and each start is a
/// burst of work on the machine that the data plane shares.
const STARTS: usize = 8;
/// Without a reason to look, look all the same.
const PERIOD: Duration = Duration::from_secs(30);
/// For what is stopped although nobody says how: it was removed while this node was away.
const DEFAULT_GRACE: Duration = nebula_domain::spec::DEFAULT_STOP_GRACE;

enum Done {
    Fetched(InstanceId, Result<PathBuf, String>),
    Started(InstanceId, Result<(), String>),
    NotStopped(InstanceId),
    /// An ended instance's output is deleted.
    Removed(InstanceId),
    Cleaned,
}

pub struct Supervisor {
    shared: Arc<Shared>,
    state: watch::Receiver<Arc<State>>,
    status: watch::Receiver<Status>,
    view: watch::Receiver<Arc<View>>,
    runs: watch::Receiver<Arc<Runs>>,
    membership: Membership,
    artifacts: Artifacts,
    slots: BTreeMap<InstanceId, Slot>,
    folders: BTreeMap<InstanceId, PathBuf>,
    absent_since: BTreeMap<InstanceId, Instant>,
    /// Ports of starts that do not show as runs yet.
    starting: BTreeMap<InstanceId, u16>,
    /// Ended instances whose output is being deleted, or could not be.
    removing: BTreeSet<InstanceId>,
    fetches: Arc<Semaphore>,
    starts: Arc<Semaphore>,
    tasks: JoinSet<Done>,
    /// Collected by `wake`, taken in by `pass`.
    ended: Vec<Result<Done, JoinError>>,
    next_port: u16,
    first: bool,
    unswept: bool,
    /// Since when the registry has been current.
    current_since: Option<Instant>,
}

impl Supervisor {
    pub fn new(
        handle: &Handle,
        state: watch::Receiver<Arc<State>>,
        status: watch::Receiver<Status>,
        membership: Membership,
        artifacts: Artifacts,
    ) -> Supervisor {
        let shared = handle.shared();
        Supervisor {
            state,
            status,
            view: membership.view(),
            runs: shared.driver.runs(),
            membership,
            artifacts,
            slots: BTreeMap::new(),
            folders: BTreeMap::new(),
            absent_since: BTreeMap::new(),
            starting: BTreeMap::new(),
            removing: BTreeSet::new(),
            fetches: Arc::new(Semaphore::new(FETCHES)),
            starts: Arc::new(Semaphore::new(STARTS)),
            tasks: JoinSet::new(),
            ended: Vec::new(),
            next_port: ports::begin(&shared.config.port_range, shared.config.me.0),
            first: true,
            unswept: true,
            current_since: None,
            shared,
        }
    }

    fn next_look(&self) -> Duration {
        let now = Instant::now();
        let slots = self.slots.values().filter_map(Slot::due);
        let absent = self
            .absent_since
            .values()
            .map(|since| *since + ABSENT_GRACE);
        let sweep = self.current_since.filter(|_| self.unswept);
        let next = slots
            .chain(absent)
            .chain(sweep.map(|since| since + ABSENT_GRACE))
            .filter(|at| *at > now)
            .min();
        next.map_or(PERIOD, |at| at - now).min(PERIOD)
    }

    fn is_draining(&self) -> bool {
        self.slots
            .values()
            .any(|slot| matches!(slot.stage, Stage::Draining(_)))
    }

    fn is_current(&self, state: &State) -> bool {
        state.cluster.is_some() && self.status.borrow().quorum
    }

    /// What is wanted of an instance; `None` while that is not known.
    fn want(&mut self, state: &State, view: &View, id: InstanceId, now: Instant) -> Option<Want> {
        let me = self.shared.config.me;
        let assigned = state
            .instances
            .get(&id)
            .filter(|instance| instance.node == me);
        let Some(instance) = assigned else {
            if !self.is_current(state) {
                self.absent_since.remove(&id);
                return None;
            }
            let since = *self.absent_since.entry(id).or_insert(now);
            return (now >= since + ABSENT_GRACE).then_some(Want::Stop { let_go: true });
        };
        self.absent_since.remove(&id);
        match instance.desired {
            Desired::Stop => Some(Want::Stop {
                let_go: let_go(view, instance),
            }),
            Desired::Run => match state.release_of(instance)?.spec.workload {
                Workload::Static(_) => Some(Want::Files),
                Workload::Service(_) => Some(Want::Program),
            },
        }
    }

    fn carry_out(&mut self, state: &State, view: &View, id: InstanceId, effect: Effect) {
        let release = state
            .instances
            .get(&id)
            .and_then(|instance| state.release_of(instance))
            .cloned();
        match effect {
            Effect::Note(text) => self.shared.driver.note(id, &text),
            Effect::Fetch => {
                if let Some(release) = release {
                    self.fetch(state, view, id, &release);
                }
            }
            Effect::Start(run) => {
                if let (Some(release), Some(instance)) = (release, state.instances.get(&id)) {
                    self.start(id, run, &instance.deployment, &release);
                }
            }
            Effect::Stop => {
                let grace = match release.as_ref().map(|r| &r.spec.workload) {
                    Some(Workload::Service(service)) => service.stop_grace,
                    _ => DEFAULT_GRACE,
                };
                tracing::info!(instance = %id, "stopping an instance");
                let driver = self.shared.driver.clone();
                // A start on its way may hold it up.
                self.tasks.spawn(async move {
                    let Err(error) = driver.stop(id, grace).await else {
                        return Done::Cleaned;
                    };
                    tracing::warn!(instance = %id, %error, "cannot stop an instance, trying again");
                    tokio::time::sleep(crate::slot::RETRY).await;
                    Done::NotStopped(id)
                });
            }
        }
    }

    fn fetch(&mut self, state: &State, view: &View, id: InstanceId, release: &Release) {
        let (artifacts, digest) = (self.artifacts.clone(), release.artifact);
        let sources = sources(state, view, self.shared.config.me);
        let fetches = self.fetches.clone();
        let work_dir = (!release.spec.is_static()).then(|| self.shared.config.work_dir.clone());
        self.tasks.spawn(async move {
            // Never closed.
            let _turn = fetches.acquire_owned().await;
            let folder = match artifacts.ensure(digest, &sources).await {
                Ok(tree) => own_folder(work_dir, id, tree).await,
                Err(error) => Err(format!("cannot get the artifact: {error}")),
            };
            Done::Fetched(id, folder)
        });
    }

    fn start(&mut self, id: InstanceId, run: u64, deployment: &DeploymentName, release: &Release) {
        let Workload::Service(service) = &release.spec.workload else {
            return;
        };
        let Some(workdir) = self.folders.get(&id).cloned() else {
            return;
        };
        let taken: BTreeSet<u16> = {
            let runs = self.runs.borrow();
            runs.iter()
                .filter(|(other, run)| **other != id && run.is_running())
                .map(|(_, run)| run.port)
                .chain(self.starting.values().copied())
                .collect()
        };
        let preferred = self.runs.borrow().get(&id).map(|run| run.port);
        let config = &self.shared.config;
        let Some(port) = ports::pick(&config.port_range, self.next_port, preferred, &taken) else {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.not_started(
                    format!("no port is free in {:?}", config.port_range),
                    Instant::now(),
                );
            }
            return;
        };
        self.next_port = if port < *config.port_range.end() {
            port + 1
        } else {
            *config.port_range.start()
        };
        let spec = StartSpec {
            instance: id,
            run,
            deployment: deployment.clone(),
            release: release.number,
            node: config.node_name.clone(),
            command: service.command.clone(),
            env: service.env.clone(),
            workdir,
            port,
            stop_grace: service.stop_grace,
        };
        tracing::info!(instance = %id, %deployment, release = %release.number, run, port, "starting an instance");
        let (driver, starts) = (self.shared.driver.clone(), self.starts.clone());
        self.starting.insert(id, port);
        self.tasks.spawn(async move {
            // Never closed.
            let _turn = starts.acquire_owned().await;
            let result = driver.start(spec).await;
            Done::Started(
                id,
                result.map_err(|error| format!("cannot start the program: {error}")),
            )
        });
    }

    fn take_in(&mut self, done: Done, state: &State, view: &View, now: Instant) {
        match done {
            // Removed while it was fetched.
            Done::Fetched(id, _) if !self.slots.contains_key(&id) => self.clear_folder(id),
            Done::Fetched(id, result) => {
                let result = result.map(|folder| {
                    self.folders.insert(id, folder);
                });
                let unknown = Want::Stop { let_go: false };
                let want = self.want(state, view, id, now).unwrap_or(unknown);
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
        // Said once, however often it is tried: nothing rotates a log that only has notes.
        if slot.stage == Stage::Starting && slot.reason != reason {
            self.shared.driver.note(id, &reason);
        }
        slot.not_started(reason, now);
    }

    /// Deletes an ended instance's copy of its artifact.
    fn clear_folder(&mut self, id: InstanceId) {
        let work_dir = self.shared.config.work_dir.clone();
        self.tasks.spawn_blocking(move || {
            if let Err(error) = workdir::remove(&work_dir, id) {
                tracing::warn!(instance = %id, %error, "cannot delete an ended instance's folder");
            }
            Done::Cleaned
        });
    }

    /// Deletes what a daemon that ended before it could do so has left: at once what is unfinished,
    /// and copies of instances once the registry has been current for a while. They hold what
    /// programs wrote, and a registry that lags does not know all of its instances.
    fn sweep(&mut self, state: &State, ids: &BTreeSet<InstanceId>, now: Instant) {
        if !self.is_current(state) {
            self.current_since = None;
        } else if self.unswept {
            let since = *self.current_since.get_or_insert(now);
            if now >= since + ABSENT_GRACE {
                self.unswept = false;
                self.delete_folders(|id| id.is_some_and(|id| !ids.contains(&id)));
            }
        }
    }

    fn delete_folders(&mut self, stale: impl Fn(Option<InstanceId>) -> bool) {
        let work_dir = &self.shared.config.work_dir;
        let folders = match workdir::list(work_dir, stale) {
            Ok(folders) => folders,
            Err(error) => {
                tracing::warn!(%error, "cannot look for folders of ended instances");
                return;
            }
        };
        self.tasks.spawn_blocking(move || {
            for folder in folders {
                if let Err(error) = workdir::remove_if_there(&folder) {
                    tracing::warn!(folder = %folder.display(), %error, "cannot delete an ended instance's folder");
                }
            }
            Done::Cleaned
        });
    }

    /// Tells peers what became of each instance, and this node's proxy and probes where it listens.
    fn publish(&mut self, state: &State, runs: &Runs) {
        let mut locals = LocalInstances::new();
        for (id, slot) in &self.slots {
            let facts = PhaseFacts {
                phase: slot.phase(),
                restarts: slot.restarts(),
                reason: slot.reason.clone(),
                run: slot.run,
            };
            self.membership.publish_phase(*id, Some(facts));
            if slot.stage == Stage::Serving {
                self.membership.publish_health(*id, Health::Healthy);
            }
            let listening = matches!(slot.stage, Stage::Running | Stage::Draining(_));
            if let Some(run) = runs.get(id).filter(|run| listening && run.is_running())
                && let Some(local) = local(state, *id, run)
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

    /// Drops slots of instances that nobody speaks of any more, and the oldest output.
    fn forget(&mut self, state: &State, runs: &Runs) {
        let me = self.shared.config.me;
        let assigned = |id: &InstanceId| state.instances.get(id).is_some_and(|i| i.node == me);
        let gone: Vec<InstanceId> = self
            .slots
            .iter()
            .filter(|(id, slot)| slot.stage == Stage::Gone && !assigned(id))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.slots.remove(&id);
            self.folders.remove(&id);
            self.absent_since.remove(&id);
            self.membership.publish_phase(id, None);
            self.clear_folder(id);
        }
        // A registry that lags does not know which of these are to run again.
        if !self.is_current(state) {
            return;
        }
        let unused = |id: &InstanceId| !self.slots.contains_key(id) && !self.removing.contains(id);
        for id in surplus(runs, unused) {
            self.removing.insert(id);
            let driver = self.shared.driver.clone();
            self.tasks.spawn(async move {
                let Err(error) = driver.remove(id).await else {
                    return Done::Removed(id);
                };
                tracing::warn!(instance = %id, %error, "cannot delete an ended instance's output");
                Done::Cleaned
            });
        }
    }
}

/// The ended instances whose output is not kept: all but the latest of each deployment, and of all
/// together.
fn surplus(runs: &Runs, unused: impl Fn(&InstanceId) -> bool) -> Vec<InstanceId> {
    let mut kept_of: BTreeMap<&DeploymentName, usize> = BTreeMap::new();
    let mut kept = 0;
    let mut surplus = Vec::new();
    let ended = runs
        .iter()
        .filter(|(id, run)| !run.is_running() && unused(id));
    for (id, run) in ended.rev() {
        let of = kept_of.entry(&run.deployment).or_default();
        if *of < KEPT_PER_DEPLOYMENT && kept < KEPT_IN_ALL {
            *of += 1;
            kept += 1;
        } else {
            surplus.push(*id);
        }
    }
    surplus
}

/// Every other node, those believed to be alive first: one that is not costs a deadline.
fn sources(state: &State, view: &View, me: NodeId) -> Vec<NodeId> {
    let mut sources: Vec<NodeId> = state.nodes.keys().copied().filter(|n| *n != me).collect();
    sources.sort_by_key(|node| !view.is_alive(*node));
    sources
}

/// The folder a program runs in, or the tree itself for files that are only read.
async fn own_folder(
    work_dir: Option<PathBuf>,
    id: InstanceId,
    tree: PathBuf,
) -> Result<PathBuf, String> {
    let Some(work_dir) = work_dir else {
        return Ok(tree);
    };
    let copied = tokio::task::spawn_blocking(move || workdir::prepare(&work_dir, id, &tree)).await;
    match copied {
        Ok(Ok(folder)) => Ok(folder),
        Ok(Err(error)) => Err(format!(
            "cannot copy the artifact for the instance: {error}"
        )),
        Err(error) => Err(format!(
            "cannot copy the artifact for the instance: {error}"
        )),
    }
}

/// Whether every live node routes by a state in which the instance is to stop.
fn let_go(view: &View, instance: &Instance) -> bool {
    let mut alive = view.nodes.values().filter(|node| node.alive);
    alive.all(|node| node.facts.routed_revision >= instance.since_revision)
}

fn local(state: &State, id: InstanceId, run: &Run) -> Option<LocalInstance> {
    let release = state.release_of(state.instances.get(&id)?)?;
    let Workload::Service(service) = &release.spec.workload else {
        return None;
    };
    Some(LocalInstance {
        address: std::net::SocketAddr::from(([127, 0, 0, 1], run.port)),
        probe: service.probe.clone(),
        run: run.run,
    })
}

/// A watch whose sender is gone is a node that is stopping.
async fn changed<T>(watch: &mut watch::Receiver<T>) {
    if watch.changed().await.is_err() {
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
        tokio::select! {
            Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => self.ended.push(done),
            () = changed(&mut self.state) => {}
            () = changed(&mut self.runs) => {}
            () = changed(&mut self.view), if draining => {}
            () = tokio::time::sleep(next) => {}
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        let now = Instant::now();
        let state = self.state.borrow_and_update().clone();
        let view = self.view.borrow_and_update().clone();
        for done in std::mem::take(&mut self.ended) {
            self.take_in(done?, &state, &view, now);
        }
        let runs = self.runs.borrow_and_update().clone();
        let me = self.shared.config.me;
        let running = runs
            .iter()
            .filter(|(_, run)| run.is_running())
            .map(|(id, _)| *id);
        let ids: BTreeSet<InstanceId> = state
            .instances_on(me)
            .map(|instance| instance.id)
            .chain(running)
            .chain(self.slots.keys().copied())
            .collect();
        self.sweep(&state, &ids, now);
        for id in ids {
            let Some(want) = self.want(&state, &view, id, now) else {
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
        }
        self.publish(&state, &runs);
        self.forget(&state, &runs);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nebula_domain::ids::ReleaseNumber;
    use nebula_domain::time::Millis;
    use nebula_drivers::{Exit, RunStatus};

    use super::*;

    fn ended(deployment: &str) -> Run {
        Run {
            run: 1,
            deployment: deployment.parse().unwrap(),
            release: ReleaseNumber(1),
            port: 20_000,
            started_at: Millis(0),
            status: RunStatus::Ended {
                exit: Exit::Code(0),
                at: Millis(1),
            },
        }
    }

    #[test]
    fn the_latest_output_is_kept_and_never_too_much() {
        let mut runs: Runs = (0..30).map(|n| (InstanceId(n), ended("api"))).collect();
        let oldest: Vec<_> = surplus(&runs, |_| true);
        assert_eq!(oldest.len(), 30 - KEPT_PER_DEPLOYMENT);
        assert!(oldest.contains(&InstanceId(0)) && !oldest.contains(&InstanceId(29)));
        assert!(surplus(&runs, |id| id.0 >= 20).is_empty());
        runs.extend((100..300).map(|n| (InstanceId(n), ended(&format!("d{n}")))));
        assert_eq!(runs.len() - surplus(&runs, |_| true).len(), KEPT_IN_ALL);
    }
}
