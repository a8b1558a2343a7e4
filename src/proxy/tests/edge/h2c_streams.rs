//! Streams to instances of HTTP/2 in the clear: clients of any protocol get from them what they get from others.

use std::sync::Arc;
use std::time::Duration;

use crate::common;
use crate::common::client::{ask, get, get_with, request as request1, send, whole as whole1};
use crate::common::h2c::{self, instance, ok, push, say, trailers, usual};
use crate::common::http2::{Session, answered, piece, request, send_all, whole};
use crate::common::{Cluster, Node, PATIENCE, Routes, single, single_with, until};
use bytes::Bytes;
use h2::Reason;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use nebula_domain::http::Upstream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

const API: &str = "api.example.test";

/// Content that is told from its own pieces.
fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 7 % 251) as u8).collect()
}

/// A node with a route to this instance.
fn node(instance: &h2c::Instance) -> Node {
    let node = single();
    node.route_h2c(&[instance.address]);
    node
}

#[tokio::test]
async fn an_instance_sees_a_request_of_http_2() {
    let mirror = h2c::mirror().await;
    let node = node(&mirror);
    let fields = [
        ("cookie", "a=1; b=2"),
        ("te", "trailers, gzip"),
        ("connection", "te, x-mine"),
        ("keep-alive", "timeout=5"),
        ("x-mine", "1"),
        ("x-forwarded-for", "6.6.6.6"),
    ];
    let answer = get_with(node.edge, API, "/a?b=c", &fields).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_ne!(answer.header("x-request-id"), "");
    assert_eq!(
        answer.header("content-length"),
        answer.body.len().to_string()
    );
    let seen = answer.text();
    assert!(
        seen.starts_with("GET http://api.example.test/a?b=c HTTP/2.0\n"),
        "{seen}"
    );
    for line in [
        "cookie: a=1; b=2",
        "te: trailers",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: api.example.test",
        "via: 1.1 nebula",
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line}: {seen}");
    }
    for gone in ["x-mine", "keep-alive", "connection", "\nhost", "6.6.6.6"] {
        assert!(!seen.contains(gone), "{gone}: {seen}");
    }
    // The same from a client of HTTP/2; trailers are not asked for in its place.
    let mut session = Session::open(node.edge).await;
    let seen = session.get("/").await;
    assert!(
        seen.text()
            .starts_with("GET http://api.example.test/ HTTP/2.0\n")
            && !seen.text().contains("te: "),
        "{}",
        seen.text()
    );
    let none = session.ask(request(Method::POST, "/", &[])).await;
    assert!(none.text().contains("content-length: 0"), "{}", none.text());
    assert_eq!(mirror.begun() as u64, node.metric("nebula_h2c_connections"));
}

#[tokio::test]
async fn answers_without_content_are_whole() {
    let (cancelled, mut is_cancelled) = mpsc::unbounded_channel();
    let instance = instance(usual, move |request, mut respond| {
        let cancelled = cancelled.clone();
        async move {
            let ended = |status: u16| Response::builder().status(status);
            let (head, end) = match request.uri().path() {
                "/head" => (ended(200).header("content-length", "1234"), true),
                "/silent" => (ended(200), true),
                "/none" => (ended(204), true),
                "/same" => (ended(304).header("etag", "\"a\""), true),
                _ => (ended(200).header("content-length", "2"), false),
            };
            let head = head.body(()).unwrap();
            let Ok(mut stream) = respond.send_response(head, end) else {
                return;
            };
            if !end {
                stream.send_data(Bytes::from_static(b"ok"), false).unwrap();
                // Its end is a frame of its own, a moment later.
                tokio::task::yield_now().await;
                stream.send_data(Bytes::new(), true).unwrap();
                let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                cancelled.send(reset.ok()).unwrap();
            }
        }
    })
    .await;
    let node = node(&instance);
    let ask = |method, path: &'static str| ask(node.edge, method, API, path, &[]);
    let head = ask(Method::HEAD, "/head").await;
    assert_eq!(head.header("content-length"), "1234");
    // What is not known is not said.
    let head = ask(Method::HEAD, "/silent").await;
    assert_eq!(head.header("content-length"), "");
    let empty = ask(Method::GET, "/silent").await;
    assert_eq!((empty.status, empty.body.len()), (StatusCode::OK, 0));
    let none = ask(Method::GET, "/none").await;
    assert_eq!(none.status, StatusCode::NO_CONTENT);
    let same = ask(Method::GET, "/same").await;
    assert_eq!(
        (same.status, same.header("etag")),
        (StatusCode::NOT_MODIFIED, "\"a\"")
    );
    for _ in 0..20 {
        assert_eq!(ask(Method::GET, "/").await.text(), "ok");
    }
    // None of these streams was taken for one that nobody wants.
    drop(node);
    while let Ok(Some(reset)) = timeout(Duration::from_millis(200), is_cancelled.recv()).await {
        assert_ne!(reset, Some(Reason::CANCEL));
    }
}

