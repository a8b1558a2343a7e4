//! Large files that are being served stay open for a moment: to open one takes a turn of another thread,
//! which costs more than to send some of it.

use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

/// Files held open; each is a descriptor of the daemon's, which are also its connections.
const FILES_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("it is not zero");
/// How long one stays open that nobody asks for: until then the disk keeps a dropped release's file.
const IDLE: Duration = Duration::from_secs(10);

/// By the hash of the content, so what is open is what was asked for.
#[derive(Default)]
pub(super) struct OpenFiles(Arc<Mutex<Inner>>);

struct Inner {
    files: LruCache<[u8; 32], (Arc<File>, Instant)>,
    /// Somebody looks for idle ones until there are none.
    sweeping: bool,
}

impl Default for Inner {
    fn default() -> Self {
        Inner {
            files: LruCache::new(FILES_MAX),
            sweeping: false,
        }
    }
}

impl OpenFiles {
    pub(super) fn get(&self, hash: &[u8; 32]) -> Option<Arc<File>> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, used) = inner.files.get_mut(hash)?;
        *used = Instant::now();
        Some(Arc::clone(file))
    }

    /// Only within a runtime, which closes it in time.
    pub(super) fn keep(&self, hash: [u8; 32], file: &Arc<File>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = (Arc::clone(file), Instant::now());
        inner.files.put(hash, kept);
        if !inner.sweeping {
            inner.sweeping = true;
            let inner = Arc::clone(&self.0);
            let mut sweep = Sweep { inner, done: false };
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(IDLE).await;
                    if sweep.is_done(Instant::now()) {
                        return;
                    }
                }
            });
        }
    }
}

/// Ends with its runtime at the latest, and then leaves nothing open.
struct Sweep {
    inner: Arc<Mutex<Inner>>,
    done: bool,
}

impl Sweep {
    /// Closes what is idle; whether nothing is left, so that the next file brings the next sweep.
    fn is_done(&mut self, now: Instant) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((_, (_, used))) = inner.files.peek_lru()
            && now.duration_since(*used) >= IDLE
        {
            inner.files.pop_lru();
        }
        inner.sweeping = !inner.files.is_empty();
        self.done = !inner.sweeping;
        self.done
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        if !self.done {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.files.clear();
            inner.sweeping = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_asks_for_is_closed() {
        let open = OpenFiles::default();
        let file = Arc::new(tempfile::tempfile().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            open.keep([1; 32], &file);
            assert!(open.get(&[1; 32]).is_some());
            let later = Instant::now() + IDLE;
            let inner = Arc::clone(&open.0);
            let mut sweep = Sweep { inner, done: false };
            assert!(!sweep.is_done(Instant::now()));
            assert!(sweep.is_done(later));
            assert!(open.get(&[1; 32]).is_none());
            assert_eq!(Arc::strong_count(&file), 1);
            open.keep([2; 32], &file);
        });
        drop(runtime);
        // With the runtime went who would close the file.
        assert!(open.get(&[2; 32]).is_none());
        assert!(!open.0.lock().unwrap().sweeping);
    }
}
