//! Heads of HTTP/1.1 and HTTP/2 made of each other, at the instance's side (RFC 9113 section 8.3).

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use h2::ext::Protocol;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, StatusCode, Uri, response};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::grpc::is_grpc;
use crate::h1::{FIELDS_MAX, HeadLimits, Inbox, Kind, Length, RequestHead};
use crate::headers::line;
use crate::streams::{Framing, copy_fields, invalid, stays};

/// The one protocol that a tunnel is opened for (RFC 8441).
const WEBSOCKET: &str = "websocket";
/// What a server of WebSocket adds to its client's key (RFC 6455 section 1.3).
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a path may not hold as it is (RFC 3986 section 3.3), and some programs send.
const NOT_IN_PATHS: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A request on its way, and what its answer has to be read by.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    /// The key of a client that asks for WebSocket; the stream becomes a tunnel.
    pub(super) websocket_key: Option<Vec<u8>>,
}

/// The request whose head of HTTP/1.1 this is, and how its content is framed.
pub(super) fn request(bytes: Vec<u8>) -> io::Result<(Request<()>, Option<Framing>, Asked)> {
    let mut head = RequestHead::default();
    let end = bytes.len();
    let limits = HeadLimits {
        fields: FIELDS_MAX,
        target_bytes: end,
    };
    let taken = head.take(&mut Inbox::from(bytes), end, limits);
    taken.map_err(|_| invalid("it is no request"))?;
    let websocket = is_websocket(&head);
    let mut request = Request::new(());
    *request.uri_mut() = uri(&head)?;
    let headers = request.headers_mut();
    copy_fields(head.fields(), headers, |kind, name| {
        // The key and its answer are of HTTP/1.1 (RFC 8441 section 5).
        let key = websocket && *name == header::SEC_WEBSOCKET_KEY;
        !stays(kind) && !matches!(kind, Kind::Host | Kind::Expect) && !key
    })?;
    if !websocket && head.accepts_trailers() {
        // RFC 9113 section 8.2.2: the one thing that it may say. Servers of gRPC want to hear it.
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let mut asked = Asked {
        method: head.method.clone(),
        websocket_key: None,
    };
    let framing = if websocket {
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from(WEBSOCKET));
        let key = head.fields().get("sec-websocket-key");
        asked.websocket_key = Some(key.unwrap_or_default().to_vec());
        Some(Framing::Tunnel)
    } else {
        *request.method_mut() = head.method.clone();
        match head.body_length() {
            Length::Sized(length) => Some(Framing::Sized(length)),
            Length::Chunked => Some(Framing::chunked()),
            Length::None | Length::UntilClose => None,
        }
    };
    Ok((request, framing, asked))
}

/// Whether the client asks for WebSocket. A server may leave any other wish to change the protocol unheard (RFC 9110
/// section 7.8).
pub(crate) fn is_websocket(head: &RequestHead) -> bool {
    let asks = |protocol: &[u8]| protocol.eq_ignore_ascii_case(WEBSOCKET.as_bytes());
    head.upgrade().is_some_and(asks)
}

fn uri(head: &RequestHead) -> io::Result<Uri> {
    let host = head.host().ok_or_else(|| invalid("it names no host"))?;
    let target = head.target();
    let path = PathAndQuery::try_from(target).or_else(|_| {
        let encoded = utf8_percent_encode(target, NOT_IN_PATHS).to_string();
        PathAndQuery::try_from(encoded)
    });
    Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(Authority::try_from(host).map_err(io::Error::other)?)
        .path_and_query(path.map_err(io::Error::other)?)
        .build()
        .map_err(io::Error::other)
}

/// An interim response as a head of HTTP/1.1.
pub(super) fn interim(out: &mut Vec<u8>, head: &response::Parts) -> io::Result<()> {
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        // RFC 9113 section 8.6.
        return Err(invalid("HTTP/2 does not switch protocols"));
    }
    status_line(out, head.status);
    fields(out, &head.headers, |_| true);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// How a response's content is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// There is none, whatever still comes.
    Nothing,
    Sized(u64),
    Chunked,
    /// Until either side has ended.
    Tunnel,
}

