//! Clients: one that speaks HTTP, and one that says what it is told.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// Sends one request on a connection of its own; the response's body is still to come.
pub async fn send<B>(edge: SocketAddr, request: Request<B>) -> Response<Incoming>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    send_on(TcpStream::connect(edge).await.unwrap(), request).await
}

/// The same on a connection that is there.
pub async fn send_on<T, B>(io: T, request: Request<B>) -> Response<Incoming>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    let response = timeout(PATIENCE, sender.send_request(request));
    response.await.expect("no response").unwrap()
}

pub async fn whole(response: Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = timeout(PATIENCE, body.collect()).await.expect("no end");
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.unwrap().to_bytes(),
    }
}

pub fn request(
    method: Method,
    host: &str,
    path: &str,
    fields: &[(&str, &str)],
) -> http::request::Builder {
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header("host", host);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder
}

/// Asks with any method, without a body.
pub async fn ask(
    edge: SocketAddr,
    method: Method,
    host: &str,
    path: &str,
    fields: &[(&str, &str)],
) -> Answer {
    let request = request(method, host, path, fields).body(Empty::<Bytes>::new());
    whole(send(edge, request.unwrap()).await).await
}

pub async fn get(edge: SocketAddr, host: &str, path: &str) -> Answer {
    ask(edge, Method::GET, host, path, &[]).await
}

pub async fn get_with(edge: SocketAddr, host: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
    ask(edge, Method::GET, host, path, fields).await
}

pub async fn post(edge: SocketAddr, host: &str, path: &str, body: &'static str) -> Answer {
    let request = request(Method::POST, host, path, &[]).body(Full::new(Bytes::from(body)));
    whole(send(edge, request.unwrap()).await).await
}

/// Sends these bytes and reads until the edge closes the connection.
pub async fn say(edge: SocketAddr, text: &str) -> String {
    let mut socket = TcpStream::connect(edge).await.unwrap();
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is an end as well.
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer))
        .await
        .expect("the edge keeps the connection open");
    String::from_utf8_lossy(&answer).into_owned()
}
