//! Up to where a linearizable read has to wait. Readers that wait at the same time share one round of
//! asking a majority whether the leader still leads.

use std::sync::Arc;
use std::time::Duration;

use nebula_mesh::Net;
use nebula_wire::peer::registry::{RegistryAnswer, RegistryRequest};
use openraft::error::RaftError;
use tokio::sync::{mpsc, oneshot, watch};

use crate::planted::Planted;
use crate::proposals::ask_leader;
use crate::status::Status;
use crate::types::Raft;

/// One round; openraft gives up on a silent voter after a heartbeat's time, and the asking node
/// after this.
const ROUND: Duration = Duration::from_secs(2);
/// Readers in one round.
const READERS: usize = 1024;

/// Someone who wants to know.
pub struct Reader {
    /// It asks for another node: the question is not passed on a second time.
    pub forwarded: bool,
    pub done: oneshot::Sender<ReadIndex>,
}

#[derive(Debug, Clone, Copy)]
pub enum ReadIndex {
    At(u64),
    /// No leader could be found or confirmed; try again.
    Again,
    Stopped,
}

pub struct Reads {
    pub raft: Raft,
    pub mesh: Arc<dyn Net>,
    pub status: watch::Receiver<Status>,
    pub planted: Planted,
}

impl Reads {
    /// Runs until the queue's senders are gone.
    pub async fn run(self, mut queue: mpsc::Receiver<Reader>) {
        let mut readers = Vec::new();
        while queue.recv_many(&mut readers, READERS).await > 0 {
            let index = match tokio::time::timeout(ROUND, self.round()).await {
                Ok(index) => index,
                Err(_) => (ReadIndex::Again, false),
            };
            for reader in readers.drain(..) {
                let told = match index {
                    (index, true) => index,
                    // Not this node's own word: another node would have to ask there itself.
                    (_, false) if reader.forwarded => ReadIndex::Again,
                    (index, false) => index,
                };
                // Whoever gave up waiting does not want to know.
                let _ = reader.done.send(told);
            }
        }
    }

    /// The index, and whether this node knows it as the leader.
    async fn round(&self) -> (ReadIndex, bool) {
        let (leader, is_leader) = {
            let status = self.status.borrow();
            (status.leader, status.is_leader)
        };
        if is_leader && self.planted.reads_stale() {
            let applied = self.raft.metrics().borrow().last_applied;
            return (ReadIndex::At(applied.map_or(0, |id| id.index)), true);
        }
        if is_leader {
            let index = match self.raft.get_read_log_id().await {
                Ok((read, _)) => ReadIndex::At(read.map_or(0, |id| id.index)),
                Err(RaftError::APIError(_)) => ReadIndex::Again,
                Err(RaftError::Fatal(_)) => ReadIndex::Stopped,
            };
            return (index, true);
        }
        let Some(leader) = leader else {
            return (ReadIndex::Again, false);
        };
        let asked = ask_leader(
            self.mesh.as_ref(),
            self.status.clone(),
            leader,
            &RegistryRequest::ReadIndex,
            ROUND,
        );
        match asked.await {
            Some(RegistryAnswer::ReadIndex(index)) => (ReadIndex::At(index), false),
            _ => (ReadIndex::Again, false),
        }
    }
}
