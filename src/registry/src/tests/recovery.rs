//! A majority of the voters is gone for good: one survivor brings the cluster back, everybody follows it, and
//! the old voters get no say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nebula_domain::time::Millis;
use nebula_domain::{Command, NodeId};

use super::harness::{Node, Nodes, addresses, request, setting, value};
use crate::recovery::Voice;
use crate::types::{Batch, Item};
use crate::{RecoverError, Recovered, Survivor};

const NOW: Millis = Millis(1_700_000_000_000);

fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// Voters 1 to 3 and worker 4, of which node 3 is stopped and has missed the last write.
async fn lagging_survivor() -> Nodes {
    let nodes = Nodes::start(4).await;
    nodes.initialise().await;
    nodes.join(2..=3).await;
    nodes.join_worker(4).await;
    nodes.voters(1..=3).await;
    nodes.all[0].set("known", "1").await.unwrap();
    nodes.all[2].sees(|s| value(s, "known").is_some()).await;
    nodes.all[2].stop().await;
    // With its vote node 3 does not count any more, and with its log it does not know.
    nodes.all[0].set("unknown", "1").await.unwrap();
    nodes.all[3].sees(|s| value(s, "unknown").is_some()).await;
    nodes
}

async fn lose(nodes: &Nodes, lost: &[u64]) {
    for id in lost {
        nodes.node(NodeId(*id)).stop().await;
    }
    nodes.alive((1..=4).filter(|id| !lost.contains(id)).map(NodeId));
}

async fn recover(nodes: &Nodes, at: usize, lost: &[u64]) -> Recovered {
    let survivor = nodes.all[at].survivor().await.unwrap();
    survivor.recover(&ids(lost), NOW).await.unwrap()
}

