//! What answers are kept under, and what a request says to the cache.

use http::Method;
use http::header::HeaderName;
use nebula_domain::http::cache::{Asker, Forwarded, Lines, RequestControl, Vary};

use crate::h1::{Kind, RequestHead};
use crate::origin::{Origin, Scheme};

/// Fields by which common frameworks let a request be for another path, host or method than it says. An answer to such a
/// request must not be given to others, so it never meets the cache.
const OVERRIDES: [&str; 14] = [
    "front-end-https",
    "x-forwarded",
    "x-host",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-http-path-override",
    "x-method-override",
    "x-original-host",
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-scheme",
    "x-url-scheme",
];

/// A hash that nobody can make two texts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

impl Key {
    /// Each part with its length, so that no two lists of parts are one.
    fn of(parts: &[&[u8]]) -> Key {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Key(*hasher.finalize().as_bytes())
    }

    /// All that an instance is told of the request besides its fields: by what name it was asked for, by what scheme, what it is
    /// for. As it is told, so that a host or path in another spelling is another key.
    pub(super) fn of_request(origin: &Origin, scheme: Scheme, host: &[u8], target: &str) -> Key {
        let scheme = scheme.as_str().as_bytes();
        Key::of(&[scheme, host, origin.host(host), target.as_bytes()])
    }

    /// One of the answers under this key; `generation` is of what they depend on.
    pub(super) fn variant(self, generation: u64, values: &[u8]) -> Key {
        Key::of(&[&self.0, &generation.to_le_bytes(), values])
    }
}

/// What a request wants of the cache.
pub(super) struct Ask<'a> {
    pub(super) head: &'a RequestHead,
    pub(super) key: Key,
    pub(super) asker: Asker,
    pub(super) control: RequestControl,
    pub(super) is_get: bool,
    pub(super) range: Vec<&'a [u8]>,
    pub(super) if_range: Vec<&'a [u8]>,
    pub(super) if_none_match: Vec<&'a [u8]>,
    pub(super) if_modified_since: Vec<&'a [u8]>,
}

impl<'a> Ask<'a> {
    /// Why it is none of the cache's business, if it is not.
    pub(super) fn of(head: &'a RequestHead, key: Key) -> Result<Ask<'a>, Forwarded> {
        let is_get = head.method == Method::GET;
        if !is_get && head.method != Method::HEAD {
            return Err(Forwarded::Method);
        }
        // An answer that depends on a body is not one to a URL.
        if head.has_body() || head.upgrade().is_some() {
            return Err(Forwarded::Bypass);
        }
        let mut ask = Ask {
            head,
            key,
            asker: Asker::default(),
            control: RequestControl::default(),
            is_get,
            range: Vec::new(),
            if_range: Vec::new(),
            if_none_match: Vec::new(),
            if_modified_since: Vec::new(),
        };
        let (mut control, mut pragma) = (Vec::new(), Vec::new());
        let fields = head.fields();
        for field in fields.list().iter().filter(|f| f.kind == Kind::Other) {
            let (name, value) = (fields.name(field), fields.value(field));
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            // Many programs take `_` for `-`, and would read as a known field what here is another.
            if name.contains(&b'_') {
                return Err(Forwarded::Bypass);
            }
            match name.len() {
                5 if is("range") => ask.range.push(value),
                6 if is("cookie") => ask.asker.cookies = true,
                6 if is("pragma") => pragma.push(value),
                8 if is("if-range") => ask.if_range.push(value),
                // What is to be changed only if it is as the client knows it, only the application knows.
                8 if is("if-match") => return Err(Forwarded::Bypass),
                13 if is("authorization") => ask.asker.authorized = true,
                13 if is("cache-control") => control.push(value),
                13 if is("if-none-match") => ask.if_none_match.push(value),
                17 if is("if-modified-since") => ask.if_modified_since.push(value),
                19 if is("if-unmodified-since") => return Err(Forwarded::Bypass),
                6.. if OVERRIDES.iter().any(|known| is_like(name, known)) => {
                    return Err(Forwarded::Bypass);
                }
                _ => {}
            }
        }
        ask.control = RequestControl::read(&control, &pragma);
        Ok(ask)
    }

    /// Only what is kept can answer it; what a fetch would bring is more than was asked for.
    pub(super) fn is_partial(&self) -> bool {
        !self.is_get || !self.range.is_empty()
    }

    pub(super) fn values(&self, vary: &Vary) -> Vec<u8> {
        values(self.head, vary)
    }
}

/// What of a request an answer with this `Vary` depends on.
pub(super) fn values(head: &RequestHead, vary: &Vary) -> Vec<u8> {
    vary.key(sent(head))
}

/// The fields of a request that an instance gets to see.
fn sent(head: &RequestHead) -> impl Lines<'_> {
    |wanted: &str| {
        let fields = head.fields();
        let is = |name: &[u8]| {
            name.eq_ignore_ascii_case(wanted.as_bytes()) && !head.is_named_by_connection(name)
        };
        let list = fields.list().iter();
        list.filter(|field| passes(field.kind) && is(fields.name(field)))
            .map(|field| fields.value(field))
            .collect()
    }
}

