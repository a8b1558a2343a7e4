//! Instances that speak HTTP/2 in the clear.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;

use super::apps::raw;

/// An instance, and how many connections to it were begun and are open.
pub struct Instance {
    pub address: SocketAddr,
    begun: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Instance {
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

/// Does as it likes with each connection that has greeted.
pub async fn connections<S, F>(configure: fn(&mut Builder), serve: S) -> Instance
where
    S: Fn(Connection<TcpStream, Bytes>) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (begun, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&begun), Arc::clone(&open));
    let address = raw(move |socket| {
        let (serve, (begun, open)) = (serve.clone(), counts.clone());
        async move {
            begun.fetch_add(1, Ordering::SeqCst);
            open.fetch_add(1, Ordering::SeqCst);
            socket.set_nodelay(true).unwrap();
            let mut builder = Builder::new();
            configure(&mut builder);
            if let Ok(connection) = builder.handshake(socket).await {
                serve(connection).await;
            }
            open.fetch_sub(1, Ordering::SeqCst);
        }
    });
    Instance {
        address: address.await,
        begun,
        open,
    }
}

/// Answers each request by `answer`, all of them side by side.
pub async fn instance<A, F>(configure: fn(&mut Builder), answer: A) -> Instance
where
    A: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    connections(configure, move |mut connection| {
        let answer = answer.clone();
        async move {
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(answer(request, respond));
            }
        }
    })
    .await
}

pub fn usual(_: &mut Builder) {}

pub fn ok(fields: &[(&str, &str)]) -> Response<()> {
    let mut builder = Response::builder();
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap()
}

/// Answers with a text.
pub fn say(respond: &mut SendResponse<Bytes>, text: impl Into<String>) {
    let text = text.into();
    let length = text.len().to_string();
    let head = ok(&[("content-length", &length)]);
    if let Ok(mut stream) = respond.send_response(head, false) {
        let _ = stream.send_data(text.into(), true);
    }
}

/// Answers each request with its name.
pub async fn named(name: &'static str) -> Instance {
    instance(usual, move |_, mut respond| async move {
        say(&mut respond, name)
    })
    .await
}

/// Answers with the head it got, one field a line.
pub async fn mirror() -> Instance {
    instance(usual, |request, mut respond| async move {
        let (head, _) = request.into_parts();
        let mut lines = vec![format!("{} {} {:?}", head.method, head.uri, head.version)];
        for (name, value) in &head.headers {
            lines.push(format!("{name}: {}", value.to_str().unwrap()));
        }
        say(&mut respond, lines.join("\n"));
    })
    .await
}

/// Sends everything back as it comes, trailer fields included.
pub async fn echo() -> Instance {
    echo_by(usual).await
}

pub async fn echo_by(configure: fn(&mut Builder)) -> Instance {
    instance(configure, |request, mut respond| async move {
        let fields = ["content-type", "content-length"];
        let mut head = Response::new(());
        for name in fields {
            if let Some(value) = request.headers().get(name) {
                head.headers_mut().insert(name, value.clone());
            }
        }
        let mut stream = respond.send_response(head, false).unwrap();
        let mut body = request.into_body();
        while let Some(Ok(piece)) = body.data().await {
            let _ = body.flow_control().release_capacity(piece.len());
            if !push(&mut stream, piece).await {
                return;
            }
        }
        let _ = match body.trailers().await {
            Ok(Some(trailers)) => stream.send_trailers(trailers),
            Ok(None) => stream.send_data(Bytes::new(), true),
            Err(_) => return,
        };
    })
    .await
}

/// Sends as the other side takes it; whether all of it was taken.
pub async fn push(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> bool {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let Some(Ok(capacity)) = capacity else {
            return false;
        };
        let piece = bytes.split_to(capacity.min(bytes.len()));
        if stream.send_data(piece, false).is_err() {
            return false;
        }
    }
    true
}

pub fn trailers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, value.parse().unwrap());
    }
    map
}
