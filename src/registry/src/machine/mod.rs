//! The replicated state: in memory, persistent through snapshots, published after each batch of
//! entries.

mod pieces;
mod snapshots;

#[cfg(test)]
mod formats;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

use std::io::{self, Cursor};
use std::path::Path;
use std::sync::{Arc, RwLock};

use nebula_domain::State;
use nebula_telemetry::{Counter, Gauge};
use nebula_wire::codec;
use nebula_wire::peer::registry::{Answer, Applied};
use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder,
    StorageIOError,
};
use tokio::sync::{Notify, watch};

pub use self::pieces::encode;
use self::snapshots::Snapshots;
use crate::error::StartError;
use crate::medium::Medium;
use crate::planted::Planted;
use crate::points::point;
use crate::room::Room;
use crate::types::{
    Batch, Entry, LogId, Snapshot, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
    entry_bytes,
};

/// What the state machine tells the rest of the node.
#[derive(Clone)]
pub struct Published {
    pub state: watch::Receiver<Arc<State>>,
    /// The same value, told only when `State::plan_revision` moved.
    pub plan: watch::Receiver<Arc<State>>,
    /// Index of the last applied entry; moves after `state` does.
    pub applied: watch::Receiver<u64>,
    /// Woken when the log has grown enough in bytes for a snapshot.
    pub snapshot_due: Arc<Notify>,
}

pub struct Machine {
    state: State,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: SnapshotStore,
    states: watch::Sender<Arc<State>>,
    plans: watch::Sender<Arc<State>>,
    indexes: watch::Sender<u64>,
    snapshot_due: Arc<Notify>,
    bytes_since_snapshot: u64,
    snapshot_every_bytes: u64,
    planted: Planted,
}

/// The snapshots' store, until it is closed. Clones share it.
#[derive(Clone)]
pub struct SnapshotStore {
    kept: Arc<RwLock<Option<Kept>>>,
    durable: watch::Sender<Durable>,
    size: Gauge,
}

/// How far the snapshot on stable storage reaches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Durable {
    pub last: Option<LogId>,
    /// A snapshot was not stored, and none will be.
    pub failed: bool,
}

#[derive(Clone)]
enum Kept {
    Snapshots(Arc<Snapshots>),
    Medium(Arc<dyn Medium>),
}

impl Machine {
    /// Opens or creates the store and loads the latest snapshot. Blocks.
    pub fn open(
        path: &Path,
        snapshot_every_bytes: u64,
        syncs: Counter,
        size: Gauge,
        room: Room,
    ) -> Result<(Machine, SnapshotStore, Published), StartError> {
        let (snapshots, found) = Snapshots::open(path, syncs, room)?;
        let found = match found {
            None => None,
            Some((meta, bytes)) => {
                size.set(i64::try_from(bytes.len()).unwrap_or(i64::MAX));
                let state = pieces::decode(&bytes).map_err(|e| snapshots.corrupt(e))?;
                Some((state, meta))
            }
        };
        let kept = Kept::Snapshots(Arc::new(snapshots));
        Ok(Machine::begin(kept, found, snapshot_every_bytes, size))
    }

    /// The same on a medium.
    pub async fn open_on(
        medium: Arc<dyn Medium>,
        snapshot_every_bytes: u64,
        size: Gauge,
    ) -> io::Result<(Machine, SnapshotStore, Published)> {
        let found = match load_from(medium.as_ref()).await? {
            None => None,
            Some((meta, bytes)) => Some((pieces::decode(&bytes)?, meta)),
        };
        let kept = Kept::Medium(medium);
        Ok(Machine::begin(kept, found, snapshot_every_bytes, size))
    }

