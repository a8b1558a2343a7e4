//! The answers the proxy gives by itself: what happened and what an operator should look at, as HTML
//! or JSON. Never addresses, paths or errors of the inside.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

use crate::body::ResponseBody;
use crate::h1::Refusal;
use crate::headers::{RequestId, X_REQUEST_ID};

/// Why a request is answered by the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// It is not HTTP as this server takes it.
    Refused(Refusal),
    /// Nobody is there to be answered.
    ClientGone,
    /// The client's address is not let in.
    Forbidden(String),
    /// A name and password are asked for, for this realm.
    Unauthorized(String),
    /// Over a rate.
    TooMany {
        name: String,
        retry_after: Duration,
    },
    /// More is under way than the deployment takes.
    Overloaded {
        name: String,
        retry_after: Duration,
    },
    Maintenance {
        name: String,
        /// HTML; empty for the page from here.
        page: String,
        retry_after: Duration,
    },
    /// The request names no host, or more than one.
    BadHost,
    /// A tunnel through the edge was asked for (`CONNECT`).
    NotAProxy,
    UnknownHost(String),
    /// The name is served in the clear only.
    NotOverTls(String),
    /// No endpoint to send to.
    NotReady(String),
    /// There are endpoints, and none could be reached or kept its connection.
    Unreachable(String),
    /// An instance took the request and broke the connection.
    Broken(String),
    /// An instance took the request and gave it up, which it can say over HTTP/2.
    Cancelled(String),
    /// The node that has the request fell silent; whether the instance carried it out is not known.
    Lost(String),
    /// An instance took the request and did not answer.
    Silent(String),
    /// The client stopped sending its request.
    SlowClient,
    /// Something answered that does not speak HTTP/2, which the policy says that the instance does.
    NotHttp2(String),
    /// The instance speaks HTTP/2 and opens no tunnels for WebSocket.
    NoWebSocket(String),
    /// A static site has no such file.
    NoSuchFile(String),
    /// A static site is only read.
    NotAllowed(String),
    /// A static site's files cannot be read here.
    Unreadable(String),
}

struct Text {
    status: StatusCode,
    code: &'static str,
    message: String,
    hint: String,
}

