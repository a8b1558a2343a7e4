//! One plain GET through a node's edge: enough to see that a site is served, without a client library.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A node of this machine answers at once or not at all.
const DEADLINE: Duration = Duration::from_secs(2);

/// The status of `GET /` for this host name, or `None` without an answer.
pub async fn status(edge: &str, host: &str) -> Option<u16> {
    tokio::time::timeout(DEADLINE, ask(edge, host))
        .await
        .ok()?
        .ok()?
}

async fn ask(edge: &str, host: &str) -> std::io::Result<Option<u16>> {
    let mut stream = TcpStream::connect(edge).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    // "HTTP/1.1 200" is all that counts.
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    Ok(status_in(&start))
}

fn status_in(start: &[u8]) -> Option<u16> {
    std::str::from_utf8(start.strip_prefix(b"HTTP/1.1 ")?)
        .ok()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read() {
        assert_eq!(status_in(b"HTTP/1.1 200"), Some(200));
        assert_eq!(status_in(b"SSH-2.0-Open"), None);
    }
}
