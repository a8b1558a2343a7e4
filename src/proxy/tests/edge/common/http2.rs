//! A client of HTTP/2, and the frames of one that says what it is told.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::PATIENCE;
use super::client::Answer;

pub struct Session {
    pub sender: SendRequest<Bytes>,
    /// Ends with the connection.
    pub connection: JoinHandle<Result<(), h2::Error>>,
}

/// A request to `api.example.test`.
pub fn request(method: Method, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut builder = Request::builder()
        .method(method)
        .uri(format!("http://api.example.test{path}"));
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap()
}

impl Session {
    pub async fn open(edge: SocketAddr) -> Session {
        let socket = TcpStream::connect(edge).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (sender, connection) = h2::client::handshake(socket).await.unwrap();
        Session {
            sender,
            connection: tokio::spawn(connection),
        }
    }

    pub async fn send(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let ready = timeout(PATIENCE, self.sender.clone().ready()).await;
        self.sender = ready.expect("not ready").unwrap();
        self.sender.send_request(request, end).unwrap()
    }

    pub async fn ask(&mut self, request: Request<()>) -> Answer {
        let (response, _) = self.send(request, true).await;
        whole(answered(response).await).await.0
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.ask(request(Method::GET, path, &[])).await
    }

    /// The edge has ended the connection.
    pub async fn ended(self) -> Result<(), h2::Error> {
        drop(self.sender);
        let ended = timeout(PATIENCE, self.connection).await;
        ended.expect("the edge keeps the connection open").unwrap()
    }
}

pub async fn answered(response: ResponseFuture) -> Response<RecvStream> {
    timeout(PATIENCE, response)
        .await
        .expect("no response")
        .unwrap()
}

/// The next piece of content that is none of nothing; none at its end.
pub async fn piece(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    loop {
        let piece = timeout(PATIENCE, body.data()).await;
        let piece = match piece.expect("no more content") {
            Some(Ok(piece)) => piece,
            other => return other,
        };
        body.flow_control().release_capacity(piece.len()).unwrap();
        if !piece.is_empty() {
            return Some(Ok(piece));
        }
    }
}

pub async fn whole(response: Response<RecvStream>) -> (Answer, Option<HeaderMap>) {
    let (parts, mut body) = response.into_parts();
    let mut content = Vec::new();
    while let Some(piece) = piece(&mut body).await {
        content.extend_from_slice(&piece.unwrap());
    }
    let trailers = timeout(PATIENCE, body.trailers()).await.expect("no end");
    let answer = Answer {
        status: parts.status,
        headers: parts.headers,
        body: content.into(),
    };
    (answer, trailers.unwrap())
}

/// Sends as fast as it is taken; how much was when the stream ended or nothing more was taken for `patience`.
pub async fn send_all(stream: &mut SendStream<Bytes>, bytes: &[u8], patience: Duration) -> usize {
    let mut sent = 0;
    while sent < bytes.len() {
        stream.reserve_capacity(bytes.len() - sent);
        let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx));
        let Ok(Some(Ok(capacity))) = timeout(patience, capacity).await else {
            break;
        };
        let end = bytes.len().min(sent + capacity);
        let piece = Bytes::copy_from_slice(&bytes[sent..end]);
        stream.send_data(piece, end == bytes.len()).unwrap();
        sent = end;
    }
    sent
}

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Field lines as literals that no table keeps (RFC 7541 section 6.2.2).
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// The beginning of a `GET /` to `api.example.test`.
pub const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "api.example.test"),
    (":path", "/"),
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// Greets and says these bytes, for as long as the edge listens; every frame that the edge sends until it ends the
/// connection.
pub async fn say(edge: SocketAddr, bytes: Vec<u8>) -> Vec<Frame> {
    let socket = TcpStream::connect(edge).await.unwrap();
    let (mut from, mut to) = socket.into_split();
    let writer = tokio::spawn(async move {
        let all = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &bytes].concat();
        let _ = to.write_all(&all).await;
        to
    });
    let mut all = Vec::new();
    // A reset is an end as well.
    let read = timeout(PATIENCE, from.read_to_end(&mut all)).await;
    let _ = read.expect("the edge keeps the connection open");
    let _: OwnedWriteHalf = writer.await.unwrap();
    frames(&all)
}

pub fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            break;
        };
        frames.push(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..9].try_into().unwrap()),
            payload: payload.to_vec(),
        });
        bytes = rest;
    }
    frames
}

/// The reason that a RST_STREAM or GOAWAY gives.
pub fn reason(frame: &Frame) -> u32 {
    let from = if frame.kind == GOAWAY { 4 } else { 0 };
    u32::from_be_bytes(frame.payload[from..from + 4].try_into().unwrap())
}

/// Why the edge ended the connection.
pub fn last_goaway(frames: &[Frame]) -> Option<u32> {
    frames
        .iter()
        .rev()
        .find(|frame| frame.kind == GOAWAY)
        .map(reason)
}
