//! A client and an instance of gRPC whose messages are bytes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::Uri;
use http::uri::PathAndQuery;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::StreamingService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tower_service::Service;

use super::apps::raw;
use super::tls::Caller;

/// Larger than any message here.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

#[derive(Debug, Clone, Copy, Default)]
pub struct Bare;

impl Codec for Bare {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Bare;
    type Decoder = Bare;

    fn encoder(&mut self) -> Bare {
        Bare
    }

    fn decoder(&mut self) -> Bare {
        Bare
    }
}

impl Encoder for Bare {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Bare {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// What comes of a call: a stream of messages, or a status at once.
pub type Answered = Result<Response<BoxStream<'static, Result<Bytes, Status>>>, Status>;

#[derive(Clone)]
struct Calls<A>(Arc<A>, String);

impl<A, F> StreamingService<Bytes> for Calls<A>
where
    A: Fn(String, Request<Streaming<Bytes>>) -> F,
    F: Future<Output = Answered> + Send + 'static,
{
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Answered>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        Box::pin((self.0)(self.1.clone(), request))
    }
}

/// An instance that answers calls by their path; all of them are streams of both sides to it.
pub async fn instance<A, F>(answer: A) -> SocketAddr
where
    A: Fn(String, Request<Streaming<Bytes>>) -> F + Send + Sync + 'static,
    F: Future<Output = Answered> + Send + 'static,
{
    let answer = Arc::new(answer);
    raw(move |socket| {
        let answer = Arc::clone(&answer);
        async move {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let calls = Calls(Arc::clone(&answer), request.uri().path().to_owned());
                async move {
                    let grpc = tonic::server::Grpc::new(Bare);
                    let mut grpc = grpc.max_decoding_message_size(MESSAGE_BYTES_MAX);
                    Ok::<_, std::convert::Infallible>(grpc.streaming(calls, request).await)
                }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(socket), service)
                .await;
        }
    })
    .await
}

/// How a client reaches an edge.
#[derive(Clone)]
struct Way {
    edge: SocketAddr,
    tls: Option<(Caller, String)>,
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

struct Line(Box<dyn Both>);

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Service<Uri> for Way {
    type Response = TokioIo<Line>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Line>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let way = self.clone();
        Box::pin(async move {
            let socket = TcpStream::connect(way.edge).await?;
            socket.set_nodelay(true)?;
            let line: Box<dyn Both> = match way.tls {
                Some((mut caller, host)) => {
                    caller.0.alpn_protocols = vec![b"h2".to_vec()];
                    Box::new(caller.upgrade(socket, &host).await?)
                }
                None => Box::new(socket),
            };
            Ok(TokioIo::new(Line(line)))
        })
    }
}

#[derive(Clone)]
pub struct Client(tonic::client::Grpc<Channel>);

impl Client {
    /// In the clear, with prior knowledge.
    pub async fn open(edge: SocketAddr, host: &str) -> Client {
        Client::by(Way { edge, tls: None }, &format!("http://{host}")).await
    }

    pub async fn open_tls(edge: SocketAddr, host: &str, caller: Caller) -> Client {
        let tls = Some((caller, host.to_owned()));
        Client::by(Way { edge, tls }, &format!("https://{host}")).await
    }

    async fn by(way: Way, origin: &str) -> Client {
        let endpoint = Endpoint::from_static("http://edge.test");
        let endpoint = endpoint.origin(origin.parse().unwrap());
        let channel = endpoint.connect_with_connector(way).await.unwrap();
        let grpc = tonic::client::Grpc::new(channel);
        Client(grpc.max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    pub async fn call(
        &mut self,
        path: &'static str,
        message: impl tonic::IntoRequest<Bytes>,
    ) -> Result<Response<Bytes>, Status> {
        self.0.ready().await.unwrap();
        let path = PathAndQuery::from_static(path);
        self.0.unary(message.into_request(), path, Bare).await
    }

    pub async fn stream<S>(
        &mut self,
        path: &'static str,
        messages: S,
    ) -> Result<Response<Streaming<Bytes>>, Status>
    where
        S: futures::Stream<Item = Bytes> + Send + 'static,
    {
        self.0.ready().await.unwrap();
        let path = PathAndQuery::from_static(path);
        self.0.streaming(Request::new(messages), path, Bare).await
    }
}
