use super::*;
use crate::h1::{End, find_end};
use crate::headers::tests::request as parse;
use proptest::prelude::*;

type Pair = (&'static str, &'static str);

const GET: [Pair; 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "api.example.test"),
    (":path", "/a?b=c"),
];

fn written(pairs: &[&[Pair]], ended: bool) -> Result<(String, Content), Malformed> {
    let section: Section = pairs.concat().into_iter().collect();
    let asking = Asking::read(&section)?;
    let content = asking.content(ended);
    Ok((asking.spell(&section, content).text(), content))
}

fn with(method: &'static str, more: &[Pair], ended: bool) -> (String, Content) {
    written(&[&[(":method", method)], &GET[1..], more], ended).unwrap()
}

#[test]
fn a_head_is_read_as_what_it_was() {
    let fields = [
        ("cookie", "a=1"),
        ("te", "trailers"),
        ("cookie", "b=2"),
        ("x-mine", "1"),
    ];
    let (text, content) = with("GET", &fields, true);
    assert_eq!(content, Content::Nothing);
    assert_eq!(text.matches("cookie: ").count(), 1, "{text}");
    assert!(text.contains("cookie: a=1; b=2\r\n"), "{text}");
    let head = parse(&text);
    assert_eq!(head.target(), "/a?b=c");
    assert_eq!(head.host(), Some(&b"api.example.test"[..]));
    assert!(head.accepts_trailers() && !head.has_body() && !head.persistent);
    let host = [("host", "a")];
    let (text, _) = written(&[&GET[..2], &GET[3..], &host], true).unwrap();
    assert!(text.contains("Host: a\r\n"), "{text}");
}

#[test]
fn content_is_framed_as_it_is_known() {
    let (text, content) = with("POST", &[], true);
    assert_eq!(content, Content::Nothing);
    assert!(text.contains("Content-Length: 0\r\n"), "{text}");
    let (text, content) = with("POST", &[("content-length", "3")], false);
    assert_eq!(content, Content::Plain);
    assert!(!text.contains("Transfer"), "{text}");
    let (text, content) = with("POST", &[], false);
    assert_eq!(content, Content::Chunked);
    assert!(parse(&text).has_body());
}

#[test]
fn what_is_no_request_is_malformed() {
    // RFC 9113 sections 8.2 and 8.3, RFC 9114 sections 4.2, 4.3 and 4.3.1.
    for wrong in [
        ("Upper", "x"),
        ("a b", "x"),
        ("", "x"),
        ("x", "a\nb"),
        ("x", " padded"),
        ("x", "padded\t"),
        ("connection", "close"),
        ("keep-alive", "x"),
        ("proxy-connection", "x"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "x"),
        ("te", "gzip"),
        ("host", "other.test"),
        (":method", "GET"),
        (":authority", "a"),
        (":status", "200"),
        (":other", "x"),
        (":protocol", "websocket"),
    ] {
        assert!(written(&[&GET, &[wrong]], true).is_err(), "{wrong:?}");
    }
    assert!(written(&[&GET, &[("x", "y"), (":protocol", "x")]], true).is_err());
    let hosts = [("host", "a"), ("host", "a")];
    assert!(written(&[&GET[..2], &GET[3..], &hosts], true).is_err());
    assert!(written(&[&GET[..2], &GET[3..], &[("host", "u@a")]], true).is_err());
    for without in 0..4 {
        let left = written(&[&GET[..without], &GET[without + 1..]], true);
        assert!(left.is_err(), "{without}");
    }
    for (place, wrong) in [
        (0, ""),
        (0, "G T"),
        (1, ""),
        (1, "ftp"),
        (2, ""),
        (2, "a b"),
        (2, "user@a"),
        (3, ""),
        (3, "*"),
        (3, "a"),
        (3, "http://b/"),
        (3, "/a b"),
        (3, "/a#b"),
    ] {
        let mut all = GET;
        all[place].1 = wrong;
        assert!(written(&[&all], true).is_err(), "{wrong}");
    }
    let connect = [(":method", "CONNECT")];
    assert!(written(&[&connect], true).is_err());
    assert!(written(&[&connect, &GET[1..]], true).is_err());
    let options = [(":method", "OPTIONS"), (":path", "*")];
    let (text, _) = written(&[&options, &GET[1..3]], true).unwrap();
    assert!(text.starts_with("OPTIONS * HTTP/1.1\r\n"), "{text}");
    let fields = |pairs: &[Pair]| trailers(&pairs.iter().copied().collect());
    assert!(fields(&[(":path", "/")]).is_err());
    assert!(fields(&[("x-sum", "1")]).is_ok());
}