    fn begin(
        kept: Kept,
        found: Option<(State, SnapshotMeta)>,
        snapshot_every_bytes: u64,
        size: Gauge,
    ) -> (Machine, SnapshotStore, Published) {
        let (state, meta) = found.unwrap_or_default();
        tell_recovery(&State::default(), &state);
        let first = Arc::new(state.clone());
        let (states, state_rx) = watch::channel(first.clone());
        let (plans, plan_rx) = watch::channel(first);
        let (indexes, applied_rx) = watch::channel(meta.last_log_id.map_or(0, |id| id.index));
        let snapshot_due = Arc::new(Notify::new());
        let published = Published {
            state: state_rx,
            plan: plan_rx,
            applied: applied_rx,
            snapshot_due: snapshot_due.clone(),
        };
        let snapshots = SnapshotStore {
            kept: Arc::new(RwLock::new(Some(kept))),
            durable: watch::Sender::new(Durable {
                last: meta.last_log_id,
                failed: false,
            }),
            size,
        };
        let machine = Machine {
            state,
            applied: meta.last_log_id,
            membership: meta.last_membership,
            snapshots: snapshots.clone(),
            states,
            plans,
            indexes,
            snapshot_due,
            bytes_since_snapshot: 0,
            snapshot_every_bytes,
            planted: Planted::from_env(),
        };
        (machine, snapshots, published)
    }

    fn apply_batch(&mut self, batch: &Batch) -> io::Result<Vec<Answer>> {
        let items = batch.items();
        let mut answers = vec![None; items.len()];
        for at in self.planted.order(items.len()) {
            // What is in the log was checked on its way in: bytes that cannot be read mean damage.
            let request = items[at].request().map_err(io::Error::other)?;
            let outcome = nebula_domain::apply(&mut self.state, request);
            answers[at] = Some(outcome.map(|outcome| Applied {
                outcome,
                revision: self.state.revision,
            }));
        }
        Ok(answers.into_iter().flatten().collect())
    }

    fn publish(&self) {
        let state = Arc::new(self.state.clone());
        self.plans.send_if_modified(|known| {
            let moved = known.plan_revision != state.plan_revision;
            *known = state.clone();
            moved
        });
        self.states.send_replace(state);
        self.indexes
            .send_replace(self.applied.map_or(0, |id| id.index));
    }
}

/// Says that the cluster was brought back, at each start and to whoever hears of it.
fn tell_recovery(before: &State, now: &State) {
    let Some(recovery) = now.recoveries.last() else {
        return;
    };
    if before.recoveries.last() != Some(recovery) {
        let removed: Vec<_> = recovery.removed.iter().map(|n| n.name.as_str()).collect();
        tracing::warn!(
            by = %recovery.by,
            at = recovery.at.0,
            term = recovery.term,
            index = recovery.index,
            ?removed,
            "an operator has brought this cluster back on one node; what that node did not know then is lost"
        );
    }
}

impl SnapshotStore {
    pub fn close(&self) {
        self.kept
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
    }

    #[cfg(test)]
    fn get(&self) -> io::Result<Arc<Snapshots>> {
        match self.kept()? {
            Kept::Snapshots(snapshots) => Ok(snapshots),
            Kept::Medium(_) => Err(io::Error::other("there is no store")),
        }
    }

    fn kept(&self) -> io::Result<Kept> {
        self.kept
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
            .ok_or_else(|| io::Error::other("the snapshot store is closed"))
    }

    /// Follows what is on stable storage.
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.durable.subscribe()
    }

    /// Nobody waits for a snapshot any more.
    fn give_up(&self) {
        self.durable.send_modify(|durable| durable.failed = true);
    }

    /// Durable on return.
    pub async fn save(&self, meta: SnapshotMeta, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let last = meta.last_log_id;
        let saved = self.try_save(meta, bytes).await;
        match &saved {
            Ok(_) => self
                .durable
                .send_modify(|durable| durable.last = durable.last.max(last)),
            Err(_) => self.give_up(),
        }
        saved
    }

    async fn try_save(&self, meta: SnapshotMeta, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        let bytes = match self.kept()? {
            Kept::Snapshots(store) => {
                blocking(move || store.save(&meta, &bytes).map(|()| bytes)).await?
            }
            Kept::Medium(medium) => save_to(medium.as_ref(), meta, bytes).await?,
        };
        self.size.set(size);
        Ok(bytes)
    }

    async fn load(&self) -> io::Result<Option<(SnapshotMeta, Vec<u8>)>> {
        match self.kept()? {
            Kept::Snapshots(store) => blocking(move || store.load()).await,
            Kept::Medium(medium) => load_from(medium.as_ref()).await,
        }
    }

    /// Work that takes too long for a task, unless nothing here may have threads.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match self.kept()? {
            Kept::Snapshots(_) => blocking(work).await,
            Kept::Medium(_) => work(),
        }
    }
}

