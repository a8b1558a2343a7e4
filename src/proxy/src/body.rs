//! Bodies of the answers that are made here. Nothing here holds more than one piece.

use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;

pub(crate) type FrameStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send + 'static>>;

/// What a client gets.
pub(crate) enum ResponseBody {
    Whole(Bytes),
    /// File contents; the length when it is known beforehand.
    Pieces(FrameStream, Option<u64>),
}

impl ResponseBody {
    pub(crate) fn empty() -> ResponseBody {
        ResponseBody::Whole(Bytes::new())
    }

    pub(crate) fn pieces(pieces: FrameStream, length: Option<u64>) -> ResponseBody {
        ResponseBody::Pieces(pieces, length)
    }

    /// In bytes, when it is known beforehand.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            ResponseBody::Whole(bytes) => Some(bytes.len() as u64),
            ResponseBody::Pieces(_, length) => *length,
        }
    }
}

impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        ResponseBody::Whole(bytes)
    }
}
