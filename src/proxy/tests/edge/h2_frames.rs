//! Frames that break the rules of RFC 9113, section by section, and what the edge says to them.

use crate::common::apps::named;
use crate::common::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GET, GOAWAY, HEADERS, PING, RESET,
    SETTINGS, WINDOW_UPDATE, fields, frame, reason, say,
};
use crate::common::single;

const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;
const COMPRESSION: u32 = 9;

const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;
const PADDED: u8 = 8;
const ACK: u8 = 1;

fn get(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &fields(&GET))
}

fn setting(id: u8, value: u32) -> Vec<u8> {
    let payload = [&[0, id][..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &payload)
}

fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

/// What the edge says first of an error, of a stream or of the connection.
fn error(said: &[Frame]) -> Option<u32> {
    said.iter()
        .filter(|frame| matches!(frame.kind, RESET | GOAWAY))
        .map(reason)
        .find(|reason| *reason != 0)
}

/// Every sequence breaks a rule of the section that it stands under, and is answered with one of the codes.
async fn broken(cases: &[(&str, Vec<u8>, &[u32])]) {
    let node = single();
    node.route_api(&[named("up").await]);
    for (rule, bytes, codes) in cases {
        // So that the connection ends also where only a stream was in error.
        let bytes = [&bytes[..], &frame(GOAWAY, 0, 0, &[0; 8])].concat();
        let said = say(node.edge, bytes).await;
        let error = error(&said);
        assert!(
            error.is_some_and(|code| codes.contains(&code)),
            "{rule}: {error:?} {said:?}"
        );
    }
}

#[tokio::test]
async fn frames_and_streams() {
    broken(&[
        (
            "4.2: larger than was allowed",
            frame(DATA, 0, 1, &[0; 16_385]),
            &[FRAME_SIZE],
        ),
        (
            "4.2: HEADERS larger than was allowed",
            frame(HEADERS, 5, 1, &[0; 16_385]),
            &[FRAME_SIZE],
        ),
        (
            "4.3: no HPACK",
            frame(HEADERS, 5, 1, &[0xff; 8]),
            &[COMPRESSION],
        ),
        (
            "5.1: DATA before HEADERS",
            frame(DATA, END_STREAM, 1, b"x"),
            &[PROTOCOL],
        ),
        (
            "5.1: RST_STREAM before HEADERS",
            frame(RESET, 0, 1, &[0; 4]),
            &[PROTOCOL],
        ),
        (
            "5.1: WINDOW_UPDATE before HEADERS",
            window(1, 1),
            &[PROTOCOL],
        ),
        (
            "5.1: DATA after the end",
            [get(1, END_STREAM), frame(DATA, 0, 1, b"x")].concat(),
            &[STREAM_CLOSED],
        ),
        (
            "5.1: HEADERS after the end",
            [get(1, END_STREAM), get(1, END_STREAM)].concat(),
            &[STREAM_CLOSED],
        ),
        (
            "5.1: DATA behind the client's own reset",
            [
                get(1, 0),
                frame(RESET, 0, 1, &8u32.to_be_bytes()),
                frame(DATA, 0, 1, b"x"),
            ]
            .concat(),
            &[STREAM_CLOSED],
        ),
        ("5.1.1: a server's stream", get(2, END_STREAM), &[PROTOCOL]),
        (
            "5.1.1: a stream that was left out",
            [get(5, END_STREAM), get(3, END_STREAM)].concat(),
            &[PROTOCOL],
        ),
        (
            "5.1: CONTINUATION after the end",
            [
                get(1, END_STREAM),
                frame(CONTINUATION, END_HEADERS, 1, &fields(&GET)),
            ]
            .concat(),
            &[PROTOCOL],
        ),
        (
            "5.3.1: HEADERS of a stream that waits for itself",
            frame(
                HEADERS,
                0x25,
                1,
                &[&[0, 0, 0, 1, 0], &fields(&GET)[..]].concat(),
            ),
            &[PROTOCOL],
        ),
        (
            "5.3.1: a stream that waits for itself",
            [get(1, 0), frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0])].concat(),
            &[PROTOCOL],
        ),
    ])
    .await;
}

