//! `GET` over HTTP/1.1. Only the status counts.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nebula_domain::spec::Codes;
use tokio::net::TcpStream;

use super::ProbeError;

/// Largest status line and header block of an answer; hyper's smallest permitted buffer.
pub const RESPONSE_HEAD_BYTES: usize = 8 * 1024;

fn request(
    path: &str,
    headers: &BTreeMap<String, String>,
) -> Result<http::Request<Empty<Bytes>>, http::Error> {
    let mut request = http::Request::get(path).body(Empty::new())?;
    let fields: &mut HeaderMap = request.headers_mut();
    fields.insert(header::HOST, HeaderValue::from_static("localhost"));
    fields.insert(header::USER_AGENT, HeaderValue::from_static("nebula-probe"));
    for (name, value) in headers {
        fields.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// The connection is driven and dropped here, with the body unread.
pub(super) async fn get(
    stream: TcpStream,
    path: &str,
    headers: &BTreeMap<String, String>,
    codes: &Codes,
) -> Result<(), ProbeError> {
    let path = || path.to_owned();
    let invalid = |source| ProbeError::Http {
        path: path(),
        source,
    };
    let request = request(&path(), headers).map_err(ProbeError::Request)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(RESPONSE_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(invalid)?;
    let response = sender.send_request(request);
    tokio::pin!(connection, response);
    let answer = tokio::select! {
        biased;
        answer = &mut response => answer,
        // The connection may end in the same moment in which the answer is complete.
        closed = &mut connection => match closed {
            Ok(()) => response.await,
            Err(error) => return Err(invalid(error)),
        },
    };
    let status = answer
        .map_err(|error| {
            if error.is_canceled() || error.is_closed() {
                ProbeError::Closed { path: path() }
            } else {
                invalid(error)
            }
        })?
        .status();
    if codes.contains(status.as_u16()) {
        Ok(())
    } else {
        Err(ProbeError::Status {
            path: path(),
            status,
        })
    }
}
