//! The loop: follow the local instances, launch the probes that are due, publish what they say.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use nebula_actors::{BoxError, Reconciler};
use nebula_domain::InstanceId;
use nebula_domain::observed::Health::Unknown;
use nebula_domain::observed::LocalInstances;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::dial::{self, ProbeError};
use crate::target::Target;
use crate::verdicts::Verdicts;

/// Probes under way at once, each one socket: a node full of instances that all hang until their
/// time-out must not use up its file descriptors. Further ones wait for their turn.
pub const PROBES_AT_ONCE: usize = 64;

/// Probes the instances of this node.
pub struct Health<V> {
    locals: watch::Receiver<Arc<LocalInstances>>,
    verdicts: V,
    targets: BTreeMap<InstanceId, Target>,
    under_way: JoinSet<Ended>,
    /// Collected by `wake`, taken in by `pass`.
    ended: Vec<Result<Ended, JoinError>>,
    fresh: bool,
}

struct Ended {
    instance: InstanceId,
    run: u64,
    result: Result<(), ProbeError>,
}

impl<V: Verdicts> Health<V> {
    pub fn new(locals: watch::Receiver<Arc<LocalInstances>>, verdicts: V) -> Health<V> {
        Health {
            locals,
            verdicts,
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
        for (id, local) in locals.iter() {
            let known = self.targets.get(id).map(|target| &target.local);
            if known != Some(local) {
                self.targets.insert(*id, Target::new(local.clone(), now));
            }
        }
    }

    fn take_in(&mut self, now: Instant) -> Result<(), JoinError> {
        for ended in self.ended.drain(..) {
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
            if let Some(verdict) = target.ended(ended.result.is_ok(), now) {
                log(&ended, verdict);
            }
            // Said after every probe, changed or not: what is heard before the supervisor has
            // published the run is dropped, and nothing else would ever say it again. Repeating
            // costs nothing, see `Verdicts`.
            if target.health() != Unknown {
                self.verdicts.publish(ended.instance, target.health());
            }
        }
        Ok(())
    }

    /// The longest overdue first, so that a full house is asked in turn.
    fn launch(&mut self, now: Instant) {
        let mut due: Vec<(Instant, InstanceId)> = self
            .targets
            .iter()
            .filter(|(_, target)| target.under_way.is_none() && target.due <= now)
            .map(|(id, target)| (target.due, *id))
            .collect();
        due.sort_unstable();
        let free = PROBES_AT_ONCE.saturating_sub(self.under_way.len());
        for (_, instance) in due.into_iter().take(free) {
            let Some(target) = self.targets.get_mut(&instance) else {
                continue;
            };
            let local = target.local.clone();
            target.under_way = Some(self.under_way.spawn(async move {
                Ended {
                    instance,
                    run: local.run,
                    result: dial::probe(local.address, &local.probe).await,
                }
            }));
        }
    }

    /// When the next probe may be launched; none while all are under way or there is no room.
    fn next_due(&self) -> Option<Instant> {
        if self.under_way.len() >= PROBES_AT_ONCE {
            return None;
        }
        self.targets
            .values()
            .filter(|target| target.under_way.is_none())
            .map(|target| target.due)
            .min()
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

fn log(ended: &Ended, verdict: nebula_domain::observed::Health) {
    match &ended.result {
        Ok(()) => tracing::info!(instance = %ended.instance, ?verdict, "health changed"),
        Err(error) => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::info!(instance = %ended.instance, ?verdict, %error, cause, "health changed");
        }
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
