//! Request bodies: nothing, JSON, or a stream.

use std::error::Error;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};

pub(crate) type Body = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

pub(crate) fn stream(chunks: BoxStream<'static, std::io::Result<Bytes>>) -> Body {
    BodyExt::boxed_unsync(StreamBody::new(
        chunks.map_ok(Frame::data).map_err(Into::into),
    ))
}
