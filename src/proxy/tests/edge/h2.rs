//! Clients of HTTP/2: they get what HTTP/1.1 clients get, many requests side by side on one connection.

use std::sync::Arc;
use std::time::Duration;

use crate::common;
use crate::common::apps::{app, mirror, named, text};
use crate::common::http2::{
    PREFACE, Session, answered, frame, last_goaway, request, send_all, whole,
};
use crate::common::{Cluster, PATIENCE, Routes, single, single_with, until};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use nebula_domain::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const API: &str = "api.example.test";

/// Content that is told from its own pieces.
fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 7 % 251) as u8).collect()
}

#[tokio::test]
async fn an_instance_sees_a_request_of_http_1() {
    let node = single();
    node.route_api(&[mirror().await]);
    let mut session = Session::open(node.edge).await;
    let fields = [
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("te", "trailers"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-mine", "1"),
    ];
    let answer = session.ask(request(Method::GET, "/a?b=c", &fields)).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("connection"), "");
    assert_ne!(answer.header("x-request-id"), "");
    let seen = answer.text();
    assert!(seen.starts_with("GET /a?b=c\n"), "{seen}");
    for line in [
        "host: api.example.test",
        "cookie: a=1; b=2",
        "te: trailers",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "via: 2.0 nebula",
        "x-mine: 1",
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line}: {seen}");
    }
    let answer = session.ask(request(Method::POST, "/", &[])).await;
    assert!(
        answer.text().contains("content-length: 0"),
        "{}",
        answer.text()
    );
    let answer = session.ask(request(Method::HEAD, "/", &[])).await;
    assert!(answer.body.is_empty() && !answer.header("content-length").is_empty());
}

#[tokio::test]
async fn the_edge_answers_by_itself() {
    let node = single();
    node.route_api(&[named("up").await]);
    let mut session = Session::open(node.edge).await;
    let ask = |method, uri: &str| {
        http::Request::builder()
            .method(method)
            .uri(uri)
            .body(())
            .unwrap()
    };
    let answer = session.ask(ask(Method::GET, "http://nobody.test/")).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    // No tunnels, and none for protocols that nobody here knows.
    let (response, _open) = session
        .send(ask(Method::CONNECT, "api.example.test:443"), false)
        .await;
    assert_eq!(
        answered(response).await.status(),
        StatusCode::NOT_IMPLEMENTED
    );
    let long = format!("/{}", "x".repeat(9000));
    let answer = session.get(&long).await;
    assert_eq!(answer.status, StatusCode::URI_TOO_LONG);
    let fields = [("expect", "everything")];
    let answer = session.ask(request(Method::GET, "/", &fields)).await;
    assert_eq!(answer.status, StatusCode::EXPECTATION_FAILED);
    // Not a word of them has gone over the connection's head.
    assert_eq!(session.get("/").await.text(), "up");
    let fields: Vec<_> = (0..1500).map(|n| (format!("x-{n}"), "y")).collect();
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    let answer = session.ask(request(Method::GET, "/", &fields)).await;
    assert_eq!(answer.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(session.get("/").await.text(), "up");
}

#[tokio::test]
async fn a_site_is_served() {
    let node = single();
    let artifact = Digest([7; 32]);
    let large = content(3 << 20);
    node.unpack(
        artifact,
        &[("index.html", b"<h1>here</h1>"), ("large.bin", &large)],
    );
    let me = node.mesh.me().0;
    let routes = Routes::new().site("api", artifact, false, &[(1, me)]);
    node.table.send_replace(Arc::new(routes.table()));
    let mut session = Session::open(node.edge).await;
    let page = session.get("/").await;
    assert_eq!(
        (page.status, page.text()),
        (StatusCode::OK, "<h1>here</h1>")
    );
    assert!(page.header("content-type").starts_with("text/html"));
    let etag = [("if-none-match", page.header("etag"))];
    let same = session.ask(request(Method::GET, "/", &etag)).await;
    assert_eq!(
        (same.status, same.body.len()),
        (StatusCode::NOT_MODIFIED, 0)
    );
    assert!(session.get("/large.bin").await.body == large);
    let range = [("range", "bytes=5-104")];
    let part = session
        .ask(request(Method::GET, "/large.bin", &range))
        .await;
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert!(part.body == large[5..105]);
    let head = session.ask(request(Method::HEAD, "/large.bin", &[])).await;
    assert_eq!(head.header("content-length"), large.len().to_string());
    assert!(head.body.is_empty());
}

#[tokio::test]
async fn a_hundred_requests_go_side_by_side() {
    let node = single();
    let (all, may_go) = watch::channel(0);
    let all = Arc::new(all);
    // Nobody is answered before all have asked.
    let address = app(move |request| {
        let (all, mut may_go) = (Arc::clone(&all), may_go.clone());
        async move {
            all.send_modify(|asked| *asked += 1);
            may_go.wait_for(|asked| *asked == 100).await.unwrap();
            text(request.uri().path().to_owned())
        }
    })
    .await;
    node.route_api(&[address]);
    let mut session = Session::open(node.edge).await;
    let mut responses = Vec::new();
    for n in 0..100 {
        let (response, _) = session
            .send(request(Method::GET, &format!("/{n}"), &[]), true)
            .await;
        responses.push(response);
    }
    for (n, response) in responses.into_iter().enumerate() {
        let (answer, _) = whole(answered(response).await).await;
        assert_eq!(answer.text(), format!("/{n}"));
    }
    assert_eq!(node.metric("nebula_http_connections"), 1);
}

#[tokio::test]
async fn large_content_goes_both_ways() {
    let node = single();
    node.route_api(&[app(|request| async { Response::new(request.into_body().boxed()) }).await]);
    let sent = content(8 << 20);
    let length = sent.len().to_string();
    // With a length, and in chunks.
    for fields in [&[("content-length", length.as_str())][..], &[]] {
        let mut session = Session::open(node.edge).await;
        let (response, mut stream) = session
            .send(request(Method::POST, "/", fields), false)
            .await;
        let copy = sent.clone();
        let upload = tokio::spawn(async move { send_all(&mut stream, &copy, PATIENCE).await });
        let (answer, _) = whole(answered(response).await).await;
        assert_eq!(upload.await.unwrap(), sent.len());
        assert!(answer.body == sent);
    }
}

#[tokio::test]
async fn an_upload_that_nobody_reads_stops_its_client() {
    let node = single();
    let (go, may_go) = watch::channel(false);
    let address = app(move |request| {
        let mut may_go = may_go.clone();
        async move {
            if request.method() == Method::POST {
                let _ = may_go.wait_for(|go| *go).await;
            }
            text("up")
        }
    })
    .await;
    node.route_api(&[address]);
    let mut session = Session::open(node.edge).await;
    let (response, mut stream) = session.send(request(Method::POST, "/", &[]), false).await;
    // More than the sockets in between hold.
    let sent = content(64 << 20);
    let taken = send_all(&mut stream, &sent, Duration::from_millis(500)).await;
    assert!(taken < sent.len(), "all of it was taken");
    // Other streams have room.
    assert_eq!(session.get("/").await.text(), "up");
    drop((go, response, stream));
}

#[tokio::test]
async fn an_instance_on_another_node_answers() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    b.run(&[(
        2,
        app(|request| async { Response::new(request.into_body().boxed()) }).await,
    )]);
    let routes = Routes::new().service("api", &[(2, 2)]);
    a.table.send_replace(Arc::new(routes.table()));
    let mut session = Session::open(a.edge).await;
    let sent = content(1 << 20);
    let (response, mut stream) = session.send(request(Method::POST, "/", &[]), false).await;
    let copy = sent.clone();
    let upload = tokio::spawn(async move { send_all(&mut stream, &copy, PATIENCE).await });
    let (answer, _) = whole(answered(response).await).await;
    assert!(answer.body == sent);
    upload.await.unwrap();
}