/// What the daemon's directory keeper does.
fn forget(nodes: &Nodes, lost: &[u64]) {
    for node in nodes.all.iter().filter(|n| !lost.contains(&n.id.0)) {
        node.change_directory(|directory| {
            directory.nodes.retain(|id, _| !lost.contains(&id.0));
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survivor_goes_on_and_a_worker_that_knew_more_follows_it() {
    let mut nodes = lagging_survivor().await;
    lose(&nodes, &[1, 2]).await;
    let done = recover(&nodes, 2, &[1, 2]).await;
    assert_eq!(done.recovery.by, NodeId(3));
    // The mesh is not told: Raft itself refuses those whom its registry has removed.
    nodes.all[2].restart().await;

    let survivor = &nodes.all[2];
    let status = survivor.status(|s| s.is_leader && s.quorum).await;
    assert_eq!(status.voters, ids(&[3]));
    assert!(status.term > done.term);
    survivor.set("after", "1").await.unwrap();
    let state = nodes.all[3].sees(|s| value(s, "after").is_some()).await;
    // It had applied what the survivor never got: that is gone everywhere, not here and there.
    assert_eq!(value(&state, "known"), Some("1"));
    assert_eq!(value(&state, "unknown"), None);
    assert_eq!(*state, *survivor.registry.state());
    assert_eq!(state.recoveries.last(), Some(&done.recovery));
    assert!(state.was_removed(NodeId(1)) && state.was_removed(NodeId(2)));

    // The old voters come back together, with a majority of the old configuration.
    nodes.all[0].restart().await;
    nodes.all[1].restart().await;
    nodes.alive((1..=4).map(NodeId));
    nodes.all[0].status(|s| s.quorum).await;
    nodes.all[0].set("old", "1").await.unwrap();
    nodes.all[2].set("still", "1").await.unwrap();
    let state = nodes.all[3].sees(|s| value(s, "still").is_some()).await;
    assert_eq!(value(&state, "old"), None);
    let now = nodes.all[2].registry.status().borrow().clone();
    assert!(now.is_leader && now.voters == ids(&[3]), "{now:?}");
    assert_eq!(now.term, status.term, "nobody stood against it");
    assert!(nodes.all[0].registry.status().borrow().term < now.term);

    // Nor does an old voter bring back what it knew: whoever has the new registry refuses it.
    nodes.all[0].stop().await;
    nodes.all[1].stop().await;
    let old = nodes.all[0].survivor().await.unwrap();
    let voices = voices(&nodes.all[0], &old).await;
    for id in [3, 4] {
        let voice = &voices[&NodeId(id)];
        assert!(matches!(voice, Voice::Refused(_)), "{id}: {voice:?}");
    }
    let judged = old.judge(&voices);
    assert!(
        matches!(judged, Err(RecoverError::Refused { .. })),
        "{voices:?}"
    );
    old.close().await;
    nodes.all[2].stop().await;
    nodes.all[3].stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_leaves_the_node_as_it_was_or_recovered() {
    let mut nodes = lagging_survivor().await;
    lose(&nodes, &[1, 2]).await;

    // Before the snapshot: the same cluster, which finds no majority.
    let survivor = nodes.all[2].survivor().await.unwrap();
    let (term, known) = (survivor.term + 1_000_000, survivor.known());
    survivor.raise_vote(term).await.unwrap();
    survivor.close().await;
    let survivor = nodes.all[2].survivor().await.unwrap();
    assert_eq!(survivor.known(), known);
    assert_eq!(survivor.other_voters(), ids(&[1, 2]));

    // After it: a node that votes alone, though its log was never cut.
    let mut state = survivor.state().clone();
    let lost = ids(&[1, 2]);
    nebula_domain::recovery::recover(&mut state, NodeId(3), &lost, known, NOW).unwrap();
    let (term, index) = (survivor.term + 1_000_000, known.index + 1_000_000);
    survivor.raise_vote(term).await.unwrap();
    let bytes = crate::machine::encode(&state).unwrap();
    survivor.save(&state, bytes, term, index).await.unwrap();
    survivor.close().await;
    let survivor = nodes.all[2].survivor().await.unwrap();
    assert!(survivor.other_voters().is_empty());
    assert_eq!(
        (survivor.known().term, survivor.known().index),
        (term, index)
    );
    assert_eq!(*survivor.state(), state);
    survivor.close().await;
    forget(&nodes, &[1, 2]);
    nodes.all[2].restart().await;
    nodes.all[2].set("after", "1").await.unwrap();
    nodes.all[3].sees(|s| value(s, "after").is_some()).await;
    nodes.all[2].stop().await;
    nodes.all[3].stop().await;
}

/// What the members say to a mesh like the stopped node's, which has asked nobody before.
async fn voices(node: &Node, survivor: &Survivor) -> BTreeMap<NodeId, Voice> {
    let mesh = node.questions();
    let voices = survivor.ask(&mesh, Duration::ZERO).await;
    mesh.close().await;
    voices
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_left_is_asked_first() {
    let nodes = Nodes::cluster(3).await;
    nodes.all[2].stop().await;
    nodes.all[0].status(|s| s.quorum).await;
    let survivor = nodes.all[2].survivor().await.unwrap();
    let said = voices(&nodes.all[2], &survivor).await;
    let judged = survivor.judge(&said);
    assert!(matches!(judged, Err(RecoverError::Led(_))), "{said:?}");

    // Without a leader, yet two of three.
    nodes.all[0].stop().await;
    nodes.all[1].status(|s| !s.quorum).await;
    let said = voices(&nodes.all[2], &survivor).await;
    assert!(
        matches!(said[&NodeId(2)], Voice::Leaderless(known) if known >= survivor.known()),
        "{said:?}"
    );
    let judged = survivor.judge(&said);
    assert!(matches!(judged, Err(RecoverError::Majority(_))), "{said:?}");

    nodes.all[1].stop().await;
    let said = voices(&nodes.all[2], &survivor).await;
    assert!(said.values().all(|v| *v == Voice::Silent), "{said:?}");
    assert_eq!(said.len(), 2);
    assert_eq!(survivor.judge(&said).unwrap(), ids(&[]));
    survivor.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_answers_and_cannot_be_spoken_with_is_not_lost() {
    let nodes = Nodes::cluster(3).await;
    for node in &nodes.all {
        node.stop().await;
    }
    let survivor = nodes.all[2].survivor().await.unwrap();
    // As a daemon that starts: it serves nothing yet.
    let starting = nodes.all[1].questions();
    for (place, why) in [(2, "does not serve"), (1, "not silence")] {
        // At the place of another its certificate is not the one that is expected.
        let at = starting.local_addr();
        nodes.all[2].change_directory(|directory| {
            directory.nodes.get_mut(&NodeId(place)).unwrap().quic = at;
        });
        let said = voices(&nodes.all[2], &survivor).await;
        let Voice::Unclear(reason) = &said[&NodeId(place)] else {
            panic!("{said:?}")
        };
        assert!(reason.contains(why), "{reason}");
        let judged = survivor.judge(&said);
        assert!(
            matches!(judged, Err(RecoverError::Unclear { .. })),
            "{said:?}"
        );
    }
    starting.close().await;
    survivor.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_do_not_vote_are_asked_as_well() {
    let nodes = lagging_survivor().await;
    let survivor = nodes.all[2].survivor().await.unwrap();
    let directory = survivor.directory();
    assert_eq!(directory.nodes.len(), 4);
    assert_eq!(directory.nodes[&NodeId(1)].quic, addresses(1).quic);
    let mut said = voices(&nodes.all[2], &survivor).await;
    assert_eq!(said[&NodeId(4)], Voice::Led);
    for lost in [1, 2] {
        said.insert(NodeId(lost), Voice::Silent);
    }
    let judged = survivor.judge(&said);
    assert!(
        matches!(&judged, Err(RecoverError::Led(by)) if by == "n4"),
        "{judged:?}"
    );
    said.insert(NodeId(4), Voice::Unclear("it does not say".to_owned()));
    assert_eq!(survivor.judge(&said).unwrap(), ids(&[]));
    said.insert(NodeId(4), Voice::Refused("removed".to_owned()));
    let judged = survivor.judge(&said);
    assert!(matches!(judged, Err(RecoverError::Refused { .. })));
    survivor.close().await;
    for id in [0, 1, 3] {
        nodes.all[id].stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_survivors_the_one_that_knows_most_goes_on_and_the_others_follow() {
    let mut nodes = Nodes::cluster(5).await;
    nodes.all[4].stop().await;
    nodes.all[0].set("later", "1").await.unwrap();
    nodes.all[3].sees(|s| value(s, "later").is_some()).await;
    for id in [0, 1, 2] {
        nodes.all[id].stop().await;
    }
    nodes.all[3].status(|s| !s.quorum).await;
    let survivor = nodes.all[4].survivor().await.unwrap();
    let said = voices(&nodes.all[4], &survivor).await;
    let judged = survivor.judge(&said);
    assert!(
        matches!(&judged, Err(RecoverError::KnowsMore { by, .. }) if by == "n4"),
        "{judged:?} {said:?}"
    );
    survivor.close().await;

    nodes.all[3].stop().await;
    nodes.all[4].restart().await;
    nodes.alive([4, 5].into_iter().map(NodeId));
    let survivor = nodes.all[3].survivor().await.unwrap();
    let said = voices(&nodes.all[3], &survivor).await;
    assert_eq!(survivor.judge(&said).unwrap(), ids(&[5]), "{said:?}");
    survivor.recover(&ids(&[1, 2, 3]), NOW).await.unwrap();
    forget(&nodes, &[1, 2, 3]);
    nodes.all[3].restart().await;
    nodes.all[3].set("after", "1").await.unwrap();
    let state = nodes.all[4].sees(|s| value(s, "after").is_some()).await;
    assert_eq!(value(&state, "later"), Some("1"));
    assert_eq!(state.recoveries.len(), 1);
    nodes.all[3].stop().await;
    nodes.all[4].stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_was_cut_off_returns_to_its_old_cluster() {
    let mut nodes = Nodes::cluster(3).await;
    nodes.all[2].stop().await;
    let survivor = nodes.all[2].survivor().await.unwrap();
    let term = survivor.term + crate::limits::RECOVERY_TERMS;
    survivor.raise_vote(term).await.unwrap();
    survivor.close().await;
    nodes.all[0].set("meanwhile", "1").await.unwrap();
    nodes.all[2].restart().await;
    nodes.all[2].sees(|s| value(s, "meanwhile").is_some()).await;
    for node in &nodes.all {
        node.status(|s| s.quorum && s.term >= term).await;
    }
    nodes.all[0].set("after", "1").await.unwrap();
    nodes.all[2].sees(|s| value(s, "after").is_some()).await;
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removals_that_nobody_confirmed_hide_no_voter_and_spare_the_survivor() {
    let nodes = Nodes::cluster(3).await;
    let leader = nodes.leader(NodeId(1)).await;
    let survivor = nodes.node(leader);
    let others: Vec<&Node> = nodes.all.iter().filter(|n| n.id != leader).collect();
    for node in &others {
        node.stop().await;
    }
    let other = others[0].id;
    // At once: while it still believes in its majority.
    let removed = [other, leader].map(|node| {
        let remove = request(u128::from(node.0) + 100, Command::RemoveNode { node });
        // Past the check that a removed node votes no more.
        let batch = Batch::new(vec![Arc::new(Item::new(remove).unwrap())]);
        let write = survivor.registry.raft().client_write(batch);
        tokio::time::timeout(Duration::from_secs(1), write)
    });
    let removed = futures::future::join_all(removed).await;
    assert!(
        removed.iter().all(|r| !matches!(r, Ok(Ok(_)))),
        "{removed:?}"
    );
    survivor.stop().await;
    let stopped = survivor.survivor().await.unwrap();
    assert!(!stopped.state().nodes.contains_key(&other));
    assert!(stopped.state().nodes.contains_key(&leader));
    assert_eq!(
        stopped.directory().nodes[&other].quic,
        addresses(other.0).quic
    );
    let said = voices(survivor, &stopped).await;
    assert!(said.contains_key(&other) && said.len() == 2, "{said:?}");
    let kept = stopped.judge(&said).unwrap();
    assert_eq!(kept, ids(&[]));
    let lost = others.iter().map(|n| n.id).collect();
    let done = stopped.recover(&lost, NOW).await.unwrap();
    assert_eq!(done.recovery.by, leader);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_grows_again_and_can_be_brought_back_again() {
    let mut nodes = Nodes::start(6).await;
    nodes.initialise().await;
    nodes.join(2..=3).await;
    nodes.voters(1..=3).await;
    for id in [0, 1, 2] {
        nodes.all[id].stop().await;
    }
    nodes.alive([1, 4, 5, 6].into_iter().map(NodeId));
    let first = recover(&nodes, 0, &[2, 3]).await;
    forget(&nodes, &[2, 3]);
    nodes.all[0].restart().await;
    nodes.all[0].status(|s| s.is_leader).await;
    let state = nodes.all[0].registry.state();
    assert_eq!(
        state.next_node_id,
        4 + nebula_domain::recovery::NODE_IDS_SKIPPED
    );
    nodes.all[0].set("a", "1").await.unwrap();
    nodes.all[0].stop().await;
    let second = recover(&nodes, 0, &[]).await;
    assert!(second.term > first.term && second.index > first.index);
    nodes.all[0].restart().await;
    let state = nodes.all[0].registry.read(super::harness::PATIENCE).await;
    let state = state.unwrap();
    assert_eq!(value(&state, "a"), Some("1"));
    assert_eq!(state.recoveries.len(), 2);
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_and_an_empty_node_bring_nothing_back() {
    let nodes = Nodes::start(3).await;
    nodes.initialise().await;
    nodes.join_worker(2).await;
    let propose = setting("x", "1");
    nodes.all[0].registry.propose(propose).await.unwrap();
    nodes.all[1].sees(|s| value(s, "x").is_some()).await;
    nodes.all[1].stop().await;
    let worker = nodes.all[1].survivor().await.unwrap();
    let refused = worker.recover(&ids(&[1]), NOW).await;
    assert!(
        matches!(refused, Err(RecoverError::Survivor(_))),
        "{refused:?}"
    );
    nodes.all[2].stop().await;
    let empty = nodes.all[2].survivor().await;
    assert!(matches!(empty, Err(RecoverError::Empty)));
    nodes.all[0].stop().await;
}
