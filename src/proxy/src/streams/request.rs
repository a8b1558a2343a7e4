//! A request of HTTP/2 or HTTP/3 as a head of HTTP/1.1 (RFC 9113 section 8.3, RFC 9114 section 4.3), for those who
//! read requests here. What is checked there is not checked twice: here is only what HTTP/1.1 has no words for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use h2::ext::Protocol;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, request};

use crate::h1::Spelling;

/// Of fields that are put down beside those that came: Host, and what is said of connection and content.
const OWN_FIELDS: usize = 4;
/// Their bytes, unless the host is unusually long.
const OWN_BYTES: usize = 128;

/// How the content behind a head is framed where it is read as HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// There is none.
    Nothing,
    /// By the head's Content-Length, against which the stream's frames were counted.
    Plain,
    Chunked,
    /// None before the other side has changed the protocol, bytes as they are from then on (RFC 8441, RFC 9220).
    Tunnel,
}

/// Not a request (RFC 9113 section 8.1.1, RFC 9114 section 4.1.2): its stream is reset, and nobody hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// The head, and how its content is framed. `ended` says that the stream ends with it.
pub(super) fn spell(head: &request::Parts, ended: bool) -> Result<(Spelling, Content), Malformed> {
    let fields = &head.headers;
    let content = content(head, ended);
    let host = host(head)?;
    // RFC 8441 section 5: what is CONNECT here is GET there.
    let method = match content {
        Content::Tunnel => Method::GET,
        _ => head.method.clone(),
    };
    let mut bytes = OWN_BYTES;
    for (name, value) in fields {
        bytes += name.as_str().len() + value.len() + ": \r\n".len();
    }
    let target = target(head, host, content)?;
    let mut out = Spelling::new(method, target, fields.len() + OWN_FIELDS, bytes);
    if let Some(host) = host {
        out.field(b"Host", host);
    }
    put_fields(&mut out, fields, content)?;
    match content {
        Content::Tunnel => {
            let key = STANDARD.encode(rand::random::<[u8; 16]>());
            out.field(b"Sec-WebSocket-Key", key.as_bytes());
            out.field(b"Upgrade", b"websocket");
            out.field(b"Connection", b"close, upgrade");
            return Ok((out, content));
        }
        Content::Chunked => out.field(b"Transfer-Encoding", b"chunked"),
        // RFC 9110 section 8.6: of methods that usually have content it is said when there is none.
        Content::Nothing
            if expects_content(&head.method) && !fields.contains_key(header::CONTENT_LENGTH) =>
        {
            out.field(b"Content-Length", b"0");
        }
        Content::Nothing | Content::Plain => {}
    }
    // A stream carries one request.
    out.field(b"Connection", b"close");
    Ok((out, content))
}

fn content(head: &request::Parts, ended: bool) -> Content {
    if head.method == Method::CONNECT {
        let protocol = head.extensions.get::<Protocol>();
        return match protocol.is_some_and(|protocol| protocol.as_str() == "websocket") && !ended {
            true => Content::Tunnel,
            // Nobody opens one here; whoever reads the head says so.
            false => Content::Nothing,
        };
    }
    match (ended, head.headers.contains_key(header::CONTENT_LENGTH)) {
        (true, _) => Content::Nothing,
        (false, true) => Content::Plain,
        (false, false) => Content::Chunked,
    }
}

fn expects_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// The one host that a request names. RFC 9113 section 8.3.1: `Host` must not contradict `:authority`, and a user has
/// no place in either.
fn host(head: &request::Parts) -> Result<Option<&[u8]>, Malformed> {
    let authority = head
        .uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let mut fields = head
        .headers
        .get_all(header::HOST)
        .iter()
        .map(HeaderValue::as_bytes);
    let (field, second) = (fields.next(), fields.next());
    if second.is_some() {
        return Err(Malformed("it has more than one Host"));
    }
    let host = match (authority, field) {
        (Some(authority), Some(field)) if !authority.eq_ignore_ascii_case(field) => {
            return Err(Malformed("its Host is not its authority"));
        }
        (authority, field) => authority.or(field),
    };
    match host {
        Some(host) if host.contains(&b'@') => Err(Malformed("its authority has a user")),
        host => Ok(host),
    }
}

fn target<'a>(
    head: &'a request::Parts,
    host: Option<&'a [u8]>,
    content: Content,
) -> Result<&'a [u8], Malformed> {
    if head.method == Method::CONNECT && content != Content::Tunnel {
        return host.ok_or(Malformed("it names nothing to connect to"));
    }
    // RFC 9113 section 8.3.1.
    if head.uri.scheme_str() == Some("") {
        return Err(Malformed("its scheme is none"));
    }
    let path = head.uri.path_and_query().map(|path| path.as_str());
    match path {
        Some("*") if head.method == Method::OPTIONS => Ok(b"*"),
        Some(path) if path.starts_with('/') => Ok(path.as_bytes()),
        // In HTTP/1.1 it could be a whole URL, with another host.
        _ => Err(Malformed("its path is not one")),
    }
}

