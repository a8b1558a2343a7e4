//! Requests from clients that mean no good, through hyper's own parser to what is made of host, path and fields.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nebula_domain::routes::RouteTable;
use nebula_testkit::fuzz::Target;
use tokio::io::AsyncWriteExt;

use crate::config::Limits;
use crate::edge::connection::server;
use crate::handler;
use crate::headers;
use crate::statics;

/// Looks at the connection after all was written: more than its parts need.
const TURNS: usize = 16;
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Whatever the head says, an instance is told the truth about where it comes from.
fn check(head: &mut HeaderMap, host: &HeaderValue) {
    let id = headers::request_id(head);
    assert!(id.to_str().is_ok_and(|id| (1..=128).contains(&id.len())));
    headers::for_instance(head, CLIENT, host, &id);
    for (name, value) in [
        ("host", host.as_bytes()),
        ("x-forwarded-host", host.as_bytes()),
        ("x-forwarded-for", &b"192.0.2.1"[..]),
        ("x-forwarded-proto", &b"http"[..]),
        ("x-request-id", id.as_bytes()),
    ] {
        let all: Vec<_> = head.get_all(name).iter().collect();
        assert_eq!(all, [value], "{name}");
    }
    let spelled = |name: &HeaderName| name.as_str().replace('_', "-");
    let claims = head
        .keys()
        .filter(|n| spelled(n).starts_with("x-forwarded-"));
    assert_eq!(claims.count(), 3, "{head:?}");
    for gone in [
        "transfer-encoding",
        "upgrade",
        "keep-alive",
        "proxy-connection",
        "forwarded",
    ] {
        assert!(!head.contains_key(gone), "{gone}");
    }
    assert!(head.get(header::CONNECTION).is_none_or(|v| v == "te"));
}

async fn answer(request: Request<Incoming>, understood: &AtomicBool) -> Response<Full<Bytes>> {
    let (mut parts, body) = request.into_parts();
    let request = Request::from_parts(parts.clone(), ());
    if let Some(host) = handler::host(&request) {
        let text = String::from_utf8_lossy(host.as_bytes());
        assert!(RouteTable::default().route(&text).is_none());
        statics::read_head(&request);
        check(&mut parts.headers, &host);
        understood.store(true, Ordering::Relaxed);
    }
    drop(body);
    Response::new(Full::default())
}

#[test]
fn fuzz_requests() {
    let corpus = [
        "GET / HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
        "GET http://user@api.example.test:8080/a%20b/../c?q=1 HTTP/1.1\r\nHost: other.test\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 1\r\n\r\n",
        "POST /upload HTTP/1.1\r\nHost: api.example.test.\r\nTransfer-Encoding: chunked\r\nTE: trailers, gzip\r\nConnection: close, X-Mine, te\r\nX-Mine: 1\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HEAD /.well-known/x HTTP/1.1\r\nHost: [::1]:80\r\nRange: bytes=0-4,7-\r\nIf-None-Match: W/\"a\", \"b\"\r\nIf-Range: \"c\"\r\nAccept: text/html;q=0.5, */*\r\nAccept-Encoding: gzip;q=0, br\r\n\r\n",
        "PUT /x HTTP/1.1\r\nHost: API.example.test\r\nContent-Length: 3\r\nExpect: 100-continue\r\nForwarded: for=1\r\nX-Real-IP: 1\r\nX-Request-Id: a-1\r\nUpgrade: websocket\r\nKeep-Alive: 5\r\n\r\nabc",
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
        // hyper's buffers, and its table of fields.
        allocated_bytes: 1024 * 1024,
        understood_percent: 20,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let builder = server(&Limits::default());
    target.run(|input| {
        let understood = Arc::new(AtomicBool::new(false));
        runtime.block_on(async {
            let (mut client, edge) = tokio::io::duplex(128 * 1024);
            let seen = understood.clone();
            let service = service_fn(move |request| {
                let seen = seen.clone();
                async move { Ok::<_, Infallible>(answer(request, &seen).await) }
            });
            let serve = builder.serve_connection(TokioIo::new(edge), service);
            let ask = async {
                client.write_all(input).await.unwrap();
                // Nothing follows. The end of the input would end the connection before it is answered.
                for _ in 0..TURNS {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                _ = serve => {}
                () = ask => {}
            }
        });
        understood.load(Ordering::Relaxed)
    });
}
