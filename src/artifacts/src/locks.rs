//! One worker at a time for each digest: of many who ask for an artifact, one fetches and unpacks it and
//! the others find it done. Also what keeps collection away from work under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nebula_domain::Digest;
use tokio::sync::{Mutex as Lock, OwnedMutexGuard};

#[derive(Default)]
pub(crate) struct Locks(Mutex<HashMap<Digest, Weak<Lock<()>>>>);

impl Locks {
    pub async fn lock(&self, digest: Digest) -> OwnedMutexGuard<()> {
        self.of(digest).lock_owned().await
    }

    /// `None` while somebody else works on it.
    pub fn try_lock(&self, digest: Digest) -> Option<OwnedMutexGuard<()>> {
        self.of(digest).try_lock_owned().ok()
    }

    fn of(&self, digest: Digest) -> Arc<Lock<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = locks.get(&digest).and_then(Weak::upgrade) {
            return known;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(Lock::new(()));
        locks.insert(digest, Arc::downgrade(&lock));
        lock
    }
}
