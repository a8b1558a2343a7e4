//! Clients that are slow on purpose, and those that come too often at once.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::common::apps::{mirror, raw};
use crate::common::client::get;
use crate::common::{Node, PATIENCE, Routes, single_with, until};
use http::StatusCode;
use nebula_domain::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

const API: &str = "api.example.test";

/// A connection that takes little before it is read.
async fn narrow(edge: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(edge).await.unwrap()
}

fn with_site(node: &Node) {
    let site = Digest([7; 32]);
    node.unpack(site, &[("large.bin", &vec![1; 30_000_000])]);
    let routes = Routes::new().site("docs", site, false, &[(1, 1)]);
    node.table.send_replace(Arc::new(routes.table()));
}

#[tokio::test]
async fn a_body_that_only_trickles_is_not_waited_for() {
    let node = single_with(|limits| {
        limits.client_stall = Duration::from_millis(300);
        limits.client_rate = 1_000_000;
    });
    // It answers when it has the body, as most do.
    let patient = raw(|mut socket| async move {
        let mut read = [0; 1000];
        while socket.read(&mut read).await.is_ok_and(|bytes| bytes > 0) {}
    });
    node.route_api(&[patient.await]);
    let socket = TcpStream::connect(node.edge).await.unwrap();
    let (mut read, mut write) = socket.into_split();
    let head = format!("POST / HTTP/1.1\r\nHost: {API}\r\nContent-Length: 100000\r\n\r\n");
    write.write_all(head.as_bytes()).await.unwrap();
    let trickle = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut said = vec![0; 1000];
    let bytes = timeout(PATIENCE, read.read(&mut said)).await;
    let bytes = bytes.expect("it is waited for").unwrap();
    let said = String::from_utf8_lossy(&said[..bytes]).into_owned();
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    drop(read);
    trickle.await.unwrap();
}

#[tokio::test]
async fn a_client_that_takes_nothing_leaves_nothing_behind() {
    let node = single_with(|limits| limits.client_stall = Duration::from_millis(300));
    with_site(&node);
    let mut socket = narrow(node.edge).await;
    let ask = b"GET /large.bin HTTP/1.1\r\nHost: docs.example.test\r\n\r\n";
    socket.write_all(ask).await.unwrap();
    until("it is let go", || {
        node.metric("nebula_http_requests_total{deployment=\"docs\",code=\"2xx\"}") == 1
            && node.metric("nebula_http_connections") == 0
    })
    .await;
    // A reset, so that the kernel does not keep for it what it never took.
    let mut taken = vec![0; 1 << 20];
    let ended = loop {
        match timeout(PATIENCE, socket.read(&mut taken)).await.unwrap() {
            Ok(0) => break None,
            Ok(_) => {}
            Err(error) => break Some(error.kind()),
        }
    };
    assert_eq!(ended, Some(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_no_more() {
    let node = single_with(|limits| limits.connections_per_address = 2);
    node.route_api(&[mirror().await]);
    let open = async || {
        let mut socket = TcpStream::connect(node.edge).await.unwrap();
        let ask = format!("GET / HTTP/1.1\r\nHost: {API}\r\n\r\n");
        // It may have been closed by then.
        let _ = socket.write_all(ask.as_bytes()).await;
        let mut first = [0];
        let answered = matches!(socket.read(&mut first).await, Ok(1));
        answered.then_some(socket)
    };
    let one = open().await.unwrap();
    let two = open().await.unwrap();
    assert!(open().await.is_none());
    assert_eq!(node.metric("nebula_edge_connections_refused_total"), 1);
    drop((one, two));
    until("they are gone", || {
        node.metric("nebula_http_connections") == 0
    })
    .await;
    assert_eq!(get(node.edge, API, "/").await.status, StatusCode::OK);
}
