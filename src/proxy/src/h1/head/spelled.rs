//! A request's head that did not come as bytes of HTTP/1.1. It is put down as if it had, and what it means is read from its
//! fields as always; only the parser has nothing to do, for it is known where everything is.

use http::Method;

use super::{Fields, HeadLimits, Refusal, RequestHead, Span, Version, split_target};

/// Around a method and a target: two spaces, the version and the line's end.
const REQUEST_LINE_BYTES: usize = " ".len() + " HTTP/1.1\r\n".len();

/// A head that is being put down. Whoever does so sees to it that names are tokens and values have no control characters.
#[derive(Debug)]
pub(crate) struct Spelling {
    fields: Fields,
    method: Method,
    target: Span,
}

impl Spelling {
    /// Begins with the request line; of fields there will be about so many, and bytes in them.
    pub(crate) fn new(method: Method, target: &[u8], fields: usize, bytes: usize) -> Spelling {
        let line = method.as_str().len() + target.len() + REQUEST_LINE_BYTES;
        let mut spelled = Fields::with_capacity(fields, line + bytes);
        let text = &mut spelled.bytes;
        text.extend_from_slice(method.as_str().as_bytes());
        text.push(b' ');
        let start = text.len();
        text.extend_from_slice(target);
        let target = Span::between(start, text.len());
        text.extend_from_slice(b" HTTP/1.1\r\n");
        Spelling {
            fields: spelled,
            method,
            target,
        }
    }

    pub(crate) fn field(&mut self, name: &[u8], value: &[u8]) {
        self.fields.put(name, &[value]);
    }

    /// A field whose value comes in pieces that a `; ` joins.
    pub(crate) fn joined(&mut self, name: &[u8], pieces: &[&[u8]]) {
        self.fields.put(name, pieces);
    }

    /// Reads it.
    pub(crate) fn read(
        mut self,
        limits: HeadLimits,
        bytes_max: usize,
    ) -> Result<RequestHead, Refusal> {
        self.fields.bytes.extend_from_slice(b"\r\n");
        if self.fields.bytes.len() > bytes_max || self.fields.list().len() > limits.fields {
            return Err(Refusal::HeadTooLarge);
        }
        let Spelling {
            fields,
            method,
            target,
        } = self;
        let text = fields.at(target);
        if text.len() > limits.target_bytes {
            return Err(Refusal::TargetTooLong);
        }
        let odd = |byte: &u8| *byte <= b' ' || *byte == 0x7f;
        let whole = std::str::from_utf8(text).ok();
        let Some(whole) = whole.filter(|_| !text.is_empty() && !text.iter().any(odd)) else {
            return Err(Refusal::Malformed("its request line is not one"));
        };
        let (authority, path) = split_target(&method, whole)?;
        let of_server = path == Some("*");
        let place = |part: &str| Span::of(&fields.bytes, part.as_bytes());
        let mut head = RequestHead {
            authority: authority.map(place),
            target: path.filter(|_| !of_server).map(place),
            of_server,
            method,
            version: Version::Eleven,
            ..RequestHead::default()
        };
        head.fields = fields;
        head.read_fields()?;
        Ok(head)
    }

    /// The head as it stands.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> Vec<u8> {
        [&self.fields.bytes, &b"\r\n"[..]].concat()
    }

    #[cfg(test)]
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{End, Inbox, find_end};
    use proptest::prelude::*;

    const LIMITS: HeadLimits = HeadLimits {
        fields: 10,
        target_bytes: 100,
    };

    fn spelled(method: &str, target: &str, fields: &[(&str, &str)]) -> Spelling {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut spelling = Spelling::new(method, target.as_bytes(), 0, 0);
        for (name, value) in fields {
            spelling.field(name.as_bytes(), value.as_bytes());
        }
        spelling
    }

    fn parsed(text: &str) -> Result<RequestHead, Refusal> {
        let mut inbox = Inbox::from(text.as_bytes().to_vec());
        let Ok(End::At(end)) = find_end(&inbox, 0) else {
            panic!("no end: {text}");
        };
        let mut head = RequestHead::default();
        head.take(&mut inbox, end, LIMITS).map(|()| head)
    }

    #[test]
    fn limits_are_those_of_a_head_that_is_parsed() {
        let long = "/".repeat(101);
        let read = |spelling: Spelling| spelling.read(LIMITS, 1000).map(|_| ());
        assert_eq!(
            read(spelled("GET", &long, &[])),
            Err(Refusal::TargetTooLong)
        );
        let many = [("x", "1"); 11];
        assert_eq!(read(spelled("GET", "/", &many)), Err(Refusal::HeadTooLarge));
        let value = "x".repeat(1000);
        let large = spelled("GET", "/", &[("x", value.as_str())]);
        assert_eq!(read(large), Err(Refusal::HeadTooLarge));
        for bad in ["", "/\u{7f}", "/ x", "x", "/#"] {
            let refused = read(spelled("GET", bad, &[]));
            assert!(matches!(refused, Err(Refusal::Malformed(_))), "{bad:?}");
        }
    }

    #[test]
    fn pieces_are_joined() {
        let mut spelling = spelled("GET", "/", &[("host", "a")]);
        spelling.joined(b"cookie", &[b"a=1", b"b=2"]);
        assert!(spelling.text().ends_with("\r\ncookie: a=1; b=2\r\n\r\n"));
        let head = spelling.read(LIMITS, 1000).unwrap();
        assert_eq!(head.fields().get("cookie"), Some(&b"a=1; b=2"[..]));
    }

    proptest! {
        /// What is put down is what a parser would have read.
        #[test]
        fn it_reads_as_its_text_does(
            method in "GET|POST|OPTIONS|CONNECT|X-Y",
            target in "(/[!-~]{0,20}|\\*|http://[a-z@:/?]{0,9}|[ -~\u{7f}]{0,5})",
            fields in prop::collection::vec((
                "host|connection|upgrade|te|expect|content-length|transfer-encoding|x-y|x_forwarded_for",
                "([!-~]{1,8}|)|close|upgrade|te|100-continue|chunked|[0-9]{1,3}|websocket|a",
            ), 0..12),
        ) {
            let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let spelling = spelled(&method, &target, &fields);
            let text = spelling.text();
            let (read, parsed) = (spelling.read(LIMITS, 4096), parsed(&text));
            match (read, parsed) {
                (Ok(read), Ok(parsed)) => prop_assert_eq!(format!("{read:?}"), format!("{parsed:?}")),
                (Err(_), Err(_)) => {}
                (read, parsed) => prop_assert!(false, "{}: {:?} and {:?}", text, read, parsed),
            }
        }
    }
}
