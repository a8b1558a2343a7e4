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
            Room::endless(),
        )
        .unwrap();
        Ok((dir, log, machine))
    }
}

fn open(dir: &TempDir) -> LogStore {
    try_open(dir).unwrap()
}

/// With a snapshot of everything.
fn try_open(dir: &TempDir) -> Result<LogStore, StartError> {
    open_with(dir, Counter::default(), Some(at(u64::MAX, u64::MAX)))
}

fn open_with(dir: &TempDir, syncs: Counter, last: Option<LogId>) -> Result<LogStore, StartError> {
    let failed = false;
    let (_, snapshot) = watch::channel(Durable { last, failed });
    let path = dir.path().join("raft-log");
    LogStore::open(&path, syncs, Room::endless(), snapshot)
}

fn at(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
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
        stamp: Default::default(),
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
async fn generations_pass_into_the_store_while_the_log_grows_shrinks_and_is_purged() {
    let dir = TempDir::new().unwrap();
    let mut log = open(&dir);
    let mut expected: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    // 50 KB each, 200 of them: five times what one file of the journal takes.
    let mut next = 1;
    for round in 0..20 {
        for _ in 0..10 {
            let entry = sized(next, 50_000 + usize::try_from(next).unwrap());
            expected.insert(next, bytes(&entry));
            log.blocking_append([entry]).await.unwrap();
            next += 1;
        }
        if round % 4 == 1 {
            next -= 5;
            log.truncate(id(next)).await.unwrap();
            expected.split_off(&next);
        }
        if round % 5 == 4 {
            log.purge(id(next - 20)).await.unwrap();
            expected = expected.split_off(&(next - 19));
        }
        let found = log.try_get_log_entries(0..).await.unwrap();
        assert!(
            found
                .iter()
                .map(|e| e.log_id.index)
                .eq(expected.keys().copied())
        );
    }
    log.close();
    let mut log = open(&dir);
    let found = log.try_get_log_entries(0..).await.unwrap();
    let found: BTreeMap<u64, Vec<u8>> = found.iter().map(|e| (e.log_id.index, bytes(e))).collect();
    assert!(found == expected);
    log.close();
}

#[tokio::test]
async fn one_sync_serves_many_appends() {
    let dir = TempDir::new().unwrap();
    let syncs = Counter::default();
    let log = open_with(&dir, syncs.clone(), None).unwrap();
    let appends = (1..=64).map(|index| {
        let mut log = log.clone();
        async move { log.blocking_append([blank(index)]).await.unwrap() }
    });
    join_all(appends).await;
    let syncs = syncs.get();
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
    let again = try_open(&dir);
    assert!(matches!(again, Err(StartError::Corrupt { .. })));
}

#[tokio::test]
async fn a_journal_that_is_gone_is_reported_as_damage() {
    let dir = TempDir::new().unwrap();
    let mut log = open(&dir);
    log.blocking_append([blank(1)]).await.unwrap();
    log.close();
    std::fs::remove_file(dir.path().join(JOURNAL_DIR).join("1")).unwrap();
    let again = try_open(&dir);
    assert!(matches!(again, Err(StartError::Corrupt { .. })));
    std::fs::remove_dir_all(dir.path().join(JOURNAL_DIR)).unwrap();
    let again = try_open(&dir);
    assert!(matches!(again, Err(StartError::Corrupt { .. })));
}

#[test]
fn a_file_of_rubbish_is_reported() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("raft-log");
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("conf"), b"not a store").unwrap();
    std::fs::write(path.join("db"), vec![0xAB; 3 << 20]).unwrap();
    assert!(try_open(&dir).is_err());
}

#[tokio::test]
async fn a_purge_waits_until_a_snapshot_holds_it() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("raft-log");
    let (tell, snapshot) = watch::channel(Durable::default());
    let mut log =
        LogStore::open(&path, Counter::default(), Room::endless(), snapshot.clone()).unwrap();
    log.blocking_append((1..=9).map(blank)).await.unwrap();
    let mut purging = log.clone();
    let purge = tokio::spawn(async move { purging.purge(id(5)).await });
    tell.send_modify(|durable| durable.last = Some(id(4)));
    log.save_vote(&Vote::new(3, 1)).await.unwrap();
    tokio::task::yield_now().await;
    assert!(!purge.is_finished());
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, None);
    tell.send_modify(|durable| durable.last = Some(id(5)));
    purge.await.unwrap().unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(id(5)));

    let mut purging = log.clone();
    let purge = tokio::spawn(async move { purging.purge(id(7)).await });
    tell.send_modify(|durable| durable.failed = true);
    assert!(purge.await.unwrap().is_err());
    log.close();
    // What was purged is nowhere, if the snapshot is gone.
    let lost = open_with(&dir, Counter::default(), Some(id(4)));
    assert!(matches!(lost, Err(StartError::Corrupt { .. })));
    open_with(&dir, Counter::default(), Some(id(5)))
        .unwrap()
        .close();
}

#[tokio::test]
async fn a_log_that_lost_against_a_snapshot_goes_as_a_whole() {
    let dir = TempDir::new().unwrap();
    let mut log = open(&dir);
    log.blocking_append((1..=20).map(blank)).await.unwrap();
    // Of a later term: nothing here is part of it, and what stands behind it is not, either.
    log.purge(at(2, 10)).await.unwrap();
    let next = Entry {
        log_id: at(2, 11),
        payload: EntryPayload::Blank,
    };
    log.blocking_append([next]).await.unwrap();
    let ids = |entries: Vec<Entry>| entries.iter().map(|e| e.log_id).collect::<Vec<_>>();
    let before = ids(log.try_get_log_entries(0..).await.unwrap());
    assert_eq!(before, [at(2, 11)]);
    log.close();
    let mut log = open(&dir);
    assert_eq!(ids(log.try_get_log_entries(0..).await.unwrap()), before);
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_log_id, Some(at(2, 11)));
    assert_eq!(state.last_purged_log_id, Some(at(2, 10)));
    log.close();
}

#[tokio::test]
async fn a_store_that_lost_everything_does_not_begin_anew() {
    let dir = TempDir::new().unwrap();
    let mut log = open(&dir);
    log.save_vote(&Vote::new(3, 1)).await.unwrap();
    log.close();
    std::fs::remove_dir_all(dir.path().join("raft-log")).unwrap();
    let error = try_open(&dir).map(|_| ()).unwrap_err();
    assert!(matches!(error, StartError::Corrupt { .. }), "{error}");
}
