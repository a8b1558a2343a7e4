//! The reconciler: gathers what the state machines need to know and carries out what they answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nebula_actors::{BoxError, Reconciler};
use nebula_domain::observed::{Health, LocalInstance, LocalInstances, Phase, View};
use nebula_domain::spec::{DEFAULT_STOP_GRACE, Service, Workload};
use nebula_domain::state::{Desired, Release, State};
use nebula_domain::{DeploymentName, InstanceId};
use nebula_drivers::{Driver, DriverError, Run, RunStatus, Runs, StartSpec};
use nebula_membership::PhaseFacts;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::assigned::{Assigned, acked, assigned, sources};
use crate::machine::{Done, Effect, Input, Kind, Machine, Seen, Wanted};
use crate::seams::{Observed, Trees, with_sources};
use crate::{SupervisorConfig, SupervisorError, kept, ports};

/// A pass that nothing asked for, should a change ever go unnoticed.
const PERIOD: Duration = Duration::from_secs(10);
/// Starts at the same time: each is a handful of forks, and a node that comes up with hundreds of
/// instances has to answer heartbeats meanwhile.
const STARTS_AT_ONCE: usize = 8;

/// See the crate's description.
pub struct Supervisor<M, A> {
    config: SupervisorConfig,
    state: watch::Receiver<Arc<State>>,
    observed: M,
    view: watch::Receiver<Arc<View>>,
    trees: A,
    driver: Arc<dyn Driver>,
    runs: watch::Receiver<Arc<Runs>>,
    locals: watch::Sender<Arc<LocalInstances>>,
    slots: BTreeMap<InstanceId, Slot>,
    /// Fetches, starts and stops on their way. They end with the supervisor; a start that the
    /// driver has begun is finished by it.
    tasks: JoinSet<(InstanceId, Outcome)>,
    finished: Vec<Result<(InstanceId, Outcome), tokio::task::JoinError>>,
    removals: JoinSet<()>,
    starts: Arc<Semaphore>,
    /// The state machines count time from here.
    epoch: Instant,
    has_passed: bool,
}

struct Slot {
    machine: Machine,
    assigned: Assigned,
    /// Where the artifact was unpacked.
    tree: Option<PathBuf>,
    published: Option<PhaseFacts>,
}

/// What a task reports.
enum Outcome {
    Fetched(Result<PathBuf, String>),
    Other(Done),
}

impl<M: Observed, A: Trees> Supervisor<M, A> {
    pub fn new(
        config: SupervisorConfig,
        state: watch::Receiver<Arc<State>>,
        membership: M,
        artifacts: A,
        driver: Arc<dyn Driver>,
        locals: watch::Sender<Arc<LocalInstances>>,
    ) -> Supervisor<M, A> {
        Supervisor {
            config,
            state,
            view: membership.view(),
            observed: membership,
            trees: artifacts,
            runs: driver.runs(),
            driver,
            locals,
            slots: BTreeMap::new(),
            tasks: JoinSet::new(),
            finished: Vec::new(),
            removals: JoinSet::new(),
            starts: Arc::new(Semaphore::new(STARTS_AT_ONCE)),
            epoch: Instant::now(),
            has_passed: false,
        }
    }

    fn reconcile(&mut self) -> Result<(), SupervisorError> {
        // Results first: whatever they report is in the snapshots that are taken after them.
        let mut done: BTreeMap<InstanceId, Vec<Outcome>> = BTreeMap::new();
        while let Some(result) = self.tasks.try_join_next() {
            self.finished.push(result);
        }
        for result in self.finished.drain(..) {
            let (instance, outcome) = result.map_err(SupervisorError::Task)?;
            done.entry(instance).or_default().push(outcome);
        }
        let state = self.state.borrow_and_update().clone();
        let view = self.view.borrow_and_update().clone();
        let runs = self.runs.borrow_and_update().clone();

        let held = self.slots.keys().copied();
        let Some(all) = assigned(&state, self.config.me, &runs, held) else {
            return Ok(());
        };
        for (instance, assigned) in all {
            self.advance(
                instance,
                assigned,
                done.remove(&instance).unwrap_or_default(),
                (&state, &view, &runs),
            );
        }
        self.publish(&state);
        self.publish_locals();
        self.forget(&state, &runs);
        Ok(())
    }