impl Problem {
    fn text(&self) -> Text {
        let (status, code, message, hint) = match self {
            Problem::Refused(refusal) => refused(*refusal),
            Problem::ClientGone => (
                StatusCode::BAD_REQUEST,
                "client_gone",
                "The client has gone.".to_owned(),
                String::new(),
            ),
            Problem::Forbidden(name) => (
                StatusCode::FORBIDDEN,
                "forbidden",
                format!("'{name}' does not let this address in."),
                format!("Run: nebula deploy status {name}, and look at its addresses"),
            ),
            Problem::Unauthorized(_) => (
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "A name and password are needed.".to_owned(),
                "Send them by basic authentication.".to_owned(),
            ),
            Problem::NotOverTls(name) => (
                StatusCode::MISDIRECTED_REQUEST,
                "not_over_tls",
                format!("{name} is not served over TLS."),
                format!("See 'https' in its policy: 'nebula deploy status {name}'."),
            ),
            Problem::Overloaded { name, .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                format!("{name} has as many requests under way as it takes (capacity)."),
                "Try again in a moment.".to_owned(),
            ),
            Problem::TooMany { name, .. } => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_requests",
                format!("'{name}' takes fewer requests than these."),
                "Wait as long as Retry-After says.".to_owned(),
            ),
            Problem::Maintenance { name, .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "maintenance",
                format!("'{name}' is being worked on."),
                "Come back later.".to_owned(),
            ),
            Problem::BadHost => (
                StatusCode::BAD_REQUEST,
                "bad_host",
                "The request does not name one host.".to_owned(),
                "Send exactly one Host header.".to_owned(),
            ),
            Problem::NotAProxy => (
                StatusCode::NOT_IMPLEMENTED,
                "not_a_proxy",
                "This server does not open tunnels.".to_owned(),
                "Ask for a page of one of its hosts.".to_owned(),
            ),
            Problem::UnknownHost(host) => (
                StatusCode::NOT_FOUND,
                "unknown_host",
                format!("No deployment answers to the host '{host}'."),
                "Run: nebula deploy list".to_owned(),
            ),
            Problem::NotReady(name) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not_ready",
                format!("No instance of '{name}' is ready."),
                format!("Run: nebula deploy status {name}"),
            ),
            Problem::Unreachable(name) => (
                StatusCode::BAD_GATEWAY,
                "unreachable",
                format!("No instance of '{name}' could be reached."),
                format!("Run: nebula deploy status {name}, and: nebula deploy logs {name}"),
            ),
            Problem::Broken(name) => (
                StatusCode::BAD_GATEWAY,
                "broken",
                format!("An instance of '{name}' closed the connection without an answer."),
                format!("Run: nebula deploy logs {name}"),
            ),
            Problem::Cancelled(name) => (
                StatusCode::BAD_GATEWAY,
                "cancelled",
                format!("An instance of '{name}' gave the request up."),
                format!("Run: nebula deploy logs {name}"),
            ),
            Problem::Lost(name) => (
                StatusCode::BAD_GATEWAY,
                "lost",
                format!(
                    "The machine that had this request for '{name}' was lost before it answered; \
                     the request may or may not have been carried out."
                ),
                "Look whether it took effect before you send it again.".to_owned(),
            ),
            Problem::Silent(name) => (
                StatusCode::GATEWAY_TIMEOUT,
                "silent",
                format!("An instance of '{name}' did not answer in time."),
                format!("Run: nebula deploy logs {name}"),
            ),
            Problem::SlowClient => (
                StatusCode::REQUEST_TIMEOUT,
                "slow_client",
                "The request's body did not arrive in time.".to_owned(),
                "Send it again.".to_owned(),
            ),
            Problem::NotHttp2(name) => (
                StatusCode::BAD_GATEWAY,
                "not_http2",
                format!("An instance of '{name}' does not speak HTTP/2 in the clear."),
                format!(
                    "Set upstream = \"http1\" in its policy, or see: nebula deploy logs {name}"
                ),
            ),
            Problem::NoWebSocket(name) => (
                StatusCode::NOT_IMPLEMENTED,
                "no_websocket",
                format!("The instances of '{name}' do not take WebSocket over HTTP/2."),
                "They need extended CONNECT (RFC 8441), or upstream = \"http1\" in the policy."
                    .to_owned(),
            ),
            Problem::NoSuchFile(name) => (
                StatusCode::NOT_FOUND,
                "no_such_file",
                format!("The site '{name}' has no such page."),
                format!("To see which release is served, run: nebula deploy status {name}"),
            ),
            Problem::NotAllowed(name) => (
                StatusCode::METHOD_NOT_ALLOWED,
                "not_allowed",
                format!("The site '{name}' is made of files: only GET and HEAD are answered."),
                "Deploy a program with --command to answer other methods.".to_owned(),
            ),
            Problem::Unreadable(name) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "unreadable",
                format!("The files of '{name}' cannot be read on this node."),
                format!("Run: nebula deploy status {name}, and see this node's log"),
            ),
        };
        Text {
            status,
            code,
            message,
            hint,
        }
    }

    /// The status that it has in HTTP, and what happened in a sentence.
    pub(crate) fn said(&self) -> (StatusCode, String) {
        let text = self.text();
        (text.status, text.message)
    }

    /// Whether the connection can carry another request: where this one ends is known, and its sender is in step.
    pub(crate) fn leaves_connection(&self) -> bool {
        !matches!(
            self,
            Problem::Refused(_) | Problem::SlowClient | Problem::ClientGone | Problem::NotAProxy
        )
    }

    /// The answer, in HTML for those who ask for it by name and JSON for everything else.
    pub(crate) fn response(
        &self,
        accept: Option<&[u8]>,
        request_id: &RequestId,
    ) -> Response<ResponseBody> {
        let text = self.text();
        let id = request_id.as_str();
        let accept = accept.and_then(|accept| HeaderValue::from_bytes(accept).ok());
        let (content_type, body) = if crate::statics::accepts_html(accept.as_ref()) {
            let page = match self {
                Problem::Maintenance { page, .. } if !page.is_empty() => page.clone(),
                _ => html(&text, id),
            };
            ("text/html; charset=utf-8", page)
        } else {
            ("application/json", json(&text, id))
        };
        let mut response = Response::new(ResponseBody::from(Bytes::from(body)));
        *response.status_mut() = text.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        headers.insert(X_REQUEST_ID, request_id.header());
        match self {
            Problem::NotAllowed(_) => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            Problem::Unauthorized(realm) => {
                // RFC 7617 section 2.1: the password is text.
                let challenge = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
                if let Ok(challenge) = HeaderValue::try_from(challenge) {
                    headers.insert(header::WWW_AUTHENTICATE, challenge);
                }
            }
            Problem::TooMany { retry_after, .. }
            | Problem::Overloaded { retry_after, .. }
            | Problem::Maintenance { retry_after, .. } => {
                let seconds = nebula_domain::traffic::retry_after_seconds(*retry_after);
                headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            _ => {}
        }
        response
    }
}

