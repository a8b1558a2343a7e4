//! What a client accepts (RFC 9110 section 12.5).

use http::HeaderValue;
use http::header::{self, HeaderMap};

/// HTML is named in `Accept`; `*/*` alone, which programs send, is not enough.
pub(crate) fn accepts_html(accept: Option<&HeaderValue>) -> bool {
    let Some(accept) = accept.and_then(|accept| accept.to_str().ok()) else {
        return false;
    };
    items(accept).any(|(name, quality)| {
        quality > 0.0
            && (name.eq_ignore_ascii_case("text/html")
                || name.eq_ignore_ascii_case("application/xhtml+xml")
                || name.eq_ignore_ascii_case("text/*"))
    })
}

/// Gzip is accepted, and no less welcome than the file as it is.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, None);
    let values = headers.get_all(header::ACCEPT_ENCODING);
    for value in values.iter().filter_map(|value| value.to_str().ok()) {
        for (name, quality) in items(value) {
            let slot = match name {
                n if n.eq_ignore_ascii_case("gzip") || n.eq_ignore_ascii_case("x-gzip") => {
                    &mut gzip
                }
                n if n.eq_ignore_ascii_case("identity") => &mut identity,
                "*" => &mut any,
                _ => continue,
            };
            *slot = Some(quality);
        }
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    gzip > 0.0 && gzip >= identity.unwrap_or(0.0)
}

/// The items of a list with their weights; what is not a weight counts as none.
fn items(list: &str) -> impl Iterator<Item = (&str, f32)> {
    list.split(',').map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let quality = parts
            .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
            .map_or(1.0, |quality| quality.trim().parse().unwrap_or(0.0));
        (name, quality)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_respected() {
        for (value, expected) in [
            ("gzip", true),
            ("GZIP", true),
            ("deflate, gzip;q=1.0, *;q=0.5", true),
            ("gzip;q=0", false),
            ("*", true),
            ("*;q=0", false),
            ("gzip;q=0, *", false),
            ("br", false),
            ("identity, gzip;q=0.5", false),
            ("identity;q=0.5, gzip", true),
            ("", false),
            ("gzip;q=x", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(accepts_gzip(&headers), expected, "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn html_must_be_named() {
        let accepts = |value| accepts_html(Some(&HeaderValue::from_static(value)));
        assert!(accepts("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"));
        assert!(!accepts("*/*"));
        assert!(!accepts("application/json, text/html;q=0"));
        assert!(!accepts_html(None));
    }
}
