//! Requests over TLS, and from plain HTTP to it.

use std::sync::Arc;
use std::time::Duration;

use crate::common::apps::{Body, app, echo, mirror, raw, read_head};
use crate::common::client::{ask, get, request, send_on, whole};
use crate::common::http2::{GOAWAY, PREFACE, SETTINGS, frame};
use crate::common::tls::{Caller, Certificates};
use crate::common::{Cluster, Node, PATIENCE, Routes, until};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use nebula_domain::Digest;
use nebula_domain::http::Https;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

const API: &str = "api.example.test";

fn large() -> Vec<u8> {
    (0..3_000_000u32).map(|n| (n % 251) as u8).collect()
}

#[tokio::test]
async fn plain_requests_are_sent_to_tls_where_there_is_a_certificate() {
    let certificates = Certificates::new();
    certificates.put("api", &[API], 30);
    let node = certificates.node();
    let port = node.tls.unwrap().port();
    let (api, plain) = (mirror().await, mirror().await);
    node.run(&[(1, api), (2, plain)]);
    let routes = Routes::new().service("api", &[(1, 1)]);
    let routes = routes.service("plain", &[(2, 1)]);
    node.table.send_replace(Arc::new(routes.table()));
    let host = format!("{API}:8080");
    let location = format!("https://{API}:{port}/a%20b/?q=1&r");
    for (method, status) in [
        (Method::GET, StatusCode::MOVED_PERMANENTLY),
        (Method::HEAD, StatusCode::MOVED_PERMANENTLY),
        (Method::DELETE, StatusCode::PERMANENT_REDIRECT),
    ] {
        let answer = ask(node.edge, method, &host, "/a%20b/?q=1&r", &[]).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("location"), location);
        assert!(!answer.header("x-request-id").is_empty());
    }
    for (host, path, status) in [
        (API, "/.well-known/acme-challenge/x", StatusCode::OK),
        (
            API,
            "/.well-known/acme-challenge/%2e%2e/../admin",
            StatusCode::MOVED_PERMANENTLY,
        ),
        ("plain.example.test", "/", StatusCode::OK),
        ("nobody.example.test", "/", StatusCode::NOT_FOUND),
    ] {
        let answer = get(node.edge, host, path).await;
        assert_eq!(answer.status, status, "{host}{path}");
    }
    let answer = certificates.caller().get(&node, API, "/x").await;
    assert!(answer.text().contains("GET /x\n"), "{answer:?}");
    let hsts = "strict-transport-security";
    assert_eq!(answer.header(hsts), "max-age=15552000");
    let plain = get(node.edge, "plain.example.test", "/").await;
    assert!(plain.headers.get(hsts).is_none()); // Where the policy wants it otherwise.
    for (https, plain, encrypted) in [
        (Https::Both, StatusCode::OK, StatusCode::OK),
        (Https::Off, StatusCode::OK, StatusCode::MISDIRECTED_REQUEST),
    ] {
        let routes = Routes::new().policy(|policy| policy.https = https);
        let routes = routes.service("api", &[(1, 1)]);
        node.table.send_replace(Arc::new(routes.table()));
        assert_eq!(get(node.edge, API, "/").await.status, plain);
        let answer = certificates.caller().get(&node, API, "/").await;
        assert_eq!(answer.status, encrypted);
    }
    let routes = Routes::new().service("api", &[(1, 1)]);
    node.table.send_replace(Arc::new(routes.table()));
    // A body on the way is read, so that the next request is one.
    let mut socket = TcpStream::connect(node.edge).await.unwrap();
    let post = format!("POST / HTTP/1.1\r\nHost: {API}\r\nContent-Length: 3\r\n\r\nabc");
    for _ in 0..2 {
        socket.write_all(post.as_bytes()).await.unwrap();
        let head = timeout(PATIENCE, read_head(&mut socket)).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 308 "), "{head}");
    }
}

#[tokio::test]
async fn a_websocket_goes_over_tls() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    node.route_api(&[echo().await]);
    let mut stream = certificates.caller().connect(&node, API).await;
    let ask = format!(
        "GET /chat HTTP/1.1\r\nHost: {API}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: x\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).await.unwrap();
    let head = timeout(PATIENCE, read_head(&mut stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    for word in ["one", "three"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        let mut twice = vec![0; 2 * word.len()];
        let read = timeout(PATIENCE, stream.read_exact(&mut twice)).await;
        read.unwrap().unwrap();
        assert_eq!(twice, word.repeat(2).as_bytes());
    }
    // One direction ends, the other goes on to its own end.
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    let ended = timeout(PATIENCE, stream.read_to_string(&mut rest)).await;
    ended.unwrap().unwrap();
    assert_eq!(rest, "bye");
}

#[tokio::test]
async fn large_bodies_go_over_tls_in_both_directions() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    let large = large();
    let site = Digest([7; 32]);
    node.unpack(site, &[("large.bin", &large)]);
    let back =
        |request: Request<Incoming>| async { Response::<Body>::new(request.into_body().boxed()) };
    node.run(&[(2, app(back).await)]);
    let routes = Routes::new().site("docs", site, false, &[(1, 1)]);
    let routes = routes.service("api", &[(2, 1)]);
    node.table.send_replace(Arc::new(routes.table()));
    let caller = certificates.caller();
    let answer = caller.get(&node, "docs.example.test", "/large.bin").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body == large);
    let stream = caller.connect(&node, API).await;
    let body = Full::new(Bytes::from(large.clone()));
    let request = request(Method::POST, API, "/", &[]).body(body).unwrap();
    let answer = whole(send_on(stream, request).await).await;
    assert!(answer.body == large);
}

