//! The response for a file that was found.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};

use super::ask::Ask;
use super::conditions::{Verdict, has, judge};
use super::files::{Files, Tree};
use super::multipart::Multipart;
use super::negotiate::{Coding, Welcome};
use super::page::{Form, Page, add_vary};
use super::path::SitePath;
use super::ranges::{Span, slice};
use crate::body::{FilePart, ResponseBody};

/// What was found for a request.
pub(super) struct Found {
    pub(super) page: Arc<Page>,
    pub(super) status: StatusCode,
    /// Which answer was given depended on the `Accept` field.
    pub(super) by_accept: bool,
}

pub(super) async fn file(
    files: &Files,
    tree: &Arc<Tree>,
    found: &Found,
    ask: &Ask<'_>,
) -> io::Result<Response<ResponseBody>> {
    let form = select(&found.page, found.status, ask);
    match answer(files, tree, found, form, ask).await {
        // Its folder went with a tree that was unpacked again; the file itself is enough.
        Err(error) if form.coding != Coding::Identity => {
            tracing::debug!(%error, "a compressed form cannot be read");
            answer(files, tree, found, &found.page.forms[0], ask).await
        }
        answered => answered,
    }
}

/// The form that the client likes best; or the one that it has, or has a part of, if it takes that. A range
/// without a word of what it belongs to is one of the file as it is: parts of a compressed form are of no
/// use alone.
fn select<'a>(page: &'a Page, status: StatusCode, ask: &Ask<'_>) -> &'a Form {
    let forms = &page.forms;
    let fields = &ask.fields;
    if forms.len() == 1 {
        return &forms[0];
    }
    let welcome = Welcome::read(&fields.accept_encoding);
    let acceptable = |form: &&Form| welcome.of(form.coding) > 0;
    let best = &forms[welcome.choose(forms.iter().map(|f| (f.coding, f.entry.size)))];
    if status != StatusCode::OK {
        return best;
    }
    if fields.range.is_there() && *ask.method == Method::GET {
        let continued = fields.if_range.single().and_then(|etag| {
            let mut forms = forms.iter().filter(acceptable);
            forms.find(|form| form.etag.as_bytes() == etag)
        });
        return continued
            .or_else(|| forms.first().filter(acceptable))
            .unwrap_or(best);
    }
    if fields.if_none_match.is_there() && !has(fields, best.etag.as_bytes()) {
        let mut forms = forms.iter().filter(acceptable);
        return forms
            .find(|form| has(fields, form.etag.as_bytes()))
            .unwrap_or(best);
    }
    best
}

async fn answer(
    files: &Files,
    tree: &Arc<Tree>,
    found: &Found,
    form: &Form,
    ask: &Ask<'_>,
) -> io::Result<Response<ResponseBody>> {
    let page = &found.page;
    let is_get = *ask.method == Method::GET;
    let size = form.entry.size;
    let is_found = found.status == StatusCode::OK;
    let verdict = match is_found {
        true => judge(&ask.fields, is_get, form.etag.as_bytes(), size),
        // Conditions are about what was asked for, and that is not there.
        false => Verdict::Whole,
    };
    let mut headers = page.headers.clone();
    if form.coding != Coding::Identity {
        headers.insert(header::ETAG, form.etag.clone());
        headers.insert(header::CONTENT_LENGTH, form.length.clone());
    }
    if found.by_accept {
        add_vary(&mut headers, "accept");
    }
    if !is_found {
        headers.remove(header::ETAG);
        headers.remove(header::ACCEPT_RANGES);
    }
    let (status, body) = match verdict {
        Verdict::NotModified | Verdict::Failed => {
            // What describes a body that is not sent (RFC 9110 section 15.4.5).
            headers.remove(header::CONTENT_TYPE);
            headers.remove(header::CONTENT_LENGTH);
            let status = match verdict {
                Verdict::NotModified => StatusCode::NOT_MODIFIED,
                _ => StatusCode::PRECONDITION_FAILED,
            };
            (status, None)
        }
        Verdict::OutOfRange => {
            headers.remove(header::CONTENT_TYPE);
            headers.remove(header::CONTENT_LENGTH);
            headers.insert(header::CONTENT_RANGE, value(format!("bytes */{size}"))?);
            (StatusCode::RANGE_NOT_SATISFIABLE, None)
        }
        // Section 14.2 allows it. Nobody asks for several parts of a compressed form.
        Verdict::Parts(parts) if parts.len() > 1 && form.coding != Coding::Identity => {
            (found.status, Some(Send::All))
        }
        Verdict::Whole => (found.status, Some(Send::All)),
        Verdict::Parts(parts) => {
            let send = partial(&mut headers, page, form, parts)?;
            (StatusCode::PARTIAL_CONTENT, Some(send))
        }
    };
    if body.is_some() && form.coding != Coding::Identity {
        headers.insert(header::CONTENT_ENCODING, form.coding.value());
    }
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let (Some(send), true) = (body, is_get) {
        *response.body_mut() = match files.is_small(form.entry) {
            true => send.small(&files.small(tree, &form.place, form.entry).await?),
            false => send.large(files.large(tree, &form.place, form.entry).await?, size),
        };
    }
    Ok(response)
}

