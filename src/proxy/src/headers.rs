//! Header fields at the border between client and instance: what stays behind and what is added.

use std::net::IpAddr;

use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// A client's own request id is kept up to this length; a UUID has 36 characters.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Fields that belong to one connection (RFC 9110 section 7.6.1), named by `Connection` or not.
/// `TE` is one of them and is handled apart; `Trailer` is not, because trailers are forwarded.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Removes what concerns only the connection a message came by.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        // What frames or routes the message is not the sender's to drop.
        .filter(|name| !matches!(*name, header::CONTENT_LENGTH | header::HOST | header::TE))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Makes a client's head fit for an instance. `host` is what the request was routed by.
pub(crate) fn for_instance(
    headers: &mut HeaderMap,
    client: IpAddr,
    host: &HeaderValue,
    request_id: &HeaderValue,
) {
    let trailers = accepts_trailers(headers);
    strip_hop_by_hop(headers);
    headers.remove(header::TE);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    // The edge has told the client to go on by itself.
    headers.remove(header::EXPECT);
    strip_claims(headers);

    headers.insert(header::HOST, host.clone());
    headers.insert(X_FORWARDED_HOST, host.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    let client = client.to_canonical().to_string();
    if let Ok(client) = HeaderValue::try_from(client) {
        headers.insert(X_FORWARDED_FOR, client);
    }
    headers.insert(X_REQUEST_ID, request_id.clone());
    // RFC 9110 section 7.6.3: a gateway must, towards the origin.
    headers.append(header::VIA, HeaderValue::from_static("1.1 nebula"));
}

/// Makes an instance's head fit for a client.
pub(crate) fn for_client(headers: &mut HeaderMap, request_id: &HeaderValue) {
    strip_hop_by_hop(headers);
    headers.insert(X_REQUEST_ID, request_id.clone());
}

/// The client's id for the request if it is harmless in logs and pages, else a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len())
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.:+/=".contains(b))
    };
    match headers.get(X_REQUEST_ID).filter(sane) {
        Some(value) => value.clone(),
        None => {
            let id = format!("{:032x}", rand::random::<u128>());
            HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("-"))
        }
    }
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// Removes what says where a request came from: nobody in front of the edge is trusted to say so.
/// Also in the spelling with underscores, which many programs take for the same name.
fn strip_claims(headers: &mut HeaderMap) {
    let claims: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_claim(name.as_str().as_bytes()))
        .cloned()
        .collect();
    for name in claims {
        if let Entry::Occupied(entry) = headers.entry(name) {
            entry.remove_entry_mult();
        }
    }
}

fn is_claim(name: &[u8]) -> bool {
    let same = |name: &[u8], as_: &[u8]| {
        name.len() == as_.len()
            && name
                .iter()
                .zip(as_)
                .all(|(a, b)| a == b || (*a == b'_' && *b == b'-'))
    };
    match name.first() {
        Some(b'x') => {
            same(name, b"x-real-ip")
                || same(name, b"x-request-id")
                || name
                    .get(..12)
                    .is_some_and(|start| same(start, b"x-forwarded-"))
        }
        Some(b'f') => name == b"forwarded",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            })
    }

    #[test]
    fn fields_of_one_connection_stay_behind() {
        let mut headers = map(&[
            ("connection", "close, X-Mine"),
            ("connection", "keep-alive, Content-Length"),
            ("keep-alive", "timeout=5"),
            ("x-mine", "1"),
            ("proxy-authorization", "secret"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("content-length", "3"),
            ("trailer", "x-sum"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length", "trailer"]);
    }

    #[test]
    fn claims_of_a_client_are_replaced() {
        let mut headers = map(&[
            ("x-forwarded-for", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x-forwarded-port", "1"),
            ("forwarded", "for=6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("te", "trailers, deflate"),
            ("expect", "100-continue"),
            ("via", "1.0 fred"),
        ]);
        for_instance(
            &mut headers,
            "::ffff:192.0.2.1".parse().unwrap(),
            &HeaderValue::from_static("api.example.test"),
            &HeaderValue::from_static("id"),
        );
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1");
        assert_eq!(headers["x-forwarded-host"], "api.example.test");
        assert_eq!(headers["te"], "trailers");
        for gone in [
            "x_forwarded_for",
            "x-forwarded-port",
            "forwarded",
            "x-real-ip",
            "expect",
        ] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        let via: Vec<_> = headers.get_all("via").iter().collect();
        assert_eq!(via, ["1.0 fred", "1.1 nebula"]);
    }

    #[test]
    fn only_sane_request_ids_are_kept() {
        assert_eq!(request_id(&map(&[("x-request-id", "a-1")])), "a-1");
        for bad in ["", "a b", "<script>", "a\"b"] {
            let id = request_id(&map(&[("x-request-id", bad)]));
            assert_eq!(id.len(), 32, "{bad}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
