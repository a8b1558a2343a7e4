//! What a deployment's policy adds to every answer: fields for browsers' safety, permissions for other sites, its own fields.

use http::{HeaderValue, Response, StatusCode, header};
use nebula_domain::http::cache::CacheStatus;
use nebula_domain::http::{Cors, HttpPolicy};

use crate::body::ResponseBody;
use crate::h1::RequestHead;

/// Of one request.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    policy: Option<&'a HttpPolicy>,
    /// The client came over TLS.
    secure: bool,
    /// The site that a script asks from, when it may.
    origin: Option<&'a [u8]>,
    /// What the deployment's cache has done with the request.
    cache: Option<CacheStatus>,
    /// Where the client finds the same by HTTP/3, if it is to be told.
    alternative: Option<&'a str>,
}

impl<'a> Finish<'a> {
    /// For answers that belong to no deployment, or that another node's edge finishes.
    pub(crate) const NONE: Finish<'static> = Finish {
        policy: None,
        secure: false,
        origin: None,
        cache: None,
        alternative: None,
    };

    pub(crate) fn of(policy: &'a HttpPolicy, head: &'a RequestHead, secure: bool) -> Finish<'a> {
        let asks = |cors: &Cors| {
            let origin = head.fields().get("origin")?;
            cors.allows(origin).then_some(origin)
        };
        Finish {
            policy: Some(policy),
            secure,
            origin: Some(&policy.cors)
                .filter(|cors| cors.is_on())
                .and_then(asks),
            cache: None,
            alternative: None,
        }
    }

    pub(crate) fn telling(self, alternative: Option<&'a str>) -> Finish<'a> {
        Finish {
            alternative,
            ..self
        }
    }

    pub(crate) fn with_cache(self, cache: Option<CacheStatus>) -> Finish<'a> {
        Finish { cache, ..self }
    }

    /// Whether a field of the application's answer, or of a site's, is left out because the policy says it.
    pub(crate) fn replaces(&self, name: &[u8]) -> bool {
        let Some(policy) = self.policy else {
            return false;
        };
        let is = |said: &str| name.eq_ignore_ascii_case(said.as_bytes());
        let permits = || {
            let said = [
                "access-control-allow-origin",
                "access-control-allow-credentials",
                "access-control-expose-headers",
            ];
            policy.cors.is_on() && said.into_iter().any(is)
        };
        let mut fields = policy.response_headers.iter();
        fields.any(|field| is(field.name.as_str())) || permits()
    }

    /// Writes what is to be added; `has` says what the answer has already.
    pub(crate) fn write(&self, out: &mut Vec<u8>, has: impl Fn(&str) -> bool) {
        let Some(policy) = self.policy else {
            return;
        };
        let mut line = |name: &str, value: &[u8]| {
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                out.extend_from_slice(part);
            }
        };
        for (name, value) in policy.security.fields() {
            if !has(name) {
                line(name, value.as_str().as_bytes());
            }
        }
        // RFC 6797 section 7.2: never in the clear.
        if let Some(hsts) = policy.security.hsts.filter(|_| self.secure)
            && !has("strict-transport-security")
        {
            line("strict-transport-security", hsts.header().as_bytes());
        }
        if let Some(alternative) = self.alternative
            && !has("alt-svc")
            && !self.replaces(b"alt-svc")
        {
            line("alt-svc", alternative.as_bytes());
        }
        for field in &policy.response_headers {
            line(field.name.as_str(), field.value.as_str().as_bytes());
        }
        if let Some(cache) = self.cache {
            line("Cache-Status", cache.to_string().as_bytes());
        }
        if !policy.cors.is_on() {
            return;
        }
        // Caches must not give one site's permission to another.
        line("Vary", b"Origin");
        let Some(origin) = self.origin else {
            return;
        };
        line("Access-Control-Allow-Origin", origin);
        if policy.cors.credentials {
            line("Access-Control-Allow-Credentials", b"true");
        }
        if !policy.cors.expose.is_empty() {
            let exposed = list(policy.cors.expose.iter().map(|name| name.as_str()));
            line("Access-Control-Expose-Headers", exposed.as_bytes());
        }
    }

    /// The answer to a browser that asks whether a script may ask (Fetch, "CORS-preflight request").
    pub(crate) fn preflight(&self, head: &RequestHead) -> Option<Response<ResponseBody>> {
        let cors = &self.policy?.cors;
        let asks = head.method == http::Method::OPTIONS
            && head.fields().get("origin").is_some()
            && head.fields().get("access-control-request-method").is_some();
        if !cors.is_on() || !asks {
            return None;
        }
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        if self.origin.is_some() {
            let methods = ["GET", "HEAD", "POST"].into_iter();
            let methods = list(methods.chain(cors.methods.iter().map(|m| m.as_str())));
            let headers = list(cors.headers.iter().map(|name| name.as_str()));
            let age = cors.max_age.as_secs().to_string();
            for (name, value) in [
                (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, headers),
                (header::ACCESS_CONTROL_MAX_AGE, age),
            ] {
                if let Ok(value) = HeaderValue::try_from(value)
                    && !value.is_empty()
                {
                    response.headers_mut().insert(name, value);
                }
            }
        }
        Some(response)
    }
}

fn list<'a>(items: impl Iterator<Item = &'a str>) -> String {
    items.collect::<Vec<_>>().join(", ")
}
