//! One logical call: tried at one address after the other until one answers for good.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use nebula_wire::api::{ApiError, ErrorCode, REQUEST_ID_HEADER};
use rand::Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::body::{self, Body};
use crate::connect::Target;
use crate::error::{ClientError, Tried};
use crate::{Client, limits};

/// What to ask, independent of whom.
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) json: Option<Bytes>,
    /// Set on changes: the same for every try, so that the change is applied once.
    pub(crate) request_id: RequestIds,
    /// Whether the bearer token goes along.
    pub(crate) authenticated: bool,
}

pub(crate) enum RequestIds {
    /// A read.
    None,
    Same(String),
    /// Each try is a change of its own, because a repeated answer could not be the same: secrets are told once.
    Fresh,
}

impl Call {
    pub(crate) fn read(path: impl Into<String>) -> Call {
        Call {
            method: Method::GET,
            path: path.into(),
            json: None,
            request_id: RequestIds::None,
            authenticated: true,
        }
    }

    pub(crate) fn change(method: Method, path: impl Into<String>) -> Call {
        Call {
            method,
            request_id: RequestIds::Same(random_id()),
            ..Call::read(path)
        }
    }

    pub(crate) fn json(mut self, value: &impl Serialize) -> Result<Call, ClientError> {
        let bytes = serde_json::to_vec(value)
            .map_err(|e| ClientError::Setup(format!("the request cannot be written: {e}")))?;
        self.json = Some(bytes.into());
        Ok(self)
    }
}

/// 128 random bits as the API wants a request id.
pub(crate) fn random_id() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}

/// An answer of success, with the address that gave it.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) address: String,
}

/// What became of one try.
pub(crate) enum Attempt {
    Answered(Response<Incoming>),
    Refused(ClientError),
    Broken(String),
    Silent(Duration),
    /// The body's source failed: no other address would help.
    Source(String),
}

impl Client {
    /// Sends the call and reads a JSON answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let (bytes, address) = self.bytes(call).await?;
        serde_json::from_slice(&bytes).map_err(|e| ClientError::BadAnswer {
            address,
            reason: format!("its JSON does not fit: {e}"),
        })
    }

    /// Sends the call and ignores what a success says.
    pub(crate) async fn done(&self, call: Call) -> Result<(), ClientError> {
        self.bytes(call).await.map(|_| ())
    }

    pub(crate) async fn bytes(&self, call: Call) -> Result<(Bytes, String), ClientError> {
        let until = Instant::now() + self.deadline;
        let answer = self.send(&call, until).await?;
        let read = read_all(answer.response);
        match tokio::time::timeout(left(until), read).await {
            Ok(Ok(bytes)) => Ok((bytes, answer.address)),
            Ok(Err(reason)) => Err(ClientError::BadAnswer {
                address: answer.address,
                reason,
            }),
            Err(_) => Err(self.timed_out(vec![Tried {
                address: answer.address,
                reason: "the answer did not end".into(),
            }])),
        }
    }

    /// Sends the call to one address after the other. The answer's body is still to be read.
    pub(crate) async fn send(&self, call: &Call, until: Instant) -> Result<Answer, ClientError> {
        self.in_turn(until, |target, patience| async move {
            let request = self.request(call, &target)?;
            let answer = tokio::time::timeout(patience, self.transport.http.request(request));
            Ok(match answer.await {
                Ok(Ok(response)) if call.method == Method::HEAD => bare(response),
                Ok(Ok(response)) => Attempt::Answered(response),
                Ok(Err(e)) => broken(&target.name, &e),
                Err(_) => Attempt::Silent(patience),
            })
        })
        .await
    }

    /// The failover: `attempt` is made at each address until one gives an answer that another would not better.
    pub(crate) async fn in_turn<F>(
        &self,
        until: Instant,
        mut attempt: impl FnMut(Target, Duration) -> F,
    ) -> Result<Answer, ClientError>
    where
        F: Future<Output = Result<Attempt, ClientError>>,
    {
        let mut tried = Vec::new();
        let mut refused = None;
        let mut silent = false;
        let mut targets = self.transport.in_turn().peekable();
        while let Some((index, target)) = targets.next() {
            let patience = if targets.peek().is_some() {
                left(until).min(limits::ATTEMPT_DEADLINE)
            } else {
                left(until)
            };
            if patience.is_zero() {
                silent = true;
                break;
            }
            let address = target.name.clone();
            let mut turned_down = |error: ClientError| {
                // A node that is cut off, or has no room, says so; one of the others may do better. One that others do
                // not hear knows only that the time was over.
                let elsewhere = matches!(
                    error.code(),
                    Some(
                        ErrorCode::NoQuorum
                            | ErrorCode::Unavailable
                            | ErrorCode::DiskFull
                            | ErrorCode::Timeout
                    )
                ) || matches!(error, ClientError::Untrusted { .. });
                if !elsewhere {
                    return Err(error);
                }
                let reason = error.to_string();
                // That there is no quorum says more than that it took too long.
                let vague =
                    refused.as_ref().and_then(ClientError::code) == Some(ErrorCode::Timeout);
                if refused.is_none() || (vague && error.code() == Some(ErrorCode::NoQuorum)) {
                    refused = Some(error);
                }
                Ok(reason)
            };
            let reason = match attempt(target.clone(), patience).await? {
                Attempt::Answered(response) if response.status().is_success() => {
                    self.transport.prefer(index);
                    return Ok(Answer { response, address });
                }
                Attempt::Answered(response) => {
                    turned_down(refusal(response, &address, left(until)).await)?
                }
                Attempt::Refused(error) => turned_down(error)?,
                Attempt::Broken(reason) => reason,
                Attempt::Silent(after) => {
                    silent = true;
                    format!("silent for {} s", after.as_secs())
                }
                Attempt::Source(reason) => return Err(ClientError::Source(reason)),
            };
            tried.push(Tried { address, reason });
        }
        Err(match refused {
            Some(error) => error,
            None if silent => self.timed_out(tried),
            None => ClientError::Unreachable { tried },
        })
    }

    fn timed_out(&self, tried: Vec<Tried>) -> ClientError {
        ClientError::Timeout {
            after: self.deadline,
            tried,
        }
    }

    fn request(&self, call: &Call, target: &Target) -> Result<Request<Body>, ClientError> {
        let body = call.json.clone().map_or_else(body::empty, body::full);
        self.request_with(call, target, body)
    }

    pub(crate) fn request_with(
        &self,
        call: &Call,
        target: &Target,
        body: Body,
    ) -> Result<Request<Body>, ClientError> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{}{}", target.base, call.path));
        if call.json.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        match &call.request_id {
            RequestIds::None => {}
            RequestIds::Same(id) => request = request.header(REQUEST_ID_HEADER, id),
            RequestIds::Fresh => request = request.header(REQUEST_ID_HEADER, random_id()),
        }
        if let Some(token) = self.token.as_ref().filter(|_| call.authenticated) {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
                ClientError::Setup("the API token holds characters that no token has".into())
            })?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        request
            .body(body)
            .map_err(|e| ClientError::Setup(format!("the request cannot be written: {e}")))
    }
}

