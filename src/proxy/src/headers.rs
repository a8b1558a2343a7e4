//! Heads at the border between client and instance: what stays behind and what is added.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, response};

use crate::finish::Finish;
use crate::h1::{Fields, Framing, Kind, Length, RequestHead, ResponseHead, Version};
use crate::origin::Origin;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A client's own request id is kept up to this length; a UUID has 36 characters.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// What a request is called in logs and pages, here and at the instance.
#[derive(Clone)]
pub(crate) enum RequestId {
    Clients(Box<[u8]>),
    Ours([u8; 32]),
}

impl RequestId {
    /// The client's id for the request if it is harmless in logs and pages, else a new one.
    pub(crate) fn of(fields: &Fields) -> RequestId {
        let sane = |id: &&[u8]| {
            (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
                && id
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.:+/=".contains(b))
        };
        match fields.of_kind(Kind::RequestId).next().filter(sane) {
            Some(id) => RequestId::Clients(id.into()),
            None => RequestId::new(),
        }
    }

    pub(crate) fn new() -> RequestId {
        let mut digits = [0; 32];
        let mut rest = rand::random::<u128>();
        for digit in &mut digits {
            *digit = b"0123456789abcdef"[(rest & 15) as usize];
            rest >>= 4;
        }
        RequestId::Ours(digits)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            RequestId::Clients(id) => id,
            RequestId::Ours(id) => id,
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or("-")
    }

    pub(crate) fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(self.as_bytes()).unwrap_or_else(|_| HeaderValue::from_static("-"))
    }
}

/// A request on its way, apart from its head.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) origin: &'a Origin,
    /// What the request was routed by.
    pub(crate) host: &'a [u8],
    /// Path and query as the instance gets them.
    pub(crate) target: &'a str,
    pub(crate) id: &'a RequestId,
}

/// Writes a client's head as an instance gets it.
pub(crate) fn write_request(out: &mut Vec<u8>, head: &RequestHead, asked: &Asked<'_>) {
    let fields = head.fields();
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(asked.target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    line(out, b"Host", asked.host);
    for field in fields.list() {
        let name = fields.name(field);
        // What says where a request came from is ours to say, and what a trusted proxy says of it is in the origin.
        if matches!(field.kind, Kind::Other | Kind::Date) && !head.is_named_by_connection(name) {
            line(out, name, fields.value(field));
        }
    }
    match head.length {
        Some(Length::Chunked) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Some(Length::Sized(length)) => content_length(out, length),
        Some(Length::None) => content_length(out, 0),
        Some(Length::UntilClose) | None => {}
    }
    if let Some(protocol) = head.upgrade() {
        out.extend_from_slice(b"Connection: upgrade\r\n");
        line(out, b"Upgrade", protocol);
    } else if head.accepts_trailers() {
        out.extend_from_slice(b"TE: trailers\r\nConnection: te\r\n");
    }
    asked.origin.write(out, asked.host);
    line(out, b"X-Request-Id", asked.id.as_bytes());
    // RFC 9110 section 7.6.3: a gateway must, towards the origin.
    out.extend_from_slice(asked.origin.via());
    out.extend_from_slice(b"\r\n");
}

/// How a response goes out to the client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery {
    pub(crate) version: Version,
    /// The connection stays open for another request.
    pub(crate) persistent: bool,
    pub(crate) framing: Framing,
}

impl Delivery {
    /// `length` is the body's, where it comes from. Without one the body is sent in chunks, or to a client that knows
    /// none, until the connection's end.
    pub(crate) fn of(version: Version, persistent: bool, length: Length) -> Delivery {
        let unsized_ = matches!(length, Length::Chunked | Length::UntilClose);
        let eleven = version == Version::Eleven;
        Delivery {
            version,
            persistent: persistent && (!unsized_ || eleven),
            framing: match unsized_ && eleven {
                true => Framing::Chunked,
                false => Framing::Plain,
            },
        }
    }

    /// Nothing but the connection's end tells the client that a body of this length is through.
    pub(crate) fn ends_with_connection(&self, length: Length) -> bool {
        let unsized_ = matches!(length, Length::Chunked | Length::UntilClose);
        unsized_ && self.framing == Framing::Plain
    }
}

