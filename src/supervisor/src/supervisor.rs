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
use tokio::sync::watch;
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
/// Without a reason to look, look all the same.
const PERIOD: Duration = Duration::from_secs(30);
/// For what is stopped although nobody says how: it was removed while this node was away.
const DEFAULT_GRACE: Duration = nebula_domain::spec::DEFAULT_STOP_GRACE;

enum Done {
    Fetched(InstanceId, Result<PathBuf, String>),
    Started(InstanceId, Result<(), String>),
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
            tasks: JoinSet::new(),
            ended: Vec::new(),
            next_port: ports::begin(&shared.config.port_range, shared.config.me.0),
            first: true,
            unswept: true,
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
        let next = slots.chain(absent).filter(|at| *at > now).min();
        next.map_or(PERIOD, |at| at - now).min(PERIOD)
    }

    fn is_draining(&self) -> bool {
        self.slots
            .values()
            .any(|slot| matches!(slot.stage, Stage::Draining(_)))
    }

    /// What is wanted of an instance; `None` while that is not known.
    fn want(&mut self, state: &State, view: &View, id: InstanceId, now: Instant) -> Option<Want> {
        let me = self.shared.config.me;
        let assigned = state
            .instances
            .get(&id)
            .filter(|instance| instance.node == me);
        let Some(instance) = assigned else {
            let current = state.cluster.is_some() && self.status.borrow().quorum;
            if !current {
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

    async fn carry_out(&mut self, state: &State, id: InstanceId, effect: Effect) {
        let release = state
            .instances
            .get(&id)
            .and_then(|instance| state.release_of(instance))
            .cloned();
        match effect {
            Effect::Note(text) => self.shared.driver.note(id, &text),
            Effect::Fetch => {
                if let Some(release) = release {
                    self.fetch(state, id, &release);
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
                if let Err(error) = self.shared.driver.stop(id, grace).await {
                    tracing::warn!(instance = %id, %error, "cannot stop an instance, trying again");
                    // Back to where the stop is decided.
                    if let Some(slot) = self.slots.get_mut(&id) {
                        slot.stage = Stage::Draining(Instant::now() + crate::slot::RETRY);
                    }
                }
            }
        }
    }

    fn fetch(&mut self, state: &State, id: InstanceId, release: &Release) {
        let (artifacts, digest) = (self.artifacts.clone(), release.artifact);
        let me = self.shared.config.me;
        let sources: Vec<NodeId> = state
            .nodes
            .keys()
            .copied()
            .filter(|node| *node != me)
            .collect();
        let work_dir = (!release.spec.is_static()).then(|| self.shared.config.work_dir.clone());
        self.tasks.spawn(async move {
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
        let driver = self.shared.driver.clone();
        self.tasks.spawn(async move {
            let result = driver.start(spec).await;
            Done::Started(
                id,
                result.map_err(|error| format!("cannot start the program: {error}")),
            )
        });
    }

    async fn take_in(&mut self, done: Done, state: &State, view: &View, now: Instant) {
        match done {
            Done::Fetched(id, result) => {
                let result = result.map(|folder| {
                    self.folders.insert(id, folder);
                });
                let Some(want) = self.want(state, view, id, now) else {
                    return;
                };
                let effect = self
                    .slots
                    .get_mut(&id)
                    .and_then(|slot| slot.fetched(want, result, now));
                if let Some(effect) = effect {
                    self.carry_out(state, id, effect).await;
                }
            }
            Done::Started(id, Err(reason)) => {
                tracing::warn!(instance = %id, reason, "an instance was not started");
                self.shared.driver.note(id, &reason);
                if let Some(slot) = self.slots.get_mut(&id) {
                    slot.not_started(reason, now);
                }
            }
            Done::Started(_, Ok(())) | Done::Cleaned => {}
        }
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
    async fn forget(&mut self, state: &State, runs: &Runs) {
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
            let work_dir = self.shared.config.work_dir.clone();
            self.tasks.spawn_blocking(move || {
                if let Err(error) = workdir::remove(&work_dir, id) {
                    tracing::warn!(instance = %id, %error, "cannot delete an ended instance's folder");
                }
                Done::Cleaned
            });
        }
        let mut ended: BTreeMap<&DeploymentName, Vec<InstanceId>> = BTreeMap::new();
        for (id, run) in runs
            .iter()
            .filter(|(id, run)| !run.is_running() && !self.slots.contains_key(id))
        {
            ended.entry(&run.deployment).or_default().push(*id);
        }
        for ids in ended.values().filter(|ids| ids.len() > KEPT_PER_DEPLOYMENT) {
            for id in &ids[..ids.len() - KEPT_PER_DEPLOYMENT] {
                if let Err(error) = self.shared.driver.remove(*id).await {
                    tracing::warn!(instance = %id, %error, "cannot delete an ended instance's output");
                }
            }
        }
    }
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
            self.take_in(done?, &state, &view, now).await;
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
        if std::mem::take(&mut self.unswept) {
            // Left by a daemon that ended before it could delete them.
            workdir::sweep(&self.shared.config.work_dir, |id| ids.contains(&id))?;
        }
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
                self.carry_out(&state, id, effect).await;
            }
        }
        self.publish(&state, &runs);
        self.forget(&state, &runs).await;
        Ok(())
    }
}
