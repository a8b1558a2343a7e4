//! Which requests are sent once more, and which must not be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common;
use crate::common::apps::{app, named, raw, read_head, text};
use crate::common::client::{get, post, request, say, send, whole};
use crate::common::{refusing, single, single_with};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use nebula_domain::traffic::balance::Balance;
use nebula_proxy::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const API: &str = "api.example.test";

/// Takes each request and closes the connection; counts them.
async fn breaking() -> (SocketAddr, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let address = raw(move |mut socket: TcpStream| {
        let count = Arc::clone(&count);
        async move {
            if !read_head(&mut socket).await.is_empty() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    (address, taken)
}

#[tokio::test]
async fn an_instance_that_refuses_is_passed_over() {
    let node = single();
    node.route_api(&[refusing(), named("up").await, refusing()]);
    for _ in 0..10 {
        assert_eq!(get(node.edge, API, "/").await.text(), "up");
        // Nothing of it was sent to the one that refused, so this is safe for any request.
        assert_eq!(post(node.edge, API, "/", "x").await.text(), "up");
    }
    // What refused was then avoided: without that, every other request would have run into it.
    let retries = node.metric("nebula_http_retries_total{deployment=\"api\",reason=\"connect\"}");
    assert!((1..=8).contains(&retries), "{retries}");
}

#[tokio::test]
async fn without_anyone_left_the_answer_is_502() {
    let node = single();
    node.route_api(&[refusing(), refusing()]);
    let answer = get(node.edge, API, "/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(answer.text().contains("nebula deploy logs api"));
    assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
    assert_eq!(
        node.metric("nebula_http_requests_total{deployment=\"api\",code=\"5xx\"}"),
        1
    );
}

#[tokio::test]
async fn tries_are_bounded() {
    let node = single();
    let (address, taken) = breaking().await;
    node.route_api(&[address; 10]);
    assert_eq!(
        get(node.edge, API, "/").await.status,
        StatusCode::BAD_GATEWAY
    );
    assert_eq!(taken.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_get_that_broke_is_repeated_and_a_post_is_not() {
    let node = single();
    let (address, taken) = breaking().await;
    node.route_api_by(&[address, named("up").await], |policy| {
        policy.balance = Balance::RoundRobin;
        policy.ejection = None;
    });
    for _ in 0..4 {
        assert_eq!(get(node.edge, API, "/").await.text(), "up");
    }
    let gets = taken.swap(0, Ordering::SeqCst);
    assert!(gets > 0);

    let mut broken = 0;
    for _ in 0..6 {
        let answer = post(node.edge, API, "/", "x").await;
        match answer.status {
            StatusCode::BAD_GATEWAY => broken += 1,
            status => assert_eq!(status, StatusCode::OK),
        }
    }
    assert!(broken > 0);
    // Each that broke was seen once by somebody, and never by a second instance.
    assert_eq!(taken.load(Ordering::SeqCst), broken);
}

/// What the one that answers was sent, of requests of which one that breaks has the first turn at times; how many broke with nobody
/// to answer.
async fn sent_again(method: Method, fields: &[(&str, &str)], body: Bytes) -> (usize, usize) {
    let node = single();
    let (address, taken) = breaking().await;
    let length = body.len();
    let expected = body.clone();
    let mirror = app(move |request: Request<Incoming>| {
        let expected = expected.clone();
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, expected);
            text(body.len().to_string())
        }
    })
    .await;
    node.route_api_by(&[address, mirror], |policy| {
        policy.balance = Balance::RoundRobin;
        policy.ejection = None;
    });
    let mut broken = 0;
    for _ in 0..6 {
        let request = request(method.clone(), API, "/", fields).body(Full::new(body.clone()));
        let answer = whole(send(node.edge, request.unwrap()).await).await;
        match answer.status {
            StatusCode::BAD_GATEWAY => broken += 1,
            status => {
                assert_eq!(status, StatusCode::OK);
                assert_eq!(answer.text(), length.to_string());
            }
        }
    }
    (taken.load(Ordering::SeqCst), broken)
}

#[tokio::test]
async fn a_post_that_says_it_may_be_repeated_is_with_its_body() {
    let short = Bytes::from(vec![b'x'; Limits::default().kept_body_bytes]);
    let long = Bytes::from(vec![b'x'; short.len() + 1]);
    let key: &[(&str, &str)] = &[("idempotency-key", "\"8e03978e\"")];
    for (method, fields, body) in [
        (Method::POST, key, &short),
        (Method::PATCH, key, &Bytes::from_static(b"x")),
        (Method::PUT, &[], &short),
        (Method::POST, key, &Bytes::new()),
    ] {
        let (taken, broken) = sent_again(method, fields, body.clone()).await;
        assert!(taken > 0);
        assert_eq!(broken, 0);
    }
    let none: &[(&str, &str)] = &[("idempotency-key", " ")];
    let dropped: &[(&str, &str)] = &[("connection", "idempotency-key"), key[0]];
    for (method, fields, body) in [
        (Method::POST, none, &short),
        (Method::POST, dropped, &short),
        (Method::POST, key, &long),
        (Method::PUT, &[], &long),
    ] {
        let (taken, broken) = sent_again(method, fields, body.clone()).await;
        assert!(taken > 0);
        assert_eq!(broken, taken, "each that broke was seen once");
    }
}

#[tokio::test]
async fn a_body_that_is_kept_is_waited_for_before_anybody_is_asked() {
    let node = single();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let address = app(move |request: Request<Incoming>| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            text(String::from_utf8_lossy(&body))
        }
    })
    .await;
    node.route_api_by(&[address], |policy| {
        policy.deadlines = "per_try=2s whole=10s".parse().unwrap();
    });
    let head = format!("PUT / HTTP/1.1\r\nHost: {API}\r\nContent-Length: 4\r\n");
    // It is told to go on, and what it says after that is its next request.
    let mut socket = TcpStream::connect(node.edge).await.unwrap();
    let expecting = format!("{head}Expect: 100-continue\r\n\r\n");
    socket.write_all(expecting.as_bytes()).await.unwrap();
    assert!(read_head(&mut socket).await.starts_with("HTTP/1.1 100 "));
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    let rest = format!("bodyGET / HTTP/1.1\r\nHost: {API}\r\n\r\n");
    socket.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = [0; 4];
    assert!(read_head(&mut socket).await.starts_with("HTTP/1.1 200 "));
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"body");
    assert!(read_head(&mut socket).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(asked.load(Ordering::SeqCst), 2);

    // One that stops half-way is told so, and one that leaves asks nobody.
    let half = format!("{head}\r\nbo");
    assert!(say(node.edge, &half).await.starts_with("HTTP/1.1 408 "));
    let mut socket = TcpStream::connect(node.edge).await.unwrap();
    socket.write_all(half.as_bytes()).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut said = Vec::new();
    socket.read_to_end(&mut said).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&said), "");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_replaced() {
    let node = single_with(|_| {});
    // Says that it keeps connections, and closes each once it is asked again.
    let address = raw(|mut socket: TcpStream| async move {
        read_head(&mut socket).await;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        socket.write_all(answer).await.unwrap();
        read_head(&mut socket).await;
    })
    .await;
    node.route_api(&[address]);
    for _ in 0..12 {
        assert_eq!(get(node.edge, API, "/").await.text(), "ok");
    }
    assert!(node.metric("nebula_http_retries_total{deployment=\"api\",reason=\"stale\"}") > 0);
}

#[tokio::test]
async fn connections_to_instances_are_used_again() {
    let node = common::Cluster::new().node_with(1, |config| config.threads = 1);
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let address = raw(move |mut socket: TcpStream| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            while !read_head(&mut socket).await.is_empty() {
                let answer =
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
                socket.write_all(answer).await.unwrap();
            }
        }
    })
    .await;
    node.route_api(&[address]);
    for _ in 0..20 {
        assert_eq!(get(node.edge, API, "/").await.text(), "ok");
    }
    let connections = connections.load(Ordering::SeqCst);
    assert!(connections <= 3, "{connections} connections");
}

