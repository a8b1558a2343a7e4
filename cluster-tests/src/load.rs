//! Steady requests in the background while a test breaks things.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http;

/// One request: when it was sent, how long it took, and what was wrong with it if anything.
#[derive(Debug, Clone)]
pub struct Shot {
    pub at: Instant,
    pub took: Duration,
    pub failure: Option<String>,
}

/// `GET /` at each edge in turn until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Shot>>>,
}

impl Load {
    /// One thread for each edge, one request each `every`.
    pub fn start(edges: &[SocketAddr], host: &str, every: Duration) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = |&edge: &SocketAddr| {
            let (stop, host) = (stop.clone(), host.to_owned());
            std::thread::spawn(move || shoot(edge, &host, every, &stop))
        };
        Load {
            threads: edges.iter().map(thread).collect(),
            stop,
        }
    }

    /// All requests, oldest first.
    pub fn stop(self) -> Vec<Shot> {
        self.stop.store(true, Ordering::SeqCst);
        let joined = self
            .threads
            .into_iter()
            .flat_map(|t| t.join().expect("a load thread does not panic"));
        let mut shots: Vec<Shot> = joined.collect();
        shots.sort_by_key(|shot| shot.at);
        shots
    }
}

fn shoot(edge: SocketAddr, host: &str, every: Duration, stop: &AtomicBool) -> Vec<Shot> {
    let mut shots = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let at = Instant::now();
        let failure = match http::get(edge, host, "/") {
            Ok(response) if response.status == 200 => None,
            Ok(response) => Some(format!(
                "status {} from {edge}: {}",
                response.status,
                response.text()
            )),
            Err(error) => Some(format!("{edge}: {error}")),
        };
        shots.push(Shot {
            at,
            took: at.elapsed(),
            failure,
        });
        std::thread::sleep(every.saturating_sub(at.elapsed()));
    }
    shots
}

/// The failed ones.
pub fn failures(shots: &[Shot]) -> Vec<&Shot> {
    shots.iter().filter(|shot| shot.failure.is_some()).collect()
}