/// A rule's redirect.
pub(crate) fn redirect(code: u16, location: &str) -> Response<ResponseBody> {
    let mut response = fixed(code, "");
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// A rule's answer.
pub(crate) fn fixed(code: u16, body: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::NOT_FOUND);
    if !body.is_empty() {
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
    }
    response
}

fn refused(refusal: Refusal) -> (StatusCode, &'static str, String, String) {
    let (status, code, message, hint) = match refusal {
        Refusal::Malformed(why) => (
            StatusCode::BAD_REQUEST,
            "bad_request",
            format!("The request cannot be taken: {why}."),
            "Send HTTP/1.1 as RFC 9112 describes it.",
        ),
        Refusal::Body(why) => (
            StatusCode::BAD_REQUEST,
            "bad_body",
            format!("The request's body cannot be taken: {why}."),
            "Send the chunked coding as RFC 9112 describes it.",
        ),
        Refusal::HeadTooLarge => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "head_too_large",
            "The request's header fields are too many or too long.".to_owned(),
            "Send fewer or shorter ones; cookies are the usual reason.",
        ),
        Refusal::TargetTooLong => (
            StatusCode::URI_TOO_LONG,
            "target_too_long",
            "The request's path and query are too long.".to_owned(),
            "Send the data in a body.",
        ),
        Refusal::BodyTooLarge => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "The request's body is too long.".to_owned(),
            "Send it in parts.",
        ),
        Refusal::Coding => (
            StatusCode::NOT_IMPLEMENTED,
            "unknown_coding",
            "The request's transfer coding is not known.".to_owned(),
            "Send a Content-Length, or the chunked coding alone.",
        ),
        Refusal::Expectation => (
            StatusCode::EXPECTATION_FAILED,
            "unknown_expectation",
            "The request's expectation is not known.".to_owned(),
            "Expect 100-continue or nothing.",
        ),
        Refusal::Slow => (
            StatusCode::REQUEST_TIMEOUT,
            "slow_client",
            "The request did not arrive in time.".to_owned(),
            "Send it again.",
        ),
    };
    (status, code, message, hint.to_owned())
}

#[derive(Serialize)]
struct Json<'a> {
    code: &'a str,
    message: &'a str,
    hint: &'a str,
    request_id: &'a str,
}

fn json(text: &Text, id: &str) -> String {
    let json = Json {
        code: text.code,
        message: &text.message,
        hint: &text.hint,
        request_id: id,
    };
    // Strings always serialise.
    let mut body = serde_json::to_string(&json).unwrap_or_default();
    body.push('\n');
    body
}

fn html(text: &Text, id: &str) -> String {
    let title = format!(
        "{} {}",
        text.status.as_u16(),
        text.status.canonical_reason().unwrap_or_default()
    );
    let (message, hint, id) = (escape(&text.message), escape(&text.hint), escape(id));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:38rem;margin:15vh auto;padding:0 1rem}}\
         small{{color:#666}}</style></head>\n\
         <body><h1>{title}</h1>\n<p>{message}</p>\n<p>{hint}</p>\n<p><small>Request {id}</small></p>\
         </body></html>\n"
    )
}

/// A host may hold anything that a header value may.
fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn body(problem: Problem, accept: &str) -> String {
        let head = crate::headers::tests::request("GET / HTTP/1.1\r\nX-Request-Id: r-1\r\n\r\n");
        let id = RequestId::of(head.fields());
        let body = problem.response(Some(accept.as_bytes()), &id).into_body();
        let bytes = body.collect().now_or_never().unwrap().unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn pages_speak_to_people_and_to_programs() {
        let problem = Problem::NotReady("api".to_owned());
        let html = body(problem.clone(), "text/html,*/*;q=0.8");
        assert!(
            html.contains("No instance of &#39;api&#39; is ready."),
            "{html}"
        );
        assert!(html.contains("nebula deploy status api"), "{html}");
        assert!(html.contains("r-1"), "{html}");
        let json: serde_json::Value = serde_json::from_str(&body(problem, "*/*")).unwrap();
        assert_eq!(json["code"], "not_ready");
        assert_eq!(json["request_id"], "r-1");
    }

    #[test]
    fn a_host_cannot_write_html() {
        let host = "<script>".to_owned();
        let html = body(Problem::UnknownHost(host), "text/html");
        assert!(!html.contains("<script>"), "{html}");
    }
}
