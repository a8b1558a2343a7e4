//! What a hostile or lost member can do to the others: nothing that is not its own.

use std::time::Duration;

use bytes::Bytes;
use nebula_domain::state::Role;
use nebula_domain::{Command, NodeId, Rejection};
use nebula_telemetry::Clock;
use nebula_wire::codec;
use nebula_wire::peer::Protocol;
use nebula_wire::peer::registry::OperatorToken;
use openraft::raft::{AppendEntriesRequest, VoteRequest};

use super::harness::{Nodes, OPERATOR, PATIENCE, addresses, now, request, setting, value};
use crate::peers::{RaftAnswer, RaftRequest};
use crate::{ProposeError, Registry, limits};

async fn with_token(
    registry: &Registry,
    token: &str,
    command: Command,
) -> Result<(), ProposeError> {
    let request = request(nebula_telemetry::Random::system().u128(), command);
    let token = Some(OperatorToken(token.to_owned()));
    let applied = registry.propose_for(token, request, PATIENCE).await;
    applied.map(drop)
}

#[track_caller]
fn assert_refused(result: Result<(), ProposeError>) {
    assert!(
        matches!(
            result,
            Err(ProposeError::Rejected(Rejection::NotPermitted {
                node: NodeId(2),
                ..
            }))
        ),
        "{result:?}"
    );
}

