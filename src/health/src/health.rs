//! The loop: follow the local instances, launch the probes that are due, publish what they say.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use nebula_actors::{BoxError, Reconciler};
use nebula_domain::InstanceId;
use nebula_domain::observed::Health::Unknown;
use nebula_domain::observed::{GivenUpRun, LocalInstances};
use nebula_domain::probe::{Event, Verdict};
use nebula_domain::spec::{ProbeKind, ProbeRole};
use nebula_drivers::Exec;
use nebula_telemetry::{Clock, Metrics};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::book::Book;
use crate::dial::{self, Asked, ProbeError};
use crate::metrics::Counters;
use crate::target::Target;
use crate::verdicts::Verdicts;

/// Probes under way at once, each one socket: a node full of instances that all hang until their
/// time-out must not use up its file descriptors. Further ones wait for their turn.
pub const PROBES_AT_ONCE: usize = 64;
/// Commands of exec probes under way at once: each is some processes, on a machine that the data plane shares.
pub const COMMANDS_AT_ONCE: usize = 8;

/// What a [`Health`] works with.
#[derive(Clone)]
pub struct Parts<V> {
    pub verdicts: V,
    /// Runs the commands of exec probes.
    pub exec: Arc<dyn Exec>,
    /// Outlives a [`Health`] that is made anew.
    pub book: Book,
    pub clock: Clock,
}

/// Probes the instances of this node.
pub struct Health<V> {
    locals: watch::Receiver<Arc<LocalInstances>>,
    parts: Parts<V>,
    counters: Counters,
    commands: Arc<Semaphore>,
    targets: BTreeMap<InstanceId, Target>,
    under_way: JoinSet<Ended>,
    /// Collected by `wake`, taken in by `pass`.
    ended: Vec<Result<Ended, JoinError>>,
    fresh: bool,
}

struct Ended {
    instance: InstanceId,
    run: u64,
    role: ProbeRole,
    result: Result<(), ProbeError>,
}

impl<V: Verdicts> Health<V> {
    pub fn new(
        locals: watch::Receiver<Arc<LocalInstances>>,
        parts: Parts<V>,
        metrics: &Metrics,
    ) -> Health<V> {
        Health {
            locals,
            parts,
            counters: Counters::new(metrics),
            commands: Arc::new(Semaphore::new(COMMANDS_AT_ONCE)),
            targets: BTreeMap::new(),
            under_way: JoinSet::new(),
            ended: Vec::new(),
            fresh: true,
        }
    }

    /// Drops what vanished; what is new or runs anew starts from nothing.
    fn follow(&mut self, now: Instant) {
        let locals = self.locals.borrow_and_update().clone();
        self.targets.retain(|id, _| locals.contains_key(id));
        self.parts.verdicts.keep(&locals);
        for (id, local) in locals.iter() {
            let known = self.targets.get(id).map(|target| &target.local);
            if known != Some(local) {
                let clock = self.parts.clock.now();
                let target = Target::new(local.clone(), clock.since(local.started_at), now);
                let notes = target.notes(None);
                self.parts.book.write(*id, local.run, clock, notes);
                self.targets.insert(*id, target);
            }
        }
    }

