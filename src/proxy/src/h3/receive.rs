//! The request's direction of a stream: its head, and then its content as `streams` takes it (RFC 9114 section 4.1).

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Method};
use quinn::{ReadError, RecvStream};

use super::connection::{Common, Signs};
use super::fields;
use super::frames::{Code, FrameError, Frames, HEADERS, Piece, Role};
use super::qpack::{self, DecodeError};
use crate::streams::{Asking, Malformed, Section, Source, expects_content, trailers};

/// Taken of a stream at once. A packet holds less.
const CHUNK_BYTES: usize = 16 * 1024;

/// Why a request's stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its connection has to end.
    Connection(Code),
    /// It carries no request.
    Malformed(Malformed),
    /// Its head is longer than heads may be.
    TooLarge,
    /// It ended before its head did.
    Incomplete,
    /// The client has taken it back, or is gone.
    Gone,
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Fault {
        Fault::Malformed(malformed)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing but frames without meaning may come before the head.
    Head,
    Content,
    /// The fields behind the content have come.
    Trailed,
    Ended,
    Failed,
}

pub(super) struct Receive {
    stream: RecvStream,
    common: Arc<Common>,
    signs: Arc<Signs>,
    frames: Frames,
    input: Bytes,
    stage: Stage,
    /// So much content is to come by the head's word.
    expected: Option<u64>,
    /// Of a CONNECT, behind which there is only content (section 4.4).
    is_connect: bool,
    /// Content that came while the stream's end was looked for.
    ahead: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Receive {
    pub(super) fn new(stream: RecvStream, common: Arc<Common>, signs: Arc<Signs>) -> Receive {
        Receive {
            stream,
            frames: Frames::new(Role::Request, common.section_bytes),
            common,
            signs,
            input: Bytes::new(),
            stage: Stage::Head,
            expected: None,
            is_connect: false,
            ahead: None,
            trailers: None,
        }
    }

    /// The request's head, what it asks for, and whether the stream ends with it.
    pub(super) async fn head(&mut self) -> Result<(Section, Asking, bool), Fault> {
        let section = loop {
            match poll_fn(|cx| self.poll_piece(cx)).await? {
                Some(Piece::Whole(_, section)) => break section,
                Some(Piece::Unknown) => self.common.idle_frame(),
                Some(Piece::Data(_)) => return Err(self.unexpected()),
                None => return Err(self.failed(Fault::Incomplete)),
            }
        };
        let head = self.decode(&section)?;
        let asking = Asking::read(&head).map_err(|malformed| self.failed(malformed.into()))?;
        self.stage = Stage::Content;
        self.expected = asking.length;
        self.is_connect = asking.method == Method::CONNECT;
        // Of methods that usually have content it is not waited for: some clients wait for the answer's head before they send any.
        let has = self.is_connect || expects_content(&asking.method) || asking.length.is_some();
        let ended = poll_fn(|cx| match self.poll_content(cx) {
            // The end may come in a packet of its own.
            Poll::Pending if !has => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(false)),
            Poll::Ready(Ok(content)) => {
                let ended = content.is_none() && self.trailers.is_none();
                self.ahead = content;
                Poll::Ready(Ok(ended))
            }
            Poll::Ready(Err(fault)) => Poll::Ready(Err(fault)),
        });
        Ok((head, asking, ended.await?))
    }

