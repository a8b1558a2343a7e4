//! The replicated state: in memory, persistent through snapshots, published after each batch of
//! entries.

mod pieces;
mod snapshots;

#[cfg(test)]
mod tests;

use std::io::{self, Cursor};
use std::path::Path;
use std::sync::{Arc, RwLock};

use nebula_domain::State;
use nebula_telemetry::{Counter, Gauge};
use nebula_wire::peer::registry::{Answer, Applied};
use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder,
    StorageIOError,
};
use tokio::sync::{Notify, watch};

use self::snapshots::Snapshots;
use crate::disk::Store;
use crate::error::StartError;
use crate::types::{
    Batch, Entry, LogId, Snapshot, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
    entry_bytes,
};

/// What the state machine tells the rest of the node.
#[derive(Clone)]
pub struct Published {
    pub state: watch::Receiver<Arc<State>>,
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
    indexes: watch::Sender<u64>,
    snapshot_due: Arc<Notify>,
    bytes_since_snapshot: u64,
    snapshot_every_bytes: u64,
}

/// The snapshots' store, until it is closed. Clones share it.
#[derive(Clone)]
pub struct SnapshotStore {
    snapshots: Arc<RwLock<Option<Arc<Snapshots>>>>,
    size: Gauge,
}

impl Machine {
    /// Opens or creates the store and loads the latest snapshot. Blocks.
    pub fn open(
        path: &Path,
        snapshot_every_bytes: u64,
        syncs: Counter,
        size: Gauge,
    ) -> Result<(Machine, SnapshotStore, Published), StartError> {
        let (snapshots, found) = Snapshots::open(Store::open(path, syncs)?)?;
        let (state, meta) = match found {
            None => (State::default(), SnapshotMeta::default()),
            Some((meta, bytes)) => {
                size.set(i64::try_from(bytes.len()).unwrap_or(i64::MAX));
                let state = pieces::decode(&bytes).map_err(|e| snapshots.corrupt(e))?;
                (state, meta)
            }
        };
        let (states, state_rx) = watch::channel(Arc::new(state.clone()));
        let (indexes, applied_rx) = watch::channel(meta.last_log_id.map_or(0, |id| id.index));
        let snapshot_due = Arc::new(Notify::new());
        let published = Published {
            state: state_rx,
            applied: applied_rx,
            snapshot_due: snapshot_due.clone(),
        };
        let snapshots = SnapshotStore {
            snapshots: Arc::new(RwLock::new(Some(Arc::new(snapshots)))),
            size,
        };
        let machine = Machine {
            state,
            applied: meta.last_log_id,
            membership: meta.last_membership,
            snapshots: snapshots.clone(),
            states,
            indexes,
            snapshot_due,
            bytes_since_snapshot: 0,
            snapshot_every_bytes,
        };
        Ok((machine, snapshots, published))
    }

    fn apply_batch(&mut self, batch: &Batch) -> io::Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(batch.items().len());
        for item in batch.items() {
            // What is in the log was checked on its way in: bytes that cannot be read mean damage.
            let request = item.request().map_err(io::Error::other)?;
            let outcome = nebula_domain::apply(&mut self.state, request);
            answers.push(outcome.map(|outcome| Applied {
                outcome,
                revision: self.state.revision,
            }));
        }
        Ok(answers)
    }

    fn publish(&self) {
        self.states.send_replace(Arc::new(self.state.clone()));
        self.indexes
            .send_replace(self.applied.map_or(0, |id| id.index));
    }
}

impl SnapshotStore {
    pub fn close(&self) {
        self.snapshots
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
    }

    fn get(&self) -> io::Result<Arc<Snapshots>> {
        self.snapshots
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
            .ok_or_else(|| io::Error::other("the snapshot store is closed"))
    }

    async fn save(&self, meta: SnapshotMeta, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let store = self.get()?;
        let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        let bytes = blocking(move || store.save(&meta, &bytes).map(|()| bytes)).await?;
        self.size.set(size);
        Ok(bytes)
    }

    async fn load(&self) -> io::Result<Option<(SnapshotMeta, Vec<u8>)>> {
        let store = self.get()?;
        blocking(move || store.load()).await
    }
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
        let (state, bytes) = blocking(move || {
            let state = pieces::decode(&bytes)?;
            Ok((state, bytes))
        })
        .await
        .map_err(|e| fault(ErrorVerb::Read, &e))?;
        self.snapshots
            .save(meta.clone(), bytes)
            .await
            .map_err(|e| fault(ErrorVerb::Write, &e))?;
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
        let bytes = blocking(move || pieces::encode(&state))
            .await
            .map_err(|e| fault(ErrorVerb::Write, &e))?;
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
