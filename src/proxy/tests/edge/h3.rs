//! Clients of HTTP/3: they get what HTTP/1.1 clients get, many requests side by side on one connection.

use std::sync::Arc;
use std::time::Duration;

use crate::common::apps::{app, mirror, named, raw, read_head, text};
use crate::common::http3::{
    Session, answered, endpoint, piece, request, send_all, try_connect, whole,
};
use crate::common::tls::Certificates;
use crate::common::{Cluster, PATIENCE, Routes, until};
use bytes::{Buf, Bytes};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use nebula_domain::Digest;
use quinn::VarInt;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Content that is told from its own pieces.
fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 7 % 251) as u8).collect()
}

#[tokio::test]
async fn an_instance_sees_a_request_of_http_1() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    node.route_api(&[mirror().await]);
    let mut session = Session::open(&certificates, &node).await;
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
        "x-forwarded-proto: https",
        "via: 3.0 nebula",
        "x-mine: 1",
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line}: {seen}");
    }
    assert!(!seen.contains("transfer-encoding"), "{seen}");
    let answer = session.ask(request(Method::HEAD, "/", &[])).await;
    assert!(answer.body.is_empty() && !answer.header("content-length").is_empty());
}

#[tokio::test]
async fn the_edge_answers_by_itself() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    node.route_api(&[named("up").await]);
    let mut session = Session::open(&certificates, &node).await;
    let unknown = http::Request::builder().uri("https://nobody.test/");
    let answer = session.ask(unknown.body(()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
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
    let certificates = Certificates::usual();
    let node = certificates.node();
    let artifact = Digest([7; 32]);
    let large = content(3 << 20);
    node.unpack(
        artifact,
        &[("index.html", b"<h1>here</h1>"), ("large.bin", &large)],
    );
    let me = node.mesh.me().0;
    let routes = Routes::new().site("api", artifact, false, &[(1, me)]);
    node.table.send_replace(Arc::new(routes.table()));
    let mut session = Session::open(&certificates, &node).await;
    let page = session.get("/").await;
    assert_eq!(
        (page.status, page.text()),
        (StatusCode::OK, "<h1>here</h1>")
    );
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
}

#[tokio::test]
async fn a_hundred_requests_go_side_by_side() {
    let certificates = Certificates::usual();
    let node = certificates.node();
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
    let mut session = Session::open(&certificates, &node).await;
    let mut streams = Vec::new();
    for n in 0..100 {
        let mut stream = session
            .begin(request(Method::GET, &format!("/{n}"), &[]))
            .await;
        stream.finish().await.unwrap();
        streams.push(stream);
    }
    for (n, stream) in streams.iter_mut().enumerate() {
        assert_eq!(whole(stream).await.0.text(), format!("/{n}"));
    }
    assert_eq!(node.metric("nebula_http_connections"), 1);
}

#[tokio::test]
async fn large_content_goes_both_ways() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    node.route_api(&[app(|request| async { Response::new(request.into_body().boxed()) }).await]);
    let sent = content(4 << 20);
    let length = sent.len().to_string();
    // With a length, and in chunks.
    for fields in [&[("content-length", length.as_str())][..], &[]] {
        let mut session = Session::open(&certificates, &node).await;
        let stream = session.begin(request(Method::POST, "/", fields)).await;
        let (mut send, mut receive) = stream.split();
        let copy = sent.clone();
        let upload = tokio::spawn(async move {
            for piece in copy.chunks(16 * 1024) {
                let piece = Bytes::copy_from_slice(piece);
                send.send_data(piece).await.unwrap();
            }
            send.finish().await.unwrap();
        });
        let response = timeout(PATIENCE, receive.recv_response()).await.unwrap();
        assert_eq!(response.unwrap().status(), StatusCode::OK);
        let mut seen = Vec::new();
        while let Some(mut piece) = timeout(PATIENCE, receive.recv_data())
            .await
            .expect("no more content")
            .unwrap()
        {
            seen.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
        }
        upload.await.unwrap();
        assert!(seen == sent);
    }
}

#[tokio::test]
async fn an_upload_that_nobody_reads_stops_its_client() {
    let certificates = Certificates::usual();
    let node = certificates.node();
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
    let mut session = Session::open(&certificates, &node).await;
    let mut stream = session.begin(request(Method::POST, "/", &[])).await;
    // More than the sockets in between hold.
    let sent = content(32 << 20);
    let taken = send_all(&mut stream, &sent, Duration::from_millis(500)).await;
    assert!(taken < sent.len(), "all of it was taken");
    // Other streams have room.
    assert_eq!(session.get("/").await.text(), "up");
    drop((go, stream));
}

