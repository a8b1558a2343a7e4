//! [`Api`] over HTTP/1.1: on TLS as machines elsewhere do, or on a node's own socket, which no partition cuts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::api::{Api, Consistency, Fault, Settings};

/// All settings of a long run and no more.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

#[derive(Clone)]
pub enum Address {
    Tls {
        address: SocketAddr,
        tls: TlsConnector,
        token: String,
    },
    Unix(PathBuf),
}

pub struct HttpApi {
    address: Address,
    /// Taken while a request is under way, so that one that is given up takes its connection with it.
    connection: Option<SendRequest<Full<Bytes>>>,
}

struct Answer {
    status: StatusCode,
    revision: u64,
    body: Bytes,
}

impl HttpApi {
    pub fn new(address: Address) -> HttpApi {
        HttpApi {
            address,
            connection: None,
        }
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        match &self.address {
            Address::Unix(path) => handshake(UnixStream::connect(path).await?).await,
            Address::Tls { address, tls, .. } => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let name = "localhost".to_owned().try_into()?;
                handshake(tls.connect(name, stream).await?).await
            }
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, Fault> {
        let never = |e: anyhow::Error| Fault::Never(format!("not connected: {e}"));
        let mut kept = self.connection.take();
        if let Some(connection) = &mut kept
            && connection.ready().await.is_err()
        {
            kept = None;
        }
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await.map_err(never)?,
        };
        let unknown = |e: String| Fault::Unknown(format!("no answer: {e}"));
        let sent = connection.send_request(request).await;
        let answer = read(sent.map_err(|e| unknown(e.to_string()))?).await;
        let answer = answer.map_err(|e| unknown(e.to_string()))?;
        self.connection = Some(connection);
        Ok(answer)
    }

    /// A success, or why not.
    async fn call(
        &mut self,
        method: Method,
        path: &str,
        request_id: Option<&str>,
        body: Option<Value>,
        deadline: Duration,
    ) -> Result<Answer, Fault> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost");
        if let Address::Tls { token, .. } = &self.address {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(id) = request_id {
            request = request.header("x-nebula-request-id", id);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
        let request = request
            .body(Full::new(body))
            .map_err(|e| Fault::Never(e.to_string()))?;
        let answer = timeout(deadline, self.send(request))
            .await
            .map_err(|_| Fault::Unknown(format!("silent for {deadline:?}")))??;
        if answer.status.is_success() || answer.status == StatusCode::NOT_FOUND {
            return Ok(answer);
        }
        let text = format!(
            "{} {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        // What the server could not do may have been handed on all the same.
        Err(if answer.status.is_client_error() {
            Fault::Never(text)
        } else {
            Fault::Unknown(text)
        })
    }

    /// `GET path`, for what is answered by no JSON.
    pub async fn text(&mut self, path: &str, deadline: Duration) -> Result<String, Fault> {
        let answer = self.call(Method::GET, path, None, None, deadline).await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// By how many seconds the daemon's wall clock is ahead of ours, give or take two: by a join token's end, since the
    /// date of an answer is kept for as long as a clock is behind what it was.
    pub async fn ahead(&mut self, deadline: Duration) -> Result<i64, Fault> {
        const TTL_SECONDS: i64 = 1;
        let body = json!({ "role": "worker", "ttl_seconds": TTL_SECONDS });
        let asked = self.call(Method::POST, "/v1/tokens", None, Some(body), deadline);
        let made: Value = serde_json::from_slice(&asked.await?.body).unwrap_or_default();
        let ends = made["expires_at"].as_str().unwrap_or_default();
        let ends = OffsetDateTime::parse(ends, &Rfc3339)
            .map_err(|e| Fault::Unknown(format!("a token without an end: {e}")))?;
        let ours = OffsetDateTime::now_utc().unix_timestamp() + TTL_SECONDS;
        Ok(ends.unix_timestamp() - ours)
    }

    async fn read(&mut self, path: &str, deadline: Duration) -> Result<(Answer, Value), Fault> {
        let answer = self.call(Method::GET, path, None, None, deadline).await?;
        let value = serde_json::from_slice(&answer.body)
            .map_err(|e| Fault::Unknown(format!("{path} is answered by no JSON: {e}")))?;
        Ok((answer, value))
    }
}

async fn handshake<S>(stream: S) -> anyhow::Result<SendRequest<Full<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn read(response: Response<Incoming>) -> anyhow::Result<Answer> {
    let status = response.status();
    let revision = response.headers().get("x-nebula-revision");
    let revision = revision.and_then(|v| v.to_str().ok()?.parse().ok());
    let body = Limited::new(response.into_body(), MAX_BODY_BYTES);
    let body = body.collect().await.map_err(|e| anyhow::anyhow!(e))?;
    Ok(Answer {
        status,
        revision: revision.unwrap_or(0),
        body: body.to_bytes(),
    })
}

#[async_trait]
impl Api for HttpApi {
    async fn put(
        &mut self,
        key: &str,
        value: &str,
        request: &str,
        deadline: Duration,
    ) -> Result<(), Fault> {
        let path = format!("/v1/config/{key}");
        let body = Some(json!({ "value": value }));
        let answer = self.call(Method::PUT, &path, Some(request), body, deadline);
        match answer.await? {
            answer if answer.status.is_success() => Ok(()),
            answer => Err(Fault::Never(answer.status.to_string())),
        }
    }

    async fn get(
        &mut self,
        key: &str,
        consistency: Consistency,
        deadline: Duration,
    ) -> Result<Option<String>, Fault> {
        let path = format!("/v1/config/{key}?consistency={}", consistency.as_str());
        let (answer, body) = self.read(&path, deadline).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let value = body["value"].as_str().map(str::to_owned);
        value
            .map(Some)
            .ok_or_else(|| Fault::Unknown(format!("a setting without a value: {body}")))
    }

    async fn settings(
        &mut self,
        consistency: Consistency,
        deadline: Duration,
    ) -> Result<Settings, Fault> {
        let path = format!("/v1/config?consistency={}", consistency.as_str());
        let (answer, body) = self.read(&path, deadline).await?;
        let values = serde_json::from_value(body["settings"].clone())
            .map_err(|e| Fault::Unknown(format!("not a list of settings: {e}")))?;
        Ok(Settings {
            revision: answer.revision,
            values,
        })
    }

    async fn look(&mut self, path: &str, deadline: Duration) -> Result<Value, Fault> {
        self.read(path, deadline).await.map(|(_, body)| body)
    }
}