/// A snapshot on a medium: its description behind its length, then its bytes.
async fn save_to(medium: &dyn Medium, meta: SnapshotMeta, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let current = load_from(medium).await?;
    if current.is_some_and(|(current, _)| current.last_log_id > meta.last_log_id) {
        // One that was installed while this one was being built.
        return Ok(bytes);
    }
    let meta = codec::encode(&meta).map_err(io::Error::other)?;
    let length = u32::try_from(meta.len()).map_err(io::Error::other)?;
    let all = [&length.to_be_bytes()[..], &meta, &bytes].concat();
    medium.save_snapshot(all).await.map(|()| bytes)
}

async fn load_from(medium: &dyn Medium) -> io::Result<Option<(SnapshotMeta, Vec<u8>)>> {
    let Some(all) = medium.snapshot().await? else {
        return Ok(None);
    };
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "the snapshot is cut off");
    let (length, rest) = all.split_first_chunk().ok_or_else(cut)?;
    let (meta, bytes) = rest
        .split_at_checked(u32::from_be_bytes(*length) as usize)
        .ok_or_else(cut)?;
    let meta = codec::decode(meta).map_err(io::Error::other)?;
    Ok(Some((meta, bytes.to_vec())))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

fn fault(verb: ErrorVerb, error: &io::Error) -> StorageError {
    StorageIOError::new(ErrorSubject::Snapshot(None), verb, AnyError::new(error)).into()
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Vec<Answer>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        point!("apply-begin");
        let mut answers = Vec::new();
        for entry in entries {
            self.bytes_since_snapshot += entry_bytes(&entry) as u64;
            answers.push(match &entry.payload {
                EntryPayload::Blank => Vec::new(),
                EntryPayload::Normal(batch) => self.apply_batch(batch).map_err(|e| {
                    StorageError::from(StorageIOError::apply(entry.log_id, AnyError::new(&e)))
                })?,
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                    Vec::new()
                }
            });
            self.applied = Some(entry.log_id);
        }
        point!("apply-end");
        self.publish();
        if self.bytes_since_snapshot >= self.snapshot_every_bytes {
            self.snapshot_due.notify_one();
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.bytes_since_snapshot = 0;
        Builder {
            state: self.state.clone(),
            applied: self.applied,
            membership: self.membership.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        let read = move || Ok((pieces::decode(&bytes)?, bytes));
        let read = self.snapshots.work(read).await;
        let (state, bytes) = read.map_err(|e| {
            self.snapshots.give_up();
            fault(ErrorVerb::Read, &e)
        })?;
        point!("install-begin");
        self.snapshots
            .save(meta.clone(), bytes)
            .await
            .map_err(|e| fault(ErrorVerb::Write, &e))?;
        point!("install-end");
        tell_recovery(&self.state, &state);
        self.state = state;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.bytes_since_snapshot = 0;
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let found = self
            .snapshots
            .load()
            .await
            .map_err(|e| fault(ErrorVerb::Read, &e))?;
        Ok(found.map(|(meta, bytes)| Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(bytes)),
        }))
    }
}

/// Holds the state as it was when it was made; the maps are shared with the live one.
pub struct Builder {
    state: State,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: SnapshotStore,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let state = self.state.clone();
        let encoded = self.snapshots.work(move || pieces::encode(&state)).await;
        let bytes = encoded.map_err(|e| fault(ErrorVerb::Write, &e))?;
        // Raft tells transfers apart by this id; equal states have equal bytes.
        let snapshot_id = format!(
            "{}-{}",
            self.applied
                .map_or_else(|| "0".to_owned(), |id| id.to_string()),
            blake3::hash(&bytes).to_hex().split_at(16).0
        );
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id,
        };
        let bytes = self
            .snapshots
            .save(meta.clone(), bytes)
            .await
            .map_err(|e| fault(ErrorVerb::Write, &e))?;
        Ok(Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(bytes)),
        })
    }
}
