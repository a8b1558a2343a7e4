//! What a caller may cost that sends more than its request, or takes no answer.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use common::{Cluster, Node, PATIENCE, until};
use nebula_mesh::{Answer, CallError, Limits, Net, Peer, Stream};
use nebula_wire::peer::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

const REQUEST_BYTES: usize = 60_000;

/// Answers so many bytes, when a turn is there.
struct Slow {
    turns: Semaphore,
    answer_bytes: usize,
}

impl Slow {
    fn new(turns: usize, answer_bytes: usize) -> Arc<Slow> {
        Arc::new(Slow {
            turns: Semaphore::new(turns),
            answer_bytes,
        })
    }
}

#[async_trait]
impl Answer for Slow {
    fn max_request_bytes(&self, _: Peer) -> usize {
        REQUEST_BYTES
    }

    async fn answer(&self, _: Peer, request: Result<Bytes, CallError>) -> Option<Bytes> {
        request.ok()?;
        self.turns.acquire().await.unwrap().forget();
        Some(Bytes::from(vec![7; self.answer_bytes]))
    }
}

async fn ask(from: &Node, to: &Node, request: &[u8]) -> Stream {
    let opened = from.mesh.open(to.id(), Protocol::Raft, PATIENCE).await;
    let mut stream = opened.unwrap();
    stream.write_frame(request).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_request_is_thrown_away_while_it_waits() {
    const WAITING: usize = 8;
    let cluster = Cluster::new();
    // Four full streams would fill the connection.
    let limits = Limits {
        receive_window_bytes: 1024 * 1024,
        ..Limits::default()
    };
    let (a, b) = (cluster.node(1), cluster.node_with(2, limits));
    let service = Slow::new(0, 100);
    b.mesh.answer(Protocol::Raft, service.clone());
    let behind = vec![1; 1024 * 1024];
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        let mut stream = ask(&a, &b, b"request").await;
        let written = timeout(PATIENCE, stream.write_all(&behind)).await;
        let stopped = written.expect("it is told to stop, and not left to fill a window");
        assert!(stopped.is_err());
        waiting.push(stream);
    }
    service.turns.add_permits(WAITING);
    for mut stream in waiting {
        let answer = timeout(PATIENCE, stream.read_frame(100)).await.unwrap();
        assert_eq!(answer.unwrap().len(), 100);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_reads_is_given_up() {
    let cluster = Cluster::new();
    let limits = Limits {
        exchange_deadline: Duration::from_secs(1),
        // For one request at a time.
        frame_bytes_under_way: REQUEST_BYTES + REQUEST_BYTES / 2,
        ..Limits::default()
    };
    let (a, b) = (cluster.node(1), cluster.node_with(2, limits));
    // More than the window of a caller who does not read.
    let window = Limits::default().stream_receive_window_bytes as usize;
    b.mesh.answer(
        Protocol::Raft,
        Slow::new(Semaphore::MAX_PERMITS, 2 * window),
    );
    let request = vec![2; REQUEST_BYTES];
    let mut unread = ask(&a, &b, &request).await;
    until("the request is taken", || {
        b.metric("nebula_mesh_streams_served_total") == 1
    })
    .await;
    // Its place is free again, as soon as it is given up.
    let deadline = Instant::now() + PATIENCE;
    let mut refused = 0;
    loop {
        let asked = a.mesh.call(
            b.id(),
            Protocol::Raft,
            Bytes::copy_from_slice(&request),
            PATIENCE,
        );
        match asked.await {
            Ok(answer) => break assert_eq!(answer.len(), 2 * window),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        refused += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(refused > 0, "the unread answer held the only place");
    let mut text = Vec::new();
    let end = unread.read_to_end(&mut text).await.unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof, "{end}");
}