/// Writes an instance's head as a client gets it.
pub(crate) fn write_response(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    id: &RequestId,
    finish: Finish<'_>,
    cookie: Option<&str>,
    delivery: Delivery,
) {
    status_line(out, head.status, head.reason());
    let fields = head.fields();
    let mut dated = false;
    for field in fields.list() {
        let passes = match field.kind {
            Kind::Connection
            | Kind::ContentLength
            | Kind::HopByHop
            | Kind::RequestId
            | Kind::TransferEncoding
            | Kind::Upgrade => false,
            Kind::Date => {
                dated = true;
                true
            }
            Kind::Claim | Kind::Expect | Kind::Host | Kind::Te | Kind::Other => true,
        };
        let name = fields.name(field);
        if passes && !head.is_named_by_connection(name) && !finish.replaces(name) {
            line(out, name, fields.value(field));
        }
    }
    line(out, b"X-Request-Id", id.as_bytes());
    if let Some(cookie) = cookie {
        line(out, b"Set-Cookie", cookie.as_bytes());
    }
    finish.write(out, |name| fields.first(name).is_some());
    if !dated {
        date(out);
    }
    // RFC 9110 section 8.6: never with these.
    let may_say = !matches!(head.status, 100..200 | 204);
    match head.length {
        Some(Length::Sized(length)) if may_say => content_length(out, length),
        Some(Length::None) if may_say => content_length(out, 0),
        _ => {}
    }
    end(out, delivery);
}

/// Writes the head of `101 Switching Protocols`.
pub(crate) fn write_switch(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    id: &RequestId,
    cookie: Option<&str>,
) {
    status_line(out, head.status, head.reason());
    let fields = head.fields();
    for field in fields.list() {
        let name = fields.name(field);
        let passes = matches!(field.kind, Kind::Other | Kind::Date | Kind::Upgrade);
        if passes && (field.kind == Kind::Upgrade || !head.is_named_by_connection(name)) {
            line(out, name, fields.value(field));
        }
    }
    line(out, b"X-Request-Id", id.as_bytes());
    if let Some(cookie) = cookie {
        line(out, b"Set-Cookie", cookie.as_bytes());
    }
    out.extend_from_slice(b"Connection: upgrade\r\n\r\n");
}

