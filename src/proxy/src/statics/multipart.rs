//! Several ranges in one answer: `multipart/byteranges` (RFC 9110 section 14.6, RFC 2046 section 5.1.1).

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderValue;

use super::manifest::Entry;
use super::ranges::{Span, slice};

pub(super) struct Multipart {
    boundary: String,
    parts: Vec<(Bytes, Span)>,
}

impl Multipart {
    /// `content_type` is that of the file.
    pub(super) fn new(spans: Vec<Span>, entry: Entry, content_type: &HeaderValue) -> Multipart {
        // No file holds its own hash.
        let boundary = hex::encode(&entry.hash[16..]);
        let parts = spans.into_iter().enumerate().map(|(index, span)| {
            let mut head = BytesMut::new();
            let line = if index == 0 { "--" } else { "\r\n--" };
            for piece in [line, &boundary, "\r\nContent-Type: "] {
                head.put_slice(piece.as_bytes());
            }
            head.put_slice(content_type.as_bytes());
            let range = format!("{}-{}/{}", span.first, span.last, entry.size);
            for piece in ["\r\nContent-Range: bytes ", &range, "\r\n\r\n"] {
                head.put_slice(piece.as_bytes());
            }
            (head.freeze(), span)
        });
        Multipart {
            parts: parts.collect(),
            boundary,
        }
    }

    pub(super) fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// Of all that is sent.
    pub(super) fn length(&self) -> u64 {
        let parts = self.parts.iter();
        let parts: u64 = parts
            .map(|(head, span)| head.len() as u64 + span.length())
            .sum();
        parts + self.end().len() as u64
    }

    /// What comes before each span.
    pub(super) fn parts(self) -> Vec<(Bytes, Span)> {
        self.parts
    }

    /// What comes after the last.
    pub(super) fn end(&self) -> Bytes {
        format!("\r\n--{}--\r\n", self.boundary).into()
    }

    /// The answer's body, of a file in memory.
    pub(super) fn whole(self, file: &Bytes) -> Bytes {
        let mut body = BytesMut::with_capacity(usize::try_from(self.length()).unwrap_or_default());
        for (head, span) in &self.parts {
            body.put_slice(head);
            body.put_slice(&slice(file, *span));
        }
        body.put_slice(&self.end());
        body.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let file = Bytes::from_static(b"0123456789");
        let entry = Entry {
            size: 10,
            hash: [0xab; 32],
        };
        let spans = vec![Span { first: 0, last: 1 }, Span { first: 8, last: 9 }];
        let multipart = Multipart::new(spans, entry, &HeaderValue::from_static("text/plain"));
        let length = multipart.length();
        let body = multipart.whole(&file);
        assert_eq!(body.len() as u64, length);
        let boundary = "ab".repeat(16);
        let expected = format!(
            "--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01\r\n\
             --{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 8-9/10\r\n\r\n89\r\n\
             --{boundary}--\r\n"
        );
        assert_eq!(body, expected.as_bytes());
    }
}
