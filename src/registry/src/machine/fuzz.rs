//! Snapshots and Raft messages from a peer that means no good.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nebula_domain::http::HttpPolicy;
use nebula_domain::spec::{Service, Spec, Workload};
use nebula_domain::state::{Addresses, Cluster, JoinToken, Role};
use nebula_domain::time::Millis;
use nebula_domain::{
    ClusterId, Command, Digest, NodeId, Request, RequestId, State, TokenId, apply,
};
use nebula_testkit::forms;
use nebula_testkit::fuzz::{Kind, Target};
use nebula_wire::codec;
use nebula_wire::peer::registry::Blob;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{CommittedLeaderId, EntryPayload, LogId, Membership, StoredMembership};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::pieces;
use crate::peers::{RaftAnswer, RaftRequest};
use crate::types::{Batch, Entry, Item, SnapshotMeta, Vote};

const NOW: Millis = Millis(1000);

fn addresses(node: u16) -> Addresses {
    let at = |port| ([127, 0, 0, 1], port + node).into();
    Addresses {
        quic: at(1000),
        api: at(2000),
        edge: at(3000),
    }
}

fn commands() -> Vec<Command> {
    let token = TokenId("token".to_owned());
    let service = Service {
        env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
        stop_grace: Duration::from_secs(1),
        ..Service::new("./serve")
    };
    vec![
        Command::Init {
            cluster: Cluster {
                id: ClusterId("test".to_owned()),
                ca_pem: "ca".to_owned(),
            },
            name: "n1".parse().unwrap(),
            addresses: addresses(1),
            api_token_sha256: [1; 32],
        },
        Command::CreateJoinToken {
            token: JoinToken {
                id: token.clone(),
                secret_sha256: [2; 32],
                role: Role::Voter,
                created_at: NOW,
                expires_at: Millis(NOW.0 * 2),
                reusable: true,
                used: 0,
            },
            now: NOW,
        },
        Command::Join {
            token,
            secret_sha256: [2; 32],
            now: NOW,
            name: "n2".parse().unwrap(),
            addresses: addresses(2),
            level: 1,
        },
        Command::CreateDeployment {
            name: "api".parse().unwrap(),
            spec: Spec {
                http: Arc::new(HttpPolicy {
                    names: vec![
                        "shop.test".parse().unwrap(),
                        "*.shop.test/x".parse().unwrap(),
                    ],
                    ..HttpPolicy::default()
                }),
                ..Spec::new(Workload::Service(service), "example.test".parse().unwrap())
            },
            scale: 2,
            artifact: Digest([5; 32]),
            artifact_bytes: 10,
            origin: Default::default(),
            now: NOW,
        },
        Command::SetSetting {
            key: "user.note".to_owned(),
            value: "a note".to_owned(),
        },
        Command::RemoveNode { node: NodeId(9) },
    ]
}

fn requests() -> Vec<Request> {
    let numbered = (1..).zip(commands());
    let request = |(id, command)| Request {
        id: RequestId(id),
        command,
        stamp: Default::default(),
    };
    numbered.map(request).collect()
}

fn state() -> State {
    let mut state = State::default();
    for request in requests() {
        // One is refused, which is remembered.
        let _ = apply(&mut state, &request);
    }
    assert_eq!((state.nodes.len(), state.deployments.len()), (2, 1));
    assert_eq!(state.names.len(), 2);
    state
}

#[test]
fn fuzz_snapshots() {
    let target = Target {
        name: "registry: snapshots",
        corpus: vec![
            pieces::encode(&state()).unwrap(),
            pieces::encode(&State::default()).unwrap(),
        ],
        words: &[],
        max_bytes: 64 * 1024,
        // Persistent maps have nodes of many places.
        allocated_per_byte: 512,
        allocated_bytes: codec::MAX_BYTES as u64 + 256 * 1024,
        understood_percent: 5,
    };
    target.run(|input| {
        let Ok(state) = pieces::decode(input) else {
            return false;
        };
        let again = pieces::encode(&state).unwrap();
        assert_eq!(pieces::decode(&again).unwrap(), state);
        true
    });
}

fn message<T: Serialize + DeserializeOwned>(value: &T) -> (Kind, Vec<u8>) {
    (forms::kind::<T>(), codec::encode(value).unwrap())
}

/// Every variant of what Raft's nodes send each other, and a vote as it is stored.
pub(super) fn raft_messages() -> Vec<(Kind, Vec<u8>)> {
    let vote = Vote::new_committed(7, 2);
    let last = Some(LogId::new(CommittedLeaderId::new(7, 2), 40));
    let items = requests().into_iter().map(|r| Item::new(r).unwrap().into());
    let entry = |index, payload| Entry {
        log_id: LogId::new(CommittedLeaderId::new(7, 2), index),
        payload,
    };
    let members = Membership::new(vec![[1, 2].into()], BTreeSet::from([3]));
    let append = AppendEntriesRequest {
        vote,
        prev_log_id: last,
        entries: vec![
            entry(41, EntryPayload::Normal(Batch::new(items.collect()))),
            entry(42, EntryPayload::Blank),
            entry(43, EntryPayload::Membership(members.clone())),
        ],
        leader_commit: last,
    };
    let meta = SnapshotMeta {
        last_log_id: last,
        last_membership: StoredMembership::new(last, members),
        snapshot_id: "7-2-40".to_owned(),
    };
    vec![
        message(&RaftRequest::Append(append)),
        message(&RaftRequest::Vote(VoteRequest::new(Vote::new(8, 3), last))),
        message(&RaftRequest::Silence),
        message(&RaftRequest::Snapshot {
            vote,
            meta,
            offset: 5,
            data: Blob(vec![1; 100]),
            done: true,
        }),
        message(&RaftRequest::Known),
        message(&RaftAnswer::Append(AppendEntriesResponse::Success)),
        message(&RaftAnswer::Append(AppendEntriesResponse::PartialSuccess(
            last,
        ))),
        message(&RaftAnswer::Append(AppendEntriesResponse::Conflict)),
        message(&RaftAnswer::Append(AppendEntriesResponse::HigherVote(vote))),
        message(&RaftAnswer::Vote(VoteResponse::new(vote, last, true))),
        message(&RaftAnswer::Silence(true)),
        message(&RaftAnswer::Snapshot(InstallSnapshotResponse { vote })),
        message(&RaftAnswer::SnapshotUnknown),
        message(&RaftAnswer::Refused("why".to_owned())),
        message(&RaftAnswer::Known {
            silence: true,
            last,
        }),
        message(&vote),
    ]
}

#[test]
fn fuzz_raft_messages() {
    let (kinds, corpus): (Vec<_>, Vec<_>) = raft_messages().into_iter().unzip();
    let target = Target {
        name: "registry: Raft messages",
        corpus,
        words: &[],
        max_bytes: 64 * 1024,
        allocated_per_byte: 512,
        allocated_bytes: codec::MAX_BYTES as u64 + 64 * 1024,
        understood_percent: 5,
    };
    target.run_kinds(&kinds);
}
