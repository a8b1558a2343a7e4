//! Starting, stopping and, in tests, breaking the edge's threads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;

use super::Shared;
use super::thread::{EdgeThread, Stop};
use crate::listener::Listeners;
use crate::tunnel::Tunnels;

/// How long a thread may take to end after its deadline before it is left to itself.
const THREAD_END_GRACE: Duration = Duration::from_secs(1);

/// A running proxy. Dropped without [`ProxyHandle::drain`], it stops at once.
pub struct ProxyHandle {
    stop: watch::Sender<Stop>,
    threads: Vec<Running>,
    tunnels: Arc<Tunnels>,
}

struct Running {
    ended: oneshot::Receiver<()>,
    kill: Arc<Notify>,
}

impl ProxyHandle {
    pub(super) fn start(
        listeners: Vec<Listeners>,
        shared: &Arc<Shared>,
        tunnels: Arc<Tunnels>,
    ) -> ProxyHandle {
        let stop = watch::Sender::new(None);
        let threads = listeners
            .into_iter()
            .enumerate()
            .filter_map(|(index, listeners)| {
                let kill = Arc::new(Notify::new());
                let (end, ended) = oneshot::channel();
                let thread = EdgeThread {
                    shared: Arc::clone(shared),
                    listeners: Some(listeners),
                    stop: stop.subscribe(),
                    kill: Arc::clone(&kill),
                };
                let started = std::thread::Builder::new()
                    .name(format!("edge-{index}"))
                    .spawn(move || {
                        thread.run();
                        // Whoever drains may have given up by now.
                        let _ = end.send(());
                    });
                match started {
                    Ok(_) => Some(Running { ended, kill }),
                    // Its sockets are closed with it, so that the kernel gives their share to the others.
                    Err(error) => {
                        tracing::error!(%error, index, "an edge thread cannot be started");
                        None
                    }
                }
            })
            .collect();
        ProxyHandle {
            stop,
            threads,
            tunnels,
        }
    }

    /// Stops accepting, lets requests in progress finish, and closes everything after `deadline`.
    pub async fn drain(self, deadline: Duration) {
        self.stop.send_replace(Some(Instant::now() + deadline));
        let edges = async {
            for thread in self.threads {
                // An error is a thread that has ended already.
                let _ = thread.ended.await;
            }
        };
        let tunnels = self.tunnels.drain(deadline);
        let both = async { tokio::join!(edges, tunnels) };
        if timeout(deadline + THREAD_END_GRACE, both).await.is_err() {
            tracing::warn!("an edge thread did not end in time");
        }
    }

    /// Makes an edge thread panic: a fault for tests.
    pub fn kill_thread(&self, index: usize) {
        if let Some(thread) = self.threads.get(index) {
            thread.kill.notify_one();
        }
    }
}
