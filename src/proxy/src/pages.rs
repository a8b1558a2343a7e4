//! The answers the proxy gives by itself: what happened and what an operator should look at, as HTML
//! or JSON. Never addresses, paths or errors of the inside.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

use crate::body::ResponseBody;
use crate::headers::X_REQUEST_ID;

/// Why a request is answered by the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The request names no host, or more than one.
    BadHost,
    /// A tunnel through the edge was asked for (`CONNECT`).
    NotAProxy,
    UnknownHost(String),
    /// No endpoint to send to.
    NotReady(String),
    /// There are endpoints, and none could be reached or kept its connection.
    Unreachable(String),
    /// An instance took the request and broke the connection.
    Broken(String),
    /// The node that has the request fell silent; whether the instance carried it out is not known.
    Lost(String),
    /// An instance took the request and did not answer.
    Silent(String),
    /// The client stopped sending its request.
    SlowClient,
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

    /// The answer, in HTML for those who ask for it by name and JSON for everything else.
    pub(crate) fn response(
        &self,
        accept: Option<&HeaderValue>,
        request_id: &HeaderValue,
    ) -> Response<ResponseBody> {
        let text = self.text();
        let id = request_id.to_str().unwrap_or("-");
        let (content_type, body) = if crate::statics::accepts_html(accept) {
            ("text/html; charset=utf-8", html(&text, id))
        } else {
            ("application/json", json(&text, id))
        };
        let mut response = Response::new(ResponseBody::from(Bytes::from(body)));
        *response.status_mut() = text.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        headers.insert(X_REQUEST_ID, request_id.clone());
        if let Problem::NotAllowed(_) = self {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
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
    use super::*;
    use http_body_util::BodyExt;

    async fn body(problem: Problem, accept: &'static str) -> String {
        let accept = HeaderValue::from_static(accept);
        let response = problem.response(Some(&accept), &HeaderValue::from_static("r-1"));
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn pages_speak_to_people_and_to_programs() {
        let problem = Problem::NotReady("api".to_owned());
        let html = body(problem.clone(), "text/html,*/*;q=0.8").await;
        assert!(
            html.contains("No instance of &#39;api&#39; is ready."),
            "{html}"
        );
        assert!(html.contains("nebula deploy status api"), "{html}");
        assert!(html.contains("r-1"), "{html}");
        let json: serde_json::Value = serde_json::from_str(&body(problem, "*/*").await).unwrap();
        assert_eq!(json["code"], "not_ready");
        assert_eq!(json["request_id"], "r-1");
    }

    #[tokio::test]
    async fn a_host_cannot_write_html() {
        let host = "<script>".to_owned();
        let html = body(Problem::UnknownHost(host), "text/html").await;
        assert!(!html.contains("<script>"), "{html}");
    }
}