/// Whether an instance gets a client's field of this kind as it is.
pub(super) fn passes(kind: Kind) -> bool {
    matches!(kind, Kind::Other | Kind::Date)
}

/// Fields that are for an answer to one client alone, so that a fetch has them not.
pub(super) fn is_of_one_answer(name: &[u8]) -> bool {
    const NAMES: [HeaderName; 4] = [
        http::header::IF_MODIFIED_SINCE,
        http::header::IF_NONE_MATCH,
        http::header::IF_RANGE,
        http::header::RANGE,
    ];
    NAMES
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known.as_str().as_bytes()))
}

/// Also in the spelling with underscores, which many programs take for the same name.
fn is_like(name: &[u8], known: &str) -> bool {
    name.len() == known.len()
        && name
            .iter()
            .zip(known.as_bytes())
            .all(|(a, b)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::tests::request;

    fn asked(fields: &str) -> Result<Asker, Forwarded> {
        let head = request(&format!("GET /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        let origin = Origin::new([127, 0, 0, 1].into(), Scheme::Http, &[]);
        let key = Key::of_request(&origin, Scheme::Http, b"a", head.target());
        Ask::of(&head, key).map(|ask| ask.asker)
    }

    #[test]
    fn what_would_be_another_request_passes_by() {
        for fields in [
            "X-Original-URL: /b\r\n",
            "x_http_method_override: DELETE\r\n",
            "If-Match: \"a\"\r\n",
            "Content-Length: 1\r\n",
            "Connection: upgrade\r\nUpgrade: websocket\r\n",
        ] {
            assert_eq!(asked(fields), Err(Forwarded::Bypass), "{fields}");
        }
        let asker = asked("Cookie: a=b\r\nX-Original: b\r\n").unwrap();
        assert!(asker.cookies && !asker.authorized);
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let origin = Origin::new([127, 0, 0, 1].into(), Scheme::Http, &[]);
        let of =
            |scheme, host: &str, target| Key::of_request(&origin, scheme, host.as_bytes(), target);
        let key = of(Scheme::Http, "a", "/b");
        for other in [
            of(Scheme::Https, "a", "/b"),
            of(Scheme::Http, "A", "/b"),
            of(Scheme::Http, "a", "/b?"),
            of(Scheme::Http, "a/", "b"),
            key.variant(0, b""),
        ] {
            assert_ne!(key, other);
        }
        assert_ne!(key.variant(1, b"x"), key.variant(2, b"x"));
    }

    #[test]
    fn fields_that_stay_behind_do_not_count() {
        let head = request(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-lang\r\nX-Lang: de\r\nX-Other: 1\r\n\r\n",
        );
        assert!(sent(&head)("x-lang").is_empty());
        assert_eq!(sent(&head)("x-other"), [b"1"]);
    }
}
