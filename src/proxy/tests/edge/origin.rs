//! Who the client is, behind load balancers and other proxies.

use std::time::Duration;

use crate::common::apps::{mirror, read_head};
use crate::common::client::{get_with, say};
use crate::common::tls::Certificates;
use crate::common::{Cluster, Node, PATIENCE, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const API: &str = "api.example.test";
const ASK: &str = "GET / HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n";
const LINE: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";

fn block(command: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend_from_slice(&[command, 0x11, 0, 12]);
    header.extend_from_slice(&[192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb]);
    header
}

async fn behind(balancers: &str) -> Node {
    let node = Cluster::new().node_with(1, |config| {
        config.proxy_protocol_from = vec![balancers.parse().unwrap()];
        config.limits.proxy_header_wait = Duration::from_millis(200);
    });
    node.route_api(&[mirror().await]);
    node
}

/// What comes back for these bytes, sent with a pause after `first` of them.
async fn send(node: &Node, bytes: &[u8], first: usize) -> String {
    let mut socket = TcpStream::connect(node.edge).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (first, rest) = bytes.split_at(first);
    for part in [first, rest] {
        // It may be closed already.
        let _ = socket.write_all(part).await;
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
    let _ = ended.expect("the edge keeps the connection open");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_balancer_tells_whom_it_speaks_for() {
    let node = behind("127.0.0.0/8").await;
    let line = LINE.as_bytes().to_vec();
    let unknown = b"PROXY UNKNOWN\r\n".to_vec();
    for (header, client) in [
        (line, "192.0.2.7"),
        (block(0x21), "192.0.2.7"),
        (block(0x20), "127.0.0.1"),
        (unknown, "127.0.0.1"),
    ] {
        let mut bytes = header.clone();
        bytes.extend_from_slice(ASK.as_bytes());
        for first in [0, 1, 7, header.len(), header.len() + 3] {
            let answer = send(&node, &bytes, first).await;
            let field = format!("\nx-forwarded-for: {client}\n");
            assert!(answer.contains(&field), "{first}: {answer}");
        }
    }
    assert_eq!(node.metric("nebula_edge_proxy_headers_refused_total"), 0);
}

#[tokio::test]
async fn a_balancer_without_a_header_is_refused() {
    let node = behind("127.0.0.0/8").await;
    let unix = [&block(0x21)[..13], &[0x31, 0, 216], &[0; 216][..]].concat();
    let late = &LINE.as_bytes()[..20];
    for bytes in [ASK.as_bytes(), b"PROXY TCP4 x\r\n", &unix, late, b""] {
        let answer = send(&node, bytes, bytes.len()).await;
        assert_eq!(answer, "", "{}", bytes.escape_ascii());
    }
    until("they are counted", || {
        node.metric("nebula_edge_proxy_headers_refused_total") == 5
    })
    .await;
}

#[tokio::test]
async fn a_header_of_anybody_else_is_not_one() {
    let node = behind("10.0.0.0/8").await;
    let answer = say(node.edge, &format!("{LINE}{ASK}")).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(!answer.contains("192.0.2.7"), "{answer}");
    let answer = say(node.edge, ASK).await;
    assert!(
        answer.contains("\nx-forwarded-for: 127.0.0.1\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let certificates = Certificates::usual();
    let node = certificates.node_with(|config| {
        config.proxy_protocol_from = vec!["127.0.0.1".parse().unwrap()];
    });
    node.route_api(&[mirror().await]);
    for header in [LINE.as_bytes().to_vec(), block(0x21)] {
        let mut socket = TcpStream::connect(node.tls.unwrap()).await.unwrap();
        socket.write_all(&header).await.unwrap();
        let mut stream = certificates.caller().upgrade(socket, API).await.unwrap();
        stream.write_all(ASK.as_bytes()).await.unwrap();
        let head = timeout(PATIENCE, read_head(&mut stream)).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let mut body = String::new();
        stream.read_to_string(&mut body).await.unwrap();
        assert!(body.contains("x-forwarded-for: 192.0.2.7\n"), "{body}");
        assert!(body.contains("x-real-ip: 192.0.2.7\n"), "{body}");
        assert!(body.contains("x-forwarded-proto: https\n"), "{body}");
    }
}

const SAID: [(&str, &str); 5] = [
    ("x-forwarded-for", "6.6.6.6, 192.0.2.7"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "www.example.test"),
    ("x-real-ip", "6.6.6.6"),
    ("forwarded", "for=192.0.2.7;proto=https"),
];

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let certificates = Certificates::usual();
    let node = certificates.node_with(|config| {
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    });
    node.route_api(&[mirror().await]);
    // It came over TLS as far as the proxy says, so that it is not sent there.
    let answer = get_with(node.edge, API, "/", &SAID).await;
    let text = format!("{}\n", answer.text());
    for line in [
        "x-forwarded-for: 6.6.6.6, 192.0.2.7, 127.0.0.1\n",
        "x-real-ip: 192.0.2.7\n",
        "x-forwarded-proto: https\n",
        "x-forwarded-host: www.example.test\n",
        "forwarded: for=192.0.2.7;proto=https, for=127.0.0.1;proto=http;host=\"api.example.test\"\n",
        "host: api.example.test\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let answer = get_with(node.edge, API, "/", &[]).await;
    assert_eq!(answer.status, 301);
}

#[tokio::test]
async fn nobody_else_is() {
    let node = Cluster::new().node_with(1, |config| {
        config.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
    });
    node.route_api(&[mirror().await]);
    let text = get_with(node.edge, API, "/", &SAID).await;
    let text = format!("{}\n", text.text());
    for forged in ["6.6.6.6", "192.0.2.7", "https", "www."] {
        assert!(!text.contains(forged), "{forged}: {text}");
    }
    assert!(text.contains("x-forwarded-for: 127.0.0.1\n"), "{text}");
}
