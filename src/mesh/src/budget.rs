//! What one connection may make this node hold at once. A frame is paid for when its length is known, before any
//! of it is read, and until the next one is read or the stream ends: a peer that sends all but the last byte
//! of a thousand large frames is refused most of them.

use std::sync::Arc;

use nebula_domain::NodeId;
use nebula_telemetry::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::CallError;

/// Frames up to this size are free: the number of streams bounds them.
const FREE_BYTES: usize = 4 * 1024;

/// Shared by all streams of an accepted connection.
#[derive(Clone)]
pub(crate) struct Budget {
    left: Arc<Semaphore>,
    limit: usize,
    refused: Counter,
}

impl Budget {
    pub(crate) fn new(limit: usize, refused: Counter) -> Budget {
        Budget {
            left: Arc::new(Semaphore::new(limit)),
            limit,
            refused,
        }
    }

    /// Room for a frame, for as long as what is returned is kept. Never waits: what waited would fill the
    /// connection's window.
    pub(crate) fn take(
        &self,
        node: NodeId,
        bytes: usize,
    ) -> Result<Option<OwnedSemaphorePermit>, CallError> {
        if bytes <= FREE_BYTES {
            return Ok(None);
        }
        let permits = u32::try_from(bytes).ok();
        let taken = permits.and_then(|n| self.left.clone().try_acquire_many_owned(n).ok());
        taken.map(Some).ok_or_else(|| {
            self.refused.inc();
            CallError::TooMuch {
                node,
                actual: bytes,
                limit: self.limit,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_paid_for_until_they_are_let_go() {
        let counter = Counter::default();
        let budget = Budget::new(100_000, counter.clone());
        let take = |bytes| budget.take(NodeId(2), bytes);
        let first = take(60_000).unwrap();
        let error = take(60_000).unwrap_err().to_string();
        assert!(error.contains("frame_bytes_under_way"), "{error}");
        assert!(take(FREE_BYTES).unwrap().is_none());
        drop(first);
        assert!(take(60_000).unwrap().is_some());
        assert!(take(usize::MAX).is_err());
        assert_eq!(counter.get(), 2);
    }
}