#[tokio::test]
async fn a_drain_answers_what_has_been_asked() {
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
    let idle = Session::open(node.edge).await;
    let mut session = Session::open(node.edge).await;
    let (response, _) = session.send(request(Method::GET, "/", &[]), true).await;
    is_asked.recv().await.unwrap();
    let drain = tokio::spawn(node.proxy.drain(PATIENCE));
    idle.ended().await.unwrap();
    // Told that no more is taken.
    let refused = timeout(PATIENCE, async {
        while session.sender.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    refused.await.unwrap();
    assert!(!drain.is_finished());
    go.send_replace(true);
    assert_eq!(whole(answered(response).await).await.0.text(), "late");
    session.ended().await.unwrap();
    drain.await.unwrap();
}

#[tokio::test]
async fn a_connection_without_requests_ends_after_a_while() {
    let node = single_with(|limits| limits.header_read_timeout = Duration::from_millis(300));
    node.route_api(&[named("up").await]);
    let mut session = Session::open(node.edge).await;
    assert_eq!(session.get("/").await.text(), "up");
    session.ended().await.unwrap();
    // One that does not even greet is no better off; nor is one that never finishes to.
    for begun in [3, 20] {
        let mut socket = TcpStream::connect(node.edge).await.unwrap();
        socket.write_all(&PREFACE[..begun]).await.unwrap();
        let ended = timeout(PATIENCE, socket.read_to_end(&mut Vec::new())).await;
        let _ = ended.expect("the edge keeps the connection open");
    }
    until("all are gone", || {
        node.metric("nebula_http_connections") == 0
    })
    .await;
}

#[tokio::test]
async fn a_greeting_may_come_in_pieces_and_only_at_the_beginning() {
    let node = single();
    node.route_api(&[named("up").await]);
    let mut socket = TcpStream::connect(node.edge).await.unwrap();
    socket.set_nodelay(true).unwrap();
    for byte in PREFACE {
        socket.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    // An acknowledgement of nothing ends the connection.
    let rest = [
        frame(4, 0, 0, &[]),
        frame(4, 1, 0, &[]),
        frame(4, 1, 0, &[]),
    ]
    .concat();
    socket.write_all(&rest).await.unwrap();
    let mut said = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut said))
        .await
        .unwrap();
    // SETTINGS comes first.
    assert_eq!(said[3], 4);
    let text = format!("GET / HTTP/1.1\r\nHost: {API}\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let said = common::client::say(node.edge, &text).await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    assert!(said.contains("HTTP/1.1 400"), "{said}");
    // And nothing else begins it.
    let said = common::http2::say(node.edge, frame(4, 1, 0, &[]).repeat(2)).await;
    assert_eq!(last_goaway(&said), Some(1));
}
