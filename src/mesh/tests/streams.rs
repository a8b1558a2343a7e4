//! Calls, streams and messages between nodes that like each other, and the limits on them.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use common::{Cluster, Echo, PATIENCE, Silent, until};
use nebula_mesh::{CallError, Config, Limits, Mesh, MeshError, Peer, Service, Stream};
use nebula_telemetry::Metrics;
use nebula_wire::peer::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_answered_and_one_connection_serves_many() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    b.mesh.serve(Protocol::Raft, Arc::new(Echo));
    let calls = (0..200u32).map(|n| {
        let (mesh, to) = (a.mesh.clone(), b.id());
        tokio::spawn(async move {
            let request = Bytes::from(n.to_be_bytes().repeat(n as usize));
            let answer = mesh
                .call(to, Protocol::Raft, request.clone(), PATIENCE)
                .await;
            assert_eq!(answer.unwrap(), request);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert_eq!(
        a.metric("nebula_mesh_dials_total{outcome=\"connected\"}"),
        1
    );
    assert_eq!(b.metric("nebula_mesh_streams_served_total"), 200);
}

#[test]
fn any_runtime_may_use_the_mesh() {
    let home = tokio::runtime::Runtime::new().unwrap();
    let cluster = Cluster::new();
    let (a, b) = home.block_on(async { (cluster.node(1), cluster.node(2)) });
    b.mesh.serve(Protocol::Tunnel, Arc::new(Echo));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (mesh, to) = (a.mesh.clone(), b.id());
            std::thread::spawn(move || {
                let edge = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                edge.block_on(async {
                    for n in 0..50u8 {
                        let request = Bytes::from(vec![n; 1000]);
                        let answer = mesh.call(to, Protocol::Tunnel, request.clone(), PATIENCE);
                        assert_eq!(answer.await.unwrap(), request);
                    }
                });
                // The edge's runtime goes away; the connection it used does not.
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!(
        a.metric("nebula_mesh_dials_total{outcome=\"connected\"}"),
        1
    );
}

/// Sends 100 MB, counting what it could hand over.
struct Flood(Arc<AtomicU64>);

const FLOOD_BYTES: u64 = 100_000_000;

#[async_trait]
impl Service for Flood {
    async fn serve(&self, _: Peer, mut stream: Stream) {
        let block = vec![7; 50_000];
        while self.0.load(Ordering::SeqCst) < FLOOD_BYTES {
            stream.write_all(&block).await.unwrap();
            self.0.fetch_add(block.len() as u64, Ordering::SeqCst);
        }
        stream.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_stream_waits_for_its_reader_and_holds_up_nobody() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    let sent = Arc::new(AtomicU64::new(0));
    b.mesh
        .serve(Protocol::Artifact, Arc::new(Flood(sent.clone())));
    b.mesh.serve(Protocol::Tunnel, Arc::new(Echo));
    let mut stream = a
        .mesh
        .open(b.id(), Protocol::Artifact, PATIENCE)
        .await
        .unwrap();
    let mut buffer = vec![0; 64 * 1024];
    let mut got = stream.read(&mut buffer).await.unwrap() as u64;
    let window = u64::from(Limits::default().stream_receive_window_bytes);
    until("the window is full", || {
        sent.load(Ordering::SeqCst) + 50_000 > window
    })
    .await;
    // The same connection goes on serving others while this reader is not reading.
    for _ in 0..20 {
        let answer = a
            .mesh
            .call(b.id(), Protocol::Tunnel, Bytes::from_static(b"x"), PATIENCE);
        answer.await.unwrap();
    }
    let ahead = sent.load(Ordering::SeqCst);
    assert!(
        ahead <= window + got + 100_000,
        "{ahead} bytes were taken for an idle reader"
    );
    loop {
        let n = stream.read(&mut buffer).await.unwrap();
        if n == 0 {
            break;
        }
        assert!(buffer[..n].iter().all(|byte| *byte == 7));
        got += n as u64;
    }
    assert_eq!(got, FLOOD_BYTES);
}

/// Writes some of an answer and gives up.
struct Quitter;

#[async_trait]
impl Service for Quitter {
    async fn serve(&self, _: Peer, mut stream: Stream) {
        stream.write_all(b"half of").await.unwrap();
    }
}

#[tokio::test]
async fn a_cut_off_answer_is_not_taken_for_a_whole_one() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    b.mesh.serve(Protocol::Artifact, Arc::new(Quitter));
    let mut stream = a
        .mesh
        .open(b.id(), Protocol::Artifact, PATIENCE)
        .await
        .unwrap();
    let mut text = Vec::new();
    let error = stream.read_to_end(&mut text).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn what_is_not_served_is_said_and_served_once_registered() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    let ask = || {
        a.mesh.call(
            b.id(),
            Protocol::Logs,
            Bytes::from(vec![0; 1 << 20]),
            PATIENCE,
        )
    };
    let error = ask().await.unwrap_err();
    assert!(matches!(error, CallError::NotServed { .. }), "{error}");
    assert!(error.never_sent());
    b.mesh.serve(Protocol::Logs, Arc::new(Echo));
    ask().await.unwrap();
}

#[tokio::test]
async fn a_silent_service_costs_its_deadline_and_no_more() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    b.mesh.serve(Protocol::Raft, Arc::new(Silent));
    let begun = Instant::now();
    let deadline = Duration::from_millis(300);
    let answer = a
        .mesh
        .call(b.id(), Protocol::Raft, Bytes::new(), deadline)
        .await;
    assert!(
        matches!(answer, Err(CallError::Deadline { .. })),
        "{answer:?}"
    );
    assert!(begun.elapsed() >= deadline && begun.elapsed() < PATIENCE);
    // Its node answers acknowledgements all the while, so it is not suspect.
    assert!(common::suspects(&a).is_empty());
}

/// Claims a frame of 4 GiB.
struct Braggart;

#[async_trait]
impl Service for Braggart {
    async fn serve(&self, _: Peer, mut stream: Stream) {
        let _ = stream.write_all(&u32::MAX.to_be_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

#[tokio::test]
async fn frames_over_the_limit_are_refused_at_both_ends() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    b.mesh.serve(Protocol::Raft, Arc::new(Braggart));
    let too_large = Bytes::from(vec![0; Limits::default().frame_bytes + 1]);
    let error = a
        .mesh
        .call(b.id(), Protocol::Raft, too_large, PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::TooLarge { .. }), "{error}");
    let error = a
        .mesh
        .call(b.id(), Protocol::Raft, Bytes::new(), PATIENCE)
        .await
        .unwrap_err();
    assert!(
        matches!(error, CallError::TooLarge { actual, .. } if actual == u32::MAX as usize),
        "{error}"
    );
    // One of exactly the limit goes through.
    b.mesh.serve(Protocol::Raft, Arc::new(Echo));
    let largest = Bytes::from(vec![1; Limits::default().frame_bytes]);
    let answer = a
        .mesh
        .call(b.id(), Protocol::Raft, largest.clone(), PATIENCE)
        .await
        .unwrap();
    assert_eq!(answer, largest);
}

#[tokio::test]
async fn small_messages_are_datagrams_and_large_ones_streams() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    let (to, mut messages) = mpsc::channel(8);
    b.mesh.serve_messages(Protocol::Gossip, to);
    // The first one waits for the connection.
    for size in [0, 1, 500, 20_000, Limits::default().message_bytes] {
        let sent = Bytes::from(vec![size as u8; size]);
        a.mesh.send(b.id(), Protocol::Gossip, sent.clone());
        let (from, received) = timeout(PATIENCE, messages.recv()).await.unwrap().unwrap();
        assert_eq!((from, received), (a.id(), sent));
    }
    assert_eq!(
        a.metric("nebula_mesh_messages_sent_total{by=\"datagram\"}"),
        3
    );
    let by_stream = "nebula_mesh_messages_sent_total{by=\"stream\"}";
    until("both streams are acknowledged", || a.metric(by_stream) == 2).await;
    let over = Bytes::from(vec![0; Limits::default().message_bytes + 1]);
    a.mesh.send(b.id(), Protocol::Gossip, over);
    assert_eq!(
        a.metric("nebula_mesh_messages_dropped_total{reason=\"too_large\"}"),
        1
    );
    a.mesh
        .send(nebula_domain::NodeId(9), Protocol::Gossip, Bytes::new());
    assert_eq!(
        a.metric("nebula_mesh_messages_dropped_total{reason=\"unknown_node\"}"),
        1
    );
}

#[tokio::test]
async fn a_full_receiver_loses_messages_and_blocks_nothing() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    let (to, mut messages) = mpsc::channel(1);
    b.mesh.serve_messages(Protocol::Gossip, to);
    b.mesh.serve(Protocol::Raft, Arc::new(Echo));
    a.mesh
        .call(b.id(), Protocol::Raft, Bytes::new(), PATIENCE)
        .await
        .unwrap();
    for _ in 0..10 {
        a.mesh
            .send(b.id(), Protocol::Gossip, Bytes::from_static(b"news"));
    }
    let dropped = "nebula_mesh_messages_dropped_total{reason=\"receiver_full\"}";
    until("messages were dropped", || b.metric(dropped) == 9).await;
    a.mesh
        .call(b.id(), Protocol::Raft, Bytes::new(), PATIENCE)
        .await
        .unwrap();
    assert!(messages.recv().await.is_some());
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let cluster = Cluster::new();
    let a = cluster.node(1);
    let config = Config {
        listen: a.mesh.local_addr(),
        limits: Limits::default(),
    };
    let second = Mesh::bind(
        config,
        cluster.identity(2),
        cluster.directory.subscribe(),
        &Metrics::new(),
    );
    let error = second.unwrap_err();
    assert!(matches!(error, MeshError::Bind { .. }));
    assert!(
        error.to_string().contains(&a.mesh.local_addr().to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn closing_frees_the_address_and_ends_what_was_open() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    b.mesh.serve(Protocol::Raft, Arc::new(Silent));
    let waiting = tokio::spawn({
        let (mesh, to) = (a.mesh.clone(), b.id());
        async move { mesh.call(to, Protocol::Raft, Bytes::new(), PATIENCE).await }
    });
    until("the call arrived", || {
        b.metric("nebula_mesh_streams_served_total") == 1
    })
    .await;
    let begun = Instant::now();
    b.mesh.close().await;
    assert!(waiting.await.unwrap().is_err());
    assert!(
        begun.elapsed() < PATIENCE / 2,
        "the caller was told, and did not have to find out"
    );
    let refused = b
        .mesh
        .call(a.id(), Protocol::Raft, Bytes::new(), PATIENCE)
        .await;
    assert!(matches!(refused, Err(CallError::Closed)));

    // The same node again, at the same address: the others find it by themselves.
    let address = b.mesh.local_addr();
    let config = Config {
        listen: address,
        limits: Limits::default(),
    };
    let directory = cluster.directory.subscribe();
    let again = Mesh::bind(config, cluster.identity(2), directory, &Metrics::new()).unwrap();
    again.serve(Protocol::Raft, Arc::new(Echo));
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = a
        .mesh
        .call(b.id(), Protocol::Raft, Bytes::new(), PATIENCE)
        .await
    {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("the suspicion is gone", || common::suspects(&a).is_empty()).await;
}
