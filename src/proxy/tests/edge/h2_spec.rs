//! Frames that are right however unusual they look, and field blocks that are wrong: the cases of h2spec (its generic, HPACK and
//! section 4 to 8 lists) that `h2_frames.rs` does not have.

use crate::common::apps::{app, mirror, named, text};
use crate::common::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GET, GOAWAY, HEADERS, PING, RESET,
    SETTINGS, WINDOW_UPDATE, fields, frame, last_goaway, reason, say,
};
use crate::common::single;
use http_body_util::BodyExt;

const PRIORITY: u8 = 2;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 32;
const ACK: u8 = 1;
const COMPRESSION: u32 = 9;
const PROTOCOL: u32 = 1;
/// The request behind each case, on a stream of its own.
const LAST: u32 = 101;
/// `:status: 200` of the static table (RFC 7541 appendix A).
const STATUS_200: u8 = 0x88;

fn get(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &fields(&GET))
}

fn post(stream: u32) -> Vec<u8> {
    let list = [&[(":method", "POST")], &GET[1..]].concat();
    frame(HEADERS, END_HEADERS, stream, &fields(&list))
}

fn farewell() -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[0; 8])
}

fn priority(of: u32, on: u32, weight: u8) -> Vec<u8> {
    let payload = [&on.to_be_bytes()[..], &[weight]].concat();
    frame(PRIORITY, 0, of, &payload)
}

fn answers_of(said: &[Frame], stream: u32) -> usize {
    let good = |f: &&Frame| f.kind == HEADERS && f.stream == stream && f.payload[0] == STATUS_200;
    said.iter().filter(good).count()
}

/// Each is taken without complaint, and requests go on behind it. The streams that are named are answered.
async fn taken(cases: &[(&str, Vec<u8>, &[u32])]) {
    let node = single();
    // Answers when it has the whole request, so that no answer comes before what a case says last.
    let whole = app(|request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        text(format!("{} bytes", body.len()))
    });
    node.route_api(&[whole.await]);
    for (rule, bytes, streams) in cases {
        let said = say(
            node.edge,
            [&bytes[..], &get(LAST, END_STREAM), &farewell()].concat(),
        )
        .await;
        for stream in streams.iter().chain(&[LAST]) {
            assert_eq!(answers_of(&said, *stream), 1, "{rule}: {stream} {said:?}");
        }
        let errors = said
            .iter()
            .filter(|f| matches!(f.kind, RESET | GOAWAY) && reason(f) != 0);
        assert_eq!(errors.count(), 0, "{rule}: {said:?}");
    }
}

