//! One probe over the network.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nebula_domain::spec::{ProbeKind, ProbeSpec};
use tokio::net::TcpStream;

/// Largest status line and header block of an answer; hyper's smallest permitted buffer.
pub const RESPONSE_HEAD_BYTES: usize = 8 * 1024;

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("no connection to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("the probe's path is not a valid request target")]
    Request(#[source] http::Error),
    #[error("no valid HTTP answer")]
    Http(#[source] hyper::Error),
    #[error("the connection was closed before an answer")]
    Closed,
    #[error("answered with status {0}, expected 200 to 399")]
    Status(http::StatusCode),
}

/// Asks once. Dropping the future closes the connection.
pub(crate) async fn probe(address: SocketAddr, spec: &ProbeSpec) -> Result<(), ProbeError> {
    let asked = async {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|source| ProbeError::Connect { address, source })?;
        match &spec.kind {
            ProbeKind::Tcp => Ok(()),
            ProbeKind::Http { path } => get(stream, path).await,
        }
    };
    match tokio::time::timeout(spec.timeout, asked).await {
        Ok(result) => result,
        Err(_) => Err(ProbeError::Timeout(spec.timeout)),
    }
}

/// The connection is driven and dropped here, with the body unread: only the status counts.
async fn get(stream: TcpStream, path: &str) -> Result<(), ProbeError> {
    let request = http::Request::get(path)
        .header(http::header::HOST, "localhost")
        .header(http::header::USER_AGENT, "nebula-probe")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(ProbeError::Request)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(RESPONSE_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ProbeError::Http)?;
    let response = sender.send_request(request);
    tokio::pin!(connection, response);
    let answer = tokio::select! {
        biased;
        answer = &mut response => answer,
        // The connection may end in the same moment in which the answer is complete.
        closed = &mut connection => match closed {
            Ok(()) => response.await,
            Err(error) => return Err(ProbeError::Http(error)),
        },
    };
    let status = answer
        .map_err(|error| {
            if error.is_canceled() || error.is_closed() {
                ProbeError::Closed
            } else {
                ProbeError::Http(error)
            }
        })?
        .status();
    if (200..400).contains(&status.as_u16()) {
        Ok(())
    } else {
        Err(ProbeError::Status(status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn http(path: &str, timeout: Duration) -> ProbeSpec {
        ProbeSpec {
            kind: ProbeKind::Http { path: path.into() },
            timeout,
            ..ProbeSpec::default()
        }
    }

    /// Answers one connection with `answer` and returns what it was asked.
    async fn server(answer: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).await.unwrap();
                asked.push(byte[0]);
            }
            stream.write_all(answer).await.unwrap();
            String::from_utf8(asked).unwrap()
        });
        (address, asked)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn asks_for_the_path_of_localhost_and_takes_200_to_399() {
        let (address, asked) = server(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        probe(address, &http("/healthz?full=1", LONG))
            .await
            .unwrap();
        let asked = asked.await.unwrap();
        assert!(
            asked.starts_with("GET /healthz?full=1 HTTP/1.1\r\n"),
            "{asked}"
        );
        assert!(
            asked.to_lowercase().contains("host: localhost\r\n"),
            "{asked}"
        );

        let (address, _asked) =
            server(b"HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 999999\r\n\r\n")
                .await;
        probe(address, &http("/", LONG)).await.unwrap();

        for answer in [
            &b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"[..],
            &b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"[..],
        ] {
            let (address, _asked) = server(answer).await;
            assert!(matches!(
                probe(address, &http("/", LONG)).await,
                Err(ProbeError::Status(_))
            ));
        }
    }

    #[tokio::test]
    async fn rubbish_silence_and_an_oversized_head_are_failures() {
        let (address, _asked) = server(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        assert!(matches!(
            probe(address, &http("/", LONG)).await,
            Err(ProbeError::Http(_))
        ));
        let (address, _asked) = server(b"").await;
        assert!(probe(address, &http("/", LONG)).await.is_err());
        let huge: &'static [u8] = Box::leak(
            format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(64 * 1024))
                .into_bytes()
                .into_boxed_slice(),
        );
        let (address, _asked) = server(huge).await;
        assert!(matches!(
            probe(address, &http("/", LONG)).await,
            Err(ProbeError::Http(_))
        ));
        // Accepts by its backlog and never answers.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert!(matches!(
            probe(
                listener.local_addr().unwrap(),
                &http("/", Duration::from_millis(50))
            )
            .await,
            Err(ProbeError::Timeout(_))
        ));
    }

    #[tokio::test]
    async fn tcp_needs_only_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        probe(address, &ProbeSpec::default()).await.unwrap();
        drop(listener);
        assert!(matches!(
            probe(address, &ProbeSpec::default()).await,
            Err(ProbeError::Connect { .. })
        ));
    }
}
