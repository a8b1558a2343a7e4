//! Paths of requests: prefixes on segment boundaries, and the one form in which they are compared.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{TextError, text_form};
use super::limits::PATH_BYTES;

/// A prefix of whole segments: `/api` has `/api` and `/api/v1` under it, `/apix` not.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
// Without the last slash, so that the root is empty and everything begins with it.
pub struct PathPrefix(String);

impl PathPrefix {
    pub const fn root() -> PathPrefix {
        PathPrefix(String::new())
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a path in its [`canonical`] form lies under the prefix.
    pub fn covers(&self, path: &str) -> bool {
        path.strip_prefix(self.0.as_str())
            .is_some_and(|rest| self.is_root() || rest.is_empty() || rest.starts_with('/'))
    }

    /// Bytes of the prefix in a path that it covers: what is left is empty or begins with a slash.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

impl FromStr for PathPrefix {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let not = |instead: &str| Err(TextError::not(text, "a path", instead));
        if !text.starts_with('/') {
            return not("begin it with '/'");
        }
        PATH_BYTES
            .check("the path's length in bytes", text.len())
            .map_err(|e| TextError::new(e.to_string()))?;
        if let Some(bad) = text.chars().find(|c| !is_path(*c)) {
            return not(&match bad {
                '?' | '#' => format!("it may have no '{bad}': only the path is compared"),
                '*' => "a prefix needs no '*': everything under it is meant anyway".to_owned(),
                _ => "write spaces and special characters as %20 and the like".to_owned(),
            });
        }
        let canonical = canonical(text);
        if canonical != text {
            return not(&format!("requests have it as '{canonical}'"));
        }
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.ends_with('/') {
            return not("leave out the empty segments at its end");
        }
        Ok(PathPrefix(text.to_owned()))
    }
}

text_form!(PathPrefix);

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "/" } else { &self.0 })
    }
}

impl fmt::Debug for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// RFC 3986 section 3.3: what a path is made of, `*` left out.
fn is_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/-._~!$&'()+,;=:@%".contains(c)
}

/// The form in which paths are compared: unreserved characters not escaped, other escapes in upper case
/// (RFC 3986 section 6.2.2), no `.` and `..` segments (section 5.2.4). `/%61dmin` is `/admin`, so a rule
/// about one is not passed by the other. `%2F` stays what it is, and so do empty segments; a `%` that
/// escapes nothing becomes `%25`.
///
/// Nothing is allocated for a path that is canonical already, as almost all are.
pub fn canonical(path: &str) -> Cow<'_, str> {
    let bytes = path.as_bytes();
    let plain = !bytes.contains(&b'%') && !path.contains("/.") || !path.starts_with('/');
    if plain {
        return Cow::Borrowed(path);
    }
    let decoded = decode_unreserved(path);
    let dotted = decoded.contains("/.");
    let canonical = match dotted {
        true => without_dots(&decoded),
        false => decoded,
    };
    match canonical == path {
        true => Cow::Borrowed(path),
        false => Cow::Owned(canonical),
    }
}

/// A path without its first bytes, as it goes on: never empty.
pub fn stripped(path: &str, bytes: usize) -> &str {
    match path.get(bytes..) {
        None | Some("") => "/",
        Some(rest) => rest,
    }
}

fn decode_unreserved(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let digits = escape
            .get(1..3)
            .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match (byte.map(char::from), digits) {
            (Some(c), _) if c.is_ascii_alphanumeric() || "-._~".contains(c) => {
                out.push(c);
                &escape[3..]
            }
            (Some(_), Some(digits)) => {
                out.push('%');
                out.push_str(&digits.to_ascii_uppercase());
                &escape[3..]
            }
            // No escape at all. Left alone, it could make one with what is decoded behind it.
            _ => {
                out.push_str("%25");
                &escape[1..]
            }
        };
    }
    out.push_str(rest);
    out
}

/// RFC 3986 section 5.2.4, for a path that begins with a slash.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> PathPrefix {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_end_where_segments_do() {
        let api = prefix("/api");
        for under in ["/api", "/api/", "/api/v1", "/api//x"] {
            assert!(api.covers(under), "{under}");
        }
        for other in ["/", "/apix", "/ap", "", "/API", "*"] {
            assert!(!api.covers(other), "{other}");
        }
        assert_eq!(prefix("/api/"), api);
        assert_eq!(api.bytes(), 4);
        for any in ["/", "/x", "*", ""] {
            assert!(prefix("/").covers(any), "{any}");
        }
        assert_eq!(
            (prefix("/").to_string().as_str(), prefix("/").bytes()),
            ("/", 0)
        );
    }

    #[test]
    fn a_refused_prefix_is_told_how_to_be_written() {
        for (text, word) in [
            ("api", "begin it with '/'"),
            ("", "begin it with '/'"),
            ("/a?b", "'?'"),
            ("/a/*", "needs no '*'"),
            ("/a b", "%20"),
            ("/ä", "%20"),
            ("/%61pi", "'/api'"),
            ("/a/../b", "'/b'"),
            ("/a//", "empty segments"),
        ] {
            let error = text.parse::<PathPrefix>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(
            format!("/{}", "a".repeat(2000))
                .parse::<PathPrefix>()
                .is_err()
        );
    }

    #[test]
    fn one_path_has_one_form() {
        for (path, form) in [
            ("/a/b", "/a/b"),
            ("/%61dmin", "/admin"),
            ("/%41%2d%7e", "/A-~"),
            ("/a%2fb", "/a%2Fb"),
            ("/a/./b/../c", "/a/c"),
            ("/a/%2e%2E/b", "/b"),
            ("/..", "/"),
            ("/../../x", "/x"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a..b/...", "/a..b/..."),
            ("/%zz%", "/%25zz%25"),
            ("/%%36%31", "/%2561"),
            ("/%2561", "/%2561"),
            ("//a", "//a"),
            ("*", "*"),
        ] {
            assert_eq!(canonical(path), form, "{path}");
        }
        assert!(matches!(canonical("/.well-known/x"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn a_canonical_path_stays_as_it_is(path in "/[a-c./%2eE61fF]{0,24}") {
            let once = canonical(&path).into_owned();
            prop_assert_eq!(canonical(&once).into_owned(), once.clone());
            prop_assert!(once.starts_with('/'));
            prop_assert!(once.split('/').all(|s| s != "." && s != ".."));
        }

        #[test]
        fn prefixes_read_back_what_they_print(text in "/[a-c./%2eE6-]{0,24}") {
            if let Ok(prefix) = text.parse::<PathPrefix>() {
                prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
            }
        }

        #[test]
        fn what_is_left_of_a_covered_path_begins_with_a_slash(prefix in "(/[ab]){0,3}/?", path in "(/[ab]){0,5}/?") {
            if let Ok(prefix) = prefix.parse::<PathPrefix>() && prefix.covers(&path) {
                let rest = &path[prefix.bytes()..];
                prop_assert!(rest.is_empty() || rest.starts_with('/'));
            }
        }
    }
}
