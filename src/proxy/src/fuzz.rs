//! Requests from clients that mean no good, through the edge's own reader to what is made of host, path and fields.

use std::net::{IpAddr, Ipv4Addr};

use nebula_domain::routes::RouteTable;
use nebula_testkit::fuzz::Target;

use crate::client::{Client, Drain, Read, Socket};
use crate::config::Limits;
use crate::h1::RequestHead;
use crate::headers::{self, Asked, RequestId};
use crate::origin::{Origin, Scheme};
use crate::statics;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

impl Socket for tokio::io::Join<&[u8], tokio::io::Sink> {}

/// Whatever the head says, an instance is told the truth about where it comes from.
fn check(head: &RequestHead, host: &[u8]) {
    let id = RequestId::of(head.fields());
    assert!((1..=128).contains(&id.as_bytes().len()));
    let mut out = Vec::new();
    let asked = Asked {
        origin: &Origin::new(CLIENT, Scheme::Http, &[]),
        host,
        target: head.target(),
        id: &id,
    };
    headers::write_request(&mut out, head, &asked);
    let mut slots = [httparse::EMPTY_HEADER; 160];
    let mut read = httparse::Request::new(&mut slots);
    let parsed = read.parse(&out).expect("what goes to an instance is HTTP");
    assert_eq!(
        parsed,
        httparse::Status::Complete(out.len()),
        "nothing follows the head"
    );
    let all = |name: &str| -> Vec<&[u8]> {
        let of_name =
            |h: &&httparse::Header<'_>| h.name.replace('_', "-").eq_ignore_ascii_case(name);
        read.headers
            .iter()
            .filter(of_name)
            .map(|h| h.value)
            .collect()
    };
    for (name, value) in [
        ("host", host),
        ("x-forwarded-host", host),
        ("x-forwarded-for", &b"192.0.2.1"[..]),
        ("x-real-ip", &b"192.0.2.1"[..]),
        ("x-forwarded-proto", &b"http"[..]),
        ("x-request-id", id.as_bytes()),
    ] {
        assert_eq!(all(name), [value], "{name}");
    }
    assert_eq!(all("forwarded").len(), 1);
    let spelled = |h: &&httparse::Header<'_>| {
        let name = h.name.replace('_', "-").to_ascii_lowercase();
        name.starts_with("x-forwarded-")
    };
    assert_eq!(read.headers.iter().filter(spelled).count(), 3);
    let framed = all("content-length").len() + all("transfer-encoding").len();
    assert!(framed <= 1, "{}", out.escape_ascii());
    for gone in ["keep-alive", "proxy-connection", "expect", "http2-settings"] {
        assert!(all(gone).is_empty(), "{gone}");
    }
    let options = all("connection");
    assert!(options.iter().all(|o| [&b"te"[..], b"upgrade"].contains(o)));
}

/// Whatever a trusted proxy says, an instance gets HTTP with one field of each kind, and this hop at the end of the way.
fn check_passed_on(head: &RequestHead, host: &[u8]) {
    let trusted = ["192.0.2.0/24".parse().expect("a network")];
    let peer = Origin::new(CLIENT, Scheme::Https, &trusted);
    let origin = peer.passed_on(head, &trusted).expect("it is trusted");
    let mut out = b"GET / HTTP/1.1\r\n".to_vec();
    origin.write(&mut out, host);
    out.extend_from_slice(b"\r\n");
    let mut slots = [httparse::EMPTY_HEADER; 6];
    let mut read = httparse::Request::new(&mut slots);
    let parsed = read.parse(&out).expect("what goes to an instance is HTTP");
    assert_eq!(parsed, httparse::Status::Complete(out.len()));
    let names: Vec<_> = read.headers.iter().map(|h| h.name).collect();
    let expected = [
        "X-Forwarded-For",
        "X-Real-IP",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "Forwarded",
    ];
    assert_eq!(names, expected);
    let [way, client, scheme, _, forwarded] = [0, 1, 2, 3, 4].map(|at| read.headers[at].value);
    assert!(way.ends_with(b"192.0.2.1"));
    assert_eq!(client, origin.client.to_string().as_bytes());
    assert!([&b"http"[..], b"https"].contains(&scheme));
    let hop = [b"for=192.0.2.1;proto=https;host=\"", host, b"\""].concat();
    assert!(forwarded.ends_with(&hop));
    let earlier = &forwarded[..forwarded.len() - hop.len()];
    assert!(earlier.is_empty() || earlier.ends_with(b", "));
}

#[test]
fn fuzz_requests() {
    let corpus = [
        "GET / HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
        "GET http://user@api.example.test:8080/a%20b/../c?q=1 HTTP/1.1\r\nHost: other.test\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 1\r\n\r\n",
        "POST /upload HTTP/1.1\r\nHost: api.example.test.\r\nTransfer-Encoding: chunked\r\nTE: trailers, gzip\r\nConnection: close, X-Mine, te\r\nX-Mine: 1\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HEAD /.well-known/x HTTP/1.1\r\nHost: [::1]:80\r\nRange: bytes=0-4,7-\r\nIf-None-Match: W/\"a\", \"b\"\r\nIf-Range: \"c\"\r\nAccept: text/html;q=0.5, */*\r\nAccept-Encoding: gzip;q=0, br\r\n\r\n",
        "PUT /x HTTP/1.1\r\nHost: API.example.test\r\nContent-Length: 3\r\nExpect: 100-continue\r\nX-Forwarded-For: 6.6.6.6, [::1]:1,x\r\nX-Forwarded-Host: b\r\nX-Forwarded-Proto: http\r\nForwarded: for=\"1\", by=2\r\nX-Real-IP: 1\r\nX-Request-Id: a-1\r\nUpgrade: websocket\r\nKeep-Alive: 5\r\n\r\nabc",
    ];
    let target = Target {
        name: "proxy: host and headers",
        corpus: corpus.map(|text| text.as_bytes().to_vec()).to_vec(),
        words: &[
            "\r\n",
            "\r\nHost: x",
            "Host",
            ":",
            "%2e%2e/",
            "%00",
            "//",
            "@",
            ", ",
            ";q=",
            "\"",
            "X-Forwarded-For: 1\r\n",
            "Connection: host, content-length, te\r\n",
            "bytes=",
            "-",
            "Transfer-Encoding: chunked\r\n",
            "_",
            "*",
            "\t",
            "Content-Length: 18446744073709551615\r\n",
        ],
        max_bytes: 64 * 1024,
        allocated_per_byte: 64,
        // The buffer that all reads go to.
        allocated_bytes: 1024 * 1024,
        understood_percent: 20,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limits = Limits::default();
    target.run(|input| {
        let mut understood = false;
        runtime.block_on(async {
            // A client that has sent its bytes and ends.
            let mut client = Client::new(tokio::io::join(input, tokio::io::sink()), Drain::never());
            let mut never = std::future::pending();
            while client.read(&limits, &mut never).await == Read::Head {
                let head = &client.head;
                if let Some(host) = head.host() {
                    let text = String::from_utf8_lossy(host);
                    assert!(RouteTable::default().route(&text).is_none());
                    statics::read_head(&statics::Ask::of(head, None));
                    check(head, host);
                    check_passed_on(head, host);
                    understood = true;
                }
                // Its body is not read here; what follows is taken for the next request.
            }
        });
        understood
    });
}
