//! A client of HTTP/3, and one that says on streams of QUIC what it is told.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use h3::client::{RequestStream, SendRequest};
use h3::error::{Code, StreamError};
use h3_quinn::{BidiStream, OpenStreams};
use http::{HeaderMap, Method, Request, Response};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, TransportConfig};
use rustls::version::TLS13;
use tokio::time::timeout;

use super::client::Answer;
use super::tls::Certificates;
use super::{Node, PATIENCE};

pub const HOST: &str = "api.example.test";

pub type Stream = RequestStream<BidiStream<Bytes>, Bytes>;

pub struct Session {
    pub sender: SendRequest<OpenStreams, Bytes>,
    pub quic: Connection,
}

/// A request to `api.example.test`.
pub fn request(method: Method, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut builder = Request::builder()
        .method(method)
        .uri(format!("https://{HOST}{path}"));
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap()
}

/// A client's end, which trusts the certificates' authority.
pub fn endpoint(
    certificates: &Certificates,
    adjust: impl FnOnce(&mut TransportConfig),
) -> Endpoint {
    let mut tls = certificates.caller_with(&[&TLS13]).0;
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let mut transport = TransportConfig::default();
    adjust(&mut transport);
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(Arc::new(transport));
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(config);
    endpoint
}

pub async fn try_connect(
    endpoint: &Endpoint,
    node: &Node,
) -> Result<Connection, quinn::ConnectionError> {
    let connecting = endpoint.connect(node.tls.unwrap(), HOST).unwrap();
    timeout(PATIENCE, connecting).await.expect("no handshake")
}

pub async fn connect(certificates: &Certificates, node: &Node) -> Connection {
    let endpoint = endpoint(certificates, |_| {});
    try_connect(&endpoint, node).await.unwrap()
}

impl Session {
    pub async fn open(certificates: &Certificates, node: &Node) -> Session {
        Session::over(connect(certificates, node).await).await
    }

    pub async fn over(quic: Connection) -> Session {
        let connection = h3_quinn::Connection::new(quic.clone());
        let (mut connection, sender) = h3::client::new(connection).await.unwrap();
        tokio::spawn(async move { connection.wait_idle().await });
        Session { sender, quic }
    }

    pub async fn begin(&mut self, request: Request<()>) -> Stream {
        let begun = timeout(PATIENCE, self.sender.send_request(request)).await;
        begun.expect("no stream").unwrap()
    }

    pub async fn ask(&mut self, request: Request<()>) -> Answer {
        let mut stream = self.begin(request).await;
        stream.finish().await.unwrap();
        whole(&mut stream).await.0
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.ask(request(Method::GET, path, &[])).await
    }

    /// Why the edge has ended the connection.
    pub async fn ended(&self) -> u64 {
        ended(&self.quic).await
    }
}

pub async fn ended(connection: &Connection) -> u64 {
    match timeout(PATIENCE, connection.closed()).await {
        Ok(quinn::ConnectionError::ApplicationClosed(close)) => close.error_code.into_inner(),
        other => panic!("the edge has not ended the connection: {other:?}"),
    }
}

pub async fn answered(stream: &mut Stream) -> Response<()> {
    let response = timeout(PATIENCE, stream.recv_response()).await;
    response.expect("no response").unwrap()
}

/// The next piece of content; none at its end.
pub async fn piece(stream: &mut Stream) -> Result<Option<Bytes>, StreamError> {
    let piece = timeout(PATIENCE, stream.recv_data()).await;
    let piece = piece.expect("no more content")?;
    Ok(piece.map(|mut piece| piece.copy_to_bytes(piece.remaining())))
}

pub async fn whole(stream: &mut Stream) -> (Answer, Option<HeaderMap>) {
    let (parts, ()) = answered(stream).await.into_parts();
    let mut content = Vec::new();
    while let Some(piece) = piece(stream).await.unwrap() {
        content.extend_from_slice(&piece);
    }
    let trailers = timeout(PATIENCE, stream.recv_trailers()).await;
    let answer = Answer {
        status: parts.status,
        headers: parts.headers,
        body: content.into(),
    };
    (answer, trailers.expect("no end").unwrap())
}

/// Sends as fast as it is taken; how much was when nothing more was taken for `patience`.
pub async fn send_all(stream: &mut Stream, bytes: &[u8], patience: Duration) -> usize {
    let mut sent = 0;
    for piece in bytes.chunks(16 * 1024) {
        let taken = stream.send_data(Bytes::copy_from_slice(piece));
        match timeout(patience, taken).await {
            Ok(Ok(())) => sent += piece.len(),
            _ => return sent,
        }
    }
    stream.finish().await.unwrap();
    sent
}

/// Takes a request back in both directions.
pub fn cancel(stream: &mut Stream) {
    stream.stop_stream(Code::H3_REQUEST_CANCELLED);
    stream.stop_sending(Code::H3_REQUEST_CANCELLED);
}

pub const DATA: u64 = 0;
pub const HEADERS: u64 = 1;
pub const SETTINGS: u64 = 4;
pub const GOAWAY: u64 = 7;

