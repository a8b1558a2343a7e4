//! Bodies of both directions. Nothing here holds more than one frame.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures::Stream;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::metrics::Tracked;
use crate::upstream::{Lease, Progress};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type FrameStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send + 'static>>;

/// What a client gets.
pub(crate) struct ResponseBody {
    source: Source,
    /// Counts the request as in flight until the body is through, or given up.
    tracked: Option<Tracked>,
}

enum Source {
    Whole(Option<Bytes>),
    /// File contents; the length when it is known beforehand.
    Pieces(FrameStream, Option<u64>),
    Instance(InstanceBody),
}

impl ResponseBody {
    pub(crate) fn empty() -> ResponseBody {
        ResponseBody::from(Bytes::new())
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
            Source::Pieces(..) => false,
            Source::Instance(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Source::Pieces(_, Some(length)) => SizeHint::with_exact(*length),
            Source::Pieces(_, None) => SizeHint::default(),
            Source::Instance(body) => body.incoming.size_hint(),
        }
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