#[tokio::test]
async fn frames_that_are_unusual() {
    let block = fields(&GET);
    let padded = |payload: &[u8]| [&[3][..], payload, &[0; 3]].concat();
    let preferring = |on: u32, weight: u8| [&on.to_be_bytes()[..], &[weight], &block[..]].concat();
    taken(&[
        ("PRIORITY of an idle stream", priority(1, 0, 0), &[]),
        (
            "PRIORITY of a stream whose request has ended, or whose answer has",
            [get(1, END_STREAM), priority(1, 0, 255)].concat(),
            &[1],
        ),
        (
            "PRIORITY of a later stream, then an earlier one",
            [priority(7, 5, 15), get(3, END_STREAM)].concat(),
            &[3],
        ),
        (
            "PRIORITY, exclusive",
            [get(1, END_STREAM), priority(3, 1 | 1 << 31, 15)].concat(),
            &[1],
        ),
        (
            "WINDOW_UPDATE of a stream whose request has ended",
            [
                get(1, END_STREAM),
                frame(WINDOW_UPDATE, 0, 1, &100u32.to_be_bytes()),
            ]
            .concat(),
            &[1],
        ),
        (
            "WINDOW_UPDATE of the connection",
            frame(WINDOW_UPDATE, 0, 0, &100u32.to_be_bytes()),
            &[],
        ),
        (
            "RST_STREAM of a stream whose request has ended",
            [get(1, END_STREAM), frame(RESET, 0, 1, &8u32.to_be_bytes())].concat(),
            &[],
        ),
        (
            "7: RST_STREAM for an unknown reason",
            [get(1, 0), frame(RESET, 0, 1, &0xffu32.to_be_bytes())].concat(),
            &[],
        ),
        (
            "DATA, three times and padded",
            [
                post(1),
                frame(DATA, 0, 1, b"a"),
                frame(DATA, PADDED, 1, &padded(b"b")),
                frame(DATA, END_STREAM, 1, b"c"),
            ]
            .concat(),
            &[1],
        ),
        (
            "4.2: DATA as large as may be",
            [post(1), frame(DATA, END_STREAM, 1, &[0; 16_384])].concat(),
            &[1],
        ),
        (
            "HEADERS, padded",
            frame(HEADERS, 5 | PADDED, 1, &padded(&block)),
            &[1],
        ),
        (
            "HEADERS with a priority",
            frame(HEADERS, 5 | WITH_PRIORITY, 1, &preferring(0, 15)),
            &[1],
        ),
        (
            "6.10: CONTINUATION, twice",
            [
                frame(HEADERS, END_STREAM, 1, &block[..5]),
                frame(CONTINUATION, 0, 1, &block[5..20]),
                frame(CONTINUATION, END_HEADERS, 1, &block[20..]),
            ]
            .concat(),
            &[1],
        ),
        (
            "trailers",
            [
                post(1),
                frame(DATA, 0, 1, b"a"),
                frame(HEADERS, 5, 1, &fields(&[("x-sum", "1")])),
            ]
            .concat(),
            &[1],
        ),
        (
            "4.1: a frame of an unknown kind",
            frame(0x7f, 0xff, 0, &[0; 8]),
            &[],
        ),
        (
            "4.1: flags that mean nothing",
            frame(PING, 0x16, 0, &[0; 8]),
            &[],
        ),
        (
            "4.1: the reserved bit",
            frame(PING, 0, 1 << 31, &[0; 8]),
            &[],
        ),
        (
            "6.5.2: a setting that nobody knows",
            frame(SETTINGS, 0, 0, &[0, 0xff, 0, 0, 0, 1]),
            &[],
        ),
        (
            "6.7: an answer to a PING that was not sent",
            frame(PING, ACK, 0, b"conforms"),
            &[],
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_is_asked_of_the_edge_is_answered() {
    let node = single();
    node.route_api(&[named("up").await]);
    let bytes = [frame(PING, 0, 0, b"conforms"), farewell()].concat();
    let said = say(node.edge, bytes).await;
    // RFC 9113 sections 3.4, 6.5.3 and 6.7.
    assert_eq!(
        (said[0].kind, said[0].flags & ACK),
        (SETTINGS, 0),
        "{said:?}"
    );
    let acknowledged = |f: &&Frame| f.kind == SETTINGS && f.flags == ACK;
    assert_eq!(said.iter().filter(acknowledged).count(), 1, "{said:?}");
    let pings: Vec<&Frame> = said.iter().filter(|f| f.kind == PING).collect();
    assert_eq!(pings.len(), 1, "{said:?}");
    assert_eq!(
        (pings[0].flags, &pings[0].payload[..]),
        (ACK, &b"conforms"[..])
    );
    // Section 6.8: a farewell for an unknown reason is one.
    let strange = [
        get(1, END_STREAM),
        frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff]),
    ]
    .concat();
    assert_eq!(answers_of(&say(node.edge, strange).await, 1), 1);
    // Section 5.4.1: of an error of the connection the client is told before its end.
    let broken = say(node.edge, frame(PING, 0, 3, &[0; 8])).await;
    assert_eq!(last_goaway(&broken), Some(PROTOCOL));
}

#[tokio::test]
async fn windows_are_kept() {
    let node = single();
    node.route_api(&[named("twelve bytes").await]);
    let first = |size: u32| frame(SETTINGS, 0, 0, &[&[0, 4][..], &size.to_be_bytes()].concat());
    let lengths = |said: &[Frame]| -> Vec<usize> {
        let data = said.iter().filter(|f| f.kind == DATA && f.stream == 1);
        data.map(|f| f.payload.len()).filter(|n| *n > 0).collect()
    };
    let more = |by: u32| frame(WINDOW_UPDATE, 0, 1, &by.to_be_bytes());
    // Section 6.9.1: no more than there is room for; 6.5.3: of two values the later counts.
    let two = [first(100), first(1)].concat();
    let said = say(
        node.edge,
        [two, get(1, END_STREAM), more(11), farewell()].concat(),
    )
    .await;
    let got = lengths(&said);
    assert_eq!(got.iter().sum::<usize>(), 12, "{said:?}");
    // Section 6.9.2: streams that are there follow a change, below nothing, too.
    let (none, some) = (first(0), first(2));
    let bytes = [
        &none[..],
        &get(1, END_STREAM),
        &some,
        &none,
        &more(12),
        &farewell(),
    ]
    .concat();
    let said = say(node.edge, bytes).await;
    assert_eq!(lengths(&said).iter().sum::<usize>(), 12, "{said:?}");
}

/// A request as HPACK can write it, one field of it in each of its ways (RFC 7541 section 6).
#[tokio::test]
async fn fields_in_every_representation() {
    let node = single();
    node.route_api(&[mirror().await]);
    let authority = [&[0x41, 16][..], b"api.example.test"].concat();
    // `:method: GET`, `:path: /`, `:scheme: http` of the static table.
    let start = [&[0x82, 0x84, 0x86][..], &authority].concat();
    let plain = [&[8][..], b"conforms"].concat();
    let name = [&[6][..], b"x-conf"].concat();
    let field = |kind: u8, name: &[u8], value: &[u8]| [&[kind][..], name, value].concat();
    let cases = [
        ("indexed", vec![0x90]),
        ("kept, indexed name", field(0x40 | 58, &[], &plain)),
        ("kept, new name", field(0x40, &name, &plain)),
        ("not kept, indexed name", field(15, &[58 - 15], &plain)),
        ("not kept, new name", field(0, &name, &plain)),
        ("never kept, indexed name", field(0x1f, &[58 - 15], &plain)),
        ("never kept, new name", field(0x10, &name, &plain)),
        // `www.example.com` of appendix C.4.1.
        (
            "kept, new name, in Huffman's code",
            field(
                0x40,
                &name,
                &[
                    0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
                ],
            ),
        ),
        (
            "not kept, new name, in Huffman's code",
            field(
                0,
                &name,
                &[
                    0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
                ],
            ),
        ),
        (
            "never kept, new name, in Huffman's code",
            field(
                0x10,
                &name,
                &[
                    0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
                ],
            ),
        ),
    ];
    for (what, line) in cases {
        let block = [&start[..], &line].concat();
        let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
        let said = say(node.edge, [request, farewell()].concat()).await;
        assert_eq!(answers_of(&said, 1), 1, "{what}: {said:?}");
    }
    // Section 4.2: changes of the table's size, one and two, before the first field.
    for sizes in [&[0x20][..], &[0x20, 0x3f, 0xe1, 0x1f]] {
        let block = [sizes, &start].concat();
        let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
        let said = say(node.edge, [request, farewell()].concat()).await;
        assert_eq!(answers_of(&said, 1), 1, "{sizes:?}: {said:?}");
    }
}

#[tokio::test]
async fn field_blocks_that_are_none() {
    let node = single();
    node.route_api(&[named("up").await]);
    let start = fields(&GET);
    for (rule, line) in [
        ("2.3.3: an index that nothing has", &[0xff, 0x00][..]),
        (
            "2.3.3: a name whose index nothing has",
            &[0x7f, 0x80, 0x01, 1, b'x'],
        ),
        ("4.2: a change of the table's size behind a field", &[0x20]),
        (
            "5.2: more than 7 bits behind the last code",
            &[0, 1, b'x', 0x82, 0x1f, 0xff],
        ),
        (
            "5.2: other bits than ones behind the last code",
            &[0, 1, b'x', 0x81, 0x18],
        ),
        (
            "5.2: the code that ends a text",
            &[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff],
        ),
        ("6.1: index 0", &[0x80]),
        ("6.3: a table that is larger than was allowed", &[]),
    ] {
        let block = match line.is_empty() {
            true => [&[0x3f, 0xe2, 0x1f][..], &start].concat(),
            false => [&start[..], line].concat(),
        };
        let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
        let said = say(node.edge, [request, farewell()].concat()).await;
        assert!(
            last_goaway(&said).is_some_and(|code| [COMPRESSION, PROTOCOL].contains(&code)),
            "{rule}: {said:?}"
        );
        assert_eq!(answers_of(&said, 1), 0, "{rule}");
    }
}
