//! The actors of a node: a [`Guardian`] runs [`Reconciler`]s and makes a failed one anew.
//!
//! A reconciler takes no input. It waits until a watch changed or its period is over (`wake`),
//! then compares what is with what should be and acts (`pass`). Everything it needs to know it
//! reads from watches, so one that is made anew by its factory continues where the last one fell.
//!
//! Nothing here is global: actors have no names in ractor's registry, and several guardians live
//! in one process.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod backoff;
mod guardian;
mod reconciler;

pub use backoff::{BACKOFF_FIRST, BACKOFF_MAX, CALM};
pub use guardian::{Child, Guardian, STOP_GRACE};

/// Why a pass failed. The guardian logs it with its sources and makes the reconciler anew.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// One loop of observing and acting. See the crate's description for what it may rely on.
#[async_trait::async_trait]
pub trait Reconciler: Send + 'static {
    /// Returns when there is reason for a pass: a watch changed, or the period is over.
    ///
    /// Must be cancel-safe: a stop drops it. Must wait for something: a `wake` that is always
    /// ready makes the node spin.
    async fn wake(&mut self);

    /// Compares and acts once. An error or a panic ends this reconciler; the guardian makes
    /// another after a pause. Failures that are part of ordinary life (no quorum, a peer that is
    /// away) are better handled inside, so that they do not reset what the reconciler holds.
    async fn pass(&mut self) -> Result<(), BoxError>;
}

#[async_trait::async_trait]
impl Reconciler for Box<dyn Reconciler> {
    async fn wake(&mut self) {
        (**self).wake().await;
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        (**self).pass().await
    }
}