#[tokio::test]
async fn an_answer_that_its_client_does_not_read_stops_its_instance() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    let (sent, written) = watch::channel(0);
    let sent = Arc::new(sent);
    let address = raw(move |mut socket| {
        let sent = Arc::clone(&sent);
        async move {
            let head = read_head(&mut socket).await;
            if !head.starts_with("GET /large") {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup";
                return socket.write_all(answer).await.unwrap();
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 64 << 20);
            socket.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..64 << 4 {
                if socket.write_all(&[7; 1 << 16]).await.is_err() {
                    return;
                }
                sent.send_modify(|sent| *sent += 1 << 16);
            }
        }
    })
    .await;
    node.route_api(&[address]);
    let endpoint = endpoint(&certificates, |transport| {
        transport.stream_receive_window(VarInt::from_u32(100_000));
    });
    let quic = try_connect(&endpoint, &node).await.unwrap();
    let mut session = Session::over(quic).await;
    let mut stream = session.begin(request(Method::GET, "/large", &[])).await;
    stream.finish().await.unwrap();
    assert_eq!(answered(&mut stream).await.status(), StatusCode::OK);
    // Until nothing more moves.
    let mut before = u64::MAX;
    while *written.borrow() != before {
        before = *written.borrow();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(before < 32 << 20, "{before}");
    assert_eq!(session.get("/").await.text(), "up");
    let mut seen = 0;
    while let Some(piece) = piece(&mut stream).await.unwrap() {
        assert!(piece.iter().all(|byte| *byte == 7));
        seen += piece.len();
    }
    assert_eq!(seen, 64 << 20);
}

#[tokio::test]
async fn an_instance_on_another_node_answers() {
    let certificates = Certificates::usual();
    let cluster = Cluster::new();
    let a = cluster.node_with(1, |config| certificates.serve(config));
    let b = cluster.node(2);
    b.run(&[(2, mirror().await)]);
    let routes = Routes::new().service("api", &[(2, 2)]);
    a.table.send_replace(Arc::new(routes.table()));
    let mut session = Session::open(&certificates, &a).await;
    let answer = session.get("/there").await;
    assert!(
        answer.text().contains("via: 3.0 nebula"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn a_drain_answers_what_has_been_asked() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    let (asked, mut is_asked) = mpsc::unbounded_channel();
    let (go, may_go) = watch::channel(false);
    let large = content(1 << 20);
    let answer = large.clone();
    let address = app(move |_| {
        let (asked, mut may_go) = (asked.clone(), may_go.clone());
        let answer = answer.clone();
        async move {
            asked.send(()).unwrap();
            may_go.wait_for(|go| *go).await.unwrap();
            let whole = Full::new(Bytes::from(answer));
            Response::new(whole.map_err(|never| match never {}).boxed())
        }
    })
    .await;
    node.route_api(&[address]);
    let idle = Session::open(&certificates, &node).await;
    let mut session = Session::open(&certificates, &node).await;
    let mut stream = session.begin(request(Method::GET, "/", &[])).await;
    stream.finish().await.unwrap();
    is_asked.recv().await.unwrap();
    let drain = tokio::spawn(node.proxy.drain(PATIENCE));
    assert_eq!(idle.ended().await, 0x100);
    // No more is taken, and none that comes is answered.
    let refused = timeout(PATIENCE, async {
        loop {
            let Ok(mut late) = session
                .sender
                .send_request(request(Method::GET, "/", &[]))
                .await
            else {
                return;
            };
            let _ = late.finish().await;
            if late.recv_response().await.is_err() {
                return;
            }
        }
    });
    refused.await.unwrap();
    assert!(!drain.is_finished());
    go.send_replace(true);
    assert!(whole(&mut stream).await.0.body == large);
    assert_eq!(session.ended().await, 0x100);
    drain.await.unwrap();
}

#[tokio::test]
async fn a_connection_without_requests_ends_after_a_while() {
    let certificates = Certificates::usual();
    let node = certificates
        .node_with(|config| config.limits.header_read_timeout = Duration::from_millis(300));
    node.route_api(&[named("up").await]);
    let mut session = Session::open(&certificates, &node).await;
    assert_eq!(session.get("/").await.text(), "up");
    assert_eq!(session.ended().await, 0x100);
    until("it is gone", || node.metric("nebula_http_connections") == 0).await;
}
