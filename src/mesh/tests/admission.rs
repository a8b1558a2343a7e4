//! Who may connect, to whom, and for what.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{Cluster, Echo, PATIENCE, Silent, until};
use nebula_domain::NodeId;
use nebula_domain::state::Role;
use nebula_mesh::{CallError, Directory, Limits};
use nebula_wire::peer::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

async fn call(from: &common::Node, to: u64, protocol: Protocol) -> Result<Bytes, CallError> {
    from.mesh
        .call(NodeId(to), protocol, Bytes::from_static(b"hello"), PATIENCE)
        .await
}

#[tokio::test]
async fn another_clusters_node_is_refused_at_both_ends() {
    // The same name, so that only the CA tells them apart.
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let (a, b) = (ours.node(1), theirs.node(2));
    a.mesh.serve(Protocol::Raft, Arc::new(Echo));
    b.mesh.serve(Protocol::Raft, Arc::new(Echo));
    ours.enter(2, b.mesh.local_addr());
    theirs.enter(1, a.mesh.local_addr());
    for (node, to) in [(&a, 2), (&b, 1)] {
        let error = call(node, to, Protocol::Raft).await.unwrap_err();
        assert!(matches!(error, CallError::Handshake { .. }), "{error}");
    }
    until("both have counted", || {
        [&a, &b]
            .iter()
            .all(|n| n.metric("nebula_mesh_refused_total{reason=\"handshake\"}") > 0)
    })
    .await;
    assert_eq!(a.metric("nebula_mesh_streams_served_total"), 0);
    assert_eq!(b.metric("nebula_mesh_streams_served_total"), 0);
}

#[tokio::test]
async fn the_node_that_answers_must_be_the_one_that_was_meant() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    b.mesh.serve(Protocol::Raft, Arc::new(Echo));
    cluster.enter(3, b.mesh.local_addr());
    let error = call(&a, 3, Protocol::Raft).await.unwrap_err();
    assert!(error.to_string().contains("node 3"), "{error}");
    assert!(matches!(error, CallError::Handshake { .. }), "{error}");
    call(&a, 2, Protocol::Raft).await.unwrap();
}

