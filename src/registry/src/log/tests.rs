//! openraft's own suite, durability across a reopen, and the sharing of syncs.

use std::collections::BTreeMap;

use futures::future::join_all;
use nebula_domain::{Command, Request, RequestId};
use nebula_telemetry::Gauge;
use openraft::storage::RaftLogStorageExt;
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload};
use tempfile::TempDir;

use super::*;
use crate::machine::Machine;
use crate::types::{Batch, Item};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError> {
        let dir = TempDir::new().unwrap();
        let log = open(&dir);
        let (machine, ..) = Machine::open(
            &dir.path().join("raft-state"),
            u64::MAX,
            Counter::default(),
            Gauge::default(),
        )
        .unwrap();
        Ok((dir, log, machine))
    }
}

fn open(dir: &TempDir) -> LogStore {
    LogStore::open(&dir.path().join("raft-log"), Counter::default()).unwrap()
}

fn id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, 1), index)
}

fn blank(index: u64) -> Entry {
    Entry {
        log_id: id(index),
        payload: EntryPayload::Blank,
    }
}

fn sized(index: u64, bytes: usize) -> Entry {
    let request = Request {
        id: RequestId(u128::from(index)),
        command: Command::SetSetting {
            key: "user.k".to_owned(),
            value: "x".repeat(bytes),
        },
    };
    Entry {
        log_id: id(index),
        payload: EntryPayload::Normal(Batch::new(vec![std::sync::Arc::new(
            Item::new(request).unwrap(),
        )])),
    }
}

fn bytes(entry: &Entry) -> Vec<u8> {
    nebula_wire::codec::encode(entry).unwrap()
}

#[test]
fn the_suite_of_openraft_passes() {
    Suite::test_all(Builder).unwrap();
}

#[tokio::test]
async fn everything_acknowledged_survives_a_reopen() {
    let dir = TempDir::new().unwrap();
    let mut log = open(&dir);
    let large: Vec<Entry> = (1..=20)
        .map(|i| sized(i, if i % 3 == 0 { 100_000 } else { 300 }))
        .collect();
    log.blocking_append(large.clone()).await.unwrap();
    log.save_vote(&Vote::new_committed(7, 3)).await.unwrap();
    log.save_committed(Some(id(19))).await.unwrap();
    log.purge(id(4)).await.unwrap();
    log.truncate(id(18)).await.unwrap();
    log.blocking_append([blank(18)]).await.unwrap();
    log.close();

    let mut log = open(&dir);
    assert_eq!(
        log.read_vote().await.unwrap(),
        Some(Vote::new_committed(7, 3))
    );
    assert_eq!(log.read_committed().await.unwrap(), Some(id(18)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(id(4)));
    assert_eq!(state.last_log_id, Some(id(18)));
    let found = log.try_get_log_entries(0..100).await.unwrap();
    let found: BTreeMap<u64, Vec<u8>> = found.iter().map(|e| (e.log_id.index, bytes(e))).collect();
    let mut expected: BTreeMap<u64, Vec<u8>> = large[4..17]
        .iter()
        .map(|e| (e.log_id.index, bytes(e)))
        .collect();
    expected.insert(18, bytes(&blank(18)));
    assert_eq!(found, expected);
    // Entries from the disk and from memory in one answer.
    log.blocking_append([blank(19)]).await.unwrap();
    let indexes = |entries: Vec<Entry>| entries.iter().map(|e| e.log_id.index).collect::<Vec<_>>();
    assert_eq!(
        indexes(log.try_get_log_entries(17..).await.unwrap()),
        vec![17, 18, 19]
    );
    log.close();
}

#[tokio::test]
async fn one_sync_serves_many_appends() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    let before = log.syncs();
    let appends = (1..=64).map(|index| {
        let mut log = log.clone();
        async move { log.blocking_append([blank(index)]).await.unwrap() }
    });
    join_all(appends).await;
    let syncs = log.syncs() - before;
    assert!(syncs <= 16, "64 appends took {syncs} syncs");
    log.close();
}

#[tokio::test]
async fn a_failed_sync_is_told_and_never_tried_again() {
    let dir = TempDir::new().unwrap();
    let mut log = open(&dir);
    log.blocking_append([blank(1)]).await.unwrap();
    log.fail_syncs();
    assert!(log.blocking_append([blank(2)]).await.is_err());
    assert!(log.save_vote(&Vote::new(9, 1)).await.is_err());
    assert_eq!(log.read_vote().await.unwrap(), None);
    log.close();
    assert!(log.blocking_append([blank(3)]).await.is_err(), "closed");
}

#[tokio::test]
async fn replication_reads_are_bounded_by_bytes() {
    let dir = TempDir::new().unwrap();
    let mut log = open(&dir);
    for index in 1..=60 {
        log.blocking_append([sized(index, 100_000)]).await.unwrap();
    }
    // The tail holds the last 4 MiB only; both ways of reading keep to the bound.
    for start in [1, 50] {
        let some = log.limited_get_log_entries(start, 61).await.unwrap();
        let total: usize = some.iter().map(entry_bytes).sum();
        assert!(
            total <= limits::REPLICATION_BYTES && some.len() >= 5,
            "{}",
            some.len()
        );
        assert_eq!(some[0].log_id.index, start);
    }
    assert_eq!(log.try_get_log_entries(1..61).await.unwrap().len(), 60);
    log.close();
}

#[test]
fn a_hole_is_reported_as_damage() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    let records = log.0.records().unwrap();
    records.put(&blank(1)).unwrap();
    records.put(&blank(3)).unwrap();
    drop(records);
    log.close();
    let again = LogStore::open(&dir.path().join("raft-log"), Counter::default());
    assert!(matches!(again, Err(StartError::Corrupt { .. })));
}

#[test]
fn a_file_of_rubbish_is_reported() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("raft-log");
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("conf"), b"not a store").unwrap();
    std::fs::write(path.join("db"), vec![0xAB; 3 << 20]).unwrap();
    assert!(LogStore::open(&path, Counter::default()).is_err());
}
