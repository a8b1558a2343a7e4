//! One edge thread: accepts connections until it is told to stop, and begins anew if it breaks.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::connection::Connections;
use super::{Edge, Shared};
use crate::h3;
use crate::listener::Listeners;
use crate::origin::Scheme;

/// Until when requests may finish; `None` while serving.
pub(crate) type Stop = Option<Instant>;

/// The first pause of a broken thread; doubles up to [`RESTART_MAX`]. Its socket stays open, so new
/// connections wait instead of being refused, and must not wait for long.
const RESTART_MIN: Duration = Duration::from_millis(50);
const RESTART_MAX: Duration = Duration::from_secs(1);
/// After this long without breaking, a thread is restarted quickly again.
const CALM: Duration = Duration::from_secs(60);
/// When the process is out of file descriptors, accepting again at once would only burn the core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Pooled connections are looked through this often.
const POOL_TICK: Duration = Duration::from_secs(1);
/// File reads and compressions under way for one thread.
const BLOCKING_THREADS: usize = 4;

pub(super) struct EdgeThread {
    pub(super) shared: Arc<Shared>,
    /// Gone once the thread has stopped accepting.
    pub(super) listeners: Option<Listeners>,
    pub(super) stop: watch::Receiver<Stop>,
    pub(super) kill: Arc<Notify>,
}

impl EdgeThread {
    pub(super) fn run(mut self) {
        let mut pause = RESTART_MIN;
        while self.listeners.is_some() {
            let started = Instant::now();
            match catch_unwind(AssertUnwindSafe(|| self.serve())) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::error!(%error, "an edge thread failed, restarting it"),
                Err(_) => tracing::error!("an edge thread panicked, restarting it"),
            }
            self.shared.metrics.thread_restarts.inc();
            if started.elapsed() > CALM {
                pause = RESTART_MIN;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(RESTART_MAX);
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()?;
        let served = runtime.block_on(self.accept());
        // Not waiting for a file read that hangs.
        runtime.shutdown_background();
        served
    }

    async fn accept(&mut self) -> io::Result<()> {
        let Some(listeners) = &self.listeners else {
            return Ok(());
        };
        let doors = Doors::open(listeners)?;
        let edge = Arc::new(Edge::new(Arc::clone(&self.shared)));
        let (pool, links) = (Arc::clone(&edge.pool), Arc::clone(&edge.links));
        let (workers, fetches) = (Arc::clone(&edge.workers), edge.fetches.clone());
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(POOL_TICK);
            loop {
                tick.tick().await;
                pool.expire();
                links.expire();
                workers.expire();
            }
        });
        let tracker = TaskTracker::new();
        if let Some(door) = &listeners.http3 {
            let endpoint = door.open()?;
            tracker.spawn(h3::serve(Arc::clone(&edge), endpoint, self.stop.clone()));
        }
        let connections = Connections::new(edge, self.stop.clone());
        let slots = Arc::new(Semaphore::new(self.shared.limits.connections_per_thread));
        let serve = |(socket, scheme): (TcpStream, Scheme), slot: OwnedSemaphorePermit| {
            let served = connections.serve(socket, scheme);
            tracker.spawn(async move {
                served.await;
                drop(slot);
            });
        };

        let deadline = loop {
            let accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, doors.accept().await)
            };
            tokio::select! {
                biased;
                deadline = stopped(&mut self.stop) => break deadline,
                () = self.kill.notified() => panic!("killed by a test"),
                (slot, accepted) = accepted => match (slot, accepted) {
                    (Ok(slot), Ok(accepted)) => serve(accepted, slot),
                    (_, Err(error)) if is_of_one_connection(&error) => {}
                    (_, Err(error)) => {
                        tracing::warn!(%error, "connections cannot be accepted for a moment");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    (Err(_), _) => break Instant::now(),
                },
            }
        };

        // What the kernel has already accepted for us would be reset with the socket.
        while let Some(Ok(accepted)) = doors.accept().now_or_never() {
            match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => serve(accepted, slot),
                Err(_) => break,
            }
        }
        drop(doors);
        self.listeners = None;
        tracker.close();
        let done = async {
            tracker.wait().await;
            fetches.close();
            fetches.wait().await;
        };
        if tokio::time::timeout_at(deadline.into(), done)
            .await
            .is_err()
        {
            tracing::warn!(
                open = tracker.len(),
                "connections are closed in mid-request"
            );
        }
        Ok(())
    }
}

/// Where connections come in.
struct Doors {
    plain: TcpListener,
    tls: Option<TcpListener>,
}

impl Doors {
    fn open(listeners: &Listeners) -> io::Result<Doors> {
        let open = |listener: &std::net::TcpListener| TcpListener::from_std(listener.try_clone()?);
        Ok(Doors {
            plain: open(&listeners.plain)?,
            tls: listeners.tls.as_ref().map(open).transpose()?,
        })
    }

    async fn accept(&self) -> io::Result<(TcpStream, Scheme)> {
        let Some(tls) = &self.tls else {
            let (socket, _) = self.plain.accept().await?;
            return Ok((socket, Scheme::Http));
        };
        // In turns that are drawn, so that neither keeps the other waiting.
        let (accepted, scheme) = tokio::select! {
            accepted = self.plain.accept() => (accepted, Scheme::Http),
            accepted = tls.accept() => (accepted, Scheme::Https),
        };
        Ok((accepted?.0, scheme))
    }
}

/// Until when to finish, once that is known; a handle that is gone means now.
pub(crate) async fn stopped(stop: &mut watch::Receiver<Stop>) -> Instant {
    match stop.wait_for(Option::is_some).await {
        Ok(deadline) => deadline.unwrap_or_else(Instant::now),
        Err(_) => Instant::now(),
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
