//! The response for a file that was found.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};

use super::Found;
use super::conditions::{Verdict, judge};
use super::content;
use super::files::{Coding, Files, Tree};
use super::negotiate::accepts_gzip;
use super::path::SitePath;
use crate::body::ResponseBody;

/// Below this a compressed file and its headers fit one packet as well as the file itself.
const COMPRESS_BYTES_MIN: u64 = 1024;
/// Bytes of the content's hash that an ETag shows: 128 bits tell any two files apart.
const ETAG_BYTES: usize = 16;

pub(super) async fn file<B>(
    files: &Files,
    tree: Arc<Tree>,
    found: Found<'_>,
    request: &Request<B>,
) -> Result<Response<ResponseBody>, io::Error> {
    let (path, entry) = (found.path, found.entry);
    let content = content::of(path);
    let is_get = *request.method() == Method::GET;
    let compressible = content.compresses && entry.size >= COMPRESS_BYTES_MIN;
    // A range is one of the file as it is: the parts of a download then fit each other.
    let wants_range = is_get && request.headers().contains_key(header::RANGE);
    let coding = match compressible && !wants_range && accepts_gzip(request.headers()) {
        true => Coding::Gzip,
        false => Coding::Identity,
    };
    let hash = hex::encode(&entry.hash[..ETAG_BYTES]);
    let etag = match coding {
        Coding::Identity => format!("\"{hash}\""),
        Coding::Gzip => format!("\"{hash}-gzip\""),
    };
    let verdict = match found.status {
        StatusCode::OK => {
            let length = (coding == Coding::Identity).then_some(entry.size);
            judge(request.headers(), is_get, &etag, length)
        }
        // Conditions are about what was asked for, and that is not there.
        _ => Verdict::Whole,
    };

    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = found.status;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, content.cache_control);
    if let Some(vary) = vary(compressible, found.by_accept) {
        headers.insert(header::VARY, vary);
    }
    if found.status == StatusCode::OK {
        headers.insert(header::ETAG, value(etag)?);
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    let (from, length) = match verdict {
        Verdict::NotModified => {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        Verdict::Failed => {
            *response.status_mut() = StatusCode::PRECONDITION_FAILED;
            return Ok(response);
        }
        Verdict::OutOfRange => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            let range = value(format!("bytes */{}", entry.size))?;
            response.headers_mut().insert(header::CONTENT_RANGE, range);
            return Ok(response);
        }
        Verdict::Whole => (0, entry.size),
        Verdict::Part { first, last } => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = value(format!("bytes {first}-{last}/{}", entry.size))?;
            response.headers_mut().insert(header::CONTENT_RANGE, range);
            (first, last - first + 1)
        }
    };

    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content.content_type);
    if coding == Coding::Gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if files.is_small(entry) {
        let whole = files.small(tree, path, entry, coding).await?;
        let body = match coding {
            Coding::Identity => slice(&whole, from, length),
            Coding::Gzip => whole,
        };
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        if is_get {
            *response.body_mut() = body.into();
        }
        return Ok(response);
    }
    // How long the compressed form of a large file is shows only at its end.
    let known = (coding == Coding::Identity).then_some(length);
    if let Some(length) = known {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if is_get {
        let pieces = files
            .pieces(tree, path, entry, from, length, coding)
            .await?;
        *response.body_mut() = ResponseBody::pieces(pieces, known);
    }
    Ok(response)
}

/// From `/dir` to `/dir/`, so that relative links on the page lead into the folder.
pub(super) fn to_folder(asked: &SitePath, query: Option<&str>) -> Response<ResponseBody> {
    let mut location = asked.to_folder();
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    // A path and query that hyper has parsed are always a header value.
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    // A folder may become a file in the next release.
    let again = HeaderValue::from_static("no-cache");
    response.headers_mut().insert(header::CACHE_CONTROL, again);
    response
}

fn vary(compressible: bool, by_accept: bool) -> Option<HeaderValue> {
    match (compressible, by_accept) {
        (true, true) => Some(HeaderValue::from_static("accept-encoding, accept")),
        (true, false) => Some(HeaderValue::from_static("accept-encoding")),
        (false, true) => Some(HeaderValue::from_static("accept")),
        (false, false) => None,
    }
}

fn slice(whole: &Bytes, from: u64, length: u64) -> Bytes {
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(whole.len());
    let end = from.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
    whole.slice(from..end.min(whole.len()))
}

fn value(text: String) -> io::Result<HeaderValue> {
    HeaderValue::try_from(text).map_err(io::Error::other)
}
