//! What holds when nodes fail: nothing acknowledged is lost, and the rest goes on when it can.

use std::time::Duration;

use nebula_domain::NodeId;

use super::harness::{Nodes, PATIENCE, request, setting, value};
use crate::{ProposeError, ReadError, limits};

#[tokio::test(flavor = "multi_thread")]
async fn the_others_go_on_without_the_leader_and_it_catches_up() {
    let mut nodes = Nodes::cluster(3).await;
    let leader = nodes.leader(NodeId(2)).await;
    nodes.node(leader).set("before", "1").await.unwrap();
    nodes.node(leader).stop().await;
    nodes.alive((1..=3).map(NodeId).filter(|id| *id != leader));
    let rest: Vec<NodeId> = (1..=3).map(NodeId).filter(|id| *id != leader).collect();
    for id in &rest {
        nodes.node(*id).set("after", &id.to_string()).await.unwrap();
    }
    let next = nodes
        .node(rest[0])
        .status(|s| s.leader.is_some_and(|l| l != leader))
        .await;
    assert!(next.quorum);
    let state = nodes.node(rest[1]).registry.read(PATIENCE).await.unwrap();
    assert_eq!(value(&state, "before"), Some("1"));

    nodes.alive((1..=3).map(NodeId));
    nodes
        .all
        .iter_mut()
        .find(|n| n.id == leader)
        .unwrap()
        .restart()
        .await;
    let last = rest[1].to_string();
    nodes
        .node(leader)
        .sees(|s| value(s, "after") == Some(last.as_str()))
        .await;
    nodes.node(leader).set("back", "1").await.unwrap();
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_all_loses_nothing() {
    let mut nodes = Nodes::cluster(3).await;
    for n in 0..20 {
        let node = &nodes.all[n % 3];
        node.set(&format!("k{n}"), &"v".repeat(n * 100))
            .await
            .unwrap();
    }
    for node in &nodes.all {
        node.stop().await;
    }
    for node in &mut nodes.all {
        node.restart().await;
    }
    nodes.voters(1..=3).await;
    for node in &nodes.all {
        let state = node.registry.read(PATIENCE).await.unwrap();
        for n in 0..20 {
            assert_eq!(value(&state, &format!("k{n}")).map(str::len), Some(n * 100));
        }
    }
    nodes.all[2].set("on", "1").await.unwrap();
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_says_that_it_has_no_quorum() {
    let nodes = Nodes::cluster(3).await;
    nodes.all[0].stop().await;
    nodes.all[1].stop().await;
    let left = &nodes.all[2];
    left.status(|s| !s.quorum).await;
    let wait = Duration::from_millis(300);
    let set = request(9, setting("x", "1"));
    assert_eq!(
        left.registry.propose_request(set, wait).await,
        Err(ProposeError::NoQuorum)
    );
    assert_eq!(left.registry.read(wait).await, Err(ReadError::NoQuorum));
    assert!(left.registry.state().cluster.is_some(), "stale, and there");
    left.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_hears_of_no_leader_says_so() {
    let nodes = Nodes::start(2).await;
    nodes.initialise().await;
    nodes.join_worker(2).await;
    let worker = &nodes.all[1];
    let followed = worker.status(|s| s.quorum).await;
    assert_eq!(followed.no_quorum_since, None);
    nodes.all[0].stop().await;
    // It does not stand for election, and so never takes its vote for the leader back.
    let alone = worker.status(|s| !s.quorum).await;
    assert!(alone.no_quorum_since.is_some());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_registry_says_so() {
    let nodes = Nodes::start(1).await;
    nodes.initialise().await;
    nodes.all[0].registry.shutdown().await;
    assert_eq!(nodes.all[0].set("x", "1").await, Err(ProposeError::Stopped));
    assert_eq!(
        nodes.all[0].registry.read(PATIENCE).await,
        Err(ReadError::Stopped)
    );
    nodes.all[0].mesh.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_voter_is_replaced_by_a_live_member() {
    let nodes = Nodes::start(4).await;
    nodes.initialise().await;
    nodes.join(2..=3).await;
    nodes.voters(1..=3).await;
    let leader = nodes.leader(NodeId(2)).await;
    let dead = (1..=3).map(NodeId).find(|id| *id != leader).unwrap();
    nodes.node(dead).stop().await;
    nodes.alive((1..=4).map(NodeId).filter(|id| *id != dead));
    nodes.join_through(leader, 4..=4).await;
    nodes.voters((1..=4).filter(|id| *id != dead.0)).await;
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_named_and_nothing_was_asked() {
    let nodes = Nodes::start(1).await;
    nodes.initialise().await;
    let one = &nodes.all[0].registry;
    let (proposals, readers) = one.queues();
    let places = proposals.reserve_many(limits::PROPOSALS_QUEUED).await;
    let reading = readers.reserve_many(limits::READERS_QUEUED).await;
    let wait = Duration::from_millis(50);
    let set = || request(9, setting("x", "1"));
    let refused = one.propose_request(set(), wait).await.unwrap_err();
    assert!(matches!(refused, ProposeError::Busy { .. }), "{refused}");
    assert!(refused.to_string().contains("4096"), "{refused}");
    let refused = one.read(wait).await.unwrap_err();
    assert!(matches!(refused, ReadError::Busy { .. }), "{refused}");
    drop((places, reading));
    one.propose_request(set(), PATIENCE).await.unwrap();
    nodes.stop().await;
}