/// A response as a head of HTTP/1.1. `ended` says that the stream ends with it.
pub(super) fn response(
    out: &mut Vec<u8>,
    head: &response::Parts,
    asked: &Asked,
    ended: bool,
) -> Content {
    // RFC 8441 section 5: any 2xx opens the tunnel.
    if let Some(key) = asked.websocket_key.as_deref()
        && head.status.is_success()
    {
        status_line(out, StatusCode::SWITCHING_PROTOCOLS);
        fields(out, &head.headers, |name| {
            *name != header::CONTENT_LENGTH && *name != header::SEC_WEBSOCKET_ACCEPT
        });
        line(out, b"Sec-WebSocket-Accept", accept(key).as_bytes());
        out.extend_from_slice(b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n");
        return Content::Tunnel;
    }
    status_line(out, head.status);
    let bodyless =
        asked.method == Method::HEAD || matches!(head.status.as_u16(), 100..200 | 204 | 304);
    let said = head.headers.get(header::CONTENT_LENGTH);
    let grpc = head.headers.get(header::CONTENT_TYPE);
    let grpc = grpc.is_some_and(|content_type| is_grpc(content_type.as_bytes()));
    // Where HTTP/1.1 says a length it has no place for trailer fields.
    let chunked = !bodyless && !ended && (said.is_none() || grpc);
    fields(out, &head.headers, |name| {
        !(chunked && *name == header::CONTENT_LENGTH)
    });
    let content = if bodyless {
        Content::Nothing
    } else if chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        Content::Chunked
    } else if let Some(said) = said {
        // Whether it is a number is seen by whoever reads the head.
        let length = said.to_str().ok().and_then(|said| said.parse().ok());
        length.map_or(Content::Nothing, Content::Sized)
    } else {
        out.extend_from_slice(b"Content-Length: 0\r\n");
        Content::Nothing
    };
    // A stream carries one request.
    out.extend_from_slice(b"Connection: close\r\n\r\n");
    content
}

fn status_line(out: &mut Vec<u8>, status: StatusCode) {
    let reason = status.canonical_reason().unwrap_or_default();
    // A vector takes everything.
    let _ = write!(out, "HTTP/1.1 {} {reason}\r\n", status.as_u16());
}

fn fields(out: &mut Vec<u8>, fields: &HeaderMap, passes: impl Fn(&HeaderName) -> bool) {
    for (name, value) in fields.iter().filter(|(name, _)| passes(name)) {
        line(out, name.as_str().as_bytes(), value.as_bytes());
    }
}