#[tokio::test]
async fn more_streams_than_were_allowed() {
    let node = single();
    // They wait for an instance for a while.
    node.route_api(&[]);
    let all: Vec<u8> = (1..600)
        .step_by(2)
        .flat_map(|stream| get(stream, END_STREAM))
        .collect();
    let said = say(node.edge, [all, frame(GOAWAY, 0, 0, &[0; 8])].concat()).await;
    let refused = said.iter().filter(|frame| frame.kind == RESET);
    // RFC 9113 section 5.1.2.
    assert_eq!(
        refused.map(reason).collect::<Vec<_>>(),
        vec![REFUSED; 300 - 128]
    );
    assert_eq!(
        said.iter().filter(|frame| frame.kind == HEADERS).count(),
        128
    );
}

#[tokio::test]
async fn kinds_of_frames() {
    broken(&[
        (
            "6.1: DATA of no stream",
            frame(DATA, 0, 0, b"x"),
            &[PROTOCOL],
        ),
        (
            "6.1: more padding than payload",
            [get(1, 0), frame(DATA, PADDED, 1, &[9, 0])].concat(),
            &[PROTOCOL],
        ),
        ("6.2: HEADERS of no stream", get(0, END_STREAM), &[PROTOCOL]),
        (
            "6.2: more padding than payload",
            frame(HEADERS, 4 | PADDED, 1, &[9, 0]),
            &[PROTOCOL],
        ),
        (
            "6.3: PRIORITY of no stream",
            frame(PRIORITY, 0, 0, &[0; 5]),
            &[PROTOCOL],
        ),
        (
            "6.3: a PRIORITY of four bytes",
            [get(1, 0), frame(PRIORITY, 0, 1, &[0; 4])].concat(),
            &[FRAME_SIZE],
        ),
        (
            "6.4: RST_STREAM of no stream",
            frame(RESET, 0, 0, &[0; 4]),
            &[PROTOCOL],
        ),
        (
            "6.4: a RST_STREAM of three bytes",
            [get(1, 0), frame(RESET, 0, 1, &[0; 3])].concat(),
            &[FRAME_SIZE],
        ),
        (
            "6.5: SETTINGS of a stream",
            frame(SETTINGS, 0, 1, &[]),
            &[PROTOCOL],
        ),
        (
            "6.5: an acknowledgement with settings",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            &[FRAME_SIZE],
        ),
        (
            "6.5: a setting of three bytes",
            frame(SETTINGS, 0, 0, &[0; 3]),
            &[FRAME_SIZE],
        ),
        ("6.5.2: ENABLE_PUSH", setting(2, 2), &[PROTOCOL]),
        (
            "6.5.2: INITIAL_WINDOW_SIZE",
            setting(4, 1 << 31),
            &[FLOW_CONTROL],
        ),
        (
            "6.5.2: MAX_FRAME_SIZE, too small",
            setting(5, 16_383),
            &[PROTOCOL],
        ),
        (
            "6.5.2: MAX_FRAME_SIZE, too large",
            setting(5, 1 << 24),
            &[PROTOCOL],
        ),
        (
            "6.6: a client's promise",
            frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]),
            &[PROTOCOL],
        ),
        (
            "6.7: PING of a stream",
            frame(PING, 0, 1, &[0; 8]),
            &[PROTOCOL],
        ),
        (
            "6.7: a PING of seven bytes",
            frame(PING, 0, 0, &[0; 7]),
            &[FRAME_SIZE],
        ),
        (
            "6.8: GOAWAY of a stream",
            frame(GOAWAY, 0, 1, &[0; 8]),
            &[PROTOCOL],
        ),
        ("6.9: nothing more", window(0, 0), &[PROTOCOL]),
        (
            "6.9: nothing more of a stream",
            [get(1, 0), window(1, 0)].concat(),
            &[PROTOCOL],
        ),
        (
            "6.9: a WINDOW_UPDATE of three bytes",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            &[FRAME_SIZE],
        ),
        ("6.9.1: too much", window(0, u32::MAX >> 1), &[FLOW_CONTROL]),
        (
            "6.9.1: too much of a stream",
            [get(1, 0), window(1, u32::MAX >> 1)].concat(),
            &[FLOW_CONTROL],
        ),
        (
            "6.10: CONTINUATION of nothing",
            frame(CONTINUATION, END_HEADERS, 1, &[]),
            &[PROTOCOL],
        ),
        (
            "6.10: something else in between",
            [
                frame(HEADERS, 0, 1, &fields(&GET)),
                frame(PING, 0, 0, &[0; 8]),
            ]
            .concat(),
            &[PROTOCOL],
        ),
        (
            "6.10: a priority in between",
            [
                frame(HEADERS, 0, 1, &fields(&GET)),
                frame(PRIORITY, 0, 1, &[0; 5]),
            ]
            .concat(),
            &[PROTOCOL],
        ),
        (
            "6.10: HEADERS of another stream in between",
            [frame(HEADERS, 0, 1, &fields(&GET)), get(3, END_STREAM)].concat(),
            &[PROTOCOL],
        ),
        (
            "5.5: an unknown kind in between",
            [
                frame(HEADERS, 0, 1, &fields(&GET)),
                frame(0x7f, 0, 0, &[0; 8]),
            ]
            .concat(),
            &[PROTOCOL],
        ),
        (
            "6.10: of no stream",
            [
                frame(HEADERS, 0, 1, &fields(&GET)),
                frame(CONTINUATION, END_HEADERS, 0, &[]),
            ]
            .concat(),
            &[PROTOCOL],
        ),
        (
            "6.10: after the last",
            [
                frame(HEADERS, 0, 1, &fields(&GET)),
                frame(CONTINUATION, END_HEADERS, 1, &[]),
                frame(CONTINUATION, END_HEADERS, 1, &[]),
            ]
            .concat(),
            &[PROTOCOL],
        ),
        (
            "6.10: behind DATA",
            [
                get(1, 0),
                frame(DATA, 0, 1, b"x"),
                frame(CONTINUATION, END_HEADERS, 1, &[]),
            ]
            .concat(),
            &[PROTOCOL],
        ),
        (
            "6.10: of another stream",
            [
                frame(HEADERS, 0, 1, &fields(&GET)),
                frame(CONTINUATION, END_HEADERS, 3, &[]),
            ]
            .concat(),
            &[PROTOCOL],
        ),
    ])
    .await;
}

