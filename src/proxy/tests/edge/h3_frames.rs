//! What a client of HTTP/3 may say and what not, in frames of its own making.

use std::sync::Arc;

use crate::common::apps::{echo, mirror, named, raw, read_head};
use crate::common::http3::{
    DATA, GET, GOAWAY, HEADERS, HOST, POST, SETTINGS, connect, control, ended, frame, frames,
    greeted, headers, next_frame, say, status, take,
};
use crate::common::tls::Certificates;
use crate::common::{Cluster, Node, PATIENCE, Routes, until};
use quinn::{Connection, ReadError, VarInt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const NO_ERROR: u64 = 0x100;
const STREAM_CREATION_ERROR: u64 = 0x103;
const CLOSED_CRITICAL_STREAM: u64 = 0x104;
const FRAME_UNEXPECTED: u64 = 0x105;
const FRAME_ERROR: u64 = 0x106;
const EXCESSIVE_LOAD: u64 = 0x107;
const ID_ERROR: u64 = 0x108;
const SETTINGS_ERROR: u64 = 0x109;
const MISSING_SETTINGS: u64 = 0x10a;
const REQUEST_REJECTED: u32 = 0x10b;
const REQUEST_INCOMPLETE: u32 = 0x10d;
const MESSAGE_ERROR: u32 = 0x10e;
const DECOMPRESSION_FAILED: u64 = 0x200;
const ENCODER_STREAM_ERROR: u64 = 0x201;
const DECODER_STREAM_ERROR: u64 = 0x202;

async fn served() -> (Certificates, Node) {
    let certificates = Certificates::usual();
    let node = certificates.node();
    node.route_api(&[named("up").await]);
    (certificates, node)
}

/// Says a whole stream, and what comes back by frames.
async fn exchange(connection: &Connection, bytes: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, ReadError> {
    let (mut send, mut receive) = say(connection, bytes).await;
    // One that was stopped is not finished.
    let _ = send.finish();
    frames(&mut receive).await
}

fn reset(code: u32) -> ReadError {
    ReadError::Reset(VarInt::from_u32(code))
}

#[tokio::test]
async fn the_edge_greets_and_ignores_what_it_does_not_know() {
    let (certificates, node) = served().await;
    let connection = connect(&certificates, &node).await;
    let mut greeting = timeout(PATIENCE, connection.accept_uni())
        .await
        .unwrap()
        .unwrap();
    let mut kind = [9];
    greeting.read_exact(&mut kind).await.unwrap();
    assert_eq!(kind, [0]);
    let (kind, settings) = next_frame(&mut greeting).await;
    assert_eq!(kind, SETTINGS);
    let (mut rest, mut seen) = (&settings[..], Vec::new());
    while !rest.is_empty() {
        seen.push((take(&mut rest), take(&mut rest)));
    }
    // A size of field sections, and extended CONNECT; nothing of a dynamic table.
    assert_eq!(seen, [(6, 64 * 1024), (8, 1)]);
    // Settings, frames and streams that nobody knows.
    let unknown = frame(0x21, b"ignored");
    let said = [frame(SETTINGS, &[0x21, 7, 1, 0x50, 0]), unknown.clone()].concat();
    let _control = control(&connection, &said).await;
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&[0x21, 1, 2, 3]).await.unwrap();
    let asked = [&unknown[..], &headers(&GET), &unknown].concat();
    let answer = exchange(&connection, &asked).await.unwrap();
    assert_eq!(answer[0].0, HEADERS);
    assert_eq!(status(&answer[0].1), 200);
    assert_eq!(answer[1], (DATA, b"up".to_vec()));
    // What there is to say of a table that has no room.
    for said in [&[2, 0x20][..], &[3, 0x44, 0x7f, 0x81, 0x01]] {
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(said).await.unwrap();
        assert!(exchange(&connection, &headers(&GET)).await.is_ok());
        std::mem::forget(stream);
    }
}

#[tokio::test]
async fn a_request_is_one_or_its_stream_is_reset() {
    let (certificates, node) = served().await;
    let (connection, _control) = greeted(&certificates, &node).await;
    let with = |more: &[(&str, &str)]| headers(&[&GET[..], more].concat());
    let post = |length: &str, content: &[u8]| {
        let head = headers(&[&POST[..], &[("content-length", length)]].concat());
        [head, frame(DATA, content)].concat()
    };
    let mut host = GET.to_vec();
    host[2] = ("host", HOST);
    host.swap(2, 3);
    for (said, expected) in [
        (with(&[]), Ok(200)),
        (headers(&host), Ok(200)),
        (post("3", b"abc"), Ok(200)),
        // RFC 9114 sections 4.1.2, 4.2, 4.3 and 4.3.1.
        (with(&[(":path", "/")]), Err(MESSAGE_ERROR)),
        (with(&[("x", "y"), (":path", "/")]), Err(MESSAGE_ERROR)),
        (with(&[(":status", "200")]), Err(MESSAGE_ERROR)),
        (with(&[("Upper", "x")]), Err(MESSAGE_ERROR)),
        (with(&[("te", "gzip")]), Err(MESSAGE_ERROR)),
        (with(&[("connection", "close")]), Err(MESSAGE_ERROR)),
        (
            with(&[("transfer-encoding", "chunked")]),
            Err(MESSAGE_ERROR),
        ),
        (with(&[("host", "other.example.test")]), Err(MESSAGE_ERROR)),
        (with(&[("content-length", "3")]), Err(MESSAGE_ERROR)),
        (with(&[("x", "a\nb")]), Err(MESSAGE_ERROR)),
        (with(&[("x", " a")]), Err(MESSAGE_ERROR)),
        (headers(&GET[..3]), Err(MESSAGE_ERROR)),
        (headers(&GET[1..]), Err(MESSAGE_ERROR)),
        (post("2", b"abc"), Err(MESSAGE_ERROR)),
        (post("4", b"abc"), Err(MESSAGE_ERROR)),
        (post("+3", b"abc"), Err(MESSAGE_ERROR)),
        (Vec::new(), Err(REQUEST_INCOMPLETE)),
        (frame(0x21, b"nothing"), Err(REQUEST_INCOMPLETE)),
    ] {
        let answer = exchange(&connection, &said).await;
        match expected {
            Ok(expected) => assert_eq!(status(&answer.unwrap()[0].1), expected, "{said:?}"),
            Err(code) => assert_eq!(answer, Err(reset(code)), "{said:?}"),
        }
    }
    assert!(exchange(&connection, &with(&[])).await.is_ok());
}

#[tokio::test]
async fn a_stream_that_breaks_the_rules_ends_its_connection() {
    let (certificates, node) = served().await;
    let get = headers(&GET);
    let after = |more: Vec<u8>| [get.clone(), more].concat();
    let trailers = headers(&[("x-sum", "1")]);
    for (said, code) in [
        // RFC 9114 sections 4.1, 7.1 and 7.2.
        (frame(DATA, b"abc"), FRAME_UNEXPECTED),
        (frame(DATA, b""), FRAME_UNEXPECTED),
        (frame(SETTINGS, b""), FRAME_UNEXPECTED),
        (after(frame(GOAWAY, &[0])), FRAME_UNEXPECTED),
        (after(frame(2, b"")), FRAME_UNEXPECTED),
        (after(frame(3, &[0])), FRAME_UNEXPECTED),
        (after(frame(5, &[0])), FRAME_UNEXPECTED),
        (after(frame(9, b"")), FRAME_UNEXPECTED),
        (after(frame(0xd, &[0])), FRAME_UNEXPECTED),
        (
            after([&trailers[..], &frame(DATA, b"abc")].concat()),
            FRAME_UNEXPECTED,
        ),
        (after([&trailers[..], &trailers].concat()), FRAME_UNEXPECTED),
        (after(frame(DATA, b"abc")[..3].to_vec()), FRAME_ERROR),
        (after(vec![0]), FRAME_ERROR),
        (get[..get.len() - 1].to_vec(), FRAME_ERROR),
        // RFC 9204 section 2.2.
        (frame(HEADERS, &[0, 0, 0x80]), DECOMPRESSION_FAILED),
        (frame(HEADERS, &[1, 0, 0xc1]), DECOMPRESSION_FAILED),
        (frame(HEADERS, b""), DECOMPRESSION_FAILED),
        (
            after(frame(HEADERS, &[0, 0, 0xff, 0x7f])),
            DECOMPRESSION_FAILED,
        ),
    ] {
        let (connection, _control) = greeted(&certificates, &node).await;
        let (mut send, _receive) = say(&connection, &said).await;
        let _ = send.finish();
        assert_eq!(ended(&connection).await, code, "{said:?}");
    }
}

#[tokio::test]
async fn a_control_stream_that_breaks_the_rules_ends_its_connection() {
    let (certificates, node) = served().await;
    let settings = frame(SETTINGS, &[]);
    let after = |more: Vec<u8>| [settings.clone(), more].concat();
    for (kind, said, code) in [
        // RFC 9114 sections 6.2 and 7.2.
        (0, frame(GOAWAY, &[0]), MISSING_SETTINGS),
        (0, frame(0x21, b""), MISSING_SETTINGS),
        (0, after(settings.clone()), FRAME_UNEXPECTED),
        (0, after(frame(DATA, b"")), FRAME_UNEXPECTED),
        (0, after(headers(&GET)), FRAME_UNEXPECTED),
        (0, after(frame(6, b"")), FRAME_UNEXPECTED),
        (0, after(frame(3, &[0])), ID_ERROR),
        (
            0,
            after([frame(GOAWAY, &[0]), frame(GOAWAY, &[4])].concat()),
            ID_ERROR,
        ),
        (
            0,
            after([frame(0xd, &[4]), frame(0xd, &[0])].concat()),
            ID_ERROR,
        ),
        (0, after(frame(GOAWAY, &[0, 0])), FRAME_ERROR),
        (0, frame(SETTINGS, &[6, 1, 6, 1]), SETTINGS_ERROR),
        (0, frame(SETTINGS, &[2, 0]), SETTINGS_ERROR),
        (0, frame(SETTINGS, &[8, 2]), SETTINGS_ERROR),
        (0, after(frame(GOAWAY, &[0; 2000])), EXCESSIVE_LOAD),
        (1, Vec::new(), STREAM_CREATION_ERROR),
        (2, vec![0x3f, 1], ENCODER_STREAM_ERROR),
        (3, vec![0x80], DECODER_STREAM_ERROR),
    ] {
        let connection = connect(&certificates, &node).await;
        let mut stream = connection.open_uni().await.unwrap();
        stream
            .write_all(&[&[kind], &said[..]].concat())
            .await
            .unwrap();
        assert_eq!(ended(&connection).await, code, "{kind} {said:?}");
    }
    // Each is there once, and as long as the connection.
    for again in [true, false] {
        let (connection, mut first) = greeted(&certificates, &node).await;
        let code = match again {
            true => {
                control(&connection, &settings).await;
                STREAM_CREATION_ERROR
            }
            false => {
                first.finish().unwrap();
                CLOSED_CRITICAL_STREAM
            }
        };
        assert_eq!(ended(&connection).await, code);
    }
}

#[tokio::test]
async fn what_is_said_before_an_answer_is_passed_on() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    let address = raw(|mut socket| async move {
        read_head(&mut socket).await;
        let answer = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n\
                       HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
        socket.write_all(answer).await.unwrap();
    })
    .await;
    node.route_api(&[address]);
    let (connection, _control) = greeted(&certificates, &node).await;
    let answer = exchange(&connection, &headers(&GET)).await.unwrap();
    let sections: Vec<_> = answer
        .iter()
        .filter(|(kind, _)| *kind == HEADERS)
        .map(|(_, section)| status(section))
        .collect();
    assert_eq!(sections, [103, 200]);
    assert_eq!(answer[2], (DATA, b"done".to_vec()));
}