/// What of a form is sent.
enum Send {
    All,
    One(Span),
    Several(Multipart),
}

/// The fields of a partial answer (RFC 9110 section 15.3.7).
fn partial(
    headers: &mut HeaderMap,
    page: &Page,
    form: &Form,
    parts: Vec<Span>,
) -> io::Result<Send> {
    if let [span] = parts[..] {
        let range = format!("bytes {}-{}/{}", span.first, span.last, form.entry.size);
        headers.insert(header::CONTENT_RANGE, value(range)?);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(span.length()));
        return Ok(Send::One(span));
    }
    let multipart = Multipart::new(parts, form.entry, &page.content_type);
    headers.insert(header::CONTENT_TYPE, value(multipart.content_type())?);
    headers.insert(
        header::CONTENT_LENGTH,
        HeaderValue::from(multipart.length()),
    );
    Ok(Send::Several(multipart))
}

impl Send {
    fn small(self, whole: &Bytes) -> ResponseBody {
        match self {
            Send::All => whole.clone().into(),
            Send::One(span) => slice(whole, span).into(),
            Send::Several(multipart) => multipart.whole(whole).into(),
        }
    }

    fn large(self, file: Arc<std::fs::File>, size: u64) -> ResponseBody {
        match self {
            Send::All => ResponseBody::file(file, 0, size),
            Send::One(span) => ResponseBody::file(file, span.first, span.length()),
            Send::Several(multipart) => {
                let length = multipart.length();
                let end = multipart.end();
                let parts = stream::iter(multipart.parts()).flat_map(move |(head, span)| {
                    let part = FilePart::new(Arc::clone(&file), span.first, span.length());
                    stream::iter([Ok(head)]).chain(part.into_pieces())
                });
                let pieces = parts.chain(stream::iter([Ok(end)]));
                ResponseBody::pieces(Box::pin(pieces), Some(length))
            }
        }
    }
}

/// From `/dir` to `/dir/`, so that relative links on the page lead into the folder.
pub(super) fn to_folder(asked: &SitePath, query: Option<&str>) -> Response<ResponseBody> {
    let mut location = asked.to_folder();
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    redirect(StatusCode::MOVED_PERMANENTLY, location)
}

/// An answer that sends the client elsewhere.
pub(super) fn redirect(status: StatusCode, location: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = status;
    // A path and query that were parsed, and rules, are always a header value.
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    // The next release may have something there.
    let again = HeaderValue::from_static("no-cache");
    response.headers_mut().insert(header::CACHE_CONTROL, again);
    response
}

fn value(text: String) -> io::Result<HeaderValue> {
    HeaderValue::try_from(text).map_err(io::Error::other)
}
