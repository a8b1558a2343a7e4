//! What a client is told of what is kept: all of it, a part, or that it has it already.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use nebula_domain::http::cache::{CacheStatus, Validators};
use nebula_domain::traffic::Nanos;

use super::entry::{Growing, Head, Stored, lines, pass_through, read_along};
use super::incoming::Incoming;
use super::key::Ask;
use crate::body::ResponseBody;
use crate::statics::ranges::{self, Ranges, Span};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Fields that describe a body that is not sent (RFC 9110 section 15.4.5).
const OF_BODY: [HeaderName; 4] = [
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
];

pub(super) fn stored(
    ask: &Ask<'_>,
    stored: &Stored,
    now: Nanos,
    said: CacheStatus,
) -> Response<ResponseBody> {
    let mut response = begin(ask, &stored.head, now, said);
    if response.status() == StatusCode::NOT_MODIFIED {
        return response;
    }
    match part(ask, stored) {
        None => *response.body_mut() = stored.body.clone().into(),
        Some(None) => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            let fields = response.headers_mut();
            OF_BODY.iter().for_each(|name| drop(fields.remove(name)));
            put(
                fields,
                header::CONTENT_RANGE,
                &format!("bytes */{}", stored.body.len()),
            );
        }
        Some(Some(span)) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {}-{}/{}", span.first, span.last, stored.body.len());
            put(response.headers_mut(), header::CONTENT_RANGE, &range);
            *response.body_mut() = ranges::slice(&stored.body, span).into();
        }
    }
    response
}

/// One that still comes in.
pub(super) fn growing(
    ask: &Ask<'_>,
    growing: &Arc<Growing>,
    now: Nanos,
    said: CacheStatus,
) -> Response<ResponseBody> {
    let mut response = begin(ask, &growing.head, now, said);
    if response.status() != StatusCode::NOT_MODIFIED {
        let length = growing.length.map(|length| length as u64);
        *response.body_mut() = match growing.body() {
            Some(body) => body.into(),
            None => ResponseBody::pieces(read_along(Arc::clone(growing)), length),
        };
    }
    response
}

/// One that is not kept. The instance was asked for all of it, so that the client's conditions are still to be answered.
pub(super) fn passed(
    ask: &Ask<'_>,
    status: StatusCode,
    fields: HeaderMap,
    body: Incoming,
    said: CacheStatus,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    let is_known = is_known(ask, status, &fields);
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    append(response.headers_mut(), CACHE_STATUS, &said.to_string());
    if is_known {
        not_modified(&mut response);
    } else if body.length() != Some(0) {
        let length = body.length();
        *response.body_mut() = ResponseBody::pieces(pass_through(body), length);
    }
    response
}

/// Nothing is kept, and nothing else was wanted (RFC 9111 section 5.2.1.7).
pub(super) fn absent() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
    append(
        response.headers_mut(),
        CACHE_STATUS,
        "Nebula; detail=only-if-cached",
    );
    response
}

/// The head, which may be all there is to say.
fn begin(ask: &Ask<'_>, head: &Head, now: Nanos, said: CacheStatus) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.headers_mut() = head.fields.clone();
    let fields = response.headers_mut();
    let age = head.fresh.age(now).as_secs();
    // RFC 9111 section 5.1: what comes straight from the instance has no age.
    if said.forwarded.is_none() || age > 0 {
        fields.insert(header::AGE, HeaderValue::from(age));
    }
    append(fields, CACHE_STATUS, &said.to_string());
    *response.status_mut() = head.status;
    if is_known(ask, head.status, &head.fields) {
        not_modified(&mut response);
    }
    response
}

fn is_known(ask: &Ask<'_>, status: StatusCode, fields: &HeaderMap) -> bool {
    let asked = !ask.if_none_match.is_empty() || !ask.if_modified_since.is_empty();
    asked
        && status == StatusCode::OK
        && Validators::of(&lines(fields)).is_known(&ask.if_none_match, &ask.if_modified_since)
}

fn not_modified(response: &mut Response<ResponseBody>) {
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    let fields = response.headers_mut();
    OF_BODY.iter().for_each(|name| drop(fields.remove(name)));
}

/// The part that was asked for: outer `None` for all of it, inner if there is no such part. Several parts are not cut out;
/// section 14.2 of RFC 9110 allows to send all.
fn part(ask: &Ask<'_>, stored: &Stored) -> Option<Option<Span>> {
    let [range] = ask.range[..] else {
        return None;
    };
    let whole = stored.head.status == StatusCode::OK && ask.is_get;
    if !whole || !stored.head.validators().has_range(&ask.if_range) {
        return None;
    }
    match ranges::parse(range, stored.body.len() as u64) {
        Ranges::Parts(parts) => match parts[..] {
            [span] => Some(Some(span)),
            _ => None,
        },
        Ranges::Refused => Some(None),
        Ranges::All => None,
    }
}

fn put(fields: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        fields.insert(name, value);
    }
}

fn append(fields: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        fields.append(name, value);
    }
}