#[tokio::test]
async fn the_end_of_a_request_may_come_by_itself() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    node.route_api(&[mirror().await]);
    let (connection, _control) = greeted(&certificates, &node).await;
    let (mut send, mut receive) = say(&connection, &headers(&GET)).await;
    // Nobody is asked before.
    until("the request is there", || {
        connection.stats().frame_tx.stream > 1
    })
    .await;
    send.finish().unwrap();
    let answer = frames(&mut receive).await.unwrap();
    let seen = String::from_utf8(answer[1].1.clone()).unwrap();
    assert!(!seen.contains("transfer-encoding"), "{seen}");
}

const CHAT: [(&str, &str); 6] = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "https"),
    (":authority", HOST),
    (":path", "/chat"),
    ("sec-websocket-version", "13"),
];

#[tokio::test]
async fn what_a_websockets_client_says_first_is_heard() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    // It says nothing before it has heard something.
    let address = raw(|mut socket| async move {
        read_head(&mut socket).await;
        let yes = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";
        socket.write_all(yes).await.unwrap();
        let mut heard = [0; 4];
        socket.read_exact(&mut heard).await.unwrap();
        socket.write_all(&heard).await.unwrap();
    })
    .await;
    node.route_api(&[address]);
    for at_once in [true, false] {
        let (connection, _control) = greeted(&certificates, &node).await;
        let first = frame(DATA, b"word");
        let said = match at_once {
            true => [headers(&CHAT), first.clone()].concat(),
            false => headers(&CHAT),
        };
        let (mut send, mut receive) = say(&connection, &said).await;
        let (_, section) = next_frame(&mut receive).await;
        assert_eq!(status(&section), 200);
        if !at_once {
            send.write_all(&first).await.unwrap();
        }
        assert_eq!(next_frame(&mut receive).await, (DATA, b"word".to_vec()));
    }
}