pub fn varint(value: u64) -> Vec<u8> {
    match value {
        0..0x40 => vec![value as u8],
        0x40..0x4000 => (value as u16 | 0x4000).to_be_bytes().to_vec(),
        0x4000..0x4000_0000 => (value as u32 | 0x8000_0000).to_be_bytes().to_vec(),
        _ => (value | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
    }
}

pub fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    [&varint(kind)[..], &varint(payload.len() as u64), payload].concat()
}

/// Field lines as literals (RFC 9204 section 4.5.6), in a frame.
pub fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut section = vec![0, 0];
    for (name, value) in fields {
        assert!((7..100).contains(&name.len()) || name.len() < 7);
        match name.len() {
            short @ 0..7 => section.push(0x20 | short as u8),
            long => section.extend_from_slice(&[0x27, (long - 7) as u8]),
        }
        section.extend_from_slice(name.as_bytes());
        match value.len() {
            short @ 0..127 => section.push(short as u8),
            long => section.extend_from_slice(&[
                0x7f,
                ((long - 127) % 128) as u8 | 0x80,
                ((long - 127) / 128) as u8,
            ]),
        }
        section.extend_from_slice(value.as_bytes());
    }
    frame(HEADERS, &section)
}

/// The beginning of a `GET /` to `api.example.test`.
pub const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", HOST),
    (":path", "/"),
];

/// The same for a POST.
pub const POST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", HOST),
    (":path", "/"),
];

/// Opens a control stream that says these bytes behind its kind.
pub async fn control(connection: &Connection, bytes: &[u8]) -> SendStream {
    let mut control = connection.open_uni().await.unwrap();
    let said = control.write_all(&[&[0], bytes].concat()).await;
    said.unwrap();
    control
}

/// A connection that has greeted.
pub async fn greeted(certificates: &Certificates, node: &Node) -> (Connection, SendStream) {
    let connection = connect(certificates, node).await;
    let control = control(&connection, &frame(SETTINGS, &[])).await;
    (connection, control)
}

/// Opens a stream for a request and says these bytes on it.
pub async fn say(connection: &Connection, bytes: &[u8]) -> (SendStream, RecvStream) {
    let (mut send, receive) = connection.open_bi().await.unwrap();
    // It may be stopped before it has taken all.
    let _ = send.write_all(bytes).await;
    (send, receive)
}

/// Everything that comes until the stream's end, by frames; or what it was reset with.
pub async fn frames(stream: &mut RecvStream) -> Result<Vec<(u64, Vec<u8>)>, quinn::ReadError> {
    let read = timeout(PATIENCE, stream.read_to_end(1 << 20)).await;
    let bytes = match read.expect("no end") {
        Ok(bytes) => bytes,
        Err(quinn::ReadToEndError::Read(error)) => return Err(error),
        Err(error) => panic!("{error}"),
    };
    let (mut rest, mut frames) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let (kind, length) = (take(&mut rest), take(&mut rest));
        let (payload, more) = rest.split_at(length as usize);
        frames.push((kind, payload.to_vec()));
        rest = more;
    }
    Ok(frames)
}

/// Takes an integer off the front.
pub fn take(bytes: &mut &[u8]) -> u64 {
    let length = 1 << (bytes[0] >> 6);
    let (integer, rest) = bytes.split_at(length);
    *bytes = rest;
    let first = u64::from(integer[0] & 0x3f);
    integer[1..]
        .iter()
        .fold(first, |value, byte| value << 8 | u64::from(*byte))
}

/// Reads one frame of a stream that goes on.
pub async fn next_frame(stream: &mut RecvStream) -> (u64, Vec<u8>) {
    let read = async {
        let mut header = Vec::new();
        let whole = |header: &[u8]| {
            let first = 1 << (header.first()? >> 6);
            let second = 1 << (header.get(first)? >> 6);
            (header.len() == first + second).then_some(())
        };
        while whole(&header).is_none() {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            header.push(byte[0]);
        }
        let mut rest = &header[..];
        let (kind, length) = (take(&mut rest), take(&mut rest));
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        (kind, payload)
    };
    timeout(PATIENCE, read).await.expect("no frame")
}

/// The status that a section says, as far as it stands in the static table (RFC 9204 appendix A).
pub fn status(section: &[u8]) -> u16 {
    assert_eq!(section[..2], [0, 0]);
    match section[2..] {
        // With a value that stands behind the name.
        [0x5f, 9, 3, a, b, c, ..] => [a, b, c]
            .iter()
            .fold(0, |status, digit| status * 10 + u16::from(digit - b'0')),
        [field, ..] if field & 0xc0 == 0xc0 => match field & 0x3f {
            24 => 103,
            25 => 200,
            26 => 304,
            27 => 404,
            28 => 503,
            63 => match section[3] {
                0 => 100,
                1 => 204,
                2 => 206,
                3 => 302,
                4 => 400,
                5 => 403,
                6 => 421,
                7 => 425,
                8 => 500,
                other => panic!("{other}"),
            },
            other => panic!("{other}"),
        },
        _ => panic!("no status: {section:?}"),
    }
}