#[test]
fn a_length_is_one_number() {
    let length = |said: &[Pair]| {
        let section: Section = [&GET[..], said].concat().into_iter().collect();
        Asking::read(&section).map(|asking| asking.length)
    };
    assert_eq!(length(&[]), Ok(None));
    assert_eq!(length(&[("content-length", "12")]), Ok(Some(12)));
    assert!(length(&[("content-length", "1"), ("content-length", "1")]).is_err());
    for wrong in ["", "+1", "-1", "1,1", " 1", "99999999999999999999"] {
        assert!(length(&[("content-length", wrong)]).is_err(), "{wrong}");
    }
}

#[test]
fn a_websocket_becomes_an_upgrade() {
    let fields = [
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "theirs"),
    ];
    let connect = |protocol| {
        let pseudo = [(":method", "CONNECT"), (":protocol", protocol)];
        written(&[&pseudo, &GET[1..], &fields], false).unwrap()
    };
    let (text, content) = connect("websocket");
    assert_eq!(content, Content::Tunnel);
    let start = "GET /a?b=c HTTP/1.1\r\nHost: api.example.test\r\n";
    assert!(text.starts_with(start), "{text}");
    assert!(!text.contains("theirs"), "{text}");
    let head = parse(&text);
    assert_eq!(head.upgrade(), Some(&b"websocket"[..]));
    assert_eq!(head.fields().get("sec-websocket-key").unwrap().len(), 24);
    // No tunnels for other protocols, nor to anywhere.
    let (text, content) = connect("connect-udp");
    assert_eq!(content, Content::Nothing);
    assert!(text.starts_with("CONNECT /a?b=c HTTP/1.1\r\n"), "{text}");
    let somewhere = [(":method", "CONNECT"), (":authority", "a:1")];
    let (text, _) = written(&[&somewhere], false).unwrap();
    assert!(text.starts_with("CONNECT a:1 HTTP/1.1\r\n"), "{text}");
}

proptest! {
    /// Whatever is taken for a request, nothing in it ends its head early or adds to it.
    #[test]
    fn a_head_has_one_end(
        path in "/[ -~]{0,30}",
        fields in prop::collection::vec(("[a-z_-]{1,10}", prop::collection::vec(any::<u8>(), 0..20)), 0..8),
        ended in any::<bool>(),
    ) {
        let mut section: Section = GET[..3].iter().copied().collect();
        section.push(b":path", path.as_bytes());
        for (name, value) in &fields {
            section.push(name.as_bytes(), value);
        }
        if let Ok(asking) = Asking::read(&section) {
            let bytes = asking.spell(&section, asking.content(ended)).bytes();
            prop_assert!(matches!(find_end(&bytes, 0), Ok(End::At(end)) if end == bytes.len()));
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
            // The request line, Host, perhaps Transfer-Encoding, Connection, and the empty line.
            prop_assert!((fields.len() + 4..=fields.len() + 5).contains(&lines));
        }
    }

    #[test]
    fn nothing_breaks_it(fields in prop::collection::vec((
        prop::collection::vec(any::<u8>(), 0..12), prop::collection::vec(any::<u8>(), 0..12)), 0..8)) {
        let mut section = Section::default();
        for (name, value) in &fields {
            section.push(name, value);
        }
        let _ = Asking::read(&section);
        let _ = trailers(&section);
    }
}
