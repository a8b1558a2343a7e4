//! Snapshots survive a restart whole, replace one another, and are refused when damaged.

use nebula_domain::{Command, Request, RequestId};
use openraft::{CommittedLeaderId, EntryPayload};
use tempfile::TempDir;

use super::*;
use crate::types::Item;

fn open(dir: &TempDir) -> Result<(Machine, SnapshotStore, Published), StartError> {
    Machine::open(
        &dir.path().join("raft-state"),
        u64::MAX,
        Counter::default(),
        Gauge::default(),
        Room::endless(),
    )
}

fn setting(id: u128, index: u64) -> Entry {
    let request = Request {
        id: RequestId(id),
        command: Command::SetSetting {
            key: format!("user.k{id}"),
            value: "v".repeat(2000),
        },
        stamp: Default::default(),
    };
    Entry {
        log_id: LogId::new(CommittedLeaderId::new(1, 1), index),
        payload: EntryPayload::Normal(Batch::new(vec![std::sync::Arc::new(
            Item::new(request).unwrap(),
        )])),
    }
}

fn state_with(settings: u32) -> State {
    let mut state = State::default();
    for n in 0..settings {
        state.settings.insert(format!("user.{n}"), "x".repeat(100));
    }
    state.revision = u64::from(settings);
    state
}

#[test]
fn a_state_goes_through_bytes_and_back() {
    let mut state = state_with(1000);
    state.cache_purges.insert("api".parse().unwrap(), 7);
    let set = nebula_domain::volume::VolumeSet {
        node: nebula_domain::NodeId(2),
        names: ["data".parse().unwrap()].into(),
        holder: Some(nebula_domain::InstanceId(3)),
        deleting: true,
    };
    let sets = std::collections::BTreeMap::from([(1, set)]);
    state.volumes.insert("db".parse().unwrap(), sets);
    let version = nebula_domain::secret::Version {
        sealed: nebula_domain::secret::Sealed(vec![7; 40]),
        set_at: nebula_domain::time::Millis(3),
        author: "ann".to_owned(),
    };
    let versions = std::collections::BTreeMap::from([(2, version)]);
    let secret = nebula_domain::secret::Secret { versions };
    state.secrets.insert("KEY".parse().unwrap(), secret);
    let work = nebula_domain::runs::Work {
        count: 3,
        ..Default::default()
    };
    state.work.insert("api".parse().unwrap(), work);
    state.moving.insert(nebula_domain::InstanceId(3));
    let bytes = pieces::encode(&state).unwrap();
    assert_eq!(pieces::decode(&bytes).unwrap(), state);
    for cut in [0, 3, 4, 50, bytes.len() - 1] {
        assert!(pieces::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

/// As many outcomes as are ever remembered, refusals among them: in one piece they would be over the
/// codec's limit for one value.
#[test]
fn everything_remembered_goes_through_bytes_and_back() {
    let mut state = State::default();
    let long = || nebula_domain::Rejection::SettingUnset("k".repeat(200));
    let answers = (0..nebula_domain::limits::REQUESTS_REMEMBERED).map(|n| {
        let id = RequestId(n as u128 * 7919);
        let answer = match n % 2 {
            0 => Ok(nebula_domain::Outcome::Done),
            _ => Err(long()),
        };
        (id, answer)
    });
    state.remembered.extend(answers);
    let bytes = pieces::encode(&state).unwrap();
    assert_eq!(pieces::decode(&bytes).unwrap(), state);
    // The oldest still goes first.
    let order = |state: &State| {
        state
            .remembered
            .iter()
            .map(|(id, _)| id)
            .collect::<Vec<_>>()
    };
    assert_eq!(order(&pieces::decode(&bytes).unwrap()), order(&state));
}

#[tokio::test]
async fn a_snapshot_survives_a_restart_and_the_next_one_replaces_it() {
    let dir = TempDir::new().unwrap();
    let (mut machine, store, _) = open(&dir).unwrap();
    machine.state = state_with(2000);
    machine.apply([setting(1, 1)]).await.unwrap();
    let first = machine
        .get_snapshot_builder()
        .await
        .build_snapshot()
        .await
        .unwrap();
    assert!(
        store.get().unwrap().stored_parts() > 5,
        "large enough to be cut"
    );
    machine.state = state_with(3);
    machine.apply([setting(2, 2)]).await.unwrap();
    let second = machine
        .get_snapshot_builder()
        .await
        .build_snapshot()
        .await
        .unwrap();
    assert_ne!(first.meta.snapshot_id, second.meta.snapshot_id);
    assert_eq!(store.get().unwrap().stored_parts(), 1, "the first is gone");
    let expected = machine.state.clone();
    store.close();
    drop(machine);

    let (mut machine, _, published) = open(&dir).unwrap();
    assert_eq!(machine.state, expected);
    assert_eq!(**published.state.borrow(), expected);
    assert_eq!(
        machine.applied_state().await.unwrap().0,
        second.meta.last_log_id
    );
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused() {
    let dir = TempDir::new().unwrap();
    let (mut machine, store, _) = open(&dir).unwrap();
    machine.apply([setting(1, 1)]).await.unwrap();
    machine
        .get_snapshot_builder()
        .await
        .build_snapshot()
        .await
        .unwrap();
    store.get().unwrap().damage();
    assert!(machine.get_current_snapshot().await.is_err());
    store.close();
    drop(machine);
    assert!(matches!(open(&dir), Err(StartError::Corrupt { .. })));
}

#[test]
fn lengths_that_lie_reserve_nothing() {
    // No runs yet, and then as many as there are numbers.
    let mut bytes = vec![nebula_wire::codec::VERSION, 0, 253];
    bytes.extend_from_slice(&u64::MAX.to_le_bytes());
    assert!(nebula_wire::codec::decode::<nebula_domain::runs::Work>(&bytes).is_err());
}

#[tokio::test]
async fn installing_is_durable_and_refuses_rubbish() {
    let dir = TempDir::new().unwrap();
    let (mut machine, store, published) = open(&dir).unwrap();
    let state = state_with(10);
    let meta = SnapshotMeta {
        last_log_id: Some(LogId::new(CommittedLeaderId::new(2, 1), 90)),
        last_membership: StoredMembership::default(),
        snapshot_id: "given".to_owned(),
    };
    let rubbish = Box::new(Cursor::new(vec![1, 2, 3]));
    assert!(machine.install_snapshot(&meta, rubbish).await.is_err());
    let bytes = Box::new(Cursor::new(pieces::encode(&state).unwrap()));
    machine.install_snapshot(&meta, bytes).await.unwrap();
    assert_eq!(**published.state.borrow(), state);
    assert_eq!(*published.applied.borrow(), 90);
    store.close();
    drop(machine);
    assert_eq!(open(&dir).unwrap().0.state, state);
}
