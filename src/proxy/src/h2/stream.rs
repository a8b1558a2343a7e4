//! One stream as a connection on which one HTTP/1.1 request comes in and one response goes out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer::Answer;
use super::request::{self, Content, Malformed, line};
use crate::client::Socket;
use crate::h1::chunk_size;

/// What comes next of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Head,
    Content,
    Trailers,
    End,
}

pub(super) struct Stream {
    body: RecvStream,
    content: Content,
    phase: Phase,
    /// The head, and later what stands around content; so much of its front was read.
    coding: Vec<u8>,
    read: usize,
    /// Content that was not read yet. The client may send as much again once it was.
    data: Bytes,
    /// A chunk was read whose line is to be ended.
    in_chunk: bool,
    answer: Answer,
    /// Who waits for content that counts only once the protocol has changed. What changes it is written from this side, so no
    /// frame of the client's would wake the reader.
    before_switch: Option<Waker>,
}

impl Stream {
    pub(super) fn new(
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> Result<Stream, Malformed> {
        let (head, body) = request.into_parts();
        match request::write(&head, body.is_end_stream()) {
            Ok((coding, content)) => Ok(Stream {
                body,
                content,
                phase: Phase::Head,
                coding,
                read: 0,
                data: Bytes::new(),
                in_chunk: false,
                answer: Answer::new(respond, head.method, content == Content::Tunnel),
                before_switch: None,
            }),
            Err(malformed) => {
                respond.send_reset(h2::Reason::PROTOCOL_ERROR);
                Err(malformed)
            }
        }
    }

    /// Puts down what is there, as far as there is room.
    fn hand_out(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let coding = &self.coding[self.read..];
        let taken = coding.len().min(buffer.remaining());
        buffer.put_slice(&coding[..taken]);
        self.read += taken;
        if self.read < self.coding.len() {
            return Ok(());
        }
        self.coding.clear();
        self.read = 0;
        let taken = self.data.len().min(buffer.remaining());
        if taken > 0 {
            buffer.put_slice(&self.data[..taken]);
            self.data.advance(taken);
            let room = self.body.flow_control().release_capacity(taken);
            room.map_err(|error| broken(&error))?;
        }
        Ok(())
    }

    /// Fetches what is handed out next; ready with `false` at the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        match self.phase {
            Phase::Head => {
                // The memory that the head took is of no more use.
                self.coding = Vec::new();
                self.phase = match self.content {
                    Content::Nothing => Phase::End,
                    _ => Phase::Content,
                };
            }
            Phase::Content if self.content == Content::Tunnel && !self.answer.is_switched() => {
                self.before_switch = Some(cx.waker().clone());
                return self.answer.poll_reset(cx).map(Err);
            }
            Phase::Content => match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => self.begin(data),
                Some(Err(error)) => return Poll::Ready(Err(broken(&error))),
                None => self.phase = Phase::Trailers,
            },
            Phase::Trailers => {
                let trailers = ready!(self.body.poll_trailers(cx));
                let trailers = trailers.map_err(|error| broken(&error))?;
                self.phase = Phase::End;
                if self.content == Content::Chunked {
                    self.end(trailers.as_ref());
                }
            }
            Phase::End if self.content == Content::Tunnel => return Poll::Ready(Ok(false)),
            // Of the other requests of its connection a stream knows nothing; it ends when it is answered.
            Phase::End => return self.answer.poll_reset(cx).map(Err),
        }
        Poll::Ready(Ok(true))
    }

    fn begin(&mut self, data: Bytes) {
        if self.content == Content::Chunked {
            self.end_chunk();
            let mut line = [0; 18];
            self.coding
                .extend_from_slice(chunk_size(data.len(), &mut line));
            self.in_chunk = true;
        }
        self.data = data;
    }

    fn end_chunk(&mut self) {
        if std::mem::take(&mut self.in_chunk) {
            self.coding.extend_from_slice(b"\r\n");
        }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) {
        self.end_chunk();
        self.coding.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.into_iter().flatten() {
            line(&mut self.coding, name.as_str().as_bytes(), value.as_bytes());
        }
        self.coding.extend_from_slice(b"\r\n");
    }
}

impl Socket for Stream {}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            self.hand_out(buffer)?;
            let some = buffer.filled().len() > before;
            // What follows the head is left for whoever wants it.
            if buffer.remaining() == 0 || (some && self.phase == Phase::Head) {
                return Poll::Ready(Ok(()));
            }
            match self.poll_next(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Err(error)) if !some => return Poll::Ready(Err(error)),
                Poll::Pending if !some => return Poll::Pending,
                // An error and an end are told again.
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.answer.poll_write(cx, bytes);
        if self.answer.is_switched()
            && let Some(reader) = self.before_switch.take()
        {
            reader.wake();
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task sends what was taken.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.answer.shutdown())
    }
}

/// The stream was reset, or its connection has ended.
pub(super) fn broken(error: &h2::Error) -> io::Error {
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
    ) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>, Stream) {
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
        (response, stream, Stream::new(request, respond).unwrap())
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
            let end = read.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
            let mut decoder = crate::h1::Decoder::new();
            let (mut rest, mut seen) = (&read[end..], Vec::new());
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