    /// The next content, or nothing at the stream's end.
    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        if let Some(ahead) = self.ahead.take() {
            return Poll::Ready(Ok(Some(ahead)));
        }
        if self.stage == Stage::Ended {
            return Poll::Ready(Ok(None));
        }
        loop {
            match ready!(self.poll_piece(cx))? {
                Some(Piece::Data(_)) if self.stage != Stage::Content => {
                    return Poll::Ready(Err(self.unexpected()));
                }
                Some(Piece::Data(data)) if data.is_empty() => self.common.idle_frame(),
                Some(Piece::Data(data)) => {
                    if let Some(left) = &mut self.expected {
                        match left.checked_sub(data.len() as u64) {
                            Some(fewer) => *left = fewer,
                            None => return Poll::Ready(Err(self.uneven())),
                        }
                    }
                    return Poll::Ready(Ok(Some(data)));
                }
                Some(Piece::Whole(HEADERS, section))
                    if self.stage == Stage::Content && !self.is_connect =>
                {
                    let trailers = trailers(&self.decode(&section)?);
                    self.trailers =
                        Some(trailers.map_err(|malformed| self.failed(malformed.into()))?);
                    self.stage = Stage::Trailed;
                }
                Some(Piece::Whole(..)) => return Poll::Ready(Err(self.unexpected())),
                Some(Piece::Unknown) => self.common.idle_frame(),
                None if self.expected.is_some_and(|left| left > 0) => {
                    return Poll::Ready(Err(self.uneven()));
                }
                None => {
                    self.stage = Stage::Ended;
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Piece>, Fault>> {
        if self.stage == Stage::Failed {
            return Poll::Ready(Err(Fault::Gone));
        }
        loop {
            match self.frames.next(&mut self.input) {
                Ok(Some(piece)) => return Poll::Ready(Ok(Some(piece))),
                Ok(None) => {}
                Err(FrameError::Connection(code)) => {
                    return Poll::Ready(Err(self.failed(Fault::Connection(code))));
                }
                Err(FrameError::TooLarge) => {
                    return Poll::Ready(Err(self.failed(Fault::TooLarge)));
                }
            }
            // Nothing is lost with a read that is given up.
            let chunk = ready!(pin!(self.stream.read_chunk(CHUNK_BYTES, true)).poll(cx));
            match chunk {
                Ok(Some(chunk)) => self.input = chunk.bytes,
                Ok(None) if self.frames.is_between() => return Poll::Ready(Ok(None)),
                // Section 7.1: it ends in the middle of a frame.
                Ok(None) => {
                    let cut = Fault::Connection(Code::FRAME_ERROR);
                    return Poll::Ready(Err(self.failed(cut)));
                }
                Err(error) => {
                    if let ReadError::Reset(_) = error {
                        self.signs.cancel();
                    }
                    return Poll::Ready(Err(self.failed(Fault::Gone)));
                }
            }
        }
    }

    fn decode(&mut self, section: &[u8]) -> Result<Section, Fault> {
        let fields = qpack::decode(section, self.common.section_bytes);
        fields
            .map(|fields| fields::section(&fields))
            .map_err(|error| {
                self.failed(match error {
                    DecodeError::Broken => Fault::Connection(Code::DECOMPRESSION_FAILED),
                    DecodeError::TooLarge => Fault::TooLarge,
                })
            })
    }

    /// RFC 9114 section 4.1: a frame that may not follow what was before it.
    fn unexpected(&mut self) -> Fault {
        self.failed(Fault::Connection(Code::FRAME_UNEXPECTED))
    }

    /// Section 4.1.2.
    fn uneven(&mut self) -> Fault {
        self.failed(Malformed("its content is not as long as it says").into())
    }

    /// Does what a fault asks for on this side of the stream.
    fn failed(&mut self, fault: Fault) -> Fault {
        self.stage = Stage::Failed;
        match fault {
            Fault::Connection(code) => self.common.end(code),
            Fault::Malformed(malformed) => {
                self.signs.malformed(malformed);
                self.stop(Code::MESSAGE_ERROR);
            }
            Fault::TooLarge | Fault::Incomplete | Fault::Gone => {}
        }
        fault
    }

    fn stop(&mut self, code: Code) {
        // One that has ended needs no word.
        let _ = self.stream.stop(code.into());
    }
}

impl Source for Receive {
    type Error = io::Error;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let content = ready!(self.poll_content(cx));
        Poll::Ready(content.map_err(|_| io::ErrorKind::ConnectionReset.into()))
    }

    fn poll_trailers(&mut self, _: &mut Context<'_>) -> Poll<io::Result<Option<HeaderMap>>> {
        Poll::Ready(Ok(self.trailers.take()))
    }

    fn release(&mut self, _: usize) -> io::Result<()> {
        // What was taken of the stream is not more than was asked for.
        Ok(())
    }

    fn broken(error: io::Error) -> io::Error {
        error
    }
}

impl Drop for Receive {
    /// An answer may come before its request has ended (section 4.1): the rest is not wanted.
    fn drop(&mut self) {
        if self.stage != Stage::Ended {
            self.stop(Code::NO_ERROR);
        }
    }
}
