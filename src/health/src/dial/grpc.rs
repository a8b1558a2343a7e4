//! `grpc.health.v1.Health/Check` over HTTP/2 without TLS ("GRPC Health Checking Protocol", "gRPC over HTTP2").
//!
//! One request with one message of one field, and an answer of the same kind: written and read here by hand.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request};
use tokio::net::TcpStream;

use super::ProbeError;

const PATH: &str = "http://localhost/grpc.health.v1.Health/Check";
/// Before each message: whether it is compressed, and its length ("Length-Prefixed-Message").
const PREFIX_BYTES: usize = 5;
/// Largest head and largest trailers of an answer, as of one over HTTP/1.1.
const HEAD_BYTES: u32 = super::RESPONSE_HEAD_BYTES as u32;
/// Largest answer: its one field is a small number.
const ANSWER_BYTES: usize = 4 * 1024;
/// `HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;

fn failed(what: impl Into<String>, source: Option<h2::Error>) -> ProbeError {
    ProbeError::Grpc {
        what: what.into(),
        source,
    }
}

fn broken(error: h2::Error) -> ProbeError {
    failed("no valid HTTP/2 answer", Some(error))
}

pub(super) async fn check(stream: TcpStream, service: &str) -> Result<(), ProbeError> {
    let (sender, connection) = h2::client::Builder::new()
        .max_header_list_size(HEAD_BYTES)
        .handshake(stream)
        .await
        .map_err(broken)?;
    let asked = ask(sender, service);
    tokio::pin!(asked, connection);
    tokio::select! {
        biased;
        answer = &mut asked => answer,
        // The connection may end in the same moment in which the answer is complete.
        closed = &mut connection => match closed {
            Ok(()) => asked.await,
            Err(error) => Err(broken(error)),
        },
    }
}

async fn ask(sender: h2::client::SendRequest<Bytes>, service: &str) -> Result<(), ProbeError> {
    let request = Request::post(PATH)
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("user-agent", "nebula-probe")
        .body(())
        .map_err(ProbeError::Request)?;
    let mut sender = sender.ready().await.map_err(broken)?;
    let (answer, mut body) = sender.send_request(request, false).map_err(broken)?;
    body.send_data(message(service), true).map_err(broken)?;
    let (head, mut body) = answer.await.map_err(broken)?.into_parts();
    if head.status != http::StatusCode::OK {
        let code = head.status.as_u16();
        return Err(failed(format!("answered HTTP status {code}"), None));
    }
    // "Trailers-Only": there is no message.
    status(&head.headers)?;
    let mut received = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(broken)?;
        let _ = body.flow_control().release_capacity(piece.len());
        if received.len() + piece.len() > ANSWER_BYTES {
            return Err(failed("the answer is too large", None));
        }
        received.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await.map_err(broken)?.unwrap_or_default();
    status(&trailers)?;
    match serving(&received) {
        Some(SERVING) => Ok(()),
        // 3 is for watches; a check of an unknown service fails with status 5.
        Some(2) => Err(failed("NOT_SERVING", None)),
        Some(3) => Err(failed("SERVICE_UNKNOWN", None)),
        Some(_) => Err(failed("UNKNOWN", None)),
        None => Err(failed("the answer cannot be read", None)),
    }
}

/// Fails when the call did ("Status").
fn status(fields: &HeaderMap) -> Result<(), ProbeError> {
    let code = match fields.get("grpc-status") {
        None => return Ok(()),
        Some(code) => code.to_str().unwrap_or("unreadable"),
    };
    let meaning = match code {
        "0" => return Ok(()),
        "5" => " (the service is not known)",
        "12" => " (the program has no health service)",
        _ => "",
    };
    Err(failed(format!("answered status {code}{meaning}"), None))
}

