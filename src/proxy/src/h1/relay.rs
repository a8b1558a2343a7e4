//! A body on its way from one connection to another: decoded, counted, and framed anew, so that what one side means by
//! its framing never reaches the other. Holds no more than one buffer; a receiver that does not keep up stops the sender.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::chunked::{Decoder, Malformed, Piece};
use super::length::Length;
use super::trailers;
use super::wire::{READ_BYTES, Wire};

/// How a body is framed where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// By a length, or by the connection's end.
    Plain,
    Chunked,
}

/// Where the body ends where it comes from.
#[derive(Debug)]
enum Source {
    Sized(u64),
    Chunked(Box<Decoder>),
    UntilClose,
    Done,
}

/// One body.
#[derive(Debug)]
pub(crate) struct Relay {
    source: Source,
    framing: Framing,
    /// Something was taken from the sender: content, or the coding around it.
    begun: bool,
    /// Bytes of content so far.
    content: u64,
    max: u64,
    trailers: Trailers,
}

/// What becomes of the fields behind a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trailers {
    Pass,
    /// The receiver has not said that it wants any (RFC 9110 section 6.5.1).
    Drop,
}

/// Why a body did not get through.
#[derive(Debug)]
pub(crate) enum RelayError {
    /// The sender's connection broke, or ended too early.
    From(io::Error),
    /// It is not the coding that its head names.
    Malformed(&'static str),
    /// More content than is allowed.
    TooLarge,
    /// The receiver's connection broke.
    To(io::Error),
}

/// Whether it is through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// Something moved, and more is to come.
    Some,
    /// The whole body has been written.
    All,
}

impl Relay {
    /// `max` bounds the content, in bytes.
    pub(crate) fn new(length: Length, framing: Framing, max: u64, trailers: Trailers) -> Relay {
        let source = match length {
            Length::None => Source::Done,
            Length::Sized(length) => Source::Sized(length),
            Length::Chunked => Source::Chunked(Box::new(Decoder::new())),
            Length::UntilClose => Source::UntilClose,
        };
        Relay {
            source,
            framing,
            begun: false,
            content: 0,
            max,
            trailers,
        }
    }

    /// Whether the sender has sent everything.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self.source, Source::Done)
    }

    /// Whether something of the body is no longer with the sender.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Moves what can be moved now. Ready after every move, so that its caller sees progress.
    pub(crate) fn poll<S, R>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Wire<S>,
        to: &mut Wire<R>,
    ) -> Poll<Result<Moved, RelayError>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        R: AsyncRead + AsyncWrite + Unpin,
    {
        // What came with the head goes out with the head.
        if !from.inbox.is_empty() && !self.is_read() && to.unwritten() < READ_BYTES {
            let inbox = std::mem::take(&mut from.inbox);
            let used = match self.is_plain() {
                true => self.pass(&inbox, |bytes| to.write_behind(cx, bytes)),
                false => self.pass(&inbox, |bytes| to.outbox().extend_from_slice(bytes)),
            };
            from.inbox = inbox;
            let used = used?;
            from.inbox.consume(used);
        }
        if to.has_unsent() {
            ready!(to.poll_flush(cx)).map_err(RelayError::To)?;
        }
        if self.is_read() {
            ready!(to.poll_flush(cx)).map_err(RelayError::To)?;
            return Poll::Ready(Ok(Moved::All));
        }
        if !from.inbox.is_empty() {
            return Poll::Ready(Ok(Moved::Some));
        }
        // No more than the body has, so that the next message's bytes stay with the sender.
        let max = match self.source {
            Source::Sized(left) => usize::try_from(left).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        let moved = from.poll_read_with(cx, max, |from, cx, bytes| {
            if bytes.is_empty() {
                return self.end(to.outbox());
            }
            let plain = self.is_plain();
            let used = match plain {
                true => self.pass(bytes, |bytes| to.write_through(cx, bytes)),
                false => self.pass(bytes, |bytes| to.outbox().extend_from_slice(bytes)),
            }?;
            from.inbox.extend_from_slice(&bytes[used..]);
            // What is ready goes out now: a stream's events are not to wait for each other.
            if !plain && let Poll::Ready(flushed) = to.poll_flush(cx) {
                flushed.map_err(RelayError::To)?;
            }
            Ok(())
        });
        ready!(moved).map_err(RelayError::From)??;
        match self.is_read() && !to.has_unsent() {
            true => Poll::Ready(Ok(Moved::All)),
            false => Poll::Ready(Ok(Moved::Some)),
        }
    }

    /// Its content goes out as it comes in.
    fn is_plain(&self) -> bool {
        self.framing == Framing::Plain && !matches!(self.source, Source::Chunked(_))
    }

    /// The sender's connection has ended.
    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), RelayError> {
        if !matches!(self.source, Source::UntilClose) {
            return Err(RelayError::From(io::ErrorKind::UnexpectedEof.into()));
        }
        if self.framing == Framing::Chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        self.source = Source::Done;
        Ok(())
    }

    /// Hands the content in `bytes` on in its new framing; how many bytes were used.
    fn pass(&mut self, bytes: &[u8], mut write: impl FnMut(&[u8])) -> Result<usize, RelayError> {
        let mut used = 0;
        while used < bytes.len() {
            let rest = &bytes[used..];
            let (content, coding) = match &mut self.source {
                Source::Done => break,
                Source::UntilClose => (rest.len(), 0),
                Source::Sized(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= taken as u64;
                    (taken, 0)
                }
                Source::Chunked(decoder) => match decoder.next(rest) {
                    Ok(Piece::Data(n)) => (n, 0),
                    Ok(Piece::Coding(n) | Piece::End(n)) => (0, n),
                    Err(Malformed(why)) => return Err(RelayError::Malformed(why)),
                },
            };
            if content > 0 {
                self.content += content as u64;
                if self.content > self.max {
                    return Err(RelayError::TooLarge);
                }
                self.frame(&rest[..content], &mut write);
            }
            used += content + coding;
            self.begun |= used > 0;
            self.finish_if_complete(&mut write)?;
        }
        Ok(used)
    }

    fn frame(&self, content: &[u8], write: &mut impl FnMut(&[u8])) {
        if self.framing == Framing::Plain {
            return write(content);
        }
        let mut size = [0; 18];
        write(chunk_size(content.len(), &mut size));
        write(content);
        write(b"\r\n");
    }

    fn finish_if_complete(&mut self, write: &mut impl FnMut(&[u8])) -> Result<(), RelayError> {
        let complete = match &self.source {
            Source::Sized(left) => *left == 0,
            Source::Chunked(decoder) => decoder.is_done(),
            Source::UntilClose | Source::Done => false,
        };
        if !complete {
            return Ok(());
        }
        if let Source::Chunked(decoder) = &self.source {
            // Looked at also where they are dropped: what is no field is no end of a body either.
            let fields = trailers::read(decoder.trailer()).map_err(RelayError::Malformed)?;
            if self.framing == Framing::Chunked {
                write(b"0\r\n");
                if self.trailers == Trailers::Pass {
                    write(&fields);
                }
                write(b"\r\n");
            }
        }
        self.source = Source::Done;
        Ok(())
    }
}