fn put_fields(out: &mut Spelling, fields: &HeaderMap, content: Content) -> Result<(), Malformed> {
    let mut has_cookie = false;
    for (name, value) in fields {
        let value = value.as_bytes();
        if value.first().is_some_and(is_space) || value.last().is_some_and(is_space) {
            // RFC 9113 section 8.2.1.
            return Err(Malformed("a field's value begins or ends with a space"));
        }
        let stays = match *name {
            header::HOST => true,
            header::COOKIE => {
                has_cookie = true;
                true
            }
            header::CONTENT_LENGTH | header::SEC_WEBSOCKET_KEY => content == Content::Tunnel,
            _ => false,
        };
        if !stays {
            out.field(name.as_str().as_bytes(), value);
        }
    }
    if has_cookie {
        // Section 8.2.3: sent in pieces, for the sake of compression.
        let pieces = fields.get_all(header::COOKIE).iter();
        let pieces: Vec<_> = pieces.map(HeaderValue::as_bytes).collect();
        out.joined(b"cookie", &pieces);
    }
    Ok(())
}

fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{End, find_end};
    use crate::headers::tests::request as parse;
    use http::{HeaderName, Request};
    use proptest::prelude::*;

    fn written(build: request::Builder, ended: bool) -> Result<(String, Content), Malformed> {
        let (head, ()) = build.body(()).unwrap().into_parts();
        let (spelling, content) = spell(&head, ended)?;
        Ok((spelling.text(), content))
    }

    fn get(uri: &str) -> request::Builder {
        Request::builder().uri(uri)
    }

    #[test]
    fn a_head_is_read_as_what_it_was() {
        let build = get("http://api.example.test/a?b=c")
            .header("cookie", "a=1")
            .header("te", "trailers")
            .header("cookie", "b=2")
            .header("x-mine", "1");
        let (text, content) = written(build, true).unwrap();
        assert_eq!(content, Content::Nothing);
        assert_eq!(text.matches("cookie: ").count(), 1, "{text}");
        assert!(text.contains("cookie: a=1; b=2\r\n"), "{text}");
        let head = parse(&text);
        assert_eq!(head.target(), "/a?b=c");
        assert_eq!(head.host(), Some(&b"api.example.test"[..]));
        assert!(head.accepts_trailers() && !head.has_body() && !head.persistent);
    }

    #[test]
    fn content_is_framed_as_it_is_known() {
        let post = |uri| get(uri).method("POST");
        let (text, content) = written(post("http://a/"), true).unwrap();
        assert_eq!(content, Content::Nothing);
        assert!(text.contains("Content-Length: 0\r\n"), "{text}");
        let (text, content) =
            written(post("http://a/").header("content-length", "3"), false).unwrap();
        assert_eq!(content, Content::Plain);
        assert!(!text.contains("Transfer"), "{text}");
        let (text, content) = written(post("http://a/"), false).unwrap();
        assert_eq!(content, Content::Chunked);
        assert!(parse(&text).has_body());
    }

    #[test]
    fn a_request_that_could_be_read_as_another_is_malformed() {
        let (text, _) = written(get("/").header("host", "a"), true).unwrap();
        assert!(text.contains("Host: a\r\n"), "{text}");
        for bad in [
            get("http://a/").header("host", "b"),
            get("/").header("host", "a").header("host", "a"),
            get("http://user@a/"),
            get("http://a/").header("x", " padded"),
            get("*"),
        ] {
            assert!(written(bad, true).is_err());
        }
        let (text, _) = written(get("*").method("OPTIONS"), true).unwrap();
        assert!(text.starts_with("OPTIONS * HTTP/1.1\r\n"), "{text}");
    }

    #[test]
    fn a_websocket_becomes_an_upgrade() {
        let connect = |protocol: &'static str| {
            get("http://a/chat")
                .method("CONNECT")
                .extension(Protocol::from_static(protocol))
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "theirs")
        };
        let (text, content) = written(connect("websocket"), false).unwrap();
        assert_eq!(content, Content::Tunnel);
        assert!(
            text.starts_with("GET /chat HTTP/1.1\r\nHost: a\r\n"),
            "{text}"
        );
        assert!(!text.contains("theirs"), "{text}");
        let head = parse(&text);
        assert_eq!(head.upgrade(), Some(&b"websocket"[..]));
        assert_eq!(head.fields().get("sec-websocket-key").unwrap().len(), 24);
        let (text, content) = written(connect("connect-udp"), false).unwrap();
        assert_eq!(content, Content::Nothing);
        assert!(text.starts_with("CONNECT a HTTP/1.1\r\n"), "{text}");
    }

    proptest! {
        /// Whatever `http` takes for a request, nothing in it ends its head early or adds to it.
        #[test]
        fn a_head_has_one_end(
            path in "/[ -~]{0,30}",
            fields in prop::collection::vec(("[a-z_-]{1,10}", prop::collection::vec(any::<u8>(), 0..20)), 0..8),
            ended in any::<bool>(),
        ) {
            let mut build = get("/").header("host", "a");
            if let Ok(uri) = http::Uri::try_from(format!("http://a{path}")) {
                build = build.uri(uri);
            }
            let mut sent = 0;
            for (name, value) in fields {
                let value = HeaderValue::from_bytes(&value);
                if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), value) {
                    build = build.header(name, value);
                    sent += 1;
                }
            }
            let (head, ()) = build.body(()).unwrap().into_parts();
            if let Ok((spelling, _)) = spell(&head, ended) {
                let bytes = spelling.bytes();
                prop_assert!(matches!(find_end(&bytes, 0), Ok(End::At(end)) if end == bytes.len()));
                let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
                // The request line, Host, perhaps Transfer-Encoding, Connection, and the empty line.
                prop_assert!((sent + 4..=sent + 5).contains(&lines));
            }
        }
    }
}
