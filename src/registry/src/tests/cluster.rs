//! What holds while nothing fails: proposals from anywhere, once each, and reads that see them.

use futures::future::join_all;
use nebula_domain::{Command, NodeId, Outcome, Rejection};

use super::harness::{Nodes, PATIENCE, request, setting, value};
use crate::{Compaction, ProposeError};

#[tokio::test(flavor = "multi_thread")]
async fn one_node_begins_a_cluster_and_begins_it_once() {
    let nodes = Nodes::start(1).await;
    let first = nodes.initialise().await;
    assert_eq!(first, nodes.initialise().await, "the same request");
    let one = &nodes.all[0];
    let status = one.status(|s| s.is_leader && s.quorum).await;
    assert_eq!(status.leader, Some(NodeId(1)));
    one.set("a", "1").await.unwrap();
    assert_eq!(value(&one.registry.state(), "a"), Some("1"));
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn voters_grow_to_three_and_any_node_proposes_and_reads() {
    let nodes = Nodes::cluster(3).await;
    for (n, node) in nodes.all.iter().enumerate() {
        let applied = node.set("last", &n.to_string()).await.unwrap();
        assert_eq!(applied.outcome, Outcome::Done);
        for reader in &nodes.all {
            let state = reader.registry.read(PATIENCE).await.unwrap();
            assert!(state.revision >= applied.revision);
            assert_eq!(value(&state, "last"), Some(n.to_string().as_str()));
        }
    }
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_answered_and_not_applied() {
    let nodes = Nodes::cluster(3).await;
    let [a, b] = [&nodes.all[1].registry, &nodes.all[2].registry];
    let first = a
        .propose_request(request(77, setting("x", "1")), PATIENCE)
        .await
        .unwrap();
    let between = b
        .propose_request(request(78, setting("x", "2")), PATIENCE)
        .await
        .unwrap();
    let again = b
        .propose_request(request(77, setting("x", "1")), PATIENCE)
        .await
        .unwrap();
    assert_eq!(again.outcome, first.outcome);
    assert_eq!(again.revision, between.revision, "nothing changed");
    assert_eq!(value(&a.read(PATIENCE).await.unwrap(), "x"), Some("2"));
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_limits_come_back_as_such() {
    let nodes = Nodes::cluster(3).await;
    for node in &nodes.all {
        let unknown = Command::RemoveNode { node: NodeId(99) };
        assert_eq!(
            node.registry.propose(unknown).await,
            Err(ProposeError::Rejected(Rejection::NodeUnknown(NodeId(99))))
        );
        let huge = setting("x", &"v".repeat(200_000));
        match node.registry.propose(huge).await {
            Err(ProposeError::TooLarge(limit)) => assert_eq!(limit.name, "request_bytes"),
            other => panic!("{other:?}"),
        }
    }
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_share_few_log_entries() {
    let nodes = Nodes::cluster(3).await;
    let leader = nodes.leader(NodeId(2)).await;
    let before = nodes
        .node(leader)
        .registry
        .raft()
        .metrics()
        .borrow()
        .last_log_index;
    let clients = (0..64).map(|client| {
        let node = &nodes.all[client % 3];
        async move {
            for n in 0..8 {
                node.set(&format!("c{client}"), &n.to_string())
                    .await
                    .unwrap();
            }
        }
    });
    join_all(clients).await;
    let after = nodes
        .node(leader)
        .registry
        .raft()
        .metrics()
        .borrow()
        .last_log_index;
    let entries = after.unwrap() - before.unwrap();
    assert!(entries <= 256, "512 requests took {entries} entries");
    let state = nodes.all[2].registry.read(PATIENCE).await.unwrap();
    for client in 0..64 {
        assert_eq!(value(&state, &format!("c{client}")), Some("7"));
    }
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_learner_catches_up_by_snapshot() {
    let nodes = Nodes::start_with(2, |config| {
        config.compaction = Compaction {
            every_entries: 20,
            every_bytes: 64 * 1024,
            kept_entries: 2,
        };
    })
    .await;
    nodes.initialise().await;
    let one = &nodes.all[0];
    for n in 0..60 {
        one.set(&format!("k{n}"), &"v".repeat(4000)).await.unwrap();
    }
    let purged = |m: &openraft::RaftMetrics<u64, openraft::EmptyNode>| {
        m.purged.is_some_and(|id| id.index > 10)
    };
    let wait = one.registry.raft().wait(Some(PATIENCE));
    wait.metrics(purged, "the log is purged").await.unwrap();
    nodes.join(2..=2).await;
    let state = nodes.all[1].sees(|s| s.nodes.len() == 2).await;
    for n in 0..60 {
        assert!(value(&state, &format!("k{n}")).is_some(), "k{n}");
    }
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_leaves_the_voters() {
    let nodes = Nodes::cluster(3).await;
    let leader = nodes.leader(NodeId(2)).await;
    let other = nodes.all.iter().find(|n| n.id != leader).unwrap().id;
    let remove = Command::RemoveNode { node: other };
    let at_once = nodes.node(leader).registry.propose(remove).await;
    let refused = ProposeError::Rejected(Rejection::VoteNeeded(other));
    assert_eq!(at_once.map(drop), Err(refused));
    nodes.remove(leader, other).await;
    let left = (1..=3).filter(|id| *id != other.0);
    nodes.voters(left).await;
    nodes.node(leader).set("after", "1").await.unwrap();
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_leader_hands_over() {
    let nodes = Nodes::cluster(3).await;
    let leader = nodes.leader(NodeId(2)).await;
    nodes.remove(leader, leader).await;
    let left = (1..=3).filter(|id| *id != leader.0);
    nodes.voters(left.clone()).await;
    for id in left {
        nodes.node(NodeId(id)).set("after", "1").await.unwrap();
    }
    nodes.stop().await;
}
