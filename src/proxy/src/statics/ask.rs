//! What a request for a file says.

use http::Method;

use crate::h1::RequestHead;

/// A request, as far as static sites look at it.
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a Method,
    /// As it came, encoded.
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) fields: Fields<'a>,
}

impl<'a> Ask<'a> {
    /// `stripped` is path and query, where they are not those of the head.
    pub(crate) fn of(head: &'a RequestHead, stripped: Option<&'a str>) -> Ask<'a> {
        let mut fields = Fields::default();
        for field in head.fields().list() {
            fields.add(head.fields().name(field), head.fields().value(field));
        }
        let target = stripped.unwrap_or(head.target());
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        Ask {
            method: &head.method,
            path,
            query,
            fields,
        }
    }
}

/// The fields that matter, picked in one pass over a request's head.
#[derive(Debug, Default)]
pub(crate) struct Fields<'a> {
    pub(super) accept: Values<'a>,
    pub(super) accept_encoding: Values<'a>,
    pub(super) if_match: Values<'a>,
    pub(super) if_none_match: Values<'a>,
    pub(super) if_range: Values<'a>,
    pub(super) range: Values<'a>,
}

impl<'a> Fields<'a> {
    /// Takes the next field of the head; names in any case, others are passed over.
    pub(crate) fn add(&mut self, name: &[u8], value: &'a [u8]) {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        // Most fields are told apart by their length alone.
        let values = match name.len() {
            5 if is(b"range") => &mut self.range,
            6 if is(b"accept") => &mut self.accept,
            8 if is(b"if-match") => &mut self.if_match,
            8 if is(b"if-range") => &mut self.if_range,
            13 if is(b"if-none-match") => &mut self.if_none_match,
            15 if is(b"accept-encoding") => &mut self.accept_encoding,
            _ => return,
        };
        values.add(value);
    }
}

/// The values of one field, line by line. A second line is rare enough to allocate for.
#[derive(Debug, Default)]
pub(super) struct Values<'a> {
    first: Option<&'a [u8]>,
    more: Vec<&'a [u8]>,
}

impl<'a> Values<'a> {
    pub(super) fn add(&mut self, value: &'a [u8]) {
        match self.first {
            None => self.first = Some(value),
            Some(_) => self.more.push(value),
        }
    }

    pub(super) fn is_there(&self) -> bool {
        self.first.is_some()
    }

    /// The value of a field that must not be a list; `None` if it came twice.
    pub(super) fn single(&self) -> Option<&'a [u8]> {
        self.first.filter(|_| self.more.is_empty())
    }

    /// All lines that are text.
    pub(super) fn lines(&self) -> impl Iterator<Item = &'a str> {
        let lines = self.first.iter().chain(&self.more);
        lines.filter_map(|line| std::str::from_utf8(line).ok())
    }

    /// The members of a list (RFC 9110 section 5.6.1).
    pub(super) fn members(&self) -> impl Iterator<Item = &'a str> {
        self.lines()
            .flat_map(|line| line.split(','))
            .map(str::trim)
            .filter(|member| !member.is_empty())
    }
}

#[cfg(test)]
impl<'a> Fields<'a> {
    pub(super) fn from_pairs(pairs: &[(&str, &'a str)]) -> Fields<'a> {
        let mut fields = Fields::default();
        for (name, value) in pairs {
            fields.add(name.as_bytes(), value.as_bytes());
        }
        fields
    }
}
