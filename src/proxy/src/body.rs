//! Bodies of the answers that are made here. Nothing here holds more than one piece.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use tokio::task::spawn_blocking;

pub(crate) type FrameStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send + 'static>>;

/// Of a file that is not in memory, what is read at a time.
const PIECE_BYTES: u64 = 64 * 1024;

/// What a client gets.
pub(crate) enum ResponseBody {
    Whole(Bytes),
    /// One part of a file, which may be left to the kernel to send.
    File(FilePart),
    /// Several parts of a file; the length when it is known beforehand.
    Pieces(FrameStream, Option<u64>),
}

impl ResponseBody {
    pub(crate) fn empty() -> ResponseBody {
        ResponseBody::Whole(Bytes::new())
    }

    /// `length` bytes of a file from `offset` on.
    pub(crate) fn file(file: Arc<File>, offset: u64, length: u64) -> ResponseBody {
        ResponseBody::File(FilePart::new(file, offset, length))
    }

    pub(crate) fn pieces(pieces: FrameStream, length: Option<u64>) -> ResponseBody {
        ResponseBody::Pieces(pieces, length)
    }

    /// In bytes, when it is known beforehand.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            ResponseBody::Whole(bytes) => Some(bytes.len() as u64),
            ResponseBody::File(part) => Some(part.left),
            ResponseBody::Pieces(_, length) => *length,
        }
    }
}

#[cfg(test)]
impl ResponseBody {
    pub(crate) async fn collect(self) -> io::Result<Bytes> {
        use futures::TryStreamExt;
        let pieces: FrameStream = match self {
            ResponseBody::Whole(bytes) => return Ok(bytes),
            ResponseBody::File(part) => Box::pin(part.into_pieces()),
            ResponseBody::Pieces(pieces, _) => pieces,
        };
        let pieces: Vec<Bytes> = pieces.try_collect().await?;
        Ok(pieces.concat().into())
    }
}

impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        ResponseBody::Whole(bytes)
    }
}

/// Part of a file.
pub(crate) struct FilePart {
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
    pub(crate) left: u64,
}

impl FilePart {
    pub(crate) fn new(file: Arc<File>, offset: u64, length: u64) -> FilePart {
        FilePart {
            file,
            offset,
            left: length,
        }
    }

    /// Read piece by piece, where that holds up nobody.
    pub(crate) fn into_pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        futures::stream::unfold(Some(self), async |part| {
            let mut part = part.filter(|part| part.left > 0)?;
            let (file, offset) = (Arc::clone(&part.file), part.offset);
            let length = part.left.min(PIECE_BYTES);
            let read = spawn_blocking(move || {
                let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
                file.read_exact_at(&mut piece, offset)?;
                Ok(Bytes::from(piece))
            });
            match read.await.map_err(io::Error::other).flatten() {
                Ok(piece) => {
                    part.offset += length;
                    part.left -= length;
                    Some((Ok(piece), Some(part)))
                }
                // Nothing can follow.
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}
