//! A simulated node's disk: what was synced stays, what was not may be lost by a crash, in whole or in
//! part, and every sync takes its time.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nebula_domain::NodeId;
use nebula_registry::Medium;
use nebula_telemetry::Random;
use tokio::time::sleep;

use super::trace::Trace;

/// The disk itself. Clones are the same disk.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<Inner>>);

struct Inner {
    node: NodeId,
    random: Random,
    trace: Trace,
    log: Vec<Vec<u8>>,
    /// So many records are synced.
    durable: usize,
    snapshot: Option<Vec<u8>>,
    /// Counts crashes; who mounted it before the last one can do nothing any more.
    life: u64,
    sync_takes: (Duration, Duration),
}

/// A usual sync, from an enterprise disk's cache to a tired one.
pub const FAST: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(6));

impl Disk {
    pub fn new(node: NodeId, random: Random, trace: Trace) -> Disk {
        Disk(Arc::new(Mutex::new(Inner {
            node,
            random,
            trace,
            log: Vec::new(),
            durable: 0,
            snapshot: None,
            life: 0,
            sync_takes: FAST,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a sync takes from now on, at least and at most.
    pub fn set_sync_takes(&self, takes: (Duration, Duration)) {
        self.lock().sync_takes = takes;
    }

    /// For one life of a node.
    pub fn mount(&self) -> Arc<dyn Medium> {
        Arc::new(Mount {
            disk: self.clone(),
            life: self.lock().life,
        })
    }

    /// The node is gone. Of what was not synced the seed keeps a beginning.
    pub fn crash(&self) {
        let mut inner = self.lock();
        inner.life += 1;
        let unsynced = inner.log.len() - inner.durable;
        let kept = inner.random.below(unsynced as u64 + 1);
        let left = inner.durable + usize::try_from(kept).unwrap_or(0);
        inner.log.truncate(left);
        inner.durable = left;
        if unsynced > 0 {
            inner.trace.note(format_args!(
                "{} disk: {kept} of {unsynced} records that were not synced are left",
                inner.node
            ));
        }
    }
}

struct Mount {
    disk: Disk,
    life: u64,
}

impl Mount {
    fn check(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.disk.lock();
        if inner.life == self.life {
            Ok(inner)
        } else {
            Err(io::Error::other("the node has crashed"))
        }
    }

    async fn take_time(&self) -> io::Result<()> {
        let takes = {
            let inner = self.check()?;
            let (least, most) = inner.sync_takes;
            let spread = u64::try_from((most - least).as_micros()).unwrap_or(u64::MAX);
            least + Duration::from_micros(inner.random.below(spread + 1))
        };
        sleep(takes).await;
        self.check().map(drop)
    }
}

#[async_trait]
impl Medium for Mount {
    fn records(&self) -> Vec<Vec<u8>> {
        self.disk.lock().log.clone()
    }

    fn push(&self, record: Vec<u8>) -> io::Result<()> {
        self.check()?.log.push(record);
        Ok(())
    }

    async fn sync(&self) -> io::Result<()> {
        let written = self.check()?.log.len();
        self.take_time().await?;
        let mut inner = self.check()?;
        inner.durable = inner.durable.max(written);
        inner
            .trace
            .tick(format_args!("{} synced {written}", inner.node));
        Ok(())
    }

    async fn snapshot(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.check()?.snapshot.clone())
    }

    async fn save_snapshot(&self, snapshot: Vec<u8>) -> io::Result<()> {
        self.take_time().await?;
        self.take_time().await?;
        let mut inner = self.check()?;
        let bytes = snapshot.len();
        inner.snapshot = Some(snapshot);
        inner
            .trace
            .note(format_args!("{} snapshot of {bytes} bytes", inner.node));
        Ok(())
    }
}