/// Writes an interim response, such as `103 Early Hints`.
pub(crate) fn write_interim(out: &mut Vec<u8>, head: &ResponseHead) {
    status_line(out, head.status, head.reason());
    let fields = head.fields();
    for field in fields.list() {
        let name = fields.name(field);
        if field.kind == Kind::Other && !head.is_named_by_connection(name) {
            line(out, name, fields.value(field));
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of a response that is made here.
pub(crate) fn write_own(
    out: &mut Vec<u8>,
    head: &response::Parts,
    length: Option<u64>,
    finish: Finish<'_>,
    delivery: Delivery,
) {
    let reason = head.status.canonical_reason().unwrap_or_default();
    status_line(out, head.status.as_u16(), reason.as_bytes());
    for (name, value) in &head.headers {
        if !finish.replaces(name.as_str().as_bytes()) {
            line(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    finish.write(out, |name| head.headers.contains_key(name));
    // An answer that was kept says when it was made.
    if !head.headers.contains_key(header::DATE) {
        date(out);
    }
    // The answer to a HEAD says a length that its body has not.
    let said = head.headers.contains_key(header::CONTENT_LENGTH);
    let may_say = !matches!(head.status.as_u16(), 100..200 | 204 | 304);
    if let Some(length) = length.filter(|_| may_say && !said) {
        content_length(out, length);
    }
    end(out, delivery);
}

fn end(out: &mut Vec<u8>, delivery: Delivery) {
    if delivery.framing == Framing::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    match (delivery.version, delivery.persistent) {
        (_, false) => out.extend_from_slice(b"Connection: close\r\n"),
        (Version::Ten, true) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (Version::Eleven, true) => {}
    }
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, status: u16, reason: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    number(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

pub(crate) fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn content_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    number(out, length);
    out.extend_from_slice(b"\r\n");
}

fn number(out: &mut Vec<u8>, number: u64) {
    // As many as the greatest has.
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b"0123456789"[(rest % 10) as usize];
        rest /= 10;
        if rest == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

/// The `Date` field, which a proxy adds where an instance sets none (RFC 9110 section 6.6.1).
fn date(out: &mut Vec<u8>) {
    thread_local! {
        /// Formatted once a second.
        static NOW: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let second = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    NOW.with_borrow_mut(|(of, text)| {
        if *of != second || text.is_empty() {
            *of = second;
            *text = httpdate::fmt_http_date(now);
        }
        line(out, b"Date", text.as_bytes());
    });
}

/// Whether a body belongs to the answer to a request of that method, with that status.
pub(crate) fn has_body(method: &Method, status: u16) -> bool {
    *method != Method::HEAD && !matches!(status, 100..200 | 204 | 304)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::h1::{End, HeadLimits, Inbox, find_end};
    use crate::origin::Scheme;

    pub(crate) fn request(text: &str) -> RequestHead {
        let mut head = RequestHead::default();
        let mut inbox = Inbox::from(text.as_bytes().to_vec());
        let Ok(End::At(end)) = find_end(&inbox, 0) else {
            panic!("no end: {text}");
        };
        let limits = HeadLimits {
            fields: 100,
            target_bytes: 8192,
        };
        head.take(&mut inbox, end, limits).unwrap();
        head
    }

    fn forwarded(head: &str) -> String {
        let head = request(head);
        let origin = Origin::new("::ffff:192.0.2.1".parse().unwrap(), Scheme::Http, &[]);
        let id = RequestId::of(head.fields());
        let asked = Asked {
            origin: &origin,
            host: head.host().unwrap(),
            target: head.target(),
            id: &id,
        };
        let mut out = Vec::new();
        write_request(&mut out, &head, &asked);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_of_one_connection_stay_behind() {
        let text = forwarded(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Mine\r\nConnection: keep-alive, Content-Length\r\n\
             Keep-Alive: timeout=5\r\nX-Mine: 1\r\nProxy-Authorization: secret\r\nUpgrade: websocket\r\n\
             Content-Length: 3\r\nTrailer: x-sum\r\nAccept: */*\r\nHTTP2-Settings: x\r\n\r\n",
        );
        for gone in [
            "Keep-Alive",
            "X-Mine",
            "Proxy-Auth",
            "Upgrade",
            "close",
            "HTTP2",
        ] {
            assert!(!text.contains(gone), "{gone}: {text}");
        }
        for left in ["Content-Length: 3", "Trailer: x-sum", "Accept: */*"] {
            assert!(text.contains(left), "{left}: {text}");
        }
    }

    #[test]
    fn claims_of_a_client_are_replaced() {
        let text = forwarded(
            "GET / HTTP/1.1\r\nHost: api.example.test\r\nX-Forwarded-For: 6.6.6.6\r\nx_forwarded_for: 6.6.6.6\r\n\
             X-Forwarded-Port: 1\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nTE: trailers, deflate\r\n\
             Expect: 100-continue\r\nVia: 1.0 fred\r\nX-Request-Id: a-1\r\n\r\n",
        );
        assert!(
            !text.contains("6.6.6.6") && !text.contains("Port"),
            "{text}"
        );
        for there in [
            "X-Forwarded-For: 192.0.2.1\r\n",
            "X-Real-IP: 192.0.2.1\r\n",
            "X-Forwarded-Host: api.example.test\r\n",
            "Forwarded: for=192.0.2.1;proto=http;host=\"api.example.test\"\r\n",
            "TE: trailers\r\nConnection: te\r\n",
            "Via: 1.0 fred\r\n",
            "Via: 1.1 nebula\r\n",
            "X-Request-Id: a-1\r\n",
        ] {
            assert!(text.contains(there), "{there}: {text}");
        }
        assert!(!text.contains("Expect"), "{text}");
    }

    #[test]
    fn numbers_are_written_in_digits() {
        for value in [0, 7, 10, 200, 65_536, u64::MAX] {
            let mut out = Vec::new();
            number(&mut out, value);
            assert_eq!(out, value.to_string().as_bytes());
        }
    }

    #[test]
    fn only_sane_request_ids_are_kept() {
        let of = |field: &str| {
            let head = request(&format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n"));
            RequestId::of(head.fields()).as_str().to_owned()
        };
        assert_eq!(of("X-Request-Id: a-1"), "a-1");
        for bad in ["", "a b", "<script>", "a\"b"] {
            assert_eq!(of(&format!("X-Request-Id: {bad}")).len(), 32, "{bad}");
        }
        assert_ne!(of("X: y"), of("X: y"));
    }
}
