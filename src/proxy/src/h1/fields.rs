//! Header fields as places in the bytes of a head.

use std::ops::Range;

use super::inbox::Inbox;

/// A place in a head's bytes. Heads are bounded far below 4 GiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Where `part`, a piece of `whole`, lies in it.
    pub(super) fn of(whole: &[u8], part: &[u8]) -> Span {
        let start = (part.as_ptr().addr()).saturating_sub(whole.as_ptr().addr());
        let narrow = |at: usize| u32::try_from(at.min(whole.len())).unwrap_or(u32::MAX);
        Span {
            start: narrow(start),
            end: narrow(start + part.len()),
        }
    }

    pub(super) fn between(start: usize, end: usize) -> Span {
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Span {
            start: narrow(start),
            end: narrow(end),
        }
    }

    pub(super) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The fields that mean something to a proxy; everything else is passed on unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Connection,
    ContentLength,
    Date,
    Expect,
    Host,
    RequestId,
    Te,
    TransferEncoding,
    Upgrade,
    /// Belongs to one connection (RFC 9110 section 7.6.1), named by `Connection` or not. `HTTP2-Settings` is one:
    /// an upgrade to HTTP/2 is never passed on.
    HopByHop,
    /// Says where a request came from. Also in the spelling with underscores, which many programs take for the
    /// same name.
    Claim,
    Other,
}

impl Kind {
    pub(crate) fn of(name: &[u8]) -> Kind {
        let is = |as_: &str| name.eq_ignore_ascii_case(as_.as_bytes());
        // With underscores, too: many programs take such a name for the same.
        let like = |as_: &str| is_like(name, as_);
        match name.len() {
            2 if is("te") => Kind::Te,
            4 if is("host") => Kind::Host,
            4 if is("date") => Kind::Date,
            6 if is("expect") => Kind::Expect,
            7 if is("upgrade") => Kind::Upgrade,
            9 if is("forwarded") || like("x-real-ip") => Kind::Claim,
            10 if is("connection") => Kind::Connection,
            10 if like("keep-alive") => Kind::HopByHop,
            12 if is("x-request-id") => Kind::RequestId,
            12 if like("x-request-id") => Kind::Claim,
            14 if is("content-length") => Kind::ContentLength,
            14 if like("content-length") || like("http2-settings") => Kind::HopByHop,
            16 if like("proxy-connection") => Kind::HopByHop,
            17 if is("transfer-encoding") => Kind::TransferEncoding,
            17 if like("transfer-encoding") => Kind::HopByHop,
            18 if like("proxy-authenticate") => Kind::HopByHop,
            19 if like("proxy-authorization") => Kind::HopByHop,
            12.. if is_like(&name[..12], "x-forwarded-") => Kind::Claim,
            _ => Kind::Other,
        }
    }
}

fn is_like(name: &[u8], as_: &str) -> bool {
    name.len() == as_.len()
        && name
            .iter()
            .zip(as_.as_bytes())
            .all(|(a, b)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-'))
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) kind: Kind,
    name: Span,
    value: Span,
}

/// The bytes of a head, and its fields in their order.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(super) bytes: Vec<u8>,
    list: Vec<Field>,
}

impl Fields {
    pub(super) fn with_capacity(fields: usize, bytes: usize) -> Fields {
        Fields {
            bytes: Vec::with_capacity(bytes),
            list: Vec::with_capacity(fields),
        }
    }

    /// Puts a field's line behind what there is. A `; ` joins the pieces of its value.
    pub(super) fn put(&mut self, name: &[u8], pieces: &[&[u8]]) {
        let bytes = &mut self.bytes;
        let name_start = bytes.len();
        bytes.extend_from_slice(name);
        let name_end = bytes.len();
        bytes.extend_from_slice(b": ");
        let value_start = bytes.len();
        for (at, piece) in pieces.iter().enumerate() {
            if at > 0 {
                bytes.extend_from_slice(b"; ");
            }
            bytes.extend_from_slice(piece);
        }
        self.list.push(Field {
            kind: Kind::of(name),
            name: Span::between(name_start, name_end),
            value: Span::between(value_start, bytes.len()),
        });
        bytes.extend_from_slice(b"\r\n");
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
    }