#[tokio::test]
async fn large_bodies_and_trailers_pass_both_ways_by_every_way() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    let echo = h2c::echo().await;
    b.run(&[(2, echo.address)]);
    for node in [&a, &b] {
        let routes = Routes::new().policy(|policy| policy.upstream = Upstream::H2c);
        let routes = routes.service("api", &[(2, 2)]);
        node.table.send_replace(Arc::new(routes.table()));
    }
    let content = content(3 << 20);
    for edge in [a.edge, b.edge] {
        let body = http_body_util::Full::new(Bytes::from(content.clone()));
        let sized = request1(Method::POST, API, "/", &[]).body(body).unwrap();
        let answer = whole1(send(edge, sized).await).await;
        assert_eq!(
            answer.header("content-length"),
            content.len().to_string(),
            "{}",
            answer.status
        );
        assert!(answer.body == content);

        let mut session = Session::open(edge).await;
        let te = [("te", "trailers")];
        let (response, mut stream) = session.send(request(Method::POST, "/", &te), false).await;
        let sent = content.clone();
        let sending = tokio::spawn(async move {
            assert!(push(&mut stream, sent.into()).await);
            stream.send_trailers(trailers(&[("x-sum", "1")])).unwrap();
        });
        let (answer, trailers) = whole(answered(response).await).await;
        sending.await.unwrap();
        assert!(answer.body == content);
        assert_eq!(trailers.unwrap()["x-sum"], "1");
    }
}

/// It was read before the instance was asked, and the instance takes it a little at a time after its answer has begun.
#[tokio::test]
async fn the_end_of_a_kept_body_is_sent_while_the_answer_comes() {
    let node = single_with(|limits| limits.h2c_send_buffer = 1000);
    let echo = h2c::echo_by(|builder| {
        builder.initial_window_size(1000);
    })
    .await;
    node.route_h2c(&[echo.address]);
    let body = Bytes::from(vec![b'x'; 16 * 1024]);
    for _ in 0..2 {
        let request = request1(Method::PUT, API, "/", &[]).body(Full::new(body.clone()));
        let answer = whole1(send(node.edge, request.unwrap()).await).await;
        assert_eq!((answer.status, &answer.body), (StatusCode::OK, &body));
    }
}

