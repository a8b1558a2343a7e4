//! What this node says of itself by gossip.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nebula_actors::{BoxError, Reconciler};
use nebula_domain::observed::{BUSY_TOLD, LocalInstances, NodeFacts};
use nebula_domain::routes::RouteTable;
use nebula_domain::state::Desired;
use nebula_domain::{InstanceId, State};
use nebula_membership::Membership;
use nebula_proxy::Work;
use nebula_registry::Status;
use tokio::sync::watch;

use crate::reserve::ReserveConfig;

/// Memory and indexes are for people; what routing waits for is told at once.
const PERIOD: Duration = Duration::from_secs(2);
/// While some stopping instance has work: somebody waits for its end.
const BUSY_PERIOD: Duration = Duration::from_millis(50);
/// Resident memory is told in steps of this, so that it does not make news each period.
const RSS_STEP_BYTES: u64 = 1024 * 1024;

pub(crate) struct FactsKeeper {
    pub membership: Membership,
    pub table: watch::Receiver<Arc<RouteTable>>,
    pub status: watch::Receiver<Status>,
    pub capacity_instances: u32,
    pub reserve: ReserveConfig,
    pub version: &'static str,
    pub state: watch::Receiver<Arc<State>>,
    pub locals: watch::Receiver<Arc<LocalInstances>>,
    pub work: Work,
    /// Some stopping instance had work when it was looked last.
    pub busy: bool,
}

impl FactsKeeper {
    /// Instances that are to stop, and those here that the registry has forgotten: whoever stops them waits for what they
    /// still do.
    fn stopping(&self) -> BTreeSet<InstanceId> {
        let state = self.state.borrow();
        let stopping = state.instances.values();
        let stopping = stopping.filter(|instance| instance.desired == Desired::Stop);
        let locals = self.locals.borrow();
        let forgotten = locals
            .keys()
            .filter(|id| !state.instances.contains_key(*id));
        stopping
            .map(|instance| instance.id)
            .chain(forgotten.copied())
            .collect()
    }
}

#[async_trait::async_trait]
impl Reconciler for FactsKeeper {
    async fn wake(&mut self) {
        let period = if self.busy { BUSY_PERIOD } else { PERIOD };
        tokio::select! {
            changed = self.table.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            () = tokio::time::sleep(period) => {}
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        let routed_revision = self.table.borrow_and_update().revision;
        // After the revision: what an instance that has left the table does by now is all it will do.
        let busy = self.work.of(&self.stopping());
        let busy: BTreeMap<_, _> = busy.into_iter().take(BUSY_TOLD).collect();
        self.busy = !busy.is_empty();
        let applied_index = self.status.borrow().applied_index;
        self.membership.publish_node(NodeFacts {
            version: self.version.to_owned(),
            capacity_instances: self.capacity_instances,
            cpus: std::thread::available_parallelism()
                .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            memory_bytes: total_memory_bytes().unwrap_or_default(),
            reserved_memory_bytes: self.reserve.memory_bytes(),
            reserved_cpu_millis: self.reserve.cpu_millis(),
            rss_bytes: resident_bytes().unwrap_or_default() / RSS_STEP_BYTES * RSS_STEP_BYTES,
            applied_index,
            routed_revision,
            busy,
            restarting: false,
            for_good: false,
        });
        Ok(())
    }
}

/// proc(5): the second field of `statm` is the resident set in pages.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

fn total_memory_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_memory() {
        assert!(resident_bytes().unwrap() > 100_000);
        assert!(total_memory_bytes().unwrap() > resident_bytes().unwrap());
    }
}
