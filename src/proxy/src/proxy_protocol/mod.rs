//! Who is at the other end of a load balancer that passes bytes on (HAProxy's PROXY protocol, versions 1 and 2, as
//! haproxy's `doc/proxy-protocol.txt` describes it).
//!
//! Anybody could write such a header, so that it is read only from addresses that are known to send one, and from those it has
//! to be there: a connection must not mean one client with it and another without it.

mod header;

use std::io;
use std::net::IpAddr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use header::{Malformed, Progress, parse};

/// Looked at in one turn. Common headers are shorter, and the client's own first bytes may follow.
const PEEK_BYTES: usize = 512;

/// Reads the header that a connection begins with, and nothing behind it. The address of whom it speaks for; none if it speaks
/// for the sender itself, as the checks of load balancers do. `max` bounds its bytes.
pub(crate) async fn read(socket: &mut TcpStream, max: usize) -> io::Result<Option<IpAddr>> {
    let mut header = Vec::new();
    loop {
        let mut bytes = [0; PEEK_BYTES];
        let peeked = socket.peek(&mut bytes).await?;
        if peeked == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = header.len();
        header.extend_from_slice(&bytes[..peeked]);
        let progress = parse(&header, max).map_err(|Malformed(why)| invalid(why))?;
        let (end, whole) = match progress {
            Progress::Whole { end, client } => (end, Some(client)),
            Progress::More => (header.len(), None),
        };
        // They are there already, so that this does not wait.
        let own = end.checked_sub(before).and_then(|own| bytes.get_mut(..own));
        socket.read_exact(own.unwrap_or_default()).await?;
        if let Some(client) = whole {
            return Ok(client);
        }
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
