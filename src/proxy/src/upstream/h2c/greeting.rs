//! The beginning of what an instance says: a server of HTTP/2 speaks first, and by a frame of settings (RFC 9113 section 3.4).
//! Whatever else comes is another protocol, and is not given to anybody to read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::empties::{Empties, Frames};

/// Every frame begins with so many bytes (RFC 9113 section 4.1).
const FRAME_HEAD_BYTES: usize = 9;
/// A server's settings are a few; the frame could not be longer than this before it was allowed to.
const GREETING_BYTES_MAX: usize = 16 * 1024;
const SETTINGS: u8 = 4;

/// A connection whose beginning is looked at.
pub(super) struct Greeted<T> {
    io: T,
    state: State,
    heard: Arc<AtomicBool>,
    /// What comes after the greeting.
    frames: Frames,
}

enum State {
    Head([u8; FRAME_HEAD_BYTES], usize),
    /// So many bytes of the settings are to come.
    Settings(usize),
    Done,
}

impl<T> Greeted<T> {
    /// With a sign that the greeting was passed on.
    pub(super) fn new(io: T, empties: Arc<Empties>) -> (Greeted<T>, Arc<AtomicBool>) {
        let heard = Arc::new(AtomicBool::new(false));
        let greeted = Greeted {
            io,
            state: State::Head([0; FRAME_HEAD_BYTES], 0),
            heard: Arc::clone(&heard),
            frames: Frames::new(empties),
        };
        (greeted, heard)
    }

    fn look(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if let State::Head(head, have) = &mut self.state {
            let more = bytes.len().min(FRAME_HEAD_BYTES - *have);
            head[*have..*have + more].copy_from_slice(&bytes[..more]);
            *have += more;
            bytes = &bytes[more..];
            if *have < FRAME_HEAD_BYTES {
                return Ok(());
            }
            let length = settings_bytes(head).ok_or(io::ErrorKind::InvalidData)?;
            self.state = State::Settings(length);
        }
        if let State::Settings(left) = &mut self.state {
            let more = bytes.len().min(*left);
            *left -= more;
            bytes = &bytes[more..];
            if *left == 0 {
                self.state = State::Done;
                self.heard.store(true, Ordering::Relaxed);
            }
        }
        if let State::Done = self.state {
            self.frames.look(bytes);
        }
        Ok(())
    }
}

/// The length of a frame that begins so and holds settings, not their acknowledgement.
fn settings_bytes(head: &[u8; FRAME_HEAD_BYTES]) -> Option<usize> {
    let [a, b, c, kind, flags, stream @ ..] = *head;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    let is_greeting = kind == SETTINGS
        && flags & 1 == 0
        && stream == [0; 4]
        && length.is_multiple_of(6)
        && length <= GREETING_BYTES_MAX;
    is_greeting.then_some(length)
}

impl<T: AsyncRead + Unpin> AsyncRead for Greeted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let looked = self.look(&buffer.filled()[before..]);
        if looked.is_err() {
            buffer.set_filled(before);
        }
        Poll::Ready(looked)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Greeted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// Whether `said` is a greeting, however it is cut.
    async fn greets(said: &[u8]) -> bool {
        let mut heard = Vec::new();
        for cut in 0..said.len() {
            let (one, other) = said.split_at(cut);
            let (mut io, sign) = Greeted::new(
                tokio::io::join(one.chain(other), tokio::io::sink()),
                Arc::default(),
            );
            let read = io.read_to_end(&mut Vec::new()).await;
            assert!(read.is_err() || sign.load(Ordering::Relaxed));
            heard.push(read.is_ok());
        }
        assert!(heard.iter().all(|same| *same == heard[0]));
        heard[0]
    }

    #[tokio::test]
    async fn only_settings_are_a_greeting() {
        assert!(greets(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await);
        let one = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
        assert!(greets(&one).await);
        assert!(greets(&[&one[..], b"and more"].concat()).await);
        for no in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            b"SSH-2.0-OpenSSH_9.6\r\n",
            // An acknowledgement, a length that settings cannot have, a ping.
            &[0, 0, 0, 4, 1, 0, 0, 0, 0],
            &[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5],
            &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        ] {
            assert!(!greets(no).await, "{}", no.escape_ascii());
        }
    }
}
