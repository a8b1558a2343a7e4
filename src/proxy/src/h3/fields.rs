//! Field sections between QPACK and what reads requests and writes answers (RFC 9114 section 4).

use http::HeaderMap;

use super::qpack::{Encoder, Field};
use crate::streams::{Head, Section};

pub(super) fn section(fields: &[Field]) -> Section {
    let mut section = Section::default();
    for field in fields {
        section.push(&field.name, &field.value);
    }
    section
}

/// The section of a response's head.
pub(super) fn write_response(head: &Head<'_>) -> Encoder {
    let mut encoder = Encoder::new();
    encoder.field(":status", &head.status_text());
    head.each(|name, value, _| {
        // The parser has taken it for text already.
        if let Ok(name) = std::str::from_utf8(name) {
            encoder.field(name, value);
        }
    });
    encoder
}

pub(super) fn write_trailers(trailers: &HeaderMap) -> Encoder {
    let mut encoder = Encoder::new();
    for (name, value) in trailers {
        encoder.field(name.as_str(), value.as_bytes());
    }
    encoder
}