/// An answer to HEAD has no body, so that a refusal's code is in its status alone.
fn bare(response: Response<Incoming>) -> Attempt {
    let code = match response.status().as_u16() {
        200..=299 => return Attempt::Answered(response),
        400 => ErrorCode::BadRequest,
        401 => ErrorCode::Unauthorized,
        403 => ErrorCode::Forbidden,
        404 => ErrorCode::NotFound,
        503 => ErrorCode::Unavailable,
        504 => ErrorCode::Timeout,
        _ => ErrorCode::Internal,
    };
    Attempt::Refused(ClientError::Api(ApiError {
        code,
        message: format!("the node answered {}", response.status()),
        hint: "See the node's log for the reason.".to_owned(),
    }))
}

pub(crate) fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

async fn read_all(response: Response<Incoming>) -> Result<Bytes, String> {
    Limited::new(response.into_body(), limits::ANSWER_BYTES)
        .collect()
        .await
        .map(|body| body.to_bytes())
        .map_err(|e| innermost(e.as_ref()))
}

/// The error that an answer other than a success holds.
async fn refusal(response: Response<Incoming>, address: &str, patience: Duration) -> ClientError {
    let status = response.status();
    let body = tokio::time::timeout(patience, read_all(response)).await;
    let error = match &body {
        Ok(Ok(bytes)) => serde_json::from_slice::<ApiError>(bytes).ok(),
        _ => None,
    };
    match error {
        Some(error) => ClientError::Api(error),
        None => ClientError::BadAnswer {
            address: address.to_owned(),
            reason: format!("HTTP status {status} without an explanation"),
        },
    }
}

/// The last cause says what happened ("connection refused"); the layers above only say who noticed.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// A connection that did not come about, or broke.
pub(crate) fn broken(address: &str, error: &(dyn std::error::Error + 'static)) -> Attempt {
    match certificate_error(error) {
        Some(reason) => Attempt::Refused(ClientError::Untrusted {
            address: address.to_owned(),
            reason,
        }),
        None => Attempt::Broken(innermost(error)),
    }
}

/// What rustls has against the server's certificate, if that is the cause.
fn certificate_error(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        // An io::Error's source is that of what it holds, which is skipped so.
        let held = error
            .downcast_ref::<std::io::Error>()
            .and_then(|e| e.get_ref());
        let tls = held
            .and_then(|e| e.downcast_ref::<rustls::Error>())
            .or_else(|| error.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) => {
                return Some(innermost(&*other.0));
            }
            Some(tls @ rustls::Error::InvalidCertificate(_)) => return Some(tls.to_string()),
            _ => next = error.source(),
        }
    }
    None
}