/// A client that takes little at a time.
async fn narrow(node: &Node, caller: &Caller, host: &str) -> TlsStream<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    let socket = socket.connect(node.tls.unwrap()).await.unwrap();
    caller.upgrade(socket, host).await.unwrap()
}

#[tokio::test]
async fn a_slow_client_gets_all_of_it() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    let large = large();
    let site = Digest([7; 32]);
    // Silent after its answer: nothing that follows pushes the rest of it out.
    let body = large.clone();
    let app = raw(move |mut socket| {
        let body = body.clone();
        async move {
            read_head(&mut socket).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            socket.write_all(head.as_bytes()).await.unwrap();
            let _ = socket.write_all(&body).await;
            let _ = socket.read(&mut [0]).await;
        }
    })
    .await;
    node.unpack(site, &[("large.bin", &large)]);
    node.run(&[(2, app)]);
    let routes = Routes::new().site("docs", site, false, &[(1, 1)]);
    let routes = routes.service("api", &[(2, 1)]);
    node.table.send_replace(Arc::new(routes.table()));
    let caller = certificates.caller();
    for (host, path) in [(API, "/"), ("docs.example.test", "/large.bin")] {
        let mut stream = narrow(&node, &caller, host).await;
        let ask = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        let head = timeout(PATIENCE, read_head(&mut stream)).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let mut read = vec![0; large.len()];
        let ended = timeout(PATIENCE, stream.read_exact(&mut read)).await;
        ended.expect("the rest does not come").unwrap();
        assert!(read == large);
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_let_go() {
    let certificates = Certificates::usual();
    let node = certificates.node_with(|config| {
        config.limits.client_stall = Duration::from_millis(200);
    });
    let site = Digest([7; 32]);
    node.unpack(site, &[("large.bin", &vec![1; 30_000_000])]);
    let routes = Routes::new().site("docs", site, false, &[(1, 1)]);
    node.table.send_replace(Arc::new(routes.table()));
    let caller = certificates.caller();
    let mut stream = narrow(&node, &caller, "docs.example.test").await;
    let ask = "GET /large.bin HTTP/1.1\r\nHost: docs.example.test\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.unwrap();
    until("it is let go", || {
        node.metric("nebula_http_requests_total{deployment=\"docs\",code=\"2xx\"}") == 1
            && node.metric("nebula_http_connections") == 0
    })
    .await;
}

#[tokio::test]
async fn the_scheme_is_told_across_nodes() {
    let certificates = Certificates::usual();
    let cluster = Cluster::new();
    let a = cluster.node_with(1, |config| certificates.serve(config));
    let b = cluster.node(2);
    b.run(&[(2, mirror().await)]);
    let routes = Routes::new().service("api", &[(2, 2)]);
    a.table.send_replace(Arc::new(routes.table()));
    let answer = certificates.caller().get(&a, API, "/").await;
    let text = answer.text();
    assert!(text.contains("x-forwarded-proto: https\n"), "{text}");
    assert!(text.contains("x-forwarded-for: 127.0.0.1\n"), "{text}");
    assert!(text.contains(";proto=https;"), "{text}");
}

#[tokio::test]
async fn what_was_agreed_on_is_what_is_spoken() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    node.route_api(&[mirror().await]);
    let one = format!("GET / HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n").into_bytes();
    let farewell = frame(GOAWAY, 0, 0, &[0; 8]);
    let two = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &farewell].concat();
    let settings = &b"\0\0"[..];
    for (agreed, said, answer) in [
        (Some("h2"), &one, &b""[..]),
        (Some("h2"), &b"NONSENSE\r\n\r\n".to_vec(), b""),
        (Some("h2"), &two, settings),
        (Some("http/1.1"), &one, b"HTTP/1.1 200 "),
        (Some("http/1.1"), &two, b"HTTP/1.1 400 "),
        // Nobody asked: as it begins.
        (None, &one, b"HTTP/1.1 200 "),
        (None, &two, settings),
    ] {
        let mut caller = certificates.caller();
        caller.0.alpn_protocols = agreed.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut stream = caller.connect(&node, API).await;
        stream.write_all(said).await.unwrap();
        let mut heard = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut heard)).await;
        ended.expect("the edge keeps the connection open").unwrap();
        assert!(
            heard.starts_with(answer) && heard.is_empty() == answer.is_empty(),
            "{agreed:?}: {}",
            heard.escape_ascii()
        );
    }
}
