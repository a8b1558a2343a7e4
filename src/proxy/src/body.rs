//! Bodies of both directions. Nothing here holds more than one frame.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures::Stream;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::metrics::Tracked;
use crate::upstream::{Lease, Progress};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type FrameStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send + 'static>>;

/// Of a file that is not in memory, what is read at a time.
const PIECE_BYTES: u64 = 64 * 1024;

/// What a client gets.
pub(crate) struct ResponseBody {
    source: Source,
    /// Counts the request as in flight until the body is through, or given up.
    tracked: Option<Tracked>,
}

enum Source {
    Whole(Option<Bytes>),
    /// One part of a file, which may be left to the kernel to send.
    File(FilePart),
    /// Several parts of a file; the length when it is known beforehand.
    Pieces(FrameStream, Option<u64>),
    Instance(InstanceBody),
}

impl ResponseBody {
    pub(crate) fn empty() -> ResponseBody {
        ResponseBody::from(Bytes::new())
    }

    /// `length` bytes of a file from `offset` on.
    pub(crate) fn file(file: Arc<File>, offset: u64, length: u64) -> ResponseBody {
        Source::File(FilePart::new(file, offset, length)).into()
    }

    pub(crate) fn pieces(pieces: FrameStream, length: Option<u64>) -> ResponseBody {
        Source::Pieces(pieces, length).into()
    }

    pub(crate) fn instance(incoming: Incoming, lease: Lease) -> ResponseBody {
        Source::Instance(InstanceBody {
            incoming,
            lease: Some(lease),
            ended: false,
        })
        .into()
    }

    pub(crate) fn track(&mut self, tracked: Tracked) {
        self.tracked = Some(tracked);
    }
}

impl From<Source> for ResponseBody {
    fn from(source: Source) -> Self {
        ResponseBody {
            source,
            tracked: None,
        }
    }
}

impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        Source::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())).into()
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.source {
            Source::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::File(part) => Pin::new(part)
                .poll_next(cx)
                .map(|next| next.map(|piece| piece.map(Frame::data).map_err(Into::into))),
            Source::Pieces(pieces, _) => pieces
                .as_mut()
                .poll_next(cx)
                .map(|next| next.map(|piece| piece.map(Frame::data).map_err(Into::into))),
            Source::Instance(body) => body.poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(bytes) => bytes.is_none(),
            Source::File(part) => part.left == 0,
            Source::Pieces(..) => false,
            Source::Instance(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Source::File(part) => SizeHint::with_exact(part.left),
            Source::Pieces(_, Some(length)) => SizeHint::with_exact(*length),
            Source::Pieces(_, None) => SizeHint::default(),
            Source::Instance(body) => body.incoming.size_hint(),
        }
    }
}

/// Part of a file, read piece by piece where that holds up nobody.
pub(crate) struct FilePart {
    file: Arc<File>,
    offset: u64,
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FilePart {
    pub(crate) fn new(file: Arc<File>, offset: u64, length: u64) -> FilePart {
        FilePart {
            file,
            offset,
            left: length,
            reading: None,
        }
    }
}

impl Stream for FilePart {
    type Item = io::Result<Bytes>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Bytes>>> {
        let this = &mut *self;
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let (offset, length) = (this.offset, this.left.min(PIECE_BYTES));
        let reading = this.reading.get_or_insert_with(|| {
            let file = Arc::clone(&this.file);
            spawn_blocking(move || {
                let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
                file.read_exact_at(&mut piece, offset)?;
                Ok(piece.into())
            })
        });
        let piece = std::task::ready!(Pin::new(reading).poll(cx));
        this.reading = None;
        let piece = piece.map_err(io::Error::other).flatten();
        match &piece {
            Ok(_) => {
                this.offset += length;
                this.left -= length;
            }
            // Nothing can follow.
            Err(_) => this.left = 0,
        }
        Poll::Ready(Some(piece))
    }
}

/// An instance's response; gives its connection back once it is read to its end.
struct InstanceBody {
    incoming: Incoming,
    lease: Option<Lease>,
    ended: bool,
}

impl InstanceBody {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.incoming).poll_frame(cx);
        if let Poll::Ready(None) = frame {
            self.ended = true;
        }
        frame
    }
}

impl Drop for InstanceBody {
    /// A connection whose response was not read to its end is closed with its lease.
    fn drop(&mut self) {
        let whole = self.ended || self.incoming.is_end_stream();
        if let Some(lease) = self.lease.take().filter(|_| whole) {
            lease.give_back();
        }
    }
}

/// What an instance gets: the client's body as it comes in, or nothing.
pub(crate) enum RequestBody {
    Empty,
    Client(Incoming, Arc<Progress>),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Client(incoming, progress) => {
                let frame = Pin::new(incoming).poll_frame(cx);
                match &frame {
                    Poll::Ready(Some(Ok(_))) => progress.moved(Instant::now()),
                    Poll::Ready(_) => progress.ended(Instant::now()),
                    Poll::Pending => {}
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Client(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Client(incoming, _) => incoming.size_hint(),
        }
    }
}

impl Drop for RequestBody {
    /// hyper drops a sized body once it has its last byte, without asking for its end.
    fn drop(&mut self) {
        if let RequestBody::Client(_, progress) = self {
            progress.ended(Instant::now());
        }
    }
}
