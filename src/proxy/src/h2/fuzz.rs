//! Connections of clients that mean no good, through all that reads them here.

use nebula_testkit::fuzz::Target;

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PING, PREFACE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, put,
};
use super::hpack::Encoder;
use super::state::{Fatal, State};
use crate::config::Limits;
use crate::h1::HeadLimits;

const SECTION_BYTES: usize = 4096;

fn limits() -> Limits {
    Limits {
        max_header_bytes: SECTION_BYTES,
        http2_streams: 8,
        http2_stream_window: 1 << 16,
        http2_connection_window: 1 << 17,
        // What comes is judged by what it is, not by the time that it takes.
        http2_idle_frames: 1 << 30,
        http2_resets: 1 << 30,
        ..Limits::default()
    }
}

/// What a connection has come to.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    out: Vec<u8>,
    heads: Vec<Option<String>>,
    content: Vec<(u32, Vec<u8>, bool)>,
    last: u32,
    error: Option<Fatal>,
}

/// Reads `input` in pieces of that size.
fn read(input: &[u8], piece: usize) -> Seen {
    let limits = limits();
    let mut state = State::new(&limits);
    let mut error = None;
    for part in [PREFACE, input].concat().chunks(piece) {
        if let Err(fatal) = state.receive(part) {
            error = Some(fatal);
            break;
        }
        assert!(state.inbox.len() < 9 + 16_384);
        // Those that went wrong are nobody's here to let go of.
        assert!(state.entries.len() <= 8 + state.errors as usize);
        assert!(state.room <= i64::from(limits.http2_connection_window));
    }
    let heads = state.opened.drain(..).map(|opened| {
        let text = opened.head.as_ref().map(|head| {
            let bytes = head.bytes();
            let mut slots = [httparse::EMPTY_HEADER; 160];
            let mut request = httparse::Request::new(&mut slots);
            // What is put down as HTTP/1.1 has one end, and that is its own.
            if let Ok(parsed) = request.parse(&bytes) {
                assert_eq!(parsed, httparse::Status::Complete(bytes.len()));
            }
            String::from_utf8_lossy(&bytes).into_owned()
        });
        if let Some(head) = opened.head {
            let _ = head.read(HeadLimits::of(&limits), SECTION_BYTES);
        }
        // The key of a WebSocket is made anew for each.
        text.filter(|text| !text.contains("Sec-WebSocket-Key"))
    });
    let heads = heads.collect();
    let content = state.entries.iter();
    let content = content.map(|e| (e.id, e.content.clone(), e.received_end));
    Seen {
        heads,
        content: content.collect(),
        last: state.last,
        out: state.out,
        error,
    }
}

fn block(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    encoder.begin(&mut block);
    for (name, value) in fields {
        encoder.field(&mut block, name.as_bytes(), value.as_bytes(), false);
    }
    block
}

#[test]
fn fuzz_connections_of_http2() {
    let get = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "api.example.test"),
        (":path", "/a?b=c"),
        ("accept-encoding", "gzip, deflate, br"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ];
    let post = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/"),
        ("host", "a"),
    ];
    let socket = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "a"),
        (":path", "/chat"),
    ];
    let (mut asked, mut sent) = (Vec::new(), Vec::new());
    let mut encoder = Encoder::new();
    let all = END_HEADERS | END_STREAM;
    put(&mut asked, SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]);
    for stream in [1, 3, 5] {
        let fields = block(&mut encoder, &get);
        put(&mut asked, HEADERS, all, stream, &fields);
    }
    put(&mut asked, RST_STREAM, 0, 3, &8_u32.to_be_bytes());
    put(&mut asked, PING, 0, 0, b"12345678");
    let mut encoder = Encoder::new();
    put(&mut sent, SETTINGS, 0, 0, &[]);
    let fields = block(&mut encoder, &post);
    put(&mut sent, HEADERS, 0, 1, &fields[..9]);
    put(&mut sent, CONTINUATION, END_HEADERS, 1, &fields[9..]);
    put(&mut sent, DATA, PADDED, 1, b"\x02content\0\0");
    put(&mut sent, WINDOW_UPDATE, 0, 1, &9_u32.to_be_bytes());
    let trailers = block(&mut encoder, &[("x-sum", "1")]);
    put(&mut sent, HEADERS, all, 1, &trailers);
    let fields = block(&mut encoder, &socket);
    put(&mut sent, HEADERS, END_HEADERS, 3, &fields);
    put(&mut sent, DATA, END_STREAM, 3, b"hello");
    let target = Target {
        name: "proxy: connections of HTTP/2",
        corpus: vec![asked, sent],
        words: &[
            "\u{0}",
            "\u{1}",
            "\u{4}",
            "\u{5}",
            "\u{8}",
            "\u{9}",
            ":path",
            ":status",
            "content-length",
            "connection",
            "/",
            "#",
            "\r\n",
        ],
        max_bytes: 16 * 1024,
        // A byte of a block may name a field of four kilobytes, and be one of sixteen thousand that are read before there are too many.
        allocated_per_byte: 4096,
        allocated_bytes: 256 * 1024,
        understood_percent: 10,
    };
    target.run(|input| {
        let whole = read(input, input.len() + PREFACE.len());
        // However it comes.
        assert_eq!(read(input, input.len() / 3 + 1), whole);
        assert_eq!(read(input, 7), whole);
        whole.error.is_none() && !whole.heads.is_empty()
    });
}