    fn advance(
        &mut self,
        instance: InstanceId,
        assigned: Assigned,
        outcomes: Vec<Outcome>,
        (state, view, runs): (&Arc<State>, &View, &Runs),
    ) {
        let slot = self.slots.entry(instance).or_insert_with(|| Slot {
            machine: Machine::new(kind_of(assigned.release.as_deref())),
            assigned: assigned.clone(),
            tree: None,
            published: None,
        });
        // Once unassigned, the revision of the first pass that saw it counts, and the release that
        // it was started from says how to stop it.
        if assigned.release.is_some() {
            slot.assigned = assigned;
        } else if slot.assigned.desired != assigned.desired {
            slot.assigned.desired = assigned.desired;
            slot.assigned.since_revision = assigned.since_revision;
        }
        let mut done = Vec::new();
        for outcome in outcomes {
            done.push(Some(match outcome {
                Outcome::Fetched(Ok(tree)) => {
                    slot.tree = Some(tree);
                    Done::Fetched(Ok(()))
                }
                Outcome::Fetched(Err(reason)) => Done::Fetched(Err(reason)),
                Outcome::Other(done) => done,
            }));
        }
        if done.is_empty() {
            done.push(None);
        }
        let input = Input {
            now: self.epoch.elapsed(),
            wanted: match slot.assigned.desired {
                Desired::Run => Wanted::Run,
                Desired::Stop => Wanted::Stop {
                    acked: acked(view, slot.assigned.since_revision),
                },
            },
            seen: runs.get(&instance).map(|run| self.config.seen(run)),
        };
        let effects: Vec<Effect> = done
            .into_iter()
            .flat_map(|done| slot.machine.advance(&input, done))
            .collect();
        for effect in effects {
            self.carry_out(instance, effect, (state, view, runs));
        }
    }

    fn carry_out(
        &mut self,
        instance: InstanceId,
        effect: Effect,
        (state, view, runs): (&Arc<State>, &View, &Runs),
    ) {
        match effect {
            Effect::Fetch => self.fetch(instance, state, view),
            Effect::Start { run, port } => {
                let spec = self.start_spec(instance, run, port, state, runs);
                self.start(instance, run, spec);
            }
            Effect::Stop => {
                let grace = self
                    .service(instance)
                    .map_or(DEFAULT_STOP_GRACE, |s| s.stop_grace);
                let driver = self.driver.clone();
                self.tasks.spawn(async move {
                    let result = driver.stop(instance, grace).await;
                    let done = Done::StopAsked(result.map_err(|e| with_sources(&e)));
                    (instance, Outcome::Other(done))
                });
            }
            Effect::Note(text) => {
                tracing::info!(%instance, "{text}");
                self.driver.note(instance, &text);
            }
        }
    }

    fn fetch(&mut self, instance: InstanceId, state: &State, view: &View) {
        let sources = sources(state, view, self.config.me);
        let release = self
            .slots
            .get(&instance)
            .and_then(|s| s.assigned.release.clone());
        let trees = self.trees.clone();
        self.tasks.spawn(async move {
            let fetched = match release {
                Some(release) => trees.ensure(release.artifact, sources).await,
                None => Err("its release is no longer kept".to_owned()),
            };
            (instance, Outcome::Fetched(fetched))
        });
    }

    fn start(&mut self, instance: InstanceId, run: u64, spec: Result<StartSpec, String>) {
        let (driver, starts) = (self.driver.clone(), self.starts.clone());
        self.tasks.spawn(async move {
            let result = match spec {
                Err(reason) => Err(reason),
                Ok(spec) => {
                    // Never closed, so there is always a permit to come.
                    let _permit = starts.acquire().await;
                    let port = spec.port;
                    match driver.start(spec).await {
                        Ok(()) => Ok(port),
                        Err(error @ DriverError::AlreadyRuns(_)) => Err(error.to_string()),
                        Err(error) => {
                            Err(format!("could not be started: {}", with_sources(&error)))
                        }
                    }
                }
            };
            (instance, Outcome::Other(Done::Started { run, result }))
        });
    }

    fn start_spec(
        &self,
        instance: InstanceId,
        run: u64,
        port: Option<u16>,
        state: &State,
        runs: &Runs,
    ) -> Result<StartSpec, String> {
        let taken: BTreeSet<u16> = self
            .slots
            .iter()
            .filter(|(other, slot)| **other != instance && !slot.machine.is_stopped())
            .filter_map(|(_, slot)| slot.machine.port())
            .chain(runs.values().filter(|r| r.is_running()).map(|r| r.port))
            .collect();
        let range = &self.config.port_range;
        let port = ports::choose(range, &taken, port, instance).ok_or_else(|| {
            let (first, last) = (range.start(), range.end());
            format!("no port from {first} to {last} is free on this node")
        })?;
        let missing = || "its release is no longer kept".to_owned();
        let slot = self.slots.get(&instance).ok_or_else(missing)?;
        let service = self.service(instance).ok_or_else(missing)?;
        let assignment = state.instances.get(&instance).ok_or_else(missing)?;
        let deployment: DeploymentName = assignment.deployment.clone();
        let me = self.config.me;
        Ok(StartSpec {
            instance,
            run,
            deployment,
            release: assignment.release,
            node: state
                .nodes
                .get(&me)
                .map_or_else(|| me.to_string(), |node| node.name.to_string()),
            command: service.command.clone(),
            env: service.env.clone(),
            workdir: slot.tree.clone().ok_or_else(missing)?,
            port,
            stop_grace: service.stop_grace,
        })
    }