/// `HealthCheckRequest { string service = 1 }`, which is left out when it is empty.
fn message(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1, a string (protocol buffers' "Encoding": number, shifted by three, and wire type 2).
        message.push((1 << 3) | 2);
        write_varint(&mut message, service.len() as u64);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

/// The status in a framed `HealthCheckResponse { ServingStatus status = 1 }`.
fn serving(framed: &[u8]) -> Option<u64> {
    let (prefix, mut rest) = framed.split_at_checked(PREFIX_BYTES)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?);
    if prefix[0] != 0 || usize::try_from(length).ok()? != rest.len() {
        return None;
    }
    let mut status = 0;
    while !rest.is_empty() {
        let tag = read_varint(&mut rest)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = read_varint(&mut rest)?,
            // Fields of later versions.
            (_, 0) => drop(read_varint(&mut rest)?),
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(read_varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn write_varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn read_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    /// Answers one check with these framed bytes and this status; returns what was asked.
    async fn server(
        answer: &'static [u8],
        status: &'static str,
    ) -> (std::net::SocketAddr, tokio::task::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(request.headers()["te"], "trailers");
            let mut body = request.into_body();
            let asked = async {
                let mut asked = Vec::new();
                while let Some(piece) = body.data().await {
                    asked.extend_from_slice(&piece.unwrap());
                }
                let head = http::Response::builder().header("content-type", "application/grpc");
                let mut send = respond
                    .send_response(head.body(()).unwrap(), false)
                    .unwrap();
                send.send_data(Bytes::from_static(answer), false).unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                send.send_trailers(trailers).unwrap();
                asked
            };
            let drive = async {
                // Until the client has gone.
                while connection.accept().await.is_some() {}
            };
            let (asked, ()) = tokio::join!(asked, drive);
            asked
        });
        (address, served)
    }

    async fn checked(answer: &'static [u8], status: &'static str) -> Result<Vec<u8>, String> {
        let (address, served) = server(answer, status).await;
        let stream = TcpStream::connect(address).await.unwrap();
        let checked = check(stream, "shop.Cart");
        let checked = tokio::time::timeout(Duration::from_secs(20), checked).await;
        checked.unwrap().map_err(|error| error.to_string())?;
        Ok(served.await.unwrap())
    }

    #[tokio::test]
    async fn a_serving_service_passes_and_every_other_answer_fails() {
        let asked = checked(b"\0\0\0\0\x02\x08\x01", "0").await.unwrap();
        assert_eq!(asked, b"\0\0\0\0\x0b\x0a\x09shop.Cart");
        let failures: [(&[u8], &str, &str); 6] = [
            (b"\0\0\0\0\x02\x08\x02", "0", "gRPC health: NOT_SERVING"),
            (b"\0\0\0\0\0", "0", "gRPC health: UNKNOWN"),
            (
                b"\x01\0\0\0\x02\x08\x01",
                "0",
                "gRPC health: the answer cannot be read",
            ),
            (
                b"\0\0\0\0\x09\x08\x01",
                "0",
                "gRPC health: the answer cannot be read",
            ),
            (
                b"",
                "12",
                "gRPC health: answered status 12 (the program has no health service)",
            ),
            (
                b"\0\0\0\0\x02\x08\x01",
                "5",
                "gRPC health: answered status 5 (the service is not known)",
            ),
        ];
        for (answer, status, reason) in failures {
            assert_eq!(checked(answer, status).await.unwrap_err(), reason);
        }
    }

    #[tokio::test]
    async fn what_is_no_http_2_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let closed = tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
        let stream = TcpStream::connect(address).await.unwrap();
        assert!(check(stream, "").await.is_err());
        closed.await.unwrap();
    }

    #[test]
    fn fields_of_later_versions_are_passed_over() {
        let mut message = vec![0x12, 2, b'h', b'i', 0x18, 0xac, 0x02, 0x25, 1, 2, 3, 4];
        message.extend([0x08, 1]);
        let mut framed = vec![0, 0, 0, 0, message.len() as u8];
        framed.extend(message);
        assert_eq!(serving(&framed), Some(SERVING));
        for end in 0..framed.len() {
            assert_eq!(serving(&framed[..end]), None);
        }
        let mut long = Vec::new();
        write_varint(&mut long, 300);
        assert_eq!(long, [0xac, 0x02]);
    }
}
