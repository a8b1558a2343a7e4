//! The stores without Raft, for tests that cut their power, fill their disk and damage their files: the
//! operations that Raft asks of them, with contents that tell later whether they are whole. Exists with
//! the feature `fault-points` alone.

use std::io::{self, Cursor};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nebula_domain::{Command, Request, RequestId, State};
use nebula_telemetry::{Gauge, Metrics};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader};

use crate::config::Config;
use crate::error::StartError;
use crate::log::LogStore;
use crate::machine::{Machine, SnapshotStore, encode};
use crate::metrics::RegistryMetrics;
use crate::room::{Room, free_bytes};
use crate::types::{Batch, Entry, Item, LogId, SnapshotMeta, StorageError, Vote};

/// Term and index of an entry, which its content follows from.
pub type At = (u64, u64);

/// What the stores of a folder hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub vote: u64,
    pub purged: Option<At>,
    /// By index. Every one holds what was written under its term and index.
    pub entries: Vec<At>,
    pub snapshot: Option<At>,
}

pub struct Stores {
    log: LogStore,
    machine: Machine,
    snapshots: SnapshotStore,
    room: Room,
}

fn id((term, index): At) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

fn at(id: LogId) -> At {
    (id.leader_id.term, id.index)
}

fn text(at: At, bytes: u64) -> String {
    let word = blake3::hash(format!("{at:?}").as_bytes()).to_hex();
    let times = usize::try_from(bytes).unwrap_or(0) / word.len() + 1;
    word.repeat(times)
}

/// A number that follows from a place, up to `below`.
fn number(at: At, below: u64) -> u64 {
    let hash = blake3::hash(format!("size {at:?}").as_bytes());
    hash.as_bytes()[..8]
        .iter()
        .fold(0, |n, b| (n << 8) | u64::from(*b))
        % below
}

/// Mostly small, sometimes as large as requests may be.
fn entry(at: At) -> io::Result<Entry> {
    let bytes = match number(at, 20) {
        0 => number(at, 100_000),
        _ => number(at, 1_500),
    };
    let request = Request {
        id: RequestId(u128::from(at.0) << 64 | u128::from(at.1)),
        command: Command::SetSetting {
            key: "user.k".to_owned(),
            value: text(at, bytes),
        },
        stamp: Default::default(),
    };
    let item = Item::new(request).map_err(io::Error::other)?;
    Ok(Entry {
        log_id: id(at),
        payload: EntryPayload::Normal(Batch::new(vec![Arc::new(item)])),
    })
}

fn snapshot(at: At) -> io::Result<Vec<u8>> {
    let mut state = State::default();
    for n in 0..number(at, 400) {
        state
            .settings
            .insert(format!("user.k{n}"), text((at.0 + n, at.1), 3_000));
    }
    state.settings.insert("user.at".to_owned(), text(at, 1));
    encode(&state)
}

fn meta(at: At) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: Some(id(at)),
        snapshot_id: format!("{at:?}"),
        ..SnapshotMeta::default()
    }
}

fn failed(error: StorageError) -> io::Error {
    io::Error::other(error.to_string())
}

impl Stores {
    pub async fn open(dir: &Path) -> Result<Stores, StartError> {
        let room = Room::of(dir, Gauge::default());
        Stores::open_in(dir, room).await
    }

    /// The same with a disk that fills up between a look at it and the write: every other look sees room.
    pub async fn open_blind(dir: &Path) -> Result<Stores, StartError> {
        let folder = dir.to_owned();
        let looks = AtomicU64::new(0);
        let probe = move || match looks.fetch_add(1, Ordering::SeqCst) % 2 {
            0 => Ok(u64::MAX),
            _ => free_bytes(&folder),
        };
        Stores::open_in(dir, Room::with(Box::new(probe), Gauge::default())).await
    }

    async fn open_in(dir: &Path, room: Room) -> Result<Stores, StartError> {
        let metrics = RegistryMetrics::new(&Metrics::new());
        let config = Config::new(dir);
        let (log, machine, snapshots, _) =
            crate::start::open_stores(&config, &room, &metrics).await?;
        Ok(Stores {
            log,
            machine,
            snapshots,
            room,
        })
    }

    /// Durable on return, as are the others.
    pub async fn append(&mut self, term: u64, from: u64, count: u64) -> io::Result<()> {
        let entries: io::Result<Vec<Entry>> =
            (from..from + count).map(|n| entry((term, n))).collect();
        self.log.blocking_append(entries?).await.map_err(failed)
    }

    pub async fn vote(&mut self, term: u64) -> io::Result<()> {
        self.log
            .save_vote(&Vote::new(term, 1))
            .await
            .map_err(failed)
    }

    pub async fn truncate(&mut self, from: At) -> io::Result<()> {
        self.log.truncate(id(from)).await.map_err(failed)
    }

    /// A snapshot of what is in the log.
    pub async fn snapshot(&mut self, at: At) -> io::Result<()> {
        let bytes = snapshot(at)?;
        self.snapshots.save(meta(at), bytes).await.map(|_| ())
    }

    /// Whether it lasts is not promised.
    pub async fn purge(&mut self, upto: At) -> io::Result<()> {
        self.log.purge(id(upto)).await.map_err(failed)
    }

    /// A leader's snapshot, with the purge and the vote that Raft does not wait with.
    pub async fn install(&mut self, at: At, term: u64) -> io::Result<()> {
        let snapshot = Box::new(Cursor::new(snapshot(at)?));
        let mut log = self.log.clone();
        let log = async {
            log.purge(id(at)).await?;
            log.save_vote(&Vote::new(term, 1)).await
        };
        let meta = meta(at);
        let (installed, logged) = tokio::join!(self.machine.install_snapshot(&meta, snapshot), log);
        installed.map_err(failed)?;
        logged.map_err(failed)
    }

    /// Everything there is, checked.
    pub async fn found(&mut self) -> io::Result<Found> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let state = self.log.get_log_state().await.map_err(failed)?;
        let mut found = Found {
            vote: self
                .log
                .read_vote()
                .await
                .map_err(failed)?
                .map_or(0, |v| v.leader_id().term),
            purged: state.last_purged_log_id.map(at),
            ..Found::default()
        };
        let entries = self.log.try_get_log_entries(0..).await.map_err(failed)?;
        for found_entry in entries {
            let place = at(found_entry.log_id);
            let bytes = nebula_wire::codec::encode(&found_entry).map_err(io::Error::other)?;
            let expected = nebula_wire::codec::encode(&entry(place)?).map_err(io::Error::other)?;
            if bytes != expected {
                return Err(wrong(format!("entry {place:?} is not what was written")));
            }
            found.entries.push(place);
        }
        let current = self.machine.get_current_snapshot().await.map_err(failed)?;
        if let Some((meta, bytes)) = current.map(|s| (s.meta, s.snapshot.into_inner())) {
            let place = meta.last_log_id.map(at).unwrap_or_default();
            if bytes != snapshot(place)? {
                return Err(wrong(format!("snapshot {place:?} is not what was written")));
            }
            found.snapshot = Some(place);
        }
        Ok(found)
    }

    pub async fn close(self) {
        self.room.close();
        crate::start::close(self.log, self.snapshots).await;
    }
}
