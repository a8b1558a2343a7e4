//! Parts of files, sent by the kernel from its cache to a socket.

use std::io;
use std::task::{Context, Poll, ready};

use nix::sys::sendfile::sendfile;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::body::FilePart;

/// Sent at once, before other connections of the thread have their turn. What is not in the kernel's cache is read from the disk
/// meanwhile, for as long as that takes.
const TURN_BYTES: u64 = 512 * 1024;

/// Sends what the socket takes now; ready after every turn, with nothing left when all is sent.
pub(crate) fn poll(
    cx: &mut Context<'_>,
    socket: &TcpStream,
    part: &mut FilePart,
) -> Poll<io::Result<()>> {
    let mut turn = part.left.min(TURN_BYTES);
    while turn > 0 {
        ready!(socket.poll_write_ready(cx))?;
        let count = usize::try_from(turn).map_err(io::Error::other)?;
        let mut offset = i64::try_from(part.offset).map_err(io::Error::other)?;
        let sent = socket.try_io(Interest::WRITABLE, || {
            Ok(sendfile(socket, &*part.file, Some(&mut offset), count)?)
        });
        match sent {
            // The file has become shorter, which a whole artifact never does.
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Ok(sent) => {
                part.offset += sent as u64;
                part.left -= sent as u64;
                turn -= sent as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    Poll::Ready(Ok(()))
}
