//! Programs to route to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub type Body = BoxBody<Bytes, hyper::Error>;

pub fn text(text: impl Into<String>) -> Response<Body> {
    let body = Full::new(Bytes::from(text.into()));
    Response::new(body.map_err(|never| match never {}).boxed())
}

/// An HTTP server that answers each request by `answer`.
pub async fn app<A, F>(answer: A) -> SocketAddr
where
    A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let answer = Arc::new(answer);
    raw(move |socket| {
        let answer = Arc::clone(&answer);
        async move {
            let service = service_fn(move |request| {
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            });
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await;
        }
    })
    .await
}

/// Answers every request with its own name.
pub async fn named(name: &'static str) -> SocketAddr {
    app(move |_| async move { text(name) }).await
}

/// Answers when it is let, and says how many requests it has had.
pub async fn held() -> (SocketAddr, Arc<Semaphore>, Arc<AtomicUsize>) {
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (its_gate, its_asked) = (Arc::clone(&gate), Arc::clone(&asked));
    let address = app(move |_| {
        let (gate, asked) = (Arc::clone(&its_gate), Arc::clone(&its_asked));
        async move {
            asked.fetch_add(1, Ordering::SeqCst);
            gate.acquire().await.unwrap().forget();
            text("held")
        }
    })
    .await;
    (address, gate, asked)
}

/// Answers with the head it got, one field a line.
pub async fn mirror() -> SocketAddr {
    app(|request| async move {
        let mut lines = vec![format!("{} {}", request.method(), request.uri())];
        for (name, value) in request.headers() {
            lines.push(format!("{name}: {}", value.to_str().unwrap()));
        }
        text(lines.join("\n"))
    })
    .await
}

/// Does as it likes with each connection.
pub async fn raw<A, F>(serve: A) -> SocketAddr
where
    A: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket));
        }
    });
    address
}

/// Reads one request's head, or what there is before the connection's end.
pub async fn read_head(socket: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Answers each request with these bytes.
pub async fn verbatim(response: &'static str) -> SocketAddr {
    raw(move |mut socket| async move {
        while !read_head(&mut socket).await.is_empty() {
            if socket.write_all(response.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Changes to a protocol in which everything is said twice, when it is asked to.
pub async fn echo() -> SocketAddr {
    raw(|mut socket| async move {
        let head = read_head(&mut socket).await.to_ascii_lowercase();
        if !head.contains("\r\nconnection: upgrade\r\n") || !head.contains("\r\nupgrade: websocket\r\n") {
            let no = b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno";
            let _ = socket.write_all(no).await;
            return;
        }
        // The first words come in the packet of the answer.
        let yes = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\nhello";
        socket.write_all(yes).await.unwrap();
        let mut heard = [0; 1024];
        loop {
            match socket.read(&mut heard).await.unwrap_or(0) {
                0 => break,
                n => socket.write_all(&heard[..n].repeat(2)).await.unwrap(),
            }
        }
        let _ = socket.write_all(b"bye").await;
    })
    .await
}
