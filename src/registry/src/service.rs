//! `Protocol::Registry`: what other nodes ask of this one while it leads.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use nebula_mesh::{Peer, Service, Stream};
use nebula_wire::codec;
use nebula_wire::peer::registry::{Blob, RegistryAnswer, RegistryRequest};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::limits;
use crate::proposals::{Attempt, Waiting};
use crate::reads::{ReadIndex, Reader};
use crate::status::Status;
use crate::types::Item;

pub struct RegistryService {
    pub proposals: mpsc::Sender<Waiting>,
    pub readers: mpsc::Sender<Reader>,
    pub status: watch::Receiver<Status>,
}

#[async_trait]
impl Service for RegistryService {
    async fn serve(&self, peer: Peer, mut stream: Stream) {
        let answer = match stream.read_frame(limits::REGISTRY_FRAME_BYTES).await {
            Ok(frame) => match codec::decode(&frame) {
                Ok(RegistryRequest::Propose {
                    requests,
                    deadline_ms,
                }) => self.propose(requests, deadline_ms).await,
                Ok(RegistryRequest::ReadIndex) => self.read_index().await,
                Err(error) => Err(error.to_string()),
            },
            Err(error) => Err(error.to_string()),
        };
        let sent = match answer.and_then(|a| codec::encode(&a).map_err(|e| e.to_string())) {
            Ok(bytes) => stream.write_frame(bytes).await.map_err(|e| e.to_string()),
            // Without an answer the stream ends, which the other node sees.
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            tracing::debug!(peer = %peer.node, error, "a registry request was not answered");
        }
    }
}

impl RegistryService {
    async fn propose(
        &self,
        requests: Vec<Blob>,
        deadline_ms: u32,
    ) -> Result<RegistryAnswer, String> {
        if requests.len() > limits::BATCH_REQUESTS {
            return Err(format!("{} requests in one frame", requests.len()));
        }
        let wait = Duration::from_millis(u64::from(deadline_ms)).min(limits::FORWARDED_DEADLINE);
        let deadline = Instant::now() + wait;
        let mut attempts = Vec::with_capacity(requests.len());
        for request in requests {
            let item = Item::checked(request).map_err(|e| e.to_string())?;
            limits::REQUEST_BYTES
                .check("the request", item.len())
                .map_err(|e| e.to_string())?;
            let (done, attempt) = oneshot::channel();
            let waiting = Waiting {
                item: Arc::new(item),
                forwarded: true,
                deadline,
                done,
            };
            attempts.push((waiting, attempt));
        }
        let all = attempts.into_iter().map(|(waiting, attempt)| async {
            if self.proposals.send(waiting).await.is_err() {
                return Err(self.not_leader());
            }
            match attempt.await {
                Ok(Attempt::Answered(answer)) => Ok(answer),
                Ok(Attempt::Again | Attempt::Stopped) | Err(_) => Err(self.not_leader()),
            }
        });
        Ok(
            match tokio::time::timeout_at(deadline, try_join_all(all)).await {
                Ok(Ok(answers)) => RegistryAnswer::Proposed(answers),
                Ok(Err(not_leader)) => not_leader,
                Err(_) => RegistryAnswer::Unfinished,
            },
        )
    }

    async fn read_index(&self) -> Result<RegistryAnswer, String> {
        let (done, index) = oneshot::channel();
        let reader = Reader {
            forwarded: true,
            done,
        };
        if self.readers.send(reader).await.is_err() {
            return Ok(self.not_leader());
        }
        Ok(match index.await {
            Ok(ReadIndex::At(index)) => RegistryAnswer::ReadIndex(index),
            Ok(ReadIndex::Again | ReadIndex::Stopped) | Err(_) => self.not_leader(),
        })
    }

    fn not_leader(&self) -> RegistryAnswer {
        RegistryAnswer::NotLeader {
            leader: self.status.borrow().leader,
        }
    }
}