#[tokio::test]
async fn interim_responses_pass_and_an_early_answer_is_an_answer() {
    let instance = instance(usual, |request, mut respond| async move {
        if request.uri().path() == "/hints" {
            let mut hints = ok(&[("link", "</a.css>")]);
            *hints.status_mut() = StatusCode::from_u16(103).unwrap();
            respond.send_informational(hints).unwrap();
            return say(&mut respond, "ok");
        }
        // Answers before the request has ended, and wants no more of it: its library says so by a reset without an error, as
        // RFC 9113 section 8.1 has it.
        let full = Response::builder()
            .status(413)
            .header("content-length", "4");
        let mut stream = respond
            .send_response(full.body(()).unwrap(), false)
            .unwrap();
        stream.send_data(Bytes::from_static(b"full"), true).unwrap();
    })
    .await;
    let node = node(&instance);
    let seen = common::client::say(
        node.edge,
        "GET /hints HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n",
    )
    .await;
    let (hints, answer) = seen.split_once("\r\n\r\n").unwrap();
    assert_eq!(hints, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>");
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok"),
        "{seen}"
    );
    let mut session = Session::open(node.edge).await;
    for _ in 0..10 {
        let (response, mut stream) = session.send(request(Method::POST, "/", &[]), false).await;
        let sending = tokio::spawn(async move {
            send_all(&mut stream, &content(1 << 20), PATIENCE).await;
        });
        let (answer, _) = whole(answered(response).await).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(answer.text(), "full");
        sending.await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_goes_cancels_its_stream_and_no_other() {
    let (resets, mut is_reset) = mpsc::unbounded_channel();
    let instance = instance(usual, move |request, mut respond| {
        let resets = resets.clone();
        async move {
            if request.uri().path() == "/" {
                return say(&mut respond, "ok");
            }
            let mut stream = respond.send_response(ok(&[]), false).unwrap();
            stream
                .send_data(Bytes::from_static(b"first"), false)
                .unwrap();
            let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            resets.send(reset.unwrap()).unwrap();
        }
    })
    .await;
    let node = Cluster::new().node_with(1, |config| config.threads = 1);
    node.route_h2c(&[instance.address]);
    let mut session = Session::open(node.edge).await;
    let (staying, _) = session.send(request(Method::GET, "/stay", &[]), true).await;
    let (going, _) = session.send(request(Method::GET, "/go", &[]), true).await;
    let (mut staying, going) = (answered(staying).await, answered(going).await);
    assert!(piece(staying.body_mut()).await.unwrap().is_ok());
    drop(going);
    let reset = timeout(PATIENCE, is_reset.recv())
        .await
        .expect("not cancelled");
    assert_eq!(reset, Some(Reason::CANCEL));
    assert!(is_reset.try_recv().is_err());
    assert_eq!(session.get("/").await.text(), "ok");
    assert_eq!(instance.begun(), 1);
}

#[tokio::test]
async fn clients_that_take_nothing_hold_up_no_other() {
    let much = Bytes::from(content(16 << 20));
    let instance = instance(usual, move |request, mut respond| {
        let much = much.clone();
        async move {
            if request.uri().path() == "/" {
                return say(&mut respond, "ok");
            }
            let mut stream = respond.send_response(ok(&[]), false).unwrap();
            push(&mut stream, much).await;
        }
    })
    .await;
    let node = Cluster::new().node_with(1, |config| config.threads = 1);
    node.route_h2c(&[instance.address]);
    let mut open = Vec::new();
    for _ in 0..40 {
        let request = request1(Method::GET, API, "/endless", &[]);
        let request = request.body(http_body_util::Empty::<Bytes>::new()).unwrap();
        // Its head is read, and nothing else.
        open.push(send(node.edge, request).await);
    }
    for _ in 0..10 {
        assert_eq!(get(node.edge, API, "/").await.text(), "ok");
    }
    assert_eq!(instance.begun(), 1);
}

#[tokio::test]
async fn an_upload_that_nobody_reads_stops_its_client() {
    let (closed, mut may_go_on) = mpsc::channel::<()>(1);
    let (received, mut is_received) = mpsc::channel(1);
    let instance = instance(usual, move |request, mut respond| {
        let (received, closed) = (received.clone(), closed.clone());
        async move {
            let mut body = request.into_body();
            // Asks for nothing until it is told to.
            closed.closed().await;
            let mut count = 0;
            while let Some(Ok(piece)) = body.data().await {
                count += piece.len();
                let _ = body.flow_control().release_capacity(piece.len());
            }
            received.send(count).await.unwrap();
            say(&mut respond, "ok");
        }
    })
    .await;
    let node = node(&instance);
    let mut session = Session::open(node.edge).await;
    let (response, mut stream) = session.send(request(Method::POST, "/", &[]), false).await;
    let all = content(8 << 20);
    let sent = send_all(&mut stream, &all, Duration::from_millis(500)).await;
    assert!(sent < 4 << 20, "{sent}");
    may_go_on.close();
    let rest = all[sent..].to_vec();
    let sending = tokio::spawn(async move { send_all(&mut stream, &rest, PATIENCE).await });
    assert_eq!(is_received.recv().await, Some(all.len()));
    assert_eq!(sending.await.unwrap(), all.len() - sent);
    assert_eq!(whole(answered(response).await).await.0.text(), "ok");
}

#[tokio::test]
async fn websocket_goes_through_where_it_is_taken() {
    use common::client::say as say1;
    let taking = instance(
        |builder| {
            builder.enable_connect_protocol();
        },
        |request, mut respond| async move {
            let protocol = request.extensions().get::<h2::ext::Protocol>().cloned();
            let tunnel = protocol.is_some_and(|protocol| protocol.as_str() == "websocket");
            assert!(tunnel && request.method() == Method::CONNECT);
            let mut stream = respond
                .send_response(ok(&[("x-mine", "1")]), false)
                .unwrap();
            let mut body = request.into_body();
            while let Some(Ok(piece)) = body.data().await {
                let _ = body.flow_control().release_capacity(piece.len());
                push(&mut stream, piece.repeat(2).into()).await;
            }
            let _ = stream.send_data(Bytes::from_static(b"bye"), true);
        },
    )
    .await;
    let node = node(&taking);
    let upgrade = "GET /chat HTTP/1.1\r\nHost: api.example.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut socket = tokio::net::TcpStream::connect(node.edge).await.unwrap();
    socket.write_all(upgrade.as_bytes()).await.unwrap();
    let head = common::apps::read_head(&mut socket).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let lower = head.to_ascii_lowercase();
    for line in [
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
        "upgrade: websocket",
        "connection: upgrade",
        "x-mine: 1",
    ] {
        assert!(lower.contains(line), "{line}: {head}");
    }
    for word in ["one", "two"] {
        socket.write_all(word.as_bytes()).await.unwrap();
        let mut heard = [0; 6];
        timeout(PATIENCE, socket.read_exact(&mut heard))
            .await
            .expect("no echo")
            .unwrap();
        assert_eq!(heard, word.repeat(2).as_bytes());
    }
    socket.shutdown().await.unwrap();
    let mut rest = String::new();
    let read = timeout(PATIENCE, socket.read_to_string(&mut rest));
    read.await.expect("no end").unwrap();
    assert_eq!(rest, "bye");

    // From a client of HTTP/2.
    let mut session = Session::open(node.edge).await;
    let enabled = || session.sender.is_extended_connect_protocol_enabled();
    until("settings have come", enabled).await;
    let mut connect = request(Method::CONNECT, "/chat", &[("sec-websocket-version", "13")]);
    let websocket = h2::ext::Protocol::from_static("websocket");
    connect.extensions_mut().insert(websocket);
    let (response, mut stream) = session.send(connect, false).await;
    let response = answered(response).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    stream.send_data(Bytes::from_static(b"abc"), true).unwrap();
    let mut heard = Vec::new();
    while let Some(piece) = piece(&mut body).await {
        heard.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(heard, b"abcabcbye");

    // An instance that has not said so.
    let other = h2c::named("up").await;
    node.route_h2c(&[other.address]);
    let closing = upgrade.replace("Connection: Upgrade", "Connection: Upgrade, close");
    let seen = say1(node.edge, &closing).await;
    assert!(
        seen.starts_with("HTTP/1.1 501 ") && seen.contains("\"no_websocket\""),
        "{seen}"
    );
}
