//! Whether this machine kept up: what real processes did late is no fault of theirs when nothing ran in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(10);

/// A thread that wants to run every 10 ms, and notes by how much it was late.
pub struct Stalls {
    longest_us: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stalls {
    pub fn watch() -> Stalls {
        let (longest_us, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (noted, ends) = (longest_us.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let begun = Instant::now();
                std::thread::sleep(EVERY);
                let late = begun.elapsed().saturating_sub(EVERY).as_micros();
                noted.fetch_max(u64::try_from(late).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Stalls {
            longest_us,
            over,
            thread: Some(thread),
        }
    }

    /// The longest since this was asked last.
    pub fn take(&self) -> Duration {
        Duration::from_micros(self.longest_us.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