#[tokio::test]
async fn a_removed_node_is_cut_off_and_stays_out() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    // The removed node has not heard of it.
    let old: Directory = (**cluster.directory.borrow()).clone();
    let (_keep, stale) = watch::channel(Arc::new(old));
    let c = cluster.outsider(3, Limits::default(), stale);
    cluster.enter(3, c.mesh.local_addr());
    a.mesh.serve(Protocol::Raft, Arc::new(Echo));
    a.mesh.serve(Protocol::Tunnel, Arc::new(Silent));
    c.mesh.serve(Protocol::Raft, Arc::new(Echo));
    call(&c, 1, Protocol::Raft).await.unwrap();
    call(&a, 3, Protocol::Raft).await.unwrap();
    let mut open = c
        .mesh
        .open(NodeId(1), Protocol::Tunnel, PATIENCE)
        .await
        .unwrap();
    until("the stream is served", || {
        a.metric("nebula_mesh_streams_served_total") == 2
    })
    .await;

    cluster.remove(3);
    let end = tokio::time::timeout(PATIENCE, open.read_u8())
        .await
        .unwrap();
    assert!(end.is_err(), "its open streams end");
    let error = call(&a, 3, Protocol::Raft).await.unwrap_err();
    assert!(matches!(error, CallError::UnknownNode(_)), "{error}");
    let refused = "nebula_mesh_refused_total{reason=\"removed\"}";
    let before = a.metric(refused);
    assert!(before >= 1);
    until("it was refused at the door", || {
        c.mesh.send(NodeId(1), Protocol::Gossip, Bytes::new());
        a.metric(refused) > before
    })
    .await;
    let error = call(&c, 1, Protocol::Raft).await.unwrap_err();
    assert!(matches!(error, CallError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("removed"), "{error}");
    // The others are not disturbed.
    b.mesh
        .call(NodeId(1), Protocol::Raft, Bytes::new(), PATIENCE)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_newer_node_may_help_us_catch_up_and_no_more() {
    let cluster = Cluster::new();
    let a = cluster.node(1);
    a.mesh.serve(Protocol::Raft, Arc::new(Echo));
    a.mesh.serve(Protocol::Tunnel, Arc::new(Echo));
    let (to, mut messages) = mpsc::channel(8);
    a.mesh.serve_messages(Protocol::Gossip, to);
    // It knows us; our registry has not got to it.
    let newer = cluster.outsider(5, Limits::default(), cluster.directory.subscribe());
    call(&newer, 1, Protocol::Raft).await.unwrap();
    let error = call(&newer, 1, Protocol::Tunnel).await.unwrap_err();
    assert!(matches!(error, CallError::Refused { .. }), "{error}");
    newer
        .mesh
        .send(NodeId(1), Protocol::Gossip, Bytes::from_static(b"early"));
    let refused = "nebula_mesh_refused_total{reason=\"not_a_member\"}";
    until("both were counted", || a.metric(refused) == 2).await;

    // Once the registry has it, the same connection may do everything.
    cluster.enter(5, newer.mesh.local_addr());
    call(&newer, 1, Protocol::Tunnel).await.unwrap();
    newer
        .mesh
        .send(NodeId(1), Protocol::Gossip, Bytes::from_static(b"now"));
    let (from, message) = messages.recv().await.unwrap();
    assert_eq!((from, message), (NodeId(5), Bytes::from_static(b"now")));
}

#[tokio::test]
async fn a_peers_connections_are_limited_and_its_oldest_gives_way() {
    let cluster = Cluster::new();
    let limits = Limits {
        max_connections_per_peer: 2,
        ..Limits::default()
    };
    let a = cluster.node_with(1, limits);
    a.mesh.serve(Protocol::Raft, Arc::new(Echo));
    // Three processes that all hold node 2's certificate.
    let twins: Vec<_> = (0..3).map(|_| cluster.node(2)).collect();
    for twin in &twins {
        call(twin, 1, Protocol::Raft).await.unwrap();
    }
    until("the first one lost its connection", || {
        twins[0].metric("nebula_mesh_connections_lost_total") == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_is_replaced_while_traffic_runs() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    b.mesh.serve(Protocol::Raft, Arc::new(Echo));
    let mut long = a.mesh.open(b.id(), Protocol::Raft, PATIENCE).await.unwrap();
    let traffic = tokio::spawn({
        let (mesh, to) = (a.mesh.clone(), b.id());
        async move {
            for n in 0..500u32 {
                let answer = mesh.call(to, Protocol::Raft, Bytes::from(n.to_string()), PATIENCE);
                assert_eq!(answer.await.unwrap(), n.to_string());
            }
        }
    });
    let renewed = cluster.identity(1);
    for _ in 0..5 {
        a.mesh.replace_identity(renewed.clone()).unwrap();
        b.mesh.replace_identity(cluster.identity(2)).unwrap();
        call(&a, 2, Protocol::Raft).await.unwrap();
    }
    traffic.await.unwrap();
    assert_eq!(
        a.mesh.identity().current().certificate_pem(),
        renewed.certificate_pem()
    );
    // The stream that was open before goes on with the connection it began on.
    long.write_frame(b"still here").await.unwrap();
    assert_eq!(long.read_frame(100).await.unwrap(), "still here");
    assert!(a.metric("nebula_mesh_dials_total{outcome=\"connected\"}") >= 2);
    assert_eq!(a.metric("nebula_mesh_connections_lost_total"), 0);
    assert!(a.mesh.replace_identity(cluster.identity(9)).is_err());
}

#[tokio::test]
async fn under_load_an_address_must_be_proved_first() {
    let cluster = Cluster::new();
    let strict = Limits {
        retry_above_handshakes: 0,
        ..Limits::default()
    };
    let (a, b) = (cluster.node(1), cluster.node_with(2, strict));
    b.mesh.serve(Protocol::Raft, Arc::new(Echo));
    call(&a, 2, Protocol::Raft).await.unwrap();
    assert_eq!(b.metric("nebula_mesh_address_checks_total"), 1);
}

#[tokio::test]
async fn handshakes_and_connections_are_limited() {
    let cluster = Cluster::new();
    let a = cluster.node(1);
    for (id, limits, reason) in [
        (
            2,
            Limits {
                max_handshakes: 0,
                ..Limits::default()
            },
            "handshakes",
        ),
        (
            3,
            Limits {
                max_connections: 0,
                ..Limits::default()
            },
            "connections",
        ),
    ] {
        let full = cluster.node_with(id, limits);
        full.mesh.serve(Protocol::Raft, Arc::new(Echo));
        assert!(call(&a, id, Protocol::Raft).await.is_err());
        let refused = format!("nebula_mesh_refused_total{{reason=\"{reason}\"}}");
        until("it was counted", || full.metric(&refused) > 0).await;
    }
}

#[tokio::test]
async fn a_connection_nobody_uses_is_let_go_and_made_again() {
    let cluster = Cluster::new();
    let limits = Limits {
        unused_timeout: std::time::Duration::from_millis(200),
        ..Limits::default()
    };
    let (a, b) = (cluster.node_with(1, limits), cluster.node(2));
    b.mesh.serve(Protocol::Raft, Arc::new(Echo));
    call(&a, 2, Protocol::Raft).await.unwrap();
    let dials = "nebula_mesh_dials_total{outcome=\"connected\"}";
    until("the next call needs a new one", || {
        a.metric("nebula_mesh_connections_released_total") == 1
    })
    .await;
    call(&a, 2, Protocol::Raft).await.unwrap();
    assert_eq!(a.metric(dials), 2);
    assert_eq!(a.metric("nebula_mesh_connections_lost_total"), 0);
}

#[tokio::test]
async fn a_node_whose_certificate_has_ended_may_only_ask_for_a_new_one() {
    let cluster = Cluster::new();
    let a = cluster.node(1);
    for protocol in [Protocol::Identity, Protocol::Raft, Protocol::Tunnel] {
        a.mesh.serve(protocol, Arc::new(Echo));
    }
    let (to, mut messages) = mpsc::channel(8);
    a.mesh.serve_messages(Protocol::Gossip, to);
    let late = cluster.node(2);
    let three_days = std::time::Duration::from_secs(3 * 24 * 60 * 60);
    let ended = common::now().0 - three_days.as_millis() as u64;
    let ended = cluster.identity_at(2, nebula_domain::time::Millis(ended));
    late.mesh.replace_identity(ended).unwrap();

    call(&late, 1, Protocol::Identity).await.unwrap();
    for protocol in [Protocol::Raft, Protocol::Tunnel] {
        let error = call(&late, 1, protocol).await.unwrap_err();
        assert!(matches!(error, CallError::Refused { .. }), "{error}");
    }
    late.mesh
        .send(NodeId(1), Protocol::Gossip, Bytes::from_static(b"late"));
    // And nobody calls it, since it presents that certificate.
    late.mesh.serve(Protocol::Identity, Arc::new(Echo));
    let error = call(&a, 2, Protocol::Identity).await.unwrap_err();
    assert!(matches!(error, CallError::Handshake { .. }), "{error}");

    late.mesh.replace_identity(cluster.identity(2)).unwrap();
    call(&late, 1, Protocol::Raft).await.unwrap();
    late.mesh
        .send(NodeId(1), Protocol::Gossip, Bytes::from_static(b"now"));
    let (_, message) = messages.recv().await.unwrap();
    assert_eq!(message, Bytes::from_static(b"now"));
}

#[tokio::test]
async fn only_voters_give_signs_of_life() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    cluster.enter_as(2, b.mesh.local_addr(), Role::Worker);
    let (to, mut messages) = mpsc::channel(1);
    a.mesh.serve_messages(Protocol::Raft, to);
    let refused = "nebula_mesh_refused_total{reason=\"not_a_voter\"}";
    for _ in 0..3 {
        b.mesh
            .send(NodeId(1), Protocol::Raft, Bytes::from_static(b"crowd"));
    }
    until("they were counted", || a.metric(refused) == 3).await;
    cluster.enter(2, b.mesh.local_addr());
    b.mesh
        .send(NodeId(1), Protocol::Raft, Bytes::from_static(b"sign"));
    let (_, message) = messages.recv().await.unwrap();
    assert_eq!(message, Bytes::from_static(b"sign"));
}

#[tokio::test]
async fn frames_under_way_are_limited_for_each_connection() {
    let cluster = Cluster::new();
    let limits = Limits {
        frame_bytes_under_way: 100_000,
        ..Limits::default()
    };
    let (a, b) = (cluster.node(1), cluster.node_with(2, limits));
    b.mesh.serve(Protocol::Raft, Arc::new(Echo));
    let open = || a.mesh.open(NodeId(2), Protocol::Raft, PATIENCE);
    let refused = "nebula_mesh_refused_total{reason=\"frame_bytes_under_way\"}";
    // All but the last byte, and then nothing.
    let mut first = open().await.unwrap();
    first.write_all(&60_000u32.to_be_bytes()).await.unwrap();
    first.write_all(&[1; 59_999]).await.unwrap();
    let mut small = open().await.unwrap();
    small.write_frame([2; 2000]).await.unwrap();
    assert_eq!(small.read_frame(4000).await.unwrap().len(), 2000);
    let second = call_of(&a, 60_000).await;
    assert!(second.is_err(), "{second:?}");
    assert_eq!(b.metric(refused), 1);
    // What is done makes room.
    first.write_all(&[1]).await.unwrap();
    assert_eq!(first.read_frame(60_000).await.unwrap().len(), 60_000);
    first.finish().await.unwrap();
    assert!(first.next_frame(10).await.unwrap().is_none());
    assert_eq!(call_of(&a, 60_000).await.unwrap().len(), 60_000);
}

async fn call_of(from: &common::Node, bytes: usize) -> Result<Bytes, CallError> {
    let request = Bytes::from(vec![3; bytes]);
    from.mesh
        .call(NodeId(2), Protocol::Raft, request, PATIENCE)
        .await
}
