//! Stopping without cutting anybody off, and going on when a thread breaks.

use std::time::{Duration, Instant};

use crate::common;
use crate::common::apps::{app, named, text};
use crate::common::client::{get, request, send, whole};
use crate::common::{Cluster, PATIENCE, single, until};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

const API: &str = "api.example.test";

#[tokio::test]
async fn a_drain_finishes_what_has_begun_and_takes_nothing_new() {
    let node = single();
    let (asked, mut is_asked) = mpsc::unbounded_channel();
    let (go, may_go) = watch::channel(false);
    let address = app(move |_| {
        let (asked, mut may_go) = (asked.clone(), may_go.clone());
        async move {
            asked.send(()).unwrap();
            may_go.wait_for(|go| *go).await.unwrap();
            text("late")
        }
    })
    .await;
    node.route_api(&[address]);
    let edge = node.edge;
    let late = tokio::spawn(async move {
        let request = request(Method::GET, API, "/", &[]).body(String::new());
        whole(send(edge, request.unwrap()).await).await
    });
    is_asked.recv().await.unwrap();
    let mut idle = TcpStream::connect(edge).await.unwrap();

    let drain = tokio::spawn(node.proxy.drain(PATIENCE));
    // Idle connections are closed at once, and there are no new ones.
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    until("the edge refuses", || {
        std::net::TcpStream::connect(edge).is_err()
    })
    .await;
    assert!(!drain.is_finished());
    go.send_replace(true);
    let answer = late.await.unwrap();
    assert_eq!(answer.text(), "late");
    assert_eq!(answer.header("connection"), "close");
    drain.await.unwrap();
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    let node = single();
    let (asked, mut is_asked) = mpsc::unbounded_channel();
    let address = app(move |_| {
        asked.send(()).unwrap();
        std::future::pending()
    })
    .await;
    node.route_api(&[address]);
    let mut socket = TcpStream::connect(node.edge).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: {API}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    is_asked.recv().await.unwrap();
    let started = Instant::now();
    node.proxy.drain(Duration::from_millis(200)).await;
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(socket.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_dropped_handle_stops_the_edge() {
    let node = single();
    let edge = node.edge;
    drop(node.proxy);
    until("the edge refuses", || {
        std::net::TcpStream::connect(edge).is_err()
    })
    .await;
}

#[tokio::test]
async fn a_killed_thread_comes_back_on_its_socket() {
    let node = Cluster::new().node_with(1, |config| config.threads = 1);
    node.route_api(&[named("up").await]);
    for round in 1..=3 {
        assert_eq!(get(node.edge, API, "/").await.text(), "up");
        node.proxy.kill_thread(0);
        until("the thread is restarted", || {
            node.metric("nebula_edge_thread_restarts_total") == round
        })
        .await;
        // Not refused in between: the socket stays, and who comes now waits for a moment.
        assert_eq!(get(node.edge, API, "/").await.text(), "up");
    }
}

#[tokio::test]
async fn what_is_in_flight_is_counted() {
    let node = single();
    let (go, may_go) = watch::channel(false);
    let address = app(move |_| {
        let mut may_go = may_go.clone();
        async move {
            may_go.wait_for(|go| *go).await.unwrap();
            text("ok")
        }
    })
    .await;
    node.route_api(&[address]);
    let edge = node.edge;
    let asked = tokio::spawn(async move { get(edge, API, "/").await });
    until("it is in flight", || {
        node.metric(r#"nebula_http_requests_in_flight{deployment="api"}"#) == 1
            && node.metric("nebula_http_connections") == 1
    })
    .await;
    go.send_replace(true);
    asked.await.unwrap();
    until("it is over", || {
        node.metric(r#"nebula_http_requests_in_flight{deployment="api"}"#) == 0
            && node.metric("nebula_http_connections") == 0
            && node.metric(r#"nebula_http_request_duration_seconds_count{deployment="api"}"#) == 1
    })
    .await;
}

#[tokio::test]
async fn a_request_waits_a_moment_for_the_first_instance() {
    let node = common::single_with(|limits| limits.ready_wait = PATIENCE);
    node.route_api(&[]);
    let edge = node.edge;
    let asked = tokio::spawn(async move {
        let request = request(Method::GET, API, "/", &[]).body(String::new());
        whole(send(edge, request.unwrap()).await).await
    });
    until("the request waits", || {
        node.metric(r#"nebula_http_requests_in_flight{deployment="api"}"#) == 1
    })
    .await;
    node.route_api(&[common::apps::named("up").await]);
    assert_eq!(asked.await.unwrap().text(), "up");
}
