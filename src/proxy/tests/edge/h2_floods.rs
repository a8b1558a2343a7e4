//! Clients of HTTP/2 that ask for much and take nothing, and requests that are none, as raw frames.

use crate::common;
use crate::common::apps::{app, mirror, named, raw};
use crate::common::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, PING, RESET, SETTINGS,
    Session, WINDOW_UPDATE, fields, frame, last_goaway, reason, say,
};
use crate::common::{Node, PATIENCE, single, single_with, until};
use h2::Reason;
use http::{Method, StatusCode};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

fn get(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &fields(&GET))
}

/// The flood ends its connection, and no other.
async fn is_calmed(flood: Vec<u8>) {
    let node = single();
    node.route_api(&[named("up").await]);
    calmed(&node, flood).await;
}

async fn calmed(node: &Node, flood: Vec<u8>) {
    let mut other = Session::open(node.edge).await;
    assert_eq!(other.get("/").await.text(), "up");
    let said = say(node.edge, flood).await;
    assert_eq!(last_goaway(&said), Some(ENHANCE_YOUR_CALM), "{said:?}");
    let abuses = || -> u64 {
        let of = |reason| format!("nebula_http2_abuses_total{{reason=\"{reason}\"}}");
        ["resets", "frames", "protocol"]
            .iter()
            .map(|reason| node.metric(&of(reason)))
            .sum()
    };
    until("it is counted", || abuses() == 1).await;
    assert_eq!(other.get("/").await.text(), "up");
    until("nothing of it is left", || {
        node.metric("nebula_http_requests_in_flight{deployment=\"api\"}") == 0
            && node.metric("nebula_http_connections") == 1
    })
    .await;
}

#[tokio::test]
async fn requests_that_are_cancelled_at_once_are_bounded() {
    let mut flood = Vec::new();
    for stream in (1..20_000).step_by(2) {
        flood.extend(get(stream, END_STREAM));
        flood.extend(frame(RESET, 0, stream, &8u32.to_be_bytes()));
    }
    is_calmed(flood).await;
}

#[tokio::test]
async fn requests_that_are_cancelled_one_by_one_are_bounded() {
    let node = single();
    // Nobody answers, so that nothing is earned.
    let silent = raw(|mut socket| async move {
        let _ = socket.read_to_end(&mut Vec::new()).await;
    })
    .await;
    node.route_api(&[silent]);
    let mut session = Session::open(node.edge).await;
    let mut cancelled = 0;
    while cancelled < 10_000 {
        let Ok(sender) = session.sender.clone().ready().await else {
            break;
        };
        session.sender = sender;
        let request = common::http2::request(Method::GET, "/", &[]);
        let Ok((_, mut stream)) = session.sender.send_request(request, true) else {
            break;
        };
        // Each reaches the edge before it is cancelled.
        tokio::task::yield_now().await;
        stream.send_reset(Reason::CANCEL);
        cancelled += 1;
    }
    let error = session.ended().await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    until("nothing of it is left", || {
        node.metric("nebula_http_requests_in_flight{deployment=\"api\"}") == 0
            && node.metric("nebula_http_connections") == 0
    })
    .await;
}

#[tokio::test]
async fn requests_that_are_none_are_bounded() {
    let node = single_with(|limits| limits.http2_resets = 20);
    node.route_api(&[named("up").await]);
    let bad = fields(&[&GET[..], &[("host", "other.test")]].concat());
    let flood: Vec<u8> = (1..200)
        .step_by(2)
        .flat_map(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &bad))
        .collect();
    calmed(&node, flood).await;
}

#[tokio::test]
async fn endless_fields_are_bounded() {
    let mut flood = frame(HEADERS, END_STREAM, 1, &fields(&GET));
    for n in 0..10_000 {
        let field = fields(&[(&format!("x-{n}"), "y")]);
        flood.extend(frame(CONTINUATION, 0, 1, &field));
    }
    is_calmed(flood).await;
}

#[tokio::test]
async fn empty_continuations_are_bounded() {
    let mut flood = frame(HEADERS, END_STREAM, 1, &fields(&GET));
    flood.extend(frame(CONTINUATION, 0, 1, &[]).repeat(10_000));
    is_calmed(flood).await;
}

#[tokio::test]
async fn fields_that_unpack_to_much_are_bounded() {
    // One field of 4,000 bytes that the table keeps, and then its name again and again (one byte each).
    let mut block = fields(&GET);
    block.extend([0x40, 1, b'x', 0x7f]);
    // 127 + 3873, in groups of seven bits.
    block.extend([0xa1, 0x1e]);
    block.extend(vec![b'y'; 4000]);
    block.extend(vec![0xbe; 8000]);
    is_calmed(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
}

#[tokio::test]
async fn frames_that_carry_nothing_are_bounded() {
    let window = 1u32.to_be_bytes();
    for one in [
        frame(SETTINGS, 0, 0, &[]),
        // INITIAL_WINDOW_SIZE.
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]),
        frame(PING, 0, 0, &[7; 8]),
        frame(WINDOW_UPDATE, 0, 0, &window),
        // PRIORITY, and what nobody knows.
        frame(2, 0, 1, &[0, 0, 0, 0, 16]),
        frame(0x42, 0, 0, &[]),
    ] {
        is_calmed(one.repeat(20_000)).await;
    }
}

#[tokio::test]
async fn empty_content_is_bounded() {
    const PADDED: u8 = 8;
    for empty in [frame(DATA, 0, 1, &[]), frame(DATA, PADDED, 1, &[0])] {
        let mut flood = get(1, 0);
        flood.extend(empty.repeat(10_000));
        is_calmed(flood).await;
    }
}

