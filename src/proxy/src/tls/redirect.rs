//! From http to https, for hosts that have a certificate.

use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};
use nebula_domain::http::path::canonical;

use super::Tls;
use crate::body::ResponseBody;
use crate::h1::RequestHead;
use crate::origin::{Origin, Scheme};

/// Where authorities look for a proof of control, which they ask for over plain HTTP (RFC 8555 section 8.3).
const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// The port that an https URL need not name.
const PORT: u16 = 443;

/// The answer to a request that is to be made again over TLS. Only for a host that has a route: others are to learn nothing of
/// the certificates that are here.
pub(crate) fn to_https(
    tls: Option<&Tls>,
    origin: &Origin,
    head: &RequestHead,
) -> Option<Response<ResponseBody>> {
    let tls = tls?;
    let host = name(head.host()?)?;
    if !is_due(tls, origin, head, host) {
        return None;
    }
    let target = head.target();
    let location = match tls.address.port() {
        PORT => format!("https://{host}{target}"),
        port => format!("https://{host}:{port}{target}"),
    };
    // A host and a target that were parsed are a field's value.
    let location = HeaderValue::try_from(location).ok()?;
    let mut response = Response::new(ResponseBody::empty());
    // With 301, clients may make a GET of what was a POST (RFC 9110 section 15.4.2).
    *response.status_mut() = match head.method {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    };
    response.headers_mut().insert(header::LOCATION, location);
    Some(response)
}

fn is_due(tls: &Tls, origin: &Origin, head: &RequestHead, host: &str) -> bool {
    let target = head.target();
    origin.scheme == Scheme::Http
        && target.starts_with('/')
        && !is_challenge(target)
        && tls.names(host)
}

/// By the path's canonical form, so that nothing else is reached in the clear under that name.
fn is_challenge(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or(target);
    canonical(path).starts_with(CHALLENGES)
}

/// A `Host` field's value without its port.
fn name(host: &[u8]) -> Option<&str> {
    let host = std::str::from_utf8(host).ok()?;
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    Some(name.strip_suffix('.').unwrap_or(name))
}