async fn chat(connection: &Connection) {
    let (mut send, mut receive) = say(connection, &headers(&CHAT)).await;
    let (kind, section) = next_frame(&mut receive).await;
    assert_eq!((kind, status(&section)), (HEADERS, 200));
    let mut said = Vec::new();
    let mut heard = async |text: &str| {
        while said.len() < text.len() {
            let (kind, data) = next_frame(&mut receive).await;
            assert_eq!(kind, DATA);
            said.extend_from_slice(&data);
        }
        assert_eq!(std::mem::take(&mut said), text.as_bytes());
    };
    heard("hello").await;
    for word in ["one", "two", "three"] {
        send.write_all(&frame(DATA, word.as_bytes())).await.unwrap();
        heard(&word.repeat(2)).await;
    }
    // One direction ends, the other goes on to its own end.
    send.finish().unwrap();
    heard("bye").await;
    assert_eq!(frames(&mut receive).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_websocket_is_opened_on_a_stream() {
    let certificates = Certificates::usual();
    let cluster = Cluster::new();
    let a = cluster.node_with(1, |config| certificates.serve(config));
    let b = cluster.node(2);
    a.route_api(&[echo().await]);
    let (connection, _control) = greeted(&certificates, &a).await;
    chat(&connection).await;
    b.run(&[(2, echo().await)]);
    let routes = Routes::new().service("api", &[(2, 2)]);
    a.table.send_replace(Arc::new(routes.table()));
    chat(&connection).await;
    // No tunnels, and none for protocols that nobody here knows.
    let tunnel = [(":method", "CONNECT"), (":authority", "a.test:443")];
    let mut unknown = CHAT;
    unknown[1].1 = "connect-udp";
    for refused in [&tunnel[..], &unknown] {
        let (_send, mut receive) = say(&connection, &headers(refused)).await;
        let (_, section) = next_frame(&mut receive).await;
        assert_eq!(status(&section), 501);
    }
    // A frame that is no content has no place in one.
    let (mut send, _receive) = say(&connection, &headers(&CHAT)).await;
    send.write_all(&headers(&[("x", "y")])).await.unwrap();
    assert_eq!(ended(&connection).await, FRAME_UNEXPECTED);
}

#[tokio::test]
async fn a_drain_says_which_requests_are_taken() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    let (go, may_go) = watch::channel(false);
    let (asked, mut is_asked) = mpsc::unbounded_channel();
    let address = raw(move |mut socket| {
        let (asked, mut may_go) = (asked.clone(), may_go.clone());
        async move {
            read_head(&mut socket).await;
            asked.send(()).unwrap();
            may_go.wait_for(|go| *go).await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate";
            socket.write_all(answer).await.unwrap();
        }
    })
    .await;
    node.route_api(&[address]);
    let (connection, _control) = greeted(&certificates, &node).await;
    let mut said = connection.accept_uni().await.unwrap();
    said.read_exact(&mut [0]).await.unwrap();
    assert_eq!(next_frame(&mut said).await.0, SETTINGS);
    let (mut send, mut receive) = say(&connection, &headers(&GET)).await;
    send.finish().unwrap();
    is_asked.recv().await.unwrap();
    let drain = tokio::spawn(node.proxy.drain(PATIENCE));
    // First that it will be, and then from which one on (RFC 9114 section 5.2).
    for request in [(1 << 62) - 4, 4] {
        let (kind, payload) = next_frame(&mut said).await;
        assert_eq!((kind, take(&mut &payload[..])), (GOAWAY, request));
    }
    assert_eq!(
        exchange(&connection, &headers(&GET)).await,
        Err(reset(REQUEST_REJECTED))
    );
    go.send_replace(true);
    let answer = frames(&mut receive).await.unwrap();
    assert_eq!(answer[1], (DATA, b"late".to_vec()));
    assert_eq!(ended(&connection).await, NO_ERROR);
    drain.await.unwrap();
}
