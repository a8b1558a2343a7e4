//! What is more than one request and one response: other protocols, interim responses, requests on the heels of each other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::common::apps::{app, echo, mirror, raw, read_head, text};
use crate::common::client::say;
use crate::common::{Cluster, PATIENCE, Routes, single, single_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const API: &str = "api.example.test";
const ASK: &str = "GET /chat HTTP/1.1\r\nHost: api.example.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: x\r\n\r\n";

async fn read_exactly(socket: &mut TcpStream, bytes: usize) -> String {
    let mut read = vec![0; bytes];
    timeout(PATIENCE, socket.read_exact(&mut read))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8(read).unwrap()
}

async fn chat(edge: SocketAddr) {
    let mut socket = TcpStream::connect(edge).await.unwrap();
    socket.write_all(ASK.as_bytes()).await.unwrap();
    let head = timeout(PATIENCE, read_head(&mut socket)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("Sec-WebSocket-Accept: y\r\n"), "{head}");
    assert!(head.contains("Connection: upgrade\r\n"), "{head}");
    assert_eq!(read_exactly(&mut socket, 5).await, "hello");
    for word in ["one", "two", "three"] {
        socket.write_all(word.as_bytes()).await.unwrap();
        assert_eq!(
            read_exactly(&mut socket, 2 * word.len()).await,
            word.repeat(2)
        );
    }
    // One direction ends, the other goes on to its own end.
    socket.shutdown().await.unwrap();
    let mut rest = String::new();
    timeout(PATIENCE, socket.read_to_string(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(rest, "bye");
}

#[tokio::test]
async fn a_protocol_is_changed_by_the_instance() {
    let node = single();
    node.route_api(&[echo().await]);
    chat(node.edge).await;
}

#[tokio::test]
async fn a_protocol_is_changed_across_nodes() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    b.run(&[(2, echo().await)]);
    let routes = Routes::new().service("api", &[(2, 2)]);
    a.table.send_replace(Arc::new(routes.table()));
    chat(a.edge).await;
}

#[tokio::test]
async fn nothing_is_let_through_before_the_protocol_has_changed() {
    let node = single();
    node.route_api(&[echo().await]);
    // The instance refuses; what was sent early is the next request to this edge, and never bytes to the instance.
    let refused = ASK.replace("Connection: Upgrade", "Connection: X");
    let early =
        format!("{refused}GET /admin HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n");
    let answer = say(node.edge, &early).await;
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
    assert!(answer.contains("HTTP/1.1 404"), "{answer}");
    // An instance that changes the protocol unasked has broken its connection.
    let unasked = raw(|mut socket| async move {
        read_head(&mut socket).await;
        let yes = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
        let _ = socket.write_all(yes).await;
    })
    .await;
    node.route_api(&[unasked]);
    let ask = format!("GET / HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n");
    assert!(say(node.edge, &ask).await.starts_with("HTTP/1.1 502"));
}

#[tokio::test]
async fn a_silent_connection_ends_after_a_while() {
    let node = single_with(|limits| limits.upgraded_idle = Duration::from_millis(300));
    node.route_api(&[echo().await]);
    let answer = say(node.edge, ASK).await;
    assert!(answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn hints_are_passed_on_and_the_answer_follows() {
    let node = single();
    let hinting = raw(|mut socket| async move {
        while !read_head(&mut socket).await.is_empty() {
            let hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
            socket.write_all(hint).await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
            socket.write_all(answer).await.unwrap();
        }
    })
    .await;
    node.route_api(&[hinting]);
    let ask = |version| format!("GET / HTTP/{version}\r\nHost: {API}\r\nConnection: close\r\n\r\n");
    let answer = say(node.edge, &ask("1.1")).await;
    assert!(
        answer.starts_with("HTTP/1.1 103 Early Hints\r\nLink: </a.css>"),
        "{answer}"
    );
    assert!(answer.contains("\r\n\r\nHTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(!answer.contains(" 100 "), "{answer}");
    let answer = say(node.edge, &ask("1.0")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn requests_in_one_packet_are_answered_in_their_order() {
    let node = single();
    node.route_api(&[mirror().await]);
    let mut all = String::new();
    for n in 0..10 {
        all.push_str(&format!(
            "POST /{n} HTTP/1.1\r\nHost: {API}\r\nContent-Length: 3\r\n\r\nabc"
        ));
        all.push_str(&format!("POST /{n}c HTTP/1.1\r\nHost: {API}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"));
    }
    all.push_str(&format!(
        "GET /last HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n"
    ));
    let answer = say(node.edge, &all).await;
    assert_eq!(
        answer.matches("HTTP/1.1 200 OK\r\n").count(),
        21,
        "{answer}"
    );
    let mut from = 0;
    for path in (0..10).flat_map(|n| [format!("POST /{n}\n"), format!("POST /{n}c\n")]) {
        from += answer[from..]
            .find(&path)
            .unwrap_or_else(|| panic!("{path} in {answer}"));
    }
    assert!(answer[from..].contains("GET /last\n"), "{answer}");
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_has_ended() {
    let node = single();
    let early = raw(|mut socket| async move {
        read_head(&mut socket).await;
        let no =
            b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
        socket.write_all(no).await.unwrap();
        // Read on, as a server has to whose answer is to arrive.
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
    })
    .await;
    node.route_api(&[early]);
    let mut socket = TcpStream::connect(node.edge).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: {API}\r\nContent-Length: 1000000\r\n\r\nsome");
    socket.write_all(head.as_bytes()).await.unwrap();
    let answer = timeout(PATIENCE, read_head(&mut socket)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("Connection: close"), "{answer}");
    assert_eq!(read_exactly(&mut socket, 2).await, "no");
}

#[tokio::test]
async fn a_body_nobody_wanted_does_not_become_a_request() {
    let node = single();
    node.route_api(&[app(|_| async { text("never") }).await]);
    // The body of a request that the edge answers itself holds a request.
    let inner = format!("GET /inner HTTP/1.1\r\nHost: {API}\r\n\r\n");
    let outer = format!(
        "POST / HTTP/1.1\r\nHost: nobody.test\r\nContent-Length: {}\r\n\r\n{inner}GET / HTTP/1.1\r\nHost: nobody.test\r\nConnection: close\r\n\r\n",
        inner.len()
    );
    let answer = say(node.edge, &outer).await;
    assert_eq!(answer.matches("HTTP/1.1 404").count(), 2, "{answer}");
    assert!(!answer.contains("never"), "{answer}");
}