    /// Takes a head that ends at `end` out of what has been read, without a copy when that is all. Its fields are still to
    /// be found.
    pub(super) fn fill(&mut self, inbox: &mut Inbox, end: usize) {
        self.clear();
        inbox.split_into(end, &mut self.bytes);
    }

    /// Lets go of what an unusually long head took.
    pub(super) fn shrink(&mut self, bytes_max: usize) {
        if self.bytes.capacity() > bytes_max {
            self.bytes = Vec::new();
        }
        if self.list.capacity() * size_of::<Field>() > bytes_max {
            self.list = Vec::new();
        }
    }

    /// `headers` are pieces of `bytes`.
    pub(super) fn read(headers: &[httparse::Header<'_>], bytes: &[u8], list: &mut Vec<Field>) {
        list.clear();
        list.extend(headers.iter().map(|header| Field {
            kind: Kind::of(header.name.as_bytes()),
            name: Span::of(bytes, header.name.as_bytes()),
            value: Span::of(bytes, header.value),
        }));
    }

    pub(super) fn parts(&mut self) -> (&[u8], &mut Vec<Field>) {
        (&self.bytes, &mut self.list)
    }

    pub(super) fn at(&self, span: Span) -> &[u8] {
        &self.bytes[span.range()]
    }

    pub(crate) fn list(&self) -> &[Field] {
        &self.list
    }

    pub(crate) fn name(&self, field: &Field) -> &[u8] {
        self.at(field.name)
    }

    pub(crate) fn value(&self, field: &Field) -> &[u8] {
        self.at(field.value)
    }

    /// Values of the fields of a kind, in their order.
    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &[u8]> {
        self.list
            .iter()
            .filter(move |field| field.kind == kind)
            .map(|field| self.value(field))
    }

    /// The value of the only field of that name; `None` when there is none, or more than one.
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        let is = |field: &&Field| self.name(field).eq_ignore_ascii_case(name.as_bytes());
        let mut all = self.list.iter().filter(is);
        match (all.next(), all.next()) {
            (Some(field), None) => Some(self.value(field)),
            _ => None,
        }
    }

    /// The value of the first field of that name.
    pub(crate) fn first(&self, name: &str) -> Option<&[u8]> {
        let is = |field: &&Field| self.name(field).eq_ignore_ascii_case(name.as_bytes());
        self.list.iter().find(is).map(|field| self.value(field))
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.list
            .iter()
            .filter(move |field| self.name(field).eq_ignore_ascii_case(name.as_bytes()))
            .map(|field| self.value(field))
    }

    /// Whether a comma-separated list of tokens, in one field or several, has this one.
    pub(crate) fn has_token(&self, kind: Kind, token: &str) -> bool {
        self.of_kind(kind)
            .flat_map(tokens)
            .any(|one| one.eq_ignore_ascii_case(token.as_bytes()))
    }
}

/// The members of a comma-separated list.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_known_however_they_are_spelled() {
        for claim in [
            "X-Forwarded-For",
            "x_forwarded_for",
            "X-FORWARDED-ANYTHING",
            "Forwarded",
            "X_Real_IP",
            "X_Request_Id",
        ] {
            assert_eq!(Kind::of(claim.as_bytes()), Kind::Claim, "{claim}");
        }
        for other in ["X-Forwarded", "Forwarded-For", "X-Real-Ips", "X-Requested"] {
            assert_eq!(Kind::of(other.as_bytes()), Kind::Other, "{other}");
        }
        for framing in [
            "Content_Length",
            "transfer_encoding",
            "Keep_Alive",
            "Proxy_Connection",
        ] {
            assert_eq!(Kind::of(framing.as_bytes()), Kind::HopByHop, "{framing}");
        }
        assert_eq!(Kind::of(b"X-Request-ID"), Kind::RequestId);
        assert_eq!(Kind::of(b"transfer-ENCODING"), Kind::TransferEncoding);
    }
}