#[tokio::test]
async fn an_instance_that_does_not_answer_is_given_up() {
    let node = single();
    let address = app(|_| async {
        std::future::pending::<()>().await;
        text("never")
    })
    .await;
    node.route_api_by(&[address], |policy| {
        policy.deadlines = "per_try=200ms whole=10s".parse().unwrap();
    });
    let answer = get(node.edge, API, "/").await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(
        post(node.edge, API, "/", "x").await.status,
        StatusCode::GATEWAY_TIMEOUT
    );

    // A client that stops in the middle of its own request is told so.
    let mut socket = TcpStream::connect(node.edge).await.unwrap();
    let half = format!("POST / HTTP/1.1\r\nHost: {API}\r\nContent-Length: 9\r\n\r\nhalf");
    socket.write_all(half.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let node = single();
    let (told, mut left) = tokio::sync::mpsc::unbounded_channel();
    let address = raw(move |mut socket: TcpStream| {
        let told = told.clone();
        async move {
            read_head(&mut socket).await;
            told.send("asked").unwrap();
            let _ = socket.read(&mut [0]).await;
            told.send("left").unwrap();
        }
    })
    .await;
    node.route_api(&[address]);
    let mut socket = TcpStream::connect(node.edge).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: {API}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(left.recv().await, Some("asked"));
    drop(socket);
    let left = tokio::time::timeout(common::PATIENCE, left.recv()).await;
    assert_eq!(left.unwrap(), Some("left"));
}