/// A chunk's size line.
pub(crate) fn chunk_size(size: usize, line: &mut [u8; 18]) -> &[u8] {
    let mut at = line.len() - 2;
    line[at..].copy_from_slice(b"\r\n");
    let mut rest = size;
    loop {
        at -= 1;
        line[at] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
        if rest == 0 {
            return &line[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream, duplex};
    use tokio::time::timeout;

    /// What comes out when `sent` goes in, and what stays with the sender.
    async fn through(
        length: Length,
        framing: Framing,
        sent: &[u8],
        cut: usize,
    ) -> (Result<Vec<u8>, RelayError>, Vec<u8>) {
        let (sender, from) = duplex(cut);
        let (to, mut receiver) = duplex(7);
        let (mut from, mut to) = (Wire::new(from), Wire::new(to));
        let mut relay = Relay::new(length, framing, 1000, Trailers::Pass);
        let sent = sent.to_vec();
        let send = async move {
            let mut sender = sender;
            let _ = sender.write_all(&sent).await;
        };
        let pass = async move {
            let result = loop {
                match std::future::poll_fn(|cx| relay.poll(cx, &mut from, &mut to)).await {
                    Ok(Moved::Some) => {}
                    Ok(Moved::All) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            (result, from.inbox.to_vec())
        };
        let mut seen = Vec::new();
        let ((), (result, rest), read) = tokio::join!(send, pass, receiver.read_to_end(&mut seen));
        read.unwrap();
        (result.map(|()| seen), rest)
    }

    /// Takes nothing, and says so.
    struct Broken;

    impl AsyncRead for Broken {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Broken {
        fn poll_write(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_body_that_a_broken_connection_took_is_not_to_be_sent_again() {
        for head in [&b"POST / HTTP/1.1\r\n\r\n"[..], b""] {
            let (_sender, from) = duplex(64);
            let (mut from, mut to) = (Wire::new(from), Wire::new(Broken));
            from.inbox.extend_from_slice(&[b'x'; 3000]);
            from.inbox.extend_from_slice(b"GET /next");
            to.outbox().extend_from_slice(head);
            let mut relay = Relay::new(Length::Sized(3000), Framing::Plain, 4000, Trailers::Pass);
            let failed = std::future::poll_fn(|cx| relay.poll(cx, &mut from, &mut to)).await;
            assert!(matches!(failed, Err(RelayError::To(_))), "{failed:?}");
            assert!(relay.has_begun() && relay.is_read());
            assert_eq!(&from.inbox[..], b"GET /next", "of the next request");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_receiver_holds_back_is_sent_before_anything_is_waited_for() {
        let (mut sender, from) = duplex(64);
        let (to, mut receiver) = duplex(7);
        // Takes everything at once and sends it with a flush, as TLS may.
        let (mut from, mut to) = (Wire::new(from), Wire::new(BufStream::new(to)));
        let mut relay = Relay::new(Length::Sized(40), Framing::Plain, 1000, Trailers::Pass);
        let pass = async {
            while std::future::poll_fn(|cx| relay.poll(cx, &mut from, &mut to))
                .await
                .unwrap()
                == Moved::Some
            {}
        };
        // The second part is sent only once all of the first has come.
        let talk = async {
            for _ in 0..2 {
                sender.write_all(&[b'x'; 20]).await.unwrap();
                let mut part = [0; 20];
                let read = timeout(Duration::from_secs(1), receiver.read_exact(&mut part));
                read.await.expect("a part is held back").unwrap();
            }
        };
        tokio::join!(pass, talk);
    }

    #[tokio::test]
    async fn bodies_are_framed_anew() {
        for cut in [1, 2, 3, 5, 64] {
            let (seen, _) = through(Length::Sized(5), Framing::Plain, b"hello", cut).await;
            assert_eq!(seen.unwrap(), b"hello");
            let coded = b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 1\r\n\r\n";
            let (seen, _) = through(Length::Chunked, Framing::Plain, coded, cut).await;
            assert_eq!(seen.unwrap(), b"hello");
            let (seen, _) = through(Length::Chunked, Framing::Chunked, coded, cut).await;
            let seen = String::from_utf8(seen.unwrap()).unwrap();
            assert!(seen.ends_with("\r\n0\r\nX-Sum: 1\r\n\r\n"), "{seen:?}");
            assert!(!seen.contains(';'), "{seen:?}");
            let (seen, _) = through(Length::UntilClose, Framing::Plain, b"hello", cut).await;
            assert_eq!(seen.unwrap(), b"hello");
            let (seen, _) = through(Length::UntilClose, Framing::Chunked, b"hello", cut).await;
            assert!(seen.unwrap().ends_with(b"0\r\n\r\n"));
        }
    }

    #[tokio::test]
    async fn a_body_that_ends_early_or_grows_too_long_is_an_error() {
        let (seen, _) = through(Length::Sized(6), Framing::Plain, b"hello", 64).await;
        assert!(matches!(seen, Err(RelayError::From(_))));
        let (seen, _) = through(Length::Chunked, Framing::Plain, b"5\r\nhello\r\n", 64).await;
        assert!(matches!(seen, Err(RelayError::From(_))));
        let (seen, _) = through(Length::Chunked, Framing::Plain, b"5\r\nhello!", 64).await;
        assert!(matches!(seen, Err(RelayError::Malformed(_))));
        let (seen, _) = through(Length::UntilClose, Framing::Plain, &[7; 1001], 64).await;
        assert!(matches!(seen, Err(RelayError::TooLarge)));
    }

    #[tokio::test]
    async fn trailers_are_fields_and_say_nothing_of_the_message() {
        let coded = |trailer: &str| format!("1\r\na\r\n0\r\n{trailer}\r\n").into_bytes();
        let claims = coded(
            "X-Sum: 1\r\nX-Forwarded-For: 6.6.6.6\r\nContent-Length: 5\r\nAuthorization: x\r\n",
        );
        let (seen, _) = through(Length::Chunked, Framing::Chunked, &claims, 64).await;
        let seen = String::from_utf8(seen.unwrap()).unwrap();
        assert!(seen.ends_with("\r\n0\r\nX-Sum: 1\r\n\r\n"), "{seen:?}");
        for bad in [
            "GET / HTTP/1.1\r\n",
            "X\0: 1\r\n",
            " folded\r\n",
            "X : 1\r\n",
        ] {
            let (seen, _) = through(Length::Chunked, Framing::Chunked, &coded(bad), 64).await;
            assert!(matches!(seen, Err(RelayError::Malformed(_))), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_written_in_hexadecimal() {
        for size in [0, 1, 15, 16, 255, 65536, usize::MAX] {
            let mut line = [0; 18];
            let text = chunk_size(size, &mut line);
            assert_eq!(text, format!("{size:x}\r\n").as_bytes());
        }
    }
}
