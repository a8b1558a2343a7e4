//! Peers that fall silent are noticed, and noticed again when they speak.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{Cluster, Echo, PATIENCE, Silent, suspects, until};
use nebula_domain::NodeId;
use nebula_mesh::{CallError, Limits};
use nebula_wire::peer::Protocol;
use tokio::net::UdpSocket;
use tokio::time::Instant;

/// Passes datagrams between nodes and `to`, unless it is cut.
struct Relay {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
}

impl Relay {
    async fn before(to: SocketAddr) -> Relay {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = front.local_addr().unwrap();
        let cut = Arc::new(AtomicBool::new(false));
        let (front2, back2, cut2) = (front.clone(), back.clone(), cut.clone());
        let (told, client) = tokio::sync::watch::channel(None);
        tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            while let Ok((n, from)) = front.recv_from(&mut buffer).await {
                told.send_replace(Some(from));
                if !cut.load(Ordering::SeqCst) {
                    let _ = back.send_to(&buffer[..n], to).await;
                }
            }
        });
        let cut = cut2.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            while let Ok((n, _)) = back2.recv_from(&mut buffer).await {
                let client = *client.borrow();
                if let (Some(client), false) = (client, cut2.load(Ordering::SeqCst)) {
                    let _ = front2.send_to(&buffer[..n], client).await;
                }
            }
        });
        Relay { address, cut }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_falls_silent_is_suspect_until_it_is_heard_again() {
    let cluster = Cluster::new();
    // The connection outlives the silence, so that it is the same one that recovers.
    let limits = Limits {
        idle_timeout: Duration::from_secs(60),
        ..Limits::default()
    };
    let (a, b) = (
        cluster.node_with(1, limits.clone()),
        cluster.node_with(2, limits),
    );
    b.mesh.serve(Protocol::Tunnel, Arc::new(Silent));
    b.mesh.serve(Protocol::Raft, Arc::new(Echo));
    let relay = Relay::before(b.mesh.local_addr()).await;
    cluster.enter(2, relay.address);

    let _work = a
        .mesh
        .open(b.id(), Protocol::Tunnel, PATIENCE)
        .await
        .unwrap();
    until("the stream is served", || {
        b.metric("nebula_mesh_streams_served_total") == 1
    })
    .await;
    assert!(suspects(&a).is_empty());
    let cut_at = Instant::now();
    relay.cut.store(true, Ordering::SeqCst);
    until("it is suspect", || suspects(&a) == [2]).await;
    let took = cut_at.elapsed();
    assert!(
        took >= Duration::from_millis(300),
        "suspected after {took:?} already"
    );
    relay.cut.store(false, Ordering::SeqCst);
    until("it is cleared", || suspects(&a).is_empty()).await;
    assert_eq!(a.metric("nebula_mesh_connections_lost_total"), 0);
    assert_eq!(a.metric("nebula_mesh_suspected_total"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_without_work_in_flight_is_nothing() {
    let cluster = Cluster::new();
    let limits = Limits {
        keep_alive: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(60),
        ..Limits::default()
    };
    let (a, b) = (
        cluster.node_with(1, limits.clone()),
        cluster.node_with(2, limits),
    );
    b.mesh.serve(Protocol::Raft, Arc::new(Echo));
    let relay = Relay::before(b.mesh.local_addr()).await;
    cluster.enter(2, relay.address);
    a.mesh
        .call(b.id(), Protocol::Raft, Bytes::new(), PATIENCE)
        .await
        .unwrap();
    relay.cut.store(true, Ordering::SeqCst);
    // Nothing to wait for: that nothing happens takes its time.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(suspects(&a).is_empty());
    // A message makes the silence matter.
    a.mesh
        .send(b.id(), Protocol::Gossip, Bytes::from_static(b"anyone?"));
    until("it is suspect", || suspects(&a) == [2]).await;
}

#[test]
fn a_dead_node_is_suspect_until_another_process_takes_its_place() {
    let here = tokio::runtime::Runtime::new().unwrap();
    let there = tokio::runtime::Runtime::new().unwrap();
    let cluster = Cluster::new();
    let a = here.block_on(async { cluster.node(1) });
    let b = there.block_on(async { cluster.node(2) });
    b.mesh.serve(Protocol::Tunnel, Arc::new(Silent));
    here.block_on(async {
        let _work = a
            .mesh
            .open(NodeId(2), Protocol::Tunnel, PATIENCE)
            .await
            .unwrap();
        until("the stream is served", || {
            b.metric("nebula_mesh_streams_served_total") == 1
        })
        .await;
        // As a kill does: nobody says goodbye.
        there.shutdown_background();
        until("it is suspect", || suspects(&a) == [2]).await;
        until("the connection is given up", || {
            a.metric("nebula_mesh_connections_lost_total") == 1
        })
        .await;
        assert_eq!(suspects(&a), [2], "and it stays suspect");
        until("a dial has failed", || {
            a.metric("nebula_mesh_dials_total{outcome=\"failed\"}") > 0
        })
        .await;
        let error = a
            .mesh
            .call(NodeId(2), Protocol::Raft, Bytes::new(), PATIENCE)
            .await
            .unwrap_err();
        assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
        assert_eq!(suspects(&a), [2]);
        // Nobody asks: the mesh finds out by itself.
        let _again = cluster.node(2);
        until("it is cleared", || suspects(&a).is_empty()).await;
    });
}

#[test]
fn a_peer_that_was_started_again_is_reached_before_the_old_connection_times_out() {
    let here = tokio::runtime::Runtime::new().unwrap();
    let there = tokio::runtime::Runtime::new().unwrap();
    let cluster = Cluster::new();
    let limits = Limits {
        idle_timeout: Duration::from_secs(60),
        ..Limits::default()
    };
    let a = here.block_on(async { cluster.node_with(1, limits.clone()) });
    let b = there.block_on(async { cluster.node_with(2, limits) });
    a.mesh.serve(Protocol::Raft, Arc::new(Echo));
    b.mesh.serve(Protocol::Raft, Arc::new(Echo));
    here.block_on(async {
        let ask = |deadline| {
            a.mesh
                .call(NodeId(2), Protocol::Raft, Bytes::new(), deadline)
        };
        ask(PATIENCE).await.unwrap();
        there.shutdown_background();
        let again = cluster.node(2);
        again.mesh.serve(Protocol::Raft, Arc::new(Echo));
        let met = again
            .mesh
            .call(a.id(), Protocol::Raft, Bytes::new(), PATIENCE);
        met.await.unwrap();
        // As a leader's heartbeats do.
        let begun = Instant::now();
        while ask(Duration::from_millis(250)).await.is_err() {
            assert!(
                begun.elapsed() < PATIENCE,
                "it is still asked on the old connection"
            );
        }
        until("it is cleared", || suspects(&a).is_empty()).await;
    });
}

#[tokio::test]
async fn a_removed_suspect_is_forgotten() {
    let cluster = Cluster::new();
    let a = cluster.node(1);
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    cluster.enter(2, nobody.local_addr().unwrap());
    let error = a
        .mesh
        .call(NodeId(2), Protocol::Raft, Bytes::new(), PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    assert!(error.never_sent());
    assert_eq!(suspects(&a), [2]);
    cluster.remove(2);
    until("it is forgotten", || suspects(&a).is_empty()).await;
}

#[test]
fn our_own_standstill_makes_nobody_suspect() {
    // One thread, so that blocking it stops the whole node, as SIGSTOP does.
    let here = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let there = tokio::runtime::Runtime::new().unwrap();
    let cluster = Cluster::new();
    let b = there.block_on(async { cluster.node(2) });
    b.mesh.serve(Protocol::Tunnel, Arc::new(Silent));
    here.block_on(async {
        let a = cluster.node(1);
        let open = a.mesh.open(NodeId(2), Protocol::Tunnel, PATIENCE);
        let _work = open.await.unwrap();
        let served = "nebula_mesh_streams_served_total";
        until("the stream is served", || b.metric(served) == 1).await;
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(1500));
            // Long enough for a suspicion to ripen, if there were one.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert_eq!(a.metric("nebula_mesh_suspected_total"), 0);
    });
}