/// What cannot be read is refused as well, so that the reason matters.
#[track_caller]
fn reason_of(answer: &[u8]) -> String {
    match codec::decode(answer).unwrap() {
        RaftAnswer::Refused(reason) => reason,
        _ => panic!("it was not refused"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_proposes_for_itself_and_for_operators_only() {
    let nodes = Nodes::start(2).await;
    nodes.initialise().await;
    nodes.join_worker(2).await;
    let (leader, worker) = (&nodes.all[0], &nodes.all[1].registry);
    nodes.all[1].status(|s| s.leader == Some(NodeId(1))).await;
    let addresses_of = |id, port| Command::SetAddresses {
        node: NodeId(id),
        addresses: addresses(port),
    };
    let drain = |id| Command::SetDraining {
        node: NodeId(id),
        draining: true,
    };
    let assign = Command::Assign {
        plan_revision: 0,
        changes: vec![],
    };
    let join = Command::Join {
        token: nebula_domain::TokenId("t".to_owned()),
        secret_sha256: [2; 32],
        now: Default::default(),
        name: "ghost".parse().unwrap(),
        addresses: addresses(9),
        level: nebula_domain::level::LEVEL,
    };
    let refused = [
        setting("x", "1"),
        addresses_of(1, 8),
        drain(1),
        Command::RemoveNode { node: NodeId(1) },
        assign.clone(),
        join,
    ];
    let count = refused.len() as u64;
    for command in refused {
        assert_refused(worker.propose(command).await.map(drop));
    }
    assert_refused(with_token(worker, "nba1.guessed", setting("x", "1")).await);
    assert_refused(with_token(worker, OPERATOR, assign).await);
    let counted = leader.metric("nebula_registry_refused_proposals_total");
    assert_eq!(counted, count + 2);
    assert_eq!(value(&leader.registry.state(), "x"), None);

    // More than is read of it, and it is told so: without an answer Raft would ask again at once.
    let long = Bytes::from(vec![0; limits::REFUSED_FRAME_BYTES + 1]);
    let mesh = &nodes.all[1].mesh;
    let told = mesh.call(NodeId(1), Protocol::Raft, long, PATIENCE).await;
    match codec::decode(&told.unwrap()).unwrap() {
        RaftAnswer::Refused(reason) => assert!(reason.contains("frame_bytes"), "{reason}"),
        _ => panic!("it was not refused"),
    }

    with_token(worker, OPERATOR, setting("x", "2"))
        .await
        .unwrap();
    assert_eq!(value(&leader.registry.state(), "x"), Some("2"));
    worker.propose(addresses_of(2, 7)).await.unwrap();
    worker.propose(drain(2)).await.unwrap();
    worker
        .propose(Command::RemoveNode { node: NodeId(2) })
        .await
        .unwrap();
    assert!(leader.registry.state().was_removed(NodeId(2)));
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_hands_on_what_its_operators_ask_and_nothing_of_the_leaders_own() {
    let nodes = Nodes::cluster(3).await;
    let leader = nodes.leader(NodeId(2)).await;
    let follower = nodes.all.iter().find(|n| n.id != leader).unwrap();
    follower.set("x", "1").await.unwrap();
    let assign = Command::Assign {
        plan_revision: 0,
        changes: vec![],
    };
    let refused = follower.registry.propose(assign).await;
    assert!(
        matches!(
            refused,
            Err(ProposeError::Rejected(Rejection::NotPermitted { .. }))
        ),
        "{refused:?}"
    );
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_known_to_be_a_voter_gets_no_vote() {
    let nodes = Nodes::start(2).await;
    nodes.initialise().await;
    let [one, two] = [&nodes.all[0], &nodes.all[1]];
    let before = one.status(|s| s.is_leader).await;
    let stand = |role: Option<Role>| async move {
        one.change_directory(|directory| match role {
            Some(role) => directory.nodes.get_mut(&NodeId(2)).unwrap().role = role,
            // Joined after what this node knows of.
            None => {
                directory.nodes.remove(&NodeId(2));
                directory.next_node_id = 2;
            }
        });
        let vote = VoteRequest::new(openraft::Vote::new(99, 2), None);
        let bytes = codec::encode(&RaftRequest::Vote(vote)).unwrap();
        let answer = two
            .mesh
            .call(NodeId(1), Protocol::Raft, Bytes::from(bytes), PATIENCE)
            .await
            .unwrap();
        reason_of(&answer)
    };
    let roles = [
        (Some(Role::Worker), "a worker does not vote"),
        (None, "the sender is not known to be a voter"),
    ];
    for (role, reason) in roles {
        assert_eq!(stand(role).await, reason);
    }
    assert_eq!(one.status(|_| true).await.term, before.term);
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_ends_by_the_leaders_clock_too() {
    let (later, _hand) = Clock::manual(now().plus(Duration::from_secs(2 * 3600)));
    let nodes = Nodes::start_with(3, |config| config.clock = later.clone()).await;
    nodes.initialise().await;
    // The first node leads, and goes by what it says itself.
    nodes.join(2..=3).await;
    nodes.voters(1..=3).await;
    let leader = nodes.leader(NodeId(2)).await;
    let follower = nodes.all.iter().find(|n| n.id != leader).unwrap();
    let join = Command::Join {
        token: nebula_domain::TokenId("t".to_owned()),
        secret_sha256: [2; 32],
        now: now(),
        name: "late".parse().unwrap(),
        addresses: addresses(9),
        level: nebula_domain::level::LEVEL,
    };
    let refused = follower.registry.propose(join).await;
    assert!(
        matches!(
            refused,
            Err(ProposeError::Rejected(Rejection::TokenExpired))
        ),
        "{refused:?}"
    );
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_known_is_not_followed_while_there_is_a_leader() {
    let nodes = Nodes::start(2).await;
    nodes.initialise().await;
    let [one, two] = [&nodes.all[0], &nodes.all[1]];
    let before = one.status(|s| s.is_leader && s.quorum).await;
    one.change_directory(|directory| {
        directory.nodes.remove(&NodeId(2));
        directory.next_node_id = 2;
    });
    let append = AppendEntriesRequest {
        vote: openraft::Vote::new_committed(99, 2),
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    };
    let bytes = codec::encode(&RaftRequest::Append(append)).unwrap();
    let answer = two
        .mesh
        .call(NodeId(1), Protocol::Raft, Bytes::from(bytes), PATIENCE)
        .await
        .unwrap();
    let reason = reason_of(&answer);
    assert_eq!(reason, "the sender is not known, and there is a leader");
    let after = one.status(|_| true).await;
    assert_eq!((after.term, after.is_leader), (before.term, true));
    nodes.stop().await;
}
