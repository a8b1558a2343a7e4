//! Where a redirect leads: text with places for parts of the request.
//!
//! Whatever a request says, the answer leads to the host that the template names, and its header is one
//! line: `{path}` and `{rest}` begin with a slash or are empty, `{query}` begins with a question mark or
//! is empty, and what would not be visible ASCII is escaped.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{TextError, text_form};
use super::limits::PATH_BYTES;
use crate::text::nearest;

/// The statuses of RFC 9110 section 15.4 that send a client elsewhere for good or for now; 307 and 308 keep
/// the method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct RedirectCode(u16);

impl RedirectCode {
    pub const KNOWN: [u16; 4] = [301, 302, 307, 308];
    /// For good, and a POST stays a POST.
    pub const DEFAULT: RedirectCode = RedirectCode(308);

    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for RedirectCode {
    type Error = TextError;
    fn try_from(code: u16) -> Result<Self, TextError> {
        match Self::KNOWN.contains(&code) {
            true => Ok(RedirectCode(code)),
            false => Err(TextError::not(
                &code.to_string(),
                "a redirect's code",
                "use 301, 302, 307 or 308",
            )),
        }
    }
}

impl From<RedirectCode> for u16 {
    fn from(code: RedirectCode) -> u16 {
        code.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Scheme,
    Host,
    Path,
    Rest,
    Query,
}

const PLACES: [(&str, Place); 5] = [
    ("scheme", Place::Scheme),
    ("host", Place::Host),
    ("path", Place::Path),
    ("rest", Place::Rest),
    ("query", Place::Query),
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Place(Place),
}

/// `https://www.example.test{path}{query}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RedirectTarget {
    pieces: Vec<Piece>,
}

/// The parts of a request that a target may name.
#[derive(Debug, Clone, Copy)]
pub struct RedirectParts<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// As the client named it, with its port.
    pub host: &'a str,
    /// Without the query.
    pub path: &'a str,
    /// Bytes of the rule's prefix in `path`.
    pub prefix_bytes: usize,
    /// Without the question mark.
    pub query: Option<&'a str>,
}

impl RedirectTarget {
    /// The `Location` for a request.
    pub fn location(&self, parts: &RedirectParts<'_>) -> String {
        let mut out = String::with_capacity(64 + parts.path.len());
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Place(Place::Scheme) => push_visible(&mut out, parts.scheme),
                Piece::Place(Place::Host) => push_visible(&mut out, parts.host),
                Piece::Place(Place::Path) => push_path(&mut out, parts.path),
                Piece::Place(Place::Rest) => {
                    push_path(&mut out, parts.path.get(parts.prefix_bytes..).unwrap_or(""));
                }
                Piece::Place(Place::Query) => {
                    if let Some(query) = parts.query {
                        out.push('?');
                        push_visible(&mut out, query);
                    }
                }
            }
        }
        // `//elsewhere/x` would lead to another host (RFC 3986 section 4.2).
        if out.starts_with("//") {
            let slashes = out.bytes().take_while(|b| *b == b'/').count();
            out.drain(1..slashes);
        }
        // The target began with the path, and the request had none.
        if !out.starts_with(['/', 'h']) {
            out.insert(0, '/');
        }
        out
    }
}

/// A path or the rest of one. What does not begin with a slash (`*`) is none.
fn push_path(out: &mut String, path: &str) {
    if path.starts_with('/') {
        push_visible(out, path);
    }
}