#[tokio::test]
async fn messages() {
    let head = |list: &[(&str, &str)]| frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(list));
    let trailers = |flags, list: &[(&str, &str)]| {
        [
            get(1, 0),
            frame(HEADERS, END_HEADERS | flags, 1, &fields(list)),
        ]
        .concat()
    };
    broken(&[
        (
            "8.1: trailers without an end",
            trailers(0, &[("x", "y")]),
            &[PROTOCOL],
        ),
        (
            "8.1: pseudo-fields in trailers",
            trailers(END_STREAM, &[(":path", "/")]),
            &[PROTOCOL],
        ),
        (
            "8.3: one that nobody knows",
            head(&[&GET[..], &[(":test", "x")]].concat()),
            &[PROTOCOL],
        ),
        (
            "8.3: one of answers",
            head(&[&GET[..], &[(":status", "200")]].concat()),
            &[PROTOCOL],
        ),
        (
            "8.3: one behind a field",
            head(&[&GET[..3], &[("x", "y"), GET[3]]].concat()),
            &[PROTOCOL],
        ),
        (
            "8.3.1: two methods",
            head(&[&GET[..], &GET[..1]].concat()),
            &[PROTOCOL],
        ),
        (
            "8.3.1: two schemes",
            head(&[&GET[..], &GET[1..2]].concat()),
            &[PROTOCOL],
        ),
        (
            "8.3.1: two paths",
            head(&[&GET[..], &GET[3..]].concat()),
            &[PROTOCOL],
        ),
        (
            "8.3.1: an empty scheme",
            head(&[&GET[..1], &[(":scheme", "")], &GET[2..]].concat()),
            &[PROTOCOL],
        ),
        (
            "8.2: a name in upper case",
            head(&[&GET[..], &[("X", "y")]].concat()),
            &[PROTOCOL],
        ),
        ("8.3.1: no method", head(&GET[1..]), &[PROTOCOL]),
        (
            "8.3.1: no scheme",
            head(&[GET[0], GET[2], GET[3]]),
            &[PROTOCOL],
        ),
        ("8.3.1: no path", head(&GET[..3]), &[PROTOCOL]),
        (
            "8.3.1: an empty path",
            head(&[&GET[..3], &[(":path", "")]].concat()),
            &[PROTOCOL],
        ),
        (
            "8.3.1: a path with a fragment",
            head(&[&GET[..3], &[(":path", "/a#b")]].concat()),
            &[PROTOCOL],
        ),
        (
            "8.5: CONNECT with a path",
            head(&[&[(":method", "CONNECT")], &GET[1..]].concat()),
            &[PROTOCOL],
        ),
    ])
    .await;
}