#[tokio::test]
async fn resets_that_the_edge_is_made_to_send_are_bounded() {
    let mut flood = Vec::new();
    for stream in (1..20_000).step_by(2) {
        flood.extend(get(stream, END_STREAM));
        // A window that grows too large is an error of its stream.
        flood.extend(frame(
            WINDOW_UPDATE,
            0,
            stream,
            &(u32::MAX >> 1).to_be_bytes(),
        ));
    }
    is_calmed(flood).await;
}

#[tokio::test]
async fn what_belongs_to_one_connection_is_no_request() {
    let node = single();
    node.route_api(&[mirror().await]);
    for bad in [
        &[("connection", "close")][..],
        &[("transfer-encoding", "chunked")],
        &[("upgrade", "websocket")],
        &[("keep-alive", "1")],
        &[("proxy-connection", "close")],
        &[("te", "gzip")],
        &[("Upper", "case")],
        &[("x", "a\r\nb: c")],
        &[("x", " padded")],
        &[("host", "other.test")],
        &[("content-length", "x")],
        &[("content-length", "3")],
        &[("x", "y"), (":path", "/")],
        &[(":path", "/")],
        &[(":status", "200")],
    ] {
        let block = fields(&[&GET, bad].concat());
        let mut sent = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
        sent.extend(frame(GOAWAY, 0, 0, &[0; 8]));
        let said = say(node.edge, sent).await;
        // What the library cannot even unpack ends the connection (RFC 9113 section 5.4.1 allows it).
        let answer = said
            .iter()
            .find(|frame| matches!(frame.kind, HEADERS | RESET | GOAWAY));
        let answer = answer.map(|answer| (answer.kind != HEADERS, reason(answer)));
        assert_eq!(answer, Some((true, PROTOCOL_ERROR)), "{bad:?}: {said:?}");
    }
    let answered = "nebula_http_request_duration_seconds_count{";
    assert!(!node.metrics.encode().contains(answered));
}

#[tokio::test]
async fn content_is_as_long_as_it_was_said_to_be() {
    let node = single();
    node.route_api(&[app(|request| async move {
        use http_body_util::BodyExt;
        let body = request.into_body().collect().await;
        common::apps::text(if body.is_ok() { "whole" } else { "cut" })
    })
    .await]);
    for (content, end) in [("abcd", 0), ("ab", END_STREAM)] {
        let mut block = fields(&[(":method", "POST")]);
        block.extend(fields(&GET[1..]));
        block.extend(fields(&[("content-length", "3")]));
        let mut sent = frame(HEADERS, END_HEADERS, 1, &block);
        sent.extend(frame(DATA, end, 1, content.as_bytes()));
        sent.extend(frame(GOAWAY, 0, 0, &[0; 8]));
        let said = say(node.edge, sent).await;
        let reset = said.iter().find(|frame| frame.stream == 1).unwrap();
        assert_eq!(
            (reset.kind, reason(reset)),
            (RESET, PROTOCOL_ERROR),
            "{said:?}"
        );
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let node = single_with(|limits| limits.client_stall = std::time::Duration::from_millis(300));
    node.route_api(&[app(|_| async { common::apps::text("x".repeat(1 << 20)) }).await]);
    let mut session = Session::open(node.edge).await;
    let request = common::http2::request(Method::GET, "/", &[]);
    let (response, _) = session.send(request, true).await;
    let response = common::http2::answered(response).await;
    assert_eq!(response.status(), StatusCode::OK);
    // Nothing is released, so that the window stays shut.
    let mut body = response.into_body();
    let cut = loop {
        match timeout(PATIENCE, body.data()).await.unwrap() {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("all of it came"),
        }
    };
    assert_eq!(cut.reason(), Some(Reason::INTERNAL_ERROR));
}

#[tokio::test]
async fn cancelled_requests_that_are_at_work_are_bounded() {
    let node = single_with(|limits| {
        limits.http2_streams = 2;
        limits.ready_wait = PATIENCE;
    });
    // Requests wait for an instance, and do not look up before there is one.
    node.route_api(&[]);
    let mut session = Session::open(node.edge).await;
    let ask = || common::http2::request(Method::GET, "/", &[]);
    for at_work in 1..=4 {
        let (_, mut stream) = session.send(ask(), true).await;
        until("it waits", || {
            node.metric("nebula_http_requests_in_flight{deployment=\"api\"}") == at_work
        })
        .await;
        stream.send_reset(Reason::CANCEL);
    }
    let (response, _) = session.send(ask(), true).await;
    let refused = timeout(PATIENCE, response).await.unwrap().unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::REFUSED_STREAM));
    node.route_api(&[named("up").await]);
    until("they have ended", || {
        node.metric("nebula_http_requests_in_flight{deployment=\"api\"}") == 0
    })
    .await;
    assert_eq!(session.get("/").await.text(), "up");
}

#[tokio::test]
async fn content_in_crumbs_that_nobody_reads_is_bounded() {
    let node = single_with(|limits| limits.ready_wait = PATIENCE);
    node.route_api(&[]);
    let mut flood = get(1, 0);
    flood.extend(frame(DATA, 0, 1, b"x").repeat(10_000));
    let edge = node.edge;
    let flood = tokio::spawn(async move { say(edge, flood).await });
    until("it is counted", || {
        node.metric("nebula_http2_abuses_total{reason=\"protocol\"}") == 1
    })
    .await;
    // The connection is given up when its requests have ended.
    node.route_api(&[named("up").await]);
    let said = flood.await.unwrap();
    assert_eq!(last_goaway(&said), Some(ENHANCE_YOUR_CALM), "{said:?}");
}
