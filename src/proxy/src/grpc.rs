//! gRPC, as far as a proxy has to know it: which requests are such, and how one is told that nobody answered it. Everything
//! else in it is HTTP/2 with trailer fields.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::body::ResponseBody;
use crate::headers::{RequestId, X_REQUEST_ID};
use crate::pages::Problem;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The status of a call that its server gave up.
const CANCELLED: u16 = 1;
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What a message has to say in another way (gRPC over HTTP/2, "Percent-Encoded").
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// Whether this is the content type of gRPC (gRPC over HTTP/2, "Content-Type"). gRPC-Web is another protocol: to it an
/// answer of HTTP says what it is.
pub(crate) fn is_grpc(content_type: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    content_type
        .split_at_checked(GRPC.len())
        .is_some_and(|(front, rest)| {
            front.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';'))
        })
}

/// An answer from here ("Trailers-Only"): its status is in the head, and there is no message.
pub(crate) fn answer(problem: &Problem, id: &RequestId) -> Response<ResponseBody> {
    let (status, message) = problem.said();
    let mut response = Response::new(ResponseBody::from(Bytes::new()));
    let headers = response.headers_mut();
    let grpc = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, grpc);
    let code = match problem {
        // gRPC over HTTP/2, "Errors".
        Problem::Cancelled(_) => CANCELLED,
        _ => code(status),
    };
    headers.insert(GRPC_STATUS, HeaderValue::from(code));
    let message = utf8_percent_encode(&message, ENCODED).to_string();
    if let Ok(message) = HeaderValue::try_from(message) {
        headers.insert(GRPC_MESSAGE, message);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_REQUEST_ID, id.header());
    response
}

/// The status that a client of gRPC makes of an answer of HTTP (gRPC, "HTTP to gRPC Status Code Mapping").
fn code(status: StatusCode) -> u16 {
    const UNKNOWN: u16 = 2;
    const PERMISSION_DENIED: u16 = 7;
    const UNIMPLEMENTED: u16 = 12;
    const INTERNAL: u16 = 13;
    const UNAVAILABLE: u16 = 14;
    const UNAUTHENTICATED: u16 = 16;
    match status.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_content_type_is_told_from_others() {
        for yes in [
            "application/grpc",
            "application/grpc+proto",
            "Application/gRPC; charset=x",
        ] {
            assert!(is_grpc(yes.as_bytes()), "{yes}");
        }
        for no in ["", "application/json", "application/grpc-web", "grpc"] {
            assert!(!is_grpc(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn an_answer_says_what_happened_in_its_head() {
        let id = RequestId::new();
        let answer = answer(&Problem::UnknownHost("50%é".to_owned()), &id);
        assert_eq!(answer.status(), StatusCode::OK);
        let headers = answer.headers();
        assert_eq!(headers["grpc-status"], "12");
        let message = headers["grpc-message"].to_str().unwrap();
        assert!(message.contains("'50%25%C3%A9'"), "{message}");
        assert_eq!(answer.body().length(), Some(0));
    }
}
