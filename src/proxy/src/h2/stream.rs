//! The two directions of a stream of HTTP/2, as `streams` takes them.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};

use crate::h1::Spelling;
use crate::streams::{Cut, Malformed, Reply, Sink, Source, Stream};

pub(super) type Http2Stream = Stream<RecvStream, Http2Reply>;

/// A stream that can be read as a connection, and its request's head.
pub(super) fn stream(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> Result<(Http2Stream, Spelling), Malformed> {
    let (head, body) = request.into_parts();
    let ended = body.is_end_stream();
    Stream::new(&head, ended, body, Http2Reply::Head(respond))
}

impl Source for RecvStream {
    type Error = h2::Error;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, h2::Error>> {
        RecvStream::poll_data(self, cx).map(Option::transpose)
    }

    fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        RecvStream::poll_trailers(self, cx)
    }

    fn release(&mut self, bytes: usize) -> io::Result<()> {
        let room = self.flow_control().release_capacity(bytes);
        room.map_err(broken)
    }

    fn broken(error: h2::Error) -> io::Error {
        broken(error)
    }
}

impl Sink for SendStream<Bytes> {
    /// As much as the other end takes and the buffer holds.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        self.reserve_capacity(bytes.len());
        while self.capacity() == 0 {
            match ready!(self.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
        let taken = self.capacity().min(bytes.len());
        let data = Bytes::copy_from_slice(&bytes[..taken]);
        let sent = self.send_data(data, last && taken == bytes.len());
        Poll::Ready(sent.map(|()| taken).map_err(broken))
    }

    fn end(&mut self, trailers: HeaderMap) -> io::Result<()> {
        let ended = match trailers.is_empty() {
            true => self.send_data(Bytes::new(), true),
            false => self.send_trailers(trailers),
        };
        ended.map_err(broken)
    }
}

/// Before the response's head has gone out, and after.
pub(super) enum Http2Reply {
    Head(SendResponse<Bytes>),
    Content(SendStream<Bytes>),
}

impl Sink for Http2Reply {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        match self {
            Http2Reply::Content(stream) => stream.poll_send(cx, bytes, last),
            Http2Reply::Head(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn end(&mut self, trailers: HeaderMap) -> io::Result<()> {
        match self {
            Http2Reply::Content(stream) => stream.end(trailers),
            Http2Reply::Head(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Reply for Http2Reply {
    fn interim(&mut self, response: Response<()>) -> io::Result<()> {
        match self {
            Http2Reply::Head(respond) => respond.send_informational(response).map_err(broken),
            Http2Reply::Content(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn head(&mut self, response: Response<()>, end: bool) -> io::Result<()> {
        let Http2Reply::Head(respond) = self else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let stream = respond.send_response(response, end);
        *self = Http2Reply::Content(stream.map_err(broken)?);
        Ok(())
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task sends what was taken.
        Poll::Ready(Ok(()))
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let reset = match self {
            Http2Reply::Head(respond) => ready!(respond.poll_reset(cx)),
            Http2Reply::Content(stream) => ready!(stream.poll_reset(cx)),
        };
        Poll::Ready(match reset {
            Ok(_) => io::ErrorKind::ConnectionReset.into(),
            Err(error) => broken(error),
        })
    }

    fn cut(&mut self, cut: Cut) {
        let reason = match cut {
            Cut::Answer => Reason::INTERNAL_ERROR,
            // RFC 9113 section 8.5.
            Cut::Tunnel => Reason::CONNECT_ERROR,
            Cut::Malformed => Reason::PROTOCOL_ERROR,
        };
        match self {
            Http2Reply::Head(respond) => respond.send_reset(reason),
            Http2Reply::Content(stream) => stream.send_reset(reason),
        }
    }
}

/// The stream was reset, or its connection has ended.
pub(crate) fn broken(error: h2::Error) -> io::Error {
    tracing::trace!(%error, "a stream has broken");
    io::ErrorKind::ConnectionReset.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// A client's stream, as the client sees it, and the same stream here.
    async fn pair(
        window: u32,
        request: Request<()>,
    ) -> (
        h2::client::ResponseFuture,
        h2::SendStream<Bytes>,
        Http2Stream,
    ) {
        let (there, here) = duplex(1 << 16);
        let client = tokio::spawn(async move {
            let mut builder = h2::client::Builder::new();
            let (mut sender, connection) = builder
                .initial_window_size(window)
                .handshake::<_, Bytes>(there)
                .await
                .unwrap();
            let asked = sender.send_request(request, false).unwrap();
            tokio::spawn(connection);
            asked
        });
        let mut connection = h2::server::handshake(here).await.unwrap();
        let (request, respond) = connection.accept().await.unwrap().unwrap();
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        let (response, stream) = client.await.unwrap();
        let (here, _) = super::stream(request, respond).unwrap();
        (response, stream, here)
    }

    fn ask() -> Request<()> {
        let builder = Request::builder().method("POST").uri("http://a/");
        builder.body(()).unwrap()
    }

    /// The places at which `bytes` bytes are cut.
    fn pieces(cuts: &[prop::sample::Index], bytes: usize) -> Vec<usize> {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes + 1)).collect();
        at.extend([0, bytes]);
        at.sort_unstable();
        at
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(future)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn an_answer_is_the_same_however_it_is_written_and_taken(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            chunked in any::<bool>(),
            window in 1u32..100,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let content = chunks.concat();
            let mut bytes = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nX: y\r\n".to_vec();
            if chunked {
                bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in &chunks {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\nX-Sum: 1\r\n\r\n");
            } else {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", content.len()).as_bytes());
                bytes.extend_from_slice(&content);
            }
            let cuts = pieces(&cuts, bytes.len());
            let (seen, trailers) = block_on(async move {
                let (response, _open, mut stream) = pair(window, ask()).await;
                let write = tokio::spawn(async move {
                    for cut in cuts.windows(2) {
                        stream.write_all(&bytes[cut[0]..cut[1]]).await.unwrap();
                    }
                    // It was ended by what was written.
                    assert!(stream.write_all(b"x").await.is_err());
                });
                let response = response.await.unwrap();
                assert_eq!(response.headers()["x"], "y");
                let mut body = response.into_body();
                let mut seen = Vec::new();
                while let Some(piece) = body.data().await {
                    let piece = piece.unwrap();
                    body.flow_control().release_capacity(piece.len()).unwrap();
                    seen.extend_from_slice(&piece);
                }
                let trailers = body.trailers().await.unwrap();
                write.await.unwrap();
                (seen, trailers)
            });
            prop_assert_eq!(seen, content);
            prop_assert_eq!(trailers.is_some(), chunked);
        }

        #[test]
        fn content_is_the_same_however_it_is_sent(
            sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
            room in 1usize..400,
        ) {
            let content = sent.concat();
            let read = block_on(async move {
                let (_response, mut upload, mut stream) = pair(65_535, ask()).await;
                for data in sent {
                    upload.send_data(data.into(), false).unwrap();
                }
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", "1".parse().unwrap());
                upload.send_trailers(trailers).unwrap();
                let mut read = Vec::new();
                while !read.ends_with(b"\r\nx-sum: 1\r\n\r\n") {
                    let mut piece = vec![0; room];
                    let taken = stream.read(&mut piece).await.unwrap();
                    assert_ne!(taken, 0);
                    read.extend_from_slice(&piece[..taken]);
                }
                read
            });
            let mut decoder = crate::h1::Decoder::new();
            let (mut rest, mut seen) = (&read[..], Vec::new());
            while !decoder.is_done() {
                let taken = match decoder.next(rest).unwrap() {
                    crate::h1::Piece::Data(taken) => {
                        seen.extend_from_slice(&rest[..taken]);
                        taken
                    }
                    crate::h1::Piece::Coding(taken) | crate::h1::Piece::End(taken) => taken,
                };
                rest = &rest[taken..];
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(seen, content);
        }
    }
}
