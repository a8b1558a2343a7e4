//! Three nodes in one process, over real meshes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nebula_domain::observed::{Health, NodeFacts, Phase};
use nebula_domain::rollout::{Pair, Tally};
use nebula_domain::{InstanceId, NodeId};
use nebula_membership::{Config, Membership, PhaseFacts};
use nebula_telemetry::Clock;
use nebula_testkit::{Cluster, Node, counted, until};
use nebula_wire::peer::Protocol;

const SOON: Duration = Duration::from_secs(10);
/// A detector that has seen late heartbeats is slow to judge.
const LONG: Duration = Duration::from_secs(30);

fn start(cluster: &Cluster, node: &Node) -> Membership {
    let config = Config::new(cluster.id.clone(), Clock::system().now());
    let membership = Membership::start(config, node.mesh.clone(), &node.metrics);
    membership.publish_node(facts(node.id.0));
    membership
}

fn facts(revision: u64) -> NodeFacts {
    NodeFacts {
        version: "test".to_owned(),
        routed_revision: revision,
        ..NodeFacts::default()
    }
}

fn running(run: u64) -> PhaseFacts {
    PhaseFacts {
        phase: Phase::Running,
        restarts: 0,
        reason: String::new(),
        exit: None,
        last_end: None,
        run,
    }
}

async fn all_know_all(members: &[Membership]) {
    for membership in members {
        until(&mut membership.view(), SOON, "all are heard", |view| {
            view.nodes.len() == members.len()
                && view
                    .nodes
                    .iter()
                    .all(|(id, node)| node.alive && node.facts.routed_revision == id.0)
        })
        .await;
    }
}