/// RFC 6455 section 4.2.2: what shows a client of HTTP/1.1 that its wish was understood.
fn accept(key: &[u8]) -> String {
    let both = [key, WEBSOCKET_GUID].concat();
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &both))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{End, ResponseHead, find_end, find_lenient_end};
    use crate::headers::{self, RequestId};
    use crate::origin::Origin;
    use http::Response;
    use proptest::prelude::*;

    fn asked(text: &str) -> (Request<()>, Option<Framing>, Asked) {
        request(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_request_says_the_same_without_its_connection() {
        let (request, framing, asked) = asked(
            "POST /a?b=c HTTP/1.1\r\nHost: a.test:8080\r\nTE: trailers\r\nConnection: te\r\nKeep-Alive: 5\r\n\
             Transfer-Encoding: chunked\r\nX-Forwarded-For: 192.0.2.1\r\nCookie: a=1; b=2\r\nX-Request-Id: r\r\n\r\n",
        );
        assert_eq!(request.uri(), "http://a.test:8080/a?b=c");
        assert_eq!(
            (request.method(), asked.method),
            (&Method::POST, Method::POST)
        );
        assert!(matches!(framing, Some(Framing::Chunked { .. })));
        let mut names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["cookie", "te", "x-forwarded-for", "x-request-id"]);
        assert_eq!(request.headers()["te"], "trailers");
    }

    #[test]
    fn trailers_are_asked_for_where_they_are_wanted() {
        let te = |fields: &str| {
            let (request, _, _) = asked(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
            request.headers().contains_key("te")
        };
        assert!(!te(""));
        assert!(!te("TE: gzip\r\n"));
        assert!(te("Content-Type: application/grpc+proto\r\n"));
    }

    #[test]
    fn content_has_the_length_that_is_said() {
        let length = |fields: &str| {
            let (request, framing, _) =
                asked(&format!("PUT / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
            let said = request.headers().get("content-length").cloned();
            (said.map(|said| said.to_str().unwrap().to_owned()), framing)
        };
        assert!(matches!(length(""), (None, None)));
        let (said, framing) = length("Content-Length: 3\r\n");
        assert_eq!(said.as_deref(), Some("3"));
        assert!(matches!(framing, Some(Framing::Sized(3))));
        let (said, framing) = length("Content-Length: 0\r\n");
        assert!(said.as_deref() == Some("0") && framing.is_none());
    }

    #[test]
    fn odd_targets_pass() {
        let uri = |line: &str| {
            let (request, _, _) = asked(&format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n"));
            let path = request.uri().path_and_query().unwrap();
            path.as_str().to_owned()
        };
        assert_eq!(uri("OPTIONS *"), "*");
        assert_eq!(uri("GET /a<b>`c?d=\"e"), "/a%3Cb%3E%60c?d=%22e");
        assert_eq!(uri("GET /%61?%zz"), "/%61?%zz");
    }

    #[test]
    fn websocket_is_a_tunnel_and_other_changes_are_not_heard() {
        let (request, framing, asked_) = asked(
            "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        assert_eq!(request.method(), Method::CONNECT);
        assert_eq!(
            request.extensions().get::<Protocol>().unwrap().as_str(),
            "websocket"
        );
        assert!(matches!(framing, Some(Framing::Tunnel)));
        assert!(!request.headers().contains_key("sec-websocket-key"));
        assert!(request.headers().contains_key("sec-websocket-version"));
        let (head, content) = answered(Response::builder().status(200), &asked_, false);
        assert_eq!((head.status, content), (101, Content::Tunnel));
        // The example of RFC 6455 section 1.3.
        let accept = head.fields().get("sec-websocket-accept").unwrap();
        assert_eq!(accept, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let refused = Response::builder()
            .status(403)
            .header("content-length", "2");
        let (head, content) = answered(refused, &asked_, false);
        assert_eq!((head.status, content), (403, Content::Sized(2)));

        let (request, framing, _) =
            asked("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: irc\r\n\r\n");
        assert_eq!(request.method(), Method::GET);
        assert!(framing.is_none() && request.headers().is_empty());
    }

    fn answered(
        response_: response::Builder,
        asked: &Asked,
        ended: bool,
    ) -> (ResponseHead, Content) {
        let (parts, ()) = response_.body(()).unwrap().into_parts();
        let mut bytes = Vec::new();
        let content = response(&mut bytes, &parts, asked, ended);
        let End::At(end) = find_lenient_end(&bytes, 0) else {
            panic!("no end");
        };
        assert_eq!(end, bytes.len());
        let mut head = ResponseHead::default();
        head.take(&mut Inbox::from(bytes), end).unwrap();
        (head, content)
    }

    #[test]
    fn an_answer_ends_where_its_stream_does() {
        let get = |method| Asked {
            method,
            websocket_key: None,
        };
        let sized = || Response::builder().header("content-length", "3");
        let grpc = || sized().header("content-type", "application/grpc");
        let table = [
            (
                Response::builder(),
                Method::GET,
                false,
                Content::Chunked,
                Length::Chunked,
            ),
            (
                Response::builder(),
                Method::GET,
                true,
                Content::Nothing,
                Length::None,
            ),
            (
                sized(),
                Method::GET,
                false,
                Content::Sized(3),
                Length::Sized(3),
            ),
            (
                grpc(),
                Method::POST,
                false,
                Content::Chunked,
                Length::Chunked,
            ),
            (sized(), Method::HEAD, true, Content::Nothing, Length::None),
            (
                Response::builder(),
                Method::HEAD,
                true,
                Content::Nothing,
                Length::None,
            ),
            (
                Response::builder().status(204),
                Method::GET,
                true,
                Content::Nothing,
                Length::None,
            ),
        ];
        for (row, (response, method, ended, content, length)) in table.into_iter().enumerate() {
            let (head, written) = answered(response, &get(method.clone()), ended);
            assert_eq!(written, content, "{row}");
            assert_eq!(head.body_length(&method), length, "{row}");
            assert!(!head.persistent);
        }
        // What is not known is not said.
        let (head, _) = answered(Response::builder(), &get(Method::HEAD), true);
        assert_eq!(head.length, None);
        let (head, _) = answered(sized(), &get(Method::HEAD), true);
        assert_eq!(head.length, Some(Length::Sized(3)));
    }

    #[test]
    fn interim_responses_pass_but_for_one() {
        let parts = |status: u16| {
            let hints = Response::builder().status(status).header("link", "</a>");
            hints.body(()).unwrap().into_parts().0
        };
        let mut out = Vec::new();
        interim(&mut out, &parts(103)).unwrap();
        assert_eq!(out, b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        assert!(interim(&mut out, &parts(101)).is_err());
    }

    proptest! {
        /// Otherwise the instance would be blamed for what a client sent.
        #[test]
        fn whatever_is_taken_from_a_client_can_be_sent(
            target in "/[!-\"$-~é]{0,30}",
            port in "(:[0-9]{0,7})?",
            fields in prop::collection::vec(
                ("[!#$%&'*+.^_`|~0-9A-Za-z-]{1,10}", prop::collection::vec(any::<u8>(), 0..20)),
                0..8,
            ),
        ) {
            let mut text = format!("GET {target} HTTP/1.1\r\nHost: a.test{port}\r\n").into_bytes();
            for (name, value) in fields {
                line(&mut text, name.as_bytes(), &value);
            }
            text.extend_from_slice(b"\r\n");
            let mut head = RequestHead::default();
            let limits = HeadLimits { fields: 100, target_bytes: 8192 };
            let Ok(End::At(end)) = find_end(&text, 0) else {
                return Ok(());
            };
            if head.take(&mut Inbox::from(text), end, limits).is_ok() {
                let id = RequestId::new();
                let asked = headers::Asked {
                    origin: &Origin::new("192.0.2.1".parse().unwrap(), crate::origin::Scheme::Http, &[]),
                    host: head.host().unwrap(),
                    target: head.target(),
                    id: &id,
                };
                let mut written = Vec::new();
                headers::write_request(&mut written, &head, &asked);
                let sent = request(written);
                prop_assert!(sent.is_ok(), "{:?}", sent.err());
            }
        }
    }
}
