//! One connection of HTTP/2 to an instance: begun, and carried by a task of its own for as long as somebody has a use for it.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::empties::Empties;
use super::greeting::Greeted;
use crate::config::Limits;
use crate::metrics::{Held, ProxyMetrics};
use crate::upstream::{DialError, Io};

/// Begins streams, and keeps the connection open as long as there is one of these.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) sender: SendRequest<Bytes>,
    empties: Arc<Empties>,
    _kept: mpsc::Sender<Infallible>,
}

impl Handle {
    /// Streams can be begun: the connection has not broken, and the instance has not said that it takes no more (GOAWAY).
    pub(super) fn is_open(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // Nothing waits with this handle, so that it is ready or broken.
        !matches!(
            self.sender.poll_ready(&mut cx),
            std::task::Poll::Ready(Err(_))
        )
    }

    /// The instance has sent so much that is nothing that the connection may end soon, with all that is on it.
    pub(super) fn is_worn(&self) -> bool {
        self.empties.are_many()
    }

    /// As many as the instance takes at once.
    pub(super) fn streams_max(&self) -> usize {
        self.sender.current_max_send_streams()
    }
}

/// Greets the instance at the other end of `io`. Until it has answered that, nothing is asked of it: then one that speaks
/// another protocol has not seen a request.
pub(super) async fn open(
    io: Io,
    limits: &Limits,
    patience: Duration,
    metrics: &ProxyMetrics,
) -> Result<Handle, DialError> {
    let empties = Arc::<Empties>::default();
    let (io, heard) = Greeted::new(io, Arc::clone(&empties));
    let (open, opened) = oneshot::channel();
    let (kept, unused) = mpsc::channel(1);
    let builder = builder(limits);
    let greeting = async {
        let (sender, connection) = builder
            .handshake(io)
            .await
            .map_err(|_| DialError::NotHttp2)?;
        let driver = Driver {
            connection,
            heard,
            open: Some(open),
            unused,
            linger: limits.linger,
            _open: metrics.instance_connection(),
        };
        tokio::spawn(driver.run());
        // It ends without a word when the connection does.
        opened.await.map_err(|_| DialError::NotHttp2)?;
        Ok(Handle {
            sender,
            empties,
            _kept: kept,
        })
    };
    let greeted = timeout(patience, greeting).await;
    greeted.unwrap_or(Err(DialError::GreetingTimeout))
}

fn builder(limits: &Limits) -> Builder {
    let streams = limits.h2c_streams;
    let all = u64::from(limits.h2c_stream_window).saturating_mul(streams as u64);
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(limits.h2c_stream_window)
        // All streams' together: one whose client takes nothing does not hold up the others.
        .initial_connection_window_size(u32::try_from(all).unwrap_or(u32::MAX).min(WINDOW_MAX))
        // What is held of all streams is bounded by their windows, in however small frames it came: clients that take nothing
        // are not to end the connection of all others.
        .data_frame_budget(
            usize::try_from(all)
                .unwrap_or(usize::MAX)
                .saturating_mul(256),
        )
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(limits.h2c_send_buffer)
        // Clients cancel, and the instance may have answered meanwhile: that is not the connection's fault, and must not
        // end the other streams.
        .max_concurrent_reset_streams(streams)
        .max_local_error_reset_streams(None);
    builder
}

/// RFC 9113 section 6.9.1.
const WINDOW_MAX: u32 = (1 << 31) - 1;

struct Driver {
    connection: Connection<Greeted<Io>, Bytes>,
    heard: Arc<AtomicBool>,
    open: Option<oneshot::Sender<()>>,
    /// Ends with the last handle.
    unused: mpsc::Receiver<Infallible>,
    linger: Duration,
    _open: Held,
}

impl Driver {
    async fn run(mut self) {
        let ended = poll_fn(|cx| {
            let ended = Pin::new(&mut self.connection).poll(cx);
            // What was heard has been taken to heart by now.
            if ended.is_pending()
                && self.heard.load(Ordering::Relaxed)
                && let Some(open) = self.open.take()
            {
                // Whoever opened it may have gone.
                let _ = open.send(());
            }
            match ended {
                std::task::Poll::Ready(ended) => std::task::Poll::Ready(Some(ended)),
                std::task::Poll::Pending => self.unused.poll_recv(cx).map(|_| None),
            }
        });
        let ended = match ended.await {
            Some(ended) => ended,
            // Time to say goodbye.
            None => timeout(self.linger, self.connection)
                .await
                .unwrap_or(Ok(())),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection of HTTP/2 to an instance broke");
        }
    }
}
