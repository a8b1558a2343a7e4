//! Streams from clients that mean no good, through all that reads them here.

use bytes::Bytes;
use nebula_testkit::fuzz::Target;

use super::frames::{Frames, HEADERS, Piece, Role, put_frame};
use super::qpack::{self, Encoder, Field};
use super::{control, fields};
use crate::streams::{Asking, trailers};

const SECTION_BYTES: usize = 4096;

fn encode<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut encoder = Encoder::new();
    for (name, value) in fields {
        encoder.field(name, value.as_bytes());
    }
    encoder.section
}

/// What is read of a section can be written and read again.
fn check(read: &[Field]) {
    let text = |bytes| std::str::from_utf8(bytes);
    let pairs: Result<Vec<_>, _> = read
        .iter()
        .map(|field| text(&field.name).map(|name| (name, &field.value[..])))
        .collect();
    let Ok(pairs) = pairs else {
        return;
    };
    let mut encoder = Encoder::new();
    for (name, value) in pairs {
        encoder.field(name, value);
    }
    assert!(encoder.size <= SECTION_BYTES);
    assert_eq!(
        qpack::decode(&encoder.section, encoder.size).as_deref(),
        Ok(read)
    );
}

fn read(role: Role, input: &[u8]) -> bool {
    let mut understood = false;
    let mut frames = Frames::new(role, SECTION_BYTES);
    // However it comes.
    for part in input.chunks(input.len() / 3 + 1) {
        let mut part = Bytes::copy_from_slice(part);
        while let Ok(Some(piece)) = frames.next(&mut part) {
            let Piece::Whole(kind, payload) = piece else {
                continue;
            };
            assert!(payload.len() <= SECTION_BYTES);
            if kind != HEADERS {
                understood |= control::understands(kind, &payload);
            } else if let Ok(section) = qpack::decode(&payload, SECTION_BYTES) {
                check(&section);
                let section = fields::section(&section);
                understood |= trailers(&section).is_ok();
                if let Ok(asking) = Asking::read(&section) {
                    asking.spell(&section, asking.content(false));
                    understood = true;
                }
            }
        }
    }
    understood
}

#[test]
fn fuzz_streams_of_http3() {
    let get = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "api.example.test"),
        (":path", "/a?b=c"),
        ("accept-encoding", "gzip, deflate, br"),
        ("x-mine", "1"),
    ];
    let mut coded = vec![0, 0, 0x27, 3];
    coded.extend_from_slice(b"x-mine-too\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff");
    let (mut plain, mut framed) = (Vec::new(), Vec::new());
    put_frame(&mut plain, HEADERS, &encode(get));
    put_frame(&mut framed, 0x21, b"ignored");
    put_frame(
        &mut framed,
        HEADERS,
        &encode(get.into_iter().chain([("te", "trailers")])),
    );
    put_frame(&mut framed, 0, b"content");
    put_frame(&mut framed, HEADERS, &coded);
    let target = Target {
        name: "proxy: streams of HTTP/3",
        corpus: vec![plain, framed],
        words: &[
            "\u{0}",
            "\u{1}",
            "\u{1}\u{2}\u{0}\u{0}",
            ":path",
            ":status",
            "content-length",
            "connection",
            "/",
            "#",
            "\r\n",
            "P",
            "Q",
            "'",
        ],
        max_bytes: 16 * 1024,
        // A byte of a section may name a field of the table, and is kept as one.
        allocated_per_byte: 1024,
        allocated_bytes: 256 * 1024,
        understood_percent: 10,
    };
    target.run(|input| read(Role::Request, input));
}

#[test]
fn fuzz_control_streams_of_http3() {
    let said = control::greeting(SECTION_BYTES);
    let greeting = said[1..].to_vec();
    let goodbye = [greeting.clone(), control::goaway(8)].concat();
    let target = Target {
        name: "proxy: control streams of HTTP/3",
        corpus: vec![greeting, goodbye],
        words: &["\u{4}", "\u{7}", "\u{d}", "\u{6}", "\u{8}", "\u{0}", "@"],
        max_bytes: 4096,
        allocated_per_byte: 64,
        allocated_bytes: 64 * 1024,
        understood_percent: 10,
    };
    target.run(|input| read(Role::Control, input));
}