fn three() -> (Cluster, Vec<Node>, Vec<Membership>) {
    let mut cluster = Cluster::empty();
    let nodes: Vec<Node> = (1..=3).map(|id| cluster.add(id)).collect();
    let members = nodes.iter().map(|node| start(&cluster, node)).collect();
    (cluster, nodes, members)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_publishes_all_see() {
    let (_cluster, _nodes, members) = three();
    all_know_all(&members).await;
    let id = InstanceId(7);
    members[0].publish_phase(id, running(1));
    members[0].publish_health(id, Health::Healthy, "");
    // One's own view does not wait for gossip.
    let own = members[0].view().borrow().instance(NodeId(1), id).cloned();
    assert!(own.unwrap().is_ready());
    for other in &members[1..] {
        let took = until(&mut other.view(), SOON, "ready", |view| {
            view.instance(NodeId(1), id).is_some_and(|i| i.is_ready())
        })
        .await;
        println!("a change of health was seen after {took:?}");
    }
    members[0].publish_phase(id, running(2));
    members[1].publish_node(facts(20));
    for other in &members[1..] {
        until(&mut other.view(), SOON, "a new run", |view| {
            view.instance(NodeId(1), id)
                .is_some_and(|i| i.health == Health::Unknown)
                && view.nodes[&NodeId(2)].facts.routed_revision == 20
        })
        .await;
    }
    members[0].keep_instances(&std::collections::BTreeSet::new());
    for other in &members {
        until(&mut other.view(), SOON, "the instance is gone", |view| {
            view.instance(NodeId(1), id).is_none()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_node_is_dead_soon_and_alive_when_it_returns() {
    let (mut cluster, mut nodes, mut members) = three();
    all_know_all(&members).await;
    let lost = nodes.pop().unwrap();
    members.pop().unwrap().shutdown().await;
    lost.mesh.close().await;
    drop(lost);
    let began = Instant::now();
    for other in &members {
        // Two seconds on a calm machine, more where heartbeats were late before.
        until(&mut other.view(), LONG, "dead", |view| {
            !view.is_alive(NodeId(3))
        })
        .await;
        println!("death was seen after {:?}", began.elapsed());
        assert!(other.view().borrow().is_alive(NodeId(1)));
        assert!(other.view().borrow().is_alive(NodeId(2)));
    }
    let back = cluster.add(3);
    let returned = start(&cluster, &back);
    returned.publish_node(facts(33));
    for other in &members {
        until(&mut other.view(), SOON, "alive again", |view| {
            view.is_alive(NodeId(3)) && view.nodes[&NodeId(3)].facts.routed_revision == 33
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_is_quiet_when_nothing_happens() {
    let (_cluster, _nodes, members) = three();
    all_know_all(&members).await;
    let mut view = members[0].view();
    view.mark_unchanged();
    // Ten rounds of gossip.
    let changed = tokio::time::timeout(Duration::from_secs(2), view.changed()).await;
    assert!(changed.is_err(), "{:?}", view.borrow());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_decides_who_is_in_the_view() {
    let mut cluster = Cluster::empty();
    let one = cluster.add(1);
    let first = start(&cluster, &one);
    assert_eq!(first.view().borrow().nodes.len(), 1);
    // A member that never speaks is alive for the grace, then dead.
    let _silent = cluster.add(2);
    let mut view = first.view();
    until(&mut view, SOON, "in the view", |view| {
        view.is_alive(NodeId(2))
    })
    .await;
    let took = until(&mut view, SOON, "dead after the grace", |view| {
        !view.is_alive(NodeId(2))
    })
    .await;
    assert!(took > Duration::from_secs(3), "{took:?}");
    cluster.forget(NodeId(2));
    until(&mut view, SOON, "removed", |view| view.nodes.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_messages_are_dropped_and_counted() {
    let mut cluster = Cluster::empty();
    let one = cluster.add(1);
    let two = cluster.add(2);
    let first = start(&cluster, &one);
    // Two speaks for itself by hand: rubbish, then a greeting in the name of a third node.
    let rubbish = vec![1, 2, 3];
    two.mesh.send(NodeId(1), Protocol::Gossip, rubbish.into());
    counted(
        &one.metrics,
        "nebula_gossip_dropped_total{reason=\"undecodable\"}",
        1,
    )
    .await;
    let mut greeting = 45_139u16.to_le_bytes().to_vec();
    // Version 0, a greeting, one node: "3", generation 1, its made-up address, three zero versions.
    greeting.extend([0, 0, 1, 0, 1, 0, b'3', 1, 0, 0, 0, 0, 0, 0, 0, 6]);
    greeting.extend([
        0xfd, 0x4e, 0x45, 0x42, 0x55, 0x4c, 0x41, 0, 0, 0, 0, 0, 0, 0, 0, 3,
    ]);
    greeting.extend([1, 0]);
    greeting.extend([0; 24]);
    greeting.extend([4, 0]);
    greeting.extend(b"test");
    two.mesh
        .send(NodeId(1), Protocol::Gossip, greeting.clone().into());
    counted(
        &one.metrics,
        "nebula_gossip_dropped_total{reason=\"forged\"}",
        1,
    )
    .await;
    // The same in its own name is taken, which shows that the bytes were right.
    greeting[8] = b'2';
    greeting[8 + 9 + 16] = 2;
    two.mesh.send(NodeId(1), Protocol::Gossip, greeting.into());
    let honest = start(&cluster, &two);
    all_know_all(&[first, honest]).await;
    let text = one.metrics.encode();
    assert!(text.contains("{reason=\"forged\"} 1\n"), "{text}");
    assert!(text.contains("{reason=\"undecodable\"} 1\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_that_dies_is_started_again() {
    let (_cluster, nodes, members) = three();
    all_know_all(&members).await;
    members[0].kill();
    counted(&nodes[0].metrics, "nebula_gossip_restarts_total", 1).await;
    members[0].publish_node(facts(11));
    for other in &members[1..] {
        until(&mut other.view(), SOON, "heard again", |view| {
            view.is_alive(NodeId(1)) && view.nodes[&NodeId(1)].facts.routed_revision == 11
        })
        .await;
    }
    members[1].publish_node(facts(22));
    until(&mut members[0].view(), SOON, "hears again", |view| {
        view.is_alive(NodeId(2)) && view.nodes[&NodeId(2)].facts.routed_revision == 22
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_counted_of_a_rollout_reaches_all_and_wakes_nobody_else() {
    let (_cluster, _nodes, members) = three();
    all_know_all(&members).await;
    let mut views: Vec<_> = members.iter().map(Membership::view).collect();
    views.iter_mut().for_each(|view| view.mark_unchanged());
    let counted = |requests| {
        let mut pair = Pair::default();
        pair.new.requests = requests;
        pair.new.times.0[7] = requests;
        Tally::from([(u64::MAX, pair)])
    };
    for requests in [1, 1_000_000] {
        for (member, times) in members.iter().zip(1..) {
            member.publish_tally(counted(requests * times));
        }
        for me in 1..=3u64 {
            let others = (1..=3).filter(|other| *other != me);
            let expected: BTreeMap<_, _> = others
                .map(|other| (NodeId(other), Arc::new(counted(requests * other))))
                .collect();
            let mut tallies = members[me as usize - 1].tallies();
            until(&mut tallies, SOON, "what the others counted", |tallies| {
                *tallies == expected
            })
            .await;
        }
    }
    members[0].publish_tally(Tally::new());
    until(&mut members[1].tallies(), SOON, "it is over", |tallies| {
        !tallies.contains_key(&NodeId(1))
    })
    .await;
    assert!(views.iter().all(|view| !view.has_changed().unwrap()));
}
