//! The answer to a fetch, as it comes out of the exchange with an instance: read like a client would.

use std::future::poll_fn;
use std::io;

use bytes::Bytes;
use http::Method;
use tokio::io::DuplexStream;

use crate::h1::{Decoder, End, Length, Piece, READ_BYTES, ResponseHead, Wire, find_lenient_end};

/// The client's end of the connection that a fetch is answered on.
pub(super) struct Incoming {
    wire: Wire<DuplexStream>,
    left: Left,
}

/// What is to come of the body.
enum Left {
    Sized(u64),
    Chunked(Box<Decoder>),
}

impl Incoming {
    pub(super) fn new(io: DuplexStream) -> Incoming {
        Incoming {
            wire: Wire::new(io),
            left: Left::Sized(0),
        }
    }

    /// The head of the answer, interim ones left out; nothing if none comes.
    pub(super) async fn head(&mut self) -> Option<ResponseHead> {
        let (mut head, mut searched) = (ResponseHead::default(), 0);
        loop {
            match find_lenient_end(&self.wire.inbox, searched) {
                End::At(end) => {
                    searched = 0;
                    head.take(&mut self.wire.inbox, end).ok()?;
                    if !head.is_interim() {
                        break;
                    }
                }
                End::After(so_far) => {
                    searched = so_far;
                    if self.fill().await.ok()? == 0 {
                        return None;
                    }
                }
            }
        }
        self.left = match head.body_length(&Method::GET) {
            Length::None => Left::Sized(0),
            Length::Sized(length) => Left::Sized(length),
            Length::Chunked => Left::Chunked(Box::new(Decoder::new())),
            // An exchange frames every body for a client that knows chunks.
            Length::UntilClose => return None,
        };
        Some(head)
    }

    /// How much is to come, if it is known.
    pub(super) fn length(&self) -> Option<u64> {
        match &self.left {
            Left::Sized(left) => Some(*left),
            Left::Chunked(_) => None,
        }
    }

    /// The next piece of the body: all that is there. Nothing at the end.
    pub(super) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            match self.decode() {
                Ok(Some(piece)) => return piece.map(Ok),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
            match self.fill().await {
                Ok(1..) => {}
                Ok(_) => return Some(Err(io::ErrorKind::UnexpectedEof.into())),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.wire.poll_fill(cx, READ_BYTES)).await
    }

    /// What of the body has been read; outer `None`: nothing yet, inner: it is through.
    fn decode(&mut self) -> io::Result<Option<Option<Bytes>>> {
        let inbox = &mut self.wire.inbox;
        match &mut self.left {
            Left::Sized(0) => Ok(Some(None)),
            Left::Sized(_) if inbox.is_empty() => Ok(None),
            Left::Sized(left) => {
                let taken =
                    usize::try_from(*left).map_or(inbox.len(), |left| left.min(inbox.len()));
                *left -= taken as u64;
                Ok(Some(Some(inbox.split_to(taken).into())))
            }
            Left::Chunked(decoder) => {
                let (mut used, mut data) = (0, Vec::new());
                while used < inbox.len() && !decoder.is_done() {
                    let rest = &inbox[used..];
                    used += match decoder.next(rest) {
                        Ok(Piece::Data(taken)) => {
                            data.extend_from_slice(&rest[..taken]);
                            taken
                        }
                        Ok(Piece::Coding(taken) | Piece::End(taken)) => taken,
                        Err(_) => return Err(io::ErrorKind::InvalidData.into()),
                    };
                }
                inbox.consume(used);
                match (data.is_empty(), decoder.is_done()) {
                    (false, _) => Ok(Some(Some(data.into()))),
                    (true, true) => Ok(Some(None)),
                    (true, false) => Ok(None),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt, duplex};

    async fn read(text: &'static str) -> (Option<u16>, Vec<u8>, bool) {
        let (mut there, here) = duplex(5);
        let write = tokio::spawn(async move { there.write_all(text.as_bytes()).await });
        let mut incoming = Incoming::new(here);
        let status = incoming.head().await.map(|head| head.status);
        let (mut body, mut whole) = (Vec::new(), status.is_some());
        while let Some(piece) = incoming.next().await {
            match piece {
                Ok(piece) => body.extend_from_slice(&piece),
                Err(_) => {
                    whole = false;
                    break;
                }
            }
        }
        write.await.unwrap().unwrap();
        (status, body, whole)
    }

    #[tokio::test]
    async fn bodies_end_where_they_say() {
        let sized = read(
            "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
        )
        .await;
        assert_eq!(sized, (Some(200), b"0123456789".to_vec(), true));
        let chunked = read(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
        )
        .await;
        assert_eq!(chunked, (Some(200), b"abcdefg".to_vec(), true));
        let none = read("HTTP/1.1 304 Not Modified\r\n\r\n").await;
        assert_eq!(none, (Some(304), Vec::new(), true));
    }

    #[tokio::test]
    async fn what_is_cut_off_is_noticed() {
        let sized = read("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123").await;
        assert_eq!(sized, (Some(200), b"0123".to_vec(), false));
        let chunked =
            read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
        assert_eq!(chunked, (Some(200), b"abc".to_vec(), false));
        assert_eq!(read("HTTP/1.1 200").await.0, None);
    }
}
