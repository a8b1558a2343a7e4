//! The two directions of a stream of HTTP/2, as `streams` takes them.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::bells::Bell;
use super::frames::Code;
use super::state::State;
use crate::streams::{Content, Cut, Head, Reply, Sink, Source, Stream};

pub(super) type Http2Stream = Stream<Incoming, Answer>;

/// What a connection's task and its streams have in common. The streams are polled by that task, so that nobody waits for the lock.
pub(super) struct Shared {
    state: Mutex<State>,
    frames: Arc<Bell>,
}

impl Shared {
    /// `frames` is rung when there is something to send.
    pub(super) fn new(state: State, frames: Arc<Bell>) -> Shared {
        Shared {
            state: Mutex::new(state),
            frames,
        }
    }

    pub(super) fn with<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = look(&mut state);
        let unseen = !state.at_work && !state.out.is_empty();
        drop(state);
        if unseen {
            self.frames.ring();
        }
        seen
    }
}

/// The stream of a request by that method, behind its head.
pub(super) fn stream(
    shared: &Arc<Shared>,
    id: u32,
    method: Method,
    content: Content,
) -> Http2Stream {
    let incoming = Incoming {
        shared: Arc::clone(shared),
        id,
    };
    let answer = Answer {
        shared: Arc::clone(shared),
        id,
    };
    Stream::new(method, content, incoming, answer)
}

pub(super) struct Incoming {
    shared: Arc<Shared>,
    id: u32,
}

impl Source for Incoming {
    type Error = io::Error;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        self.shared.with(|state| {
            let Some(entry) = state.live(self.id) else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            };
            if !entry.content.is_empty() {
                let crumbs = std::mem::take(&mut entry.crumbs);
                let content = std::mem::take(&mut entry.content);
                state.crumbs -= crumbs;
                return Poll::Ready(Ok(Some(content.into())));
            }
            if entry.received_end {
                return Poll::Ready(Ok(None));
            }
            entry.wait(cx);
            Poll::Pending
        })
    }

    fn poll_trailers(&mut self, _: &mut Context<'_>) -> Poll<io::Result<Option<HeaderMap>>> {
        let trailers = self.shared.with(|state| {
            let entry = state.live(self.id);
            entry.and_then(|entry| entry.trailers.take())
        });
        Poll::Ready(Ok(trailers))
    }

    fn release(&mut self, bytes: usize) -> io::Result<()> {
        // Of one read, which is at most 64 KiB.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.shared.with(|state| state.release(self.id, bytes));
        Ok(())
    }

    fn broken(error: io::Error) -> io::Error {
        error
    }
}

/// Ends the stream when it is let go of.
pub(super) struct Answer {
    shared: Arc<Shared>,
    id: u32,
}

impl Sink for Answer {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        self.shared
            .with(|state| state.poll_data(self.id, cx, bytes, last))
    }

    fn end(&mut self, trailers: HeaderMap) -> io::Result<()> {
        self.shared.with(|state| state.send_end(self.id, &trailers))
    }
}

impl Reply for Answer {
    fn interim(&mut self, head: &Head<'_>) -> io::Result<()> {
        self.shared.with(|state| state.send_interim(self.id, head))
    }

    fn head(&mut self, head: &Head<'_>, end: bool) -> io::Result<()> {
        self.shared
            .with(|state| state.send_head(self.id, head, end))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task sends what was taken.
        Poll::Ready(Ok(()))
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.shared.with(|state| match state.live(self.id) {
            Some(entry) => {
                entry.wait(cx);
                Poll::Pending
            }
            None => Poll::Ready(io::ErrorKind::ConnectionReset.into()),
        })
    }

    fn cut(&mut self, cut: Cut) {
        let code = match cut {
            Cut::Answer => Code::INTERNAL_ERROR,
            // RFC 9113 section 8.5.
            Cut::Tunnel => Code::CONNECT_ERROR,
        };
        self.shared.with(|state| {
            if state.live(self.id).is_some() {
                state.say_reset(self.id, code);
            }
        });
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.shared.with(|state| state.close(self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::h1::Wire;
    use crate::h2::bells::Bells;
    use crate::h2::state::Opened;
    use http::Request;
    use proptest::prelude::*;
    use std::future::poll_fn;
    use std::task::Waker;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::oneshot;

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
        let bells = Bells::default();
        let bell = bells.hang(0);
        let state = State::new(&Limits::default());
        let shared = Arc::new(Shared::new(state, Arc::clone(&bell)));
        let (opening, opened) = oneshot::channel();
        tokio::spawn(carry(
            Arc::clone(&shared),
            (bells, bell),
            Wire::new(here),
            opening,
        ));
        let opened = opened.await.unwrap();
        let (response, stream) = client.await.unwrap();
        let here = super::stream(&shared, opened.id, opened.method, opened.content);
        (response, stream, here)
    }

    /// What a connection's task does, for one stream.
    async fn carry(
        shared: Arc<Shared>,
        (bells, bell): (Bells, Arc<Bell>),
        mut wire: Wire<DuplexStream>,
        opening: oneshot::Sender<Opened>,
    ) {
        let waker = Waker::from(Arc::clone(&bell));
        let mut opening = Some(opening);
        poll_fn(|task| {
            let mut cx = Context::from_waker(&waker);
            while bells.next().is_some() {
                bell.silence();
                loop {
                    let read = wire.poll_read_with(&mut cx, 1 << 16, |_, _, bytes| {
                        shared.with(|state| state.receive(bytes)).unwrap();
                        bytes.len()
                    });
                    match read {
                        Poll::Pending => break,
                        Poll::Ready(Ok(1..)) => {}
                        Poll::Ready(_) => return Poll::Ready(()),
                    }
                }
                if let Some(opened) = shared.with(|state| state.opened.pop())
                    && let Some(opening) = opening.take()
                {
                    let _ = opening.send(opened);
                }
                loop {
                    if wire.unwritten() == 0 {
                        shared.with(|state| state.hand_over(wire.outbox()));
                    }
                    if !wire.has_unsent() || wire.poll_flush(&mut cx).is_pending() {
                        break;
                    }
                }
            }
            bells.rest(task);
            Poll::Pending
        })
        .await;
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