fn push_visible(out: &mut String, text: &str) {
    for byte in text.bytes() {
        // A backslash is a slash to browsers.
        if byte.is_ascii_graphic() && byte != b'\\' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

impl FromStr for RedirectTarget {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let not = |instead: &str| TextError::not(text, "a redirect's target", instead);
        PATH_BYTES
            .check("the target's length in bytes", text.len())
            .map_err(|e| TextError::new(e.to_string()))?;
        if text.bytes().any(|b| !b.is_ascii_graphic() || b == b'\\') {
            return Err(not("write special characters as %20 and the like"));
        }
        let pieces = pieces(text)?;
        let authority = ["http://", "https://", "{scheme}://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme));
        match authority {
            Some(behind) => {
                // What a client chooses must not become part of the host's name.
                let host = behind.strip_prefix("{host}").unwrap_or(behind);
                let end = host.find(['/', '?', '#', '{']).unwrap_or(host.len());
                let literal = behind.len() == host.len();
                if literal && end == 0 {
                    return Err(not("name a host, or {host}"));
                }
                let port = host[..end].strip_prefix(':');
                let fits = literal
                    || end == 0
                    || port.is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
                let next = &host[end..];
                let placed = ["{path}", "{rest}", "{query}", "/", "?", "#"];
                if !fits || !(next.is_empty() || placed.iter().any(|p| next.starts_with(p))) {
                    return Err(not(
                        "a path, {path}, {rest} or {query} has to follow the host",
                    ));
                }
            }
            None if text.starts_with("//") => {
                return Err(not("begin it with https:// or one '/'"));
            }
            None if text.starts_with('/') || text.starts_with("{path}") => {}
            None => return Err(not("begin it with https://, http:// or '/'")),
        }
        Ok(RedirectTarget { pieces })
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>, TextError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let open = rest.find('{').unwrap_or(rest.len());
        let (before, behind) = rest.split_at(open);
        if before.contains('}') {
            return Err(TextError::not(
                text,
                "a redirect's target",
                "a '}' has no '{'",
            ));
        }
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        rest = behind;
        if let Some(inner) = behind.strip_prefix('{') {
            let Some((word, after)) = inner.split_once('}') else {
                return Err(TextError::not(
                    text,
                    "a redirect's target",
                    "a '{' is not closed",
                ));
            };
            pieces.push(Piece::Place(place(word)?));
            rest = after;
        }
    }
    Ok(pieces)
}

fn place(word: &str) -> Result<Place, TextError> {
    if let Some((_, place)) = PLACES.iter().find(|(known, _)| *known == word) {
        return Ok(*place);
    }
    let instead = match nearest(word, PLACES.iter().map(|(known, _)| *known)) {
        Some(near) => format!("did you mean '{{{near}}}'?"),
        None => "use {scheme}, {host}, {path}, {rest} or {query}".to_owned(),
    };
    Err(TextError::not(
        &format!("{{{word}}}"),
        "a part of a request",
        instead,
    ))
}

text_form!(RedirectTarget);

impl fmt::Display for RedirectTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(text),
            Piece::Place(place) => write!(f, "{{{}}}", super::error::word(place, &PLACES)),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn location(target: &str, path: &str, prefix_bytes: usize, query: Option<&str>) -> String {
        let target: RedirectTarget = target.parse().unwrap();
        target.location(&RedirectParts {
            scheme: "http",
            host: "a.test:81",
            path,
            prefix_bytes,
            query,
        })
    }

    #[test]
    fn parts_of_the_request_fill_the_places() {
        for (target, expected) in [
            ("https://b.test{path}{query}", "https://b.test/old/x?q=1"),
            (
                "https://b.test/new{rest}{query}",
                "https://b.test/new/x?q=1",
            ),
            ("{scheme}://{host}/n{rest}", "http://a.test:81/n/x"),
            ("{scheme}://{host}:444{path}", "http://a.test:81:444/old/x"),
            ("/fixed", "/fixed"),
            ("{path}/", "/old/x/"),
        ] {
            assert_eq!(location(target, "/old/x", 4, Some("q=1")), expected);
        }
        assert_eq!(
            location("https://b.test{path}{query}", "*", 0, None),
            "https://b.test"
        );
        assert_eq!(location("/new{rest}", "/old", 4, None), "/new");
        assert_eq!(location("{path}{query}", "*", 0, Some("q")), "/?q");
    }

    #[test]
    fn no_request_chooses_the_host_or_the_line() {
        assert_eq!(location("{path}/", "//evil.test", 0, None), "/evil.test/");
        assert_eq!(
            location("/{rest}", "/old//evil.test", 4, None),
            "/evil.test"
        );
        assert_eq!(location("{path}", "/\\evil.test", 0, None), "/%5Cevil.test");
        let path = "/a\r\nSet-Cookie: b";
        assert_eq!(location("{path}", path, 0, None), "/a%0D%0ASet-Cookie:%20b");
    }

    #[test]
    fn what_could_lead_astray_is_refused() {
        for (bad, word) in [
            ("", "begin it"),
            ("b.test/x", "begin it"),
            ("//b.test", "one '/'"),
            ("{host}/x", "begin it"),
            ("https://", "name a host"),
            ("https://{path}", "name a host"),
            ("https://{host}evil.test", "follow the host"),
            ("https://b.test{host}", "follow the host"),
            ("https://b.test{pth}", "'{path}'"),
            ("https://b.test/{", "not closed"),
            ("https://b.test/}", "no '{'"),
            ("https://b.test/ä", "%20"),
            ("https://b.test/a b", "%20"),
        ] {
            let error = bad.parse::<RedirectTarget>().unwrap_err().to_string();
            assert!(error.contains(word), "{bad}: {error}");
        }
        assert!(RedirectCode::try_from(303).is_err());
    }

    proptest! {
        #[test]
        fn targets_read_back_what_they_print(text in "(https://b\\.test|/)[a/{}?]{0,6}(\\{path\\}|\\{query\\})?") {
            if let Ok(target) = text.parse::<RedirectTarget>() {
                prop_assert_eq!(target.to_string(), text);
            }
        }

        #[test]
        fn every_location_stays_with_its_host(
            target in prop::sample::select(vec!["https://b.test{path}{query}", "https://b.test{rest}", "/x{rest}", "{path}{query}"]),
            path in "\\PC{0,12}",
            prefix_bytes in 0..4usize,
            query in prop::option::of("\\PC{0,6}"),
        ) {
            let location = location(target, &path, prefix_bytes, query.as_deref());
            prop_assert!(location.bytes().all(|b| b.is_ascii_graphic()));
            if target.starts_with("https://") {
                let behind = location.strip_prefix("https://b.test").unwrap();
                prop_assert!(behind.is_empty() || behind.starts_with(['/', '?']), "{}", location);
            } else {
                prop_assert!(!location.starts_with("//"), "{}", location);
            }
        }
    }
}