    fn take_in(&mut self, now: Instant) -> Result<(), JoinError> {
        for ended in std::mem::take(&mut self.ended) {
            let ended = match ended {
                Ok(ended) => ended,
                // The instance vanished under its probe.
                Err(error) if error.is_cancelled() => continue,
                Err(error) => return Err(error),
            };
            let Some(target) = self.targets.get_mut(&ended.instance) else {
                continue;
            };
            if target.local.run != ended.run {
                continue;
            }
            let (id, role) = (ended.instance, ended.role);
            let reason = ended.result.as_ref().err().map(ToString::to_string);
            let met = reason.as_deref().map_or(Ok(()), Err);
            let event = match &ended.result {
                Ok(()) => Event::Success,
                Err(ProbeError::Timeout(_)) => Event::Hung,
                Err(_) => Event::Failure,
            };
            let verdict = target.ended(role, event, met, now);
            let notes = target.notes(Some((role, met)));
            let at = self.parts.clock.now();
            self.parts.book.write(id, ended.run, at, notes);
            let complaint = target.complaint();
            self.counters.ended(role, met.is_ok());
            if let Some(verdict) = verdict {
                log(&ended, verdict);
            }
            // Said after every probe, changed or not: what is heard before the supervisor has
            // published the run is dropped, and nothing else would ever say it again. Repeating
            // costs nothing, see `Verdicts`.
            if target.health() != Unknown || complaint.is_some() {
                let reason = complaint.as_deref().unwrap_or_default();
                self.parts.verdicts.publish(id, target.health(), reason);
            }
            if verdict == Some(Verdict::GiveUp) {
                self.counters.given_up(role);
                let run = GivenUpRun {
                    run: ended.run,
                    reason: complaint.unwrap_or_default(),
                };
                self.parts.verdicts.give_up(id, run);
            }
        }
        Ok(())
    }

    /// The longest overdue first, so that a full house is asked in turn.
    fn launch(&mut self, now: Instant) {
        let mut due: Vec<(Instant, InstanceId, ProbeRole)> = self
            .targets
            .iter()
            .flat_map(|(id, target)| target.waiting().map(move |(due, role)| (due, *id, role)))
            .filter(|(due, ..)| *due <= now)
            .collect();
        due.sort_unstable();
        let free = PROBES_AT_ONCE.saturating_sub(self.under_way.len());
        for (_, instance, role) in due.into_iter().take(free) {
            let Some(target) = self.targets.get_mut(&instance) else {
                continue;
            };
            let asked = Asked {
                instance,
                address: target.local.address,
                surroundings: target.local.surroundings.clone(),
            };
            let run = target.local.run;
            let Some(probe) = target.probe(role) else {
                continue;
            };
            let spec = probe.spec.clone();
            let (exec, commands) = (self.parts.exec.clone(), self.commands.clone());
            probe.under_way = Some(self.under_way.spawn(async move {
                let _turn = match spec.kind {
                    // Never closed.
                    ProbeKind::Exec { .. } => commands.acquire_owned().await.ok(),
                    _ => None,
                };
                Ended {
                    instance,
                    run,
                    role,
                    result: dial::probe(&asked, &spec, &*exec).await,
                }
            }));
        }
    }

    /// When the next probe may be launched; none while all are under way or there is no room.
    fn next_due(&self) -> Option<Instant> {
        if self.under_way.len() >= PROBES_AT_ONCE {
            return None;
        }
        let waiting = self.targets.values().flat_map(Target::waiting);
        waiting.map(|(due, _)| due).min()
    }
}

#[async_trait]
impl<V: Verdicts> Reconciler for Health<V> {
    async fn wake(&mut self) {
        if std::mem::take(&mut self.fresh) {
            return;
        }
        let next_due = self.next_due();
        tokio::select! {
            changed = self.locals.changed() => {
                if changed.is_err() {
                    // The supervisor is gone for good: the node is stopping.
                    std::future::pending::<()>().await;
                }
            }
            Some(ended) = self.under_way.join_next() => self.ended.push(ended),
            () = sleep_until(next_due) => {}
        }
        while let Some(ended) = self.under_way.try_join_next() {
            self.ended.push(ended);
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        let now = Instant::now();
        self.follow(now);
        self.take_in(now)?;
        self.launch(now);
        Ok(())
    }
}

fn log(ended: &Ended, verdict: Verdict) {
    let (instance, role) = (ended.instance, ended.role);
    match &ended.result {
        Ok(()) => tracing::info!(%instance, probe = %role, ?verdict, "health changed"),
        Err(error) => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::info!(%instance, probe = %role, ?verdict, %error, cause, "health changed");
        }
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
