//! Clients of HTTP/3 that ask for much and take nothing are bounded, and others do not notice.

use std::time::Duration;

use crate::common::apps::{named, raw, read_head};
use crate::common::http3::{
    DATA, GET, HEADERS, POST, SETTINGS, connect, ended, frame, frames, greeted, headers, say,
    status,
};
use crate::common::tls::Certificates;
use crate::common::{Node, PATIENCE, until};
use quinn::{Connection, VarInt};
use tokio::time::timeout;

const EXCESSIVE_LOAD: u64 = 0x107;

async fn served() -> (Certificates, Node) {
    let certificates = Certificates::usual();
    let node = certificates.node();
    node.route_api(&[named("up").await]);
    (certificates, node)
}

/// A request that is like all others.
async fn is_served(connection: &Connection) {
    let (mut send, mut receive) = say(connection, &headers(&GET)).await;
    send.finish().unwrap();
    let answer = frames(&mut receive).await.unwrap();
    assert_eq!(status(&answer[0].1), 200);
}

/// Says the same again and again until the edge ends the connection.
async fn flood(node: &Node, connection: &Connection, once: &[u8], cancelled: bool) {
    let flood = async {
        while let Ok((mut send, mut receive)) = connection.open_bi().await {
            if send.write_all(once).await.is_err() {
                break;
            }
            if cancelled {
                let _ = send.reset(VarInt::from_u32(0x10c));
                let _ = receive.stop(VarInt::from_u32(0x10c));
            } else {
                let _ = send.finish();
                let _ = receive.read_to_end(100).await;
            }
        }
    };
    timeout(PATIENCE, flood).await.expect("it goes on");
    assert_eq!(ended(connection).await, EXCESSIVE_LOAD);
    until("it is gone", || node.metric("nebula_http_connections") == 0).await;
}

#[tokio::test]
async fn a_head_without_end_is_not_held() {
    let (certificates, node) = served().await;
    let (connection, _control) = greeted(&certificates, &node).await;
    // Four gigabytes of fields; and a section that is short as it is coded and long as it is counted.
    let endless = [&[1, 0xc0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[0x21; 5000]].concat();
    let repeated = frame(HEADERS, &[&[0, 0][..], &[0xc1; 5000]].concat());
    for said in [endless, repeated] {
        let (_send, mut receive) = say(&connection, &said).await;
        let answer = frames(&mut receive).await.unwrap();
        assert_eq!(status(&answer[0].1), 431);
    }
    is_served(&connection).await;
}

#[tokio::test]
async fn a_client_that_only_begins_is_not_waited_for() {
    let certificates = Certificates::usual();
    let node = certificates.node_with(|config| {
        config.limits.header_read_timeout = Duration::from_millis(300);
    });
    node.route_api(&[named("up").await]);
    let (connection, _control) = greeted(&certificates, &node).await;
    let head = headers(&GET);
    let (_send, mut receive) = say(&connection, &head[..head.len() - 1]).await;
    let answer = frames(&mut receive).await.unwrap();
    assert_eq!(status(&answer[0].1), 408);
}

#[tokio::test]
async fn requests_that_are_taken_back_at_once_are_bounded() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    // Nobody answers.
    let silent = raw(|mut socket| async move { while !read_head(&mut socket).await.is_empty() {} });
    node.route_api(&[silent.await]);
    // Taken back, no request, and nothing at all.
    let kinds = [
        (headers(&GET), true),
        (headers(&GET[1..]), false),
        (Vec::new(), false),
    ];
    for (number, (said, cancelled)) in kinds.into_iter().enumerate() {
        let (connection, _control) = greeted(&certificates, &node).await;
        flood(&node, &connection, &said, cancelled).await;
        let counted = node.metric(r#"nebula_http3_abuses_total{reason="resets"}"#);
        assert_eq!(counted, number as u64 + 1);
    }
    until("no request is under way", || {
        node.metric(r#"nebula_http_requests_in_flight{deployment="api"}"#) == 0
    })
    .await;
}

#[tokio::test]
async fn frames_that_carry_nothing_are_bounded() {
    let (certificates, node) = served().await;
    let mut counted = 0;
    for nothing in [frame(0x21, b""), frame(DATA, b"")] {
        let (connection, _control) = greeted(&certificates, &node).await;
        let said = [headers(&POST), nothing.repeat(2000)].concat();
        let (_send, _receive) = say(&connection, &said).await;
        assert_eq!(ended(&connection).await, EXCESSIVE_LOAD);
        counted += 1;
        let seen = node.metric(r#"nebula_http3_abuses_total{reason="frames"}"#);
        assert_eq!(seen, counted);
    }
    for (kind, nothing) in [
        (0, frame(0xd, &[4])),
        (0, frame(0x21, b"")),
        (3, vec![0x44]),
    ] {
        let connection = connect(&certificates, &node).await;
        let mut stream = connection.open_uni().await.unwrap();
        let begun = if kind == 0 {
            frame(SETTINGS, &[])
        } else {
            Vec::new()
        };
        let said = [vec![kind], begun, nothing.repeat(2000)].concat();
        let _ = stream.write_all(&said).await;
        assert_eq!(ended(&connection).await, EXCESSIVE_LOAD);
    }
    // Streams for nothing.
    let (connection, _control) = greeted(&certificates, &node).await;
    let flood = async {
        while let Ok(mut stream) = connection.open_uni().await {
            if stream.write_all(&[0x21]).await.is_err() {
                break;
            }
        }
    };
    timeout(PATIENCE, flood).await.expect("it goes on");
    assert_eq!(ended(&connection).await, EXCESSIVE_LOAD);
}
