//! Either way to an instance, as bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use nebula_mesh::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::h2c;

pub(crate) enum Io {
    Socket(TcpStream),
    Tunnel(Box<Stream>),
    /// One of many on a connection of HTTP/2.
    Stream(Box<h2c::Stream>),
}

impl Io {
    /// What the instance has said of a request that it does not answer.
    pub(crate) fn told(&self) -> Option<h2c::Told> {
        match self {
            Io::Socket(_) | Io::Tunnel(_) => None,
            Io::Stream(stream) => stream.told(),
        }
    }

    /// Its connection was not opened for this request.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Io::Stream(stream) if stream.is_shared())
    }

    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Io::Stream(_))
    }

    /// A client's wish for WebSocket can be carried out.
    pub(crate) fn takes_websocket(&self) -> bool {
        match self {
            Io::Socket(_) | Io::Tunnel(_) => true,
            Io::Stream(stream) => stream.takes_websocket(),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Io::Socket(socket) => Pin::new(socket).poll_read(cx, buffer),
            Io::Tunnel(stream) => Pin::new(stream).poll_read(cx, buffer),
            Io::Stream(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Io::Socket(socket) => Pin::new(socket).poll_write(cx, bytes),
            Io::Tunnel(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Stream(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Io::Socket(socket) => Pin::new(socket).poll_write_vectored(cx, pieces),
            Io::Tunnel(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Io::Stream(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Io::Socket(socket) => socket.is_write_vectored(),
            Io::Tunnel(stream) => stream.is_write_vectored(),
            Io::Stream(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Io::Socket(socket) => Pin::new(socket).poll_flush(cx),
            Io::Tunnel(stream) => Pin::new(stream).poll_flush(cx),
            Io::Stream(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Io::Socket(socket) => Pin::new(socket).poll_shutdown(cx),
            Io::Tunnel(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Stream(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
