//! Conditional requests that are answered from what is kept (RFC 9110 section 13, RFC 9111 section 4.3.2).

use super::Lines;
use super::control::members;
use super::storing::http_date;

/// By what an answer is told from another of the same resource.
#[derive(Debug, Clone, Copy, Default)]
pub struct Validators<'a> {
    pub etag: Option<&'a [u8]>,
    pub last_modified: Option<&'a [u8]>,
}

impl<'a> Validators<'a> {
    /// Of an answer's fields. One that is there twice says nothing.
    pub fn of(fields: &impl Lines<'a>) -> Validators<'a> {
        let single = |name: &str| match fields(name)[..] {
            [value] => Some(value),
            _ => None,
        };
        Validators {
            etag: single("etag").filter(|etag| is_tag(etag)),
            last_modified: single("last-modified").filter(|date| http_date(date).is_some()),
        }
    }

    pub fn is_there(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }

    /// Whether the client has this already, by its `If-None-Match`, or without one its `If-Modified-Since`.
    pub fn is_known(&self, if_none_match: &[&[u8]], if_modified_since: &[&[u8]]) -> bool {
        if !if_none_match.is_empty() {
            return if_none_match.iter().any(|line| self.is_among(line));
        }
        let [since] = if_modified_since else {
            return false;
        };
        match (self.last_modified.and_then(http_date), http_date(since)) {
            (Some(modified), Some(since)) => modified <= since,
            _ => false,
        }
    }

    /// Whether a range that depends on `If-Range` is of this. Only by a strong tag: a date may be of two answers.
    pub fn has_range(&self, if_range: &[&[u8]]) -> bool {
        match if_range {
            [] => true,
            [tag] => tag.starts_with(b"\"") && self.etag == Some(*tag),
            _ => false,
        }
    }

    fn is_among(&self, line: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(line) else {
            return false;
        };
        if text.trim() == "*" {
            return true;
        }
        let (Some(etag), Some(mut tags)) = (self.etag, members(text).map(Vec::into_iter)) else {
            return false;
        };
        tags.any(|tag| is_same(tag.as_bytes(), etag))
    }
}

/// The weak comparison (RFC 9110 section 8.8.3.2).
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    let bare = |tag| <[u8]>::strip_prefix(tag, b"W/").unwrap_or(tag);
    is_tag(one) && bare(one) == bare(other)
}

fn is_tag(tag: &[u8]) -> bool {
    let bare = tag.strip_prefix(b"W/").unwrap_or(tag);
    bare.len() >= 2
        && bare.starts_with(b"\"")
        && bare.ends_with(b"\"")
        // RFC 9110 section 8.8.3; with a backslash it would end elsewhere for whoever takes it for a quoted string.
        && bare[1..bare.len() - 1]
            .iter()
            .all(|b| *b > b' ' && !matches!(b, b'"' | b'\\' | 0x7f))
}
