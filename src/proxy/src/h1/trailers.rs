//! Fields behind a chunked body (RFC 9110 section 6.5). They came after everything was decided by the head, so none may
//! say anything that decides: where the message ends, where it came from, who sent it.

use super::fields::Kind;
use super::head::FIELDS_MAX;

/// Fields behind one body: as many as before it.
pub(crate) const TRAILERS_MAX: usize = FIELDS_MAX;

/// The fields that pass, as lines; `bytes` are the lines as they came, without the empty one that ends them.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::new();
    if bytes.is_empty() {
        return Ok(out);
    }
    let whole = [bytes, b"\r\n"].concat();
    let mut slots = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    let fields = match httparse::parse_headers(&whole, &mut slots) {
        Ok(httparse::Status::Complete((used, fields))) if used == whole.len() => fields,
        Err(httparse::Error::TooManyHeaders) => return Err("it has too many trailer fields"),
        _ => return Err("what follows its last chunk is no fields"),
    };
    for field in fields.iter().filter(|field| passes(field.name)) {
        for part in [field.name.as_bytes(), b": ", field.value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    Ok(out)
}

/// RFC 9110 section 6.5.1: not what is needed before the content, or for authentication, routing or framing.
fn passes(name: &str) -> bool {
    const NEVER: [&str; 12] = [
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "max-forwards",
        "range",
        "set-cookie",
        "trailer",
        "via",
        "www-authenticate",
    ];
    Kind::of(name.as_bytes()) == Kind::Other
        && !NEVER.iter().any(|never| name.eq_ignore_ascii_case(never))
}