    fn service(&self, instance: InstanceId) -> Option<&Service> {
        let release = self.slots.get(&instance)?.assigned.release.as_ref()?;
        match &release.spec.workload {
            Workload::Service(service) => Some(service),
            Workload::Static(_) => None,
        }
    }

    fn publish(&mut self, state: &State) {
        let gone: Vec<InstanceId> = self
            .slots
            .iter()
            .filter(|(id, slot)| slot.machine.is_stopped() && !state.instances.contains_key(*id))
            .map(|(id, _)| *id)
            .collect();
        for instance in gone {
            self.slots.remove(&instance);
            self.observed.publish_phase(instance, None);
        }
        for (instance, slot) in &mut self.slots {
            let facts = slot.machine.facts();
            if slot.published.as_ref() == Some(&facts) {
                continue;
            }
            self.observed.publish_phase(*instance, Some(facts.clone()));
            let is_static = kind_of(slot.assigned.release.as_deref()) == Kind::Static;
            if is_static && facts.phase == Phase::Running {
                // Files that are here can be served; there is nothing to probe.
                self.observed.publish_health(*instance, Health::Healthy);
            }
            slot.published = Some(facts);
        }
    }

    fn publish_locals(&self) {
        let locals: LocalInstances = self
            .slots
            .iter()
            .filter_map(|(instance, slot)| {
                let port = slot.machine.serving()?;
                let probe = self.service(*instance)?.probe.clone();
                let local = LocalInstance {
                    address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                    probe,
                    run: slot.machine.run(),
                };
                Some((*instance, local))
            })
            .collect();
        self.locals.send_if_modified(|current| {
            let changed = **current != locals;
            if changed {
                *current = Arc::new(locals);
            }
            changed
        });
    }

    fn forget(&mut self, state: &State, runs: &Runs) {
        while self.removals.try_join_next().is_some() {}
        if !self.removals.is_empty() {
            return;
        }
        let assigned = state.instances_on(self.config.me).map(|i| i.id).collect();
        let surplus: Vec<InstanceId> = kept::surplus(runs, &assigned)
            .into_iter()
            .filter(|instance| !self.slots.contains_key(instance))
            .collect();
        if surplus.is_empty() {
            return;
        }
        let driver = self.driver.clone();
        self.removals.spawn(async move {
            for instance in surplus {
                if let Err(error) = driver.remove(instance).await {
                    tracing::warn!(%instance, error = %with_sources(&error), "not removed");
                }
            }
        });
    }

    fn deadline(&self) -> Instant {
        self.slots
            .values()
            .filter_map(|slot| slot.machine.deadline())
            .map(|at| self.epoch + at)
            .min()
            .unwrap_or_else(|| Instant::now() + PERIOD)
            .min(Instant::now() + PERIOD)
    }
}

#[async_trait]
impl<M: Observed, A: Trees> Reconciler for Supervisor<M, A> {
    async fn wake(&mut self) {
        if !self.has_passed {
            return;
        }
        let deadline = self.deadline();
        let draining = self.slots.values().any(|slot| slot.machine.is_draining());
        tokio::select! {
            () = changed(&mut self.state) => {}
            () = changed(&mut self.runs) => {}
            // Gossip changes all the time, and concerns this actor only while it waits for it.
            () = changed(&mut self.view), if draining => {}
            Some(result) = self.tasks.join_next() => self.finished.push(result),
            () = tokio::time::sleep_until(deadline) => {}
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        self.has_passed = true;
        self.reconcile()?;
        Ok(())
    }
}

/// Never returns once the sender is gone: the node is ending.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn kind_of(release: Option<&Release>) -> Kind {
    // What only the driver knows of is a program: files alone are never in its list.
    match release.map(|release| &release.spec.workload) {
        Some(Workload::Static(_)) => Kind::Static,
        Some(Workload::Service(_)) | None => Kind::Service,
    }
}

impl SupervisorConfig {
    fn seen(&self, run: &Run) -> Seen {
        Seen {
            run: run.run,
            port: run.port,
            age: self.clock.now().since(run.started_at),
            exit: match run.status {
                RunStatus::Running => None,
                RunStatus::Ended { exit, .. } => Some(exit),
            },
        }
    }
}
