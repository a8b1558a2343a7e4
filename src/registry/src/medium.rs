//! Stable storage as a value: a simulated node keeps its log and snapshots on one of these instead of
//! on files, so that a seed decides how long a sync takes and what a crash leaves.

use std::io;

use async_trait::async_trait;

/// One node's disk. Outlives the registry that stands on it.
#[async_trait]
pub trait Medium: Send + Sync + 'static {
    /// What the log holds after whatever happened to it, oldest record first.
    fn records(&self) -> Vec<Vec<u8>>;

    /// Appends to the log. Durable after the next [`Medium::sync`]; after a crash before that, any
    /// number of the latest records may be gone.
    fn push(&self, record: Vec<u8>) -> io::Result<()>;

    /// Everything pushed before the call is durable on return.
    async fn sync(&self) -> io::Result<()>;

    /// The latest snapshot that was saved.
    async fn snapshot(&self) -> io::Result<Option<Vec<u8>>>;

    /// Replaces the snapshot; durable on return, and the old one is whole until then.
    async fn save_snapshot(&self, snapshot: Vec<u8>) -> io::Result<()>;
}
