//! `Protocol::Registry`: what other nodes ask of this one while it leads. A request is taken only from
//! those who may ask for it (`domain::authority`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;
use nebula_domain::authority::{self, Sender};
use nebula_domain::{Command, Rejection, State};
use nebula_mesh::{Answer as Answers, CallError, Peer};
use nebula_telemetry::{Clock, Counter};
use nebula_wire::codec::{self, CodecError};
use nebula_wire::peer::registry::{
    Answer, OperatorToken, Proposal, RegistryAnswer, RegistryRequest,
};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::limits;
use crate::proposals::{Attempt, Waiting};
use crate::reads::{ReadIndex, Reader};
use crate::room::Space;
use crate::status::Status;
use crate::types::Item;

pub struct RegistryService {
    pub proposals: mpsc::Sender<Waiting>,
    pub readers: mpsc::Sender<Reader>,
    pub status: watch::Receiver<Status>,
    pub state: watch::Receiver<Arc<State>>,
    pub refused: Counter,
    pub clock: Clock,
}

#[async_trait]
impl Answers for RegistryService {
    fn max_request_bytes(&self, _: Peer) -> usize {
        limits::REGISTRY_FRAME_BYTES
    }

    async fn answer(&self, peer: Peer, request: Result<Bytes, CallError>) -> Option<Bytes> {
        let answer = match request {
            Ok(frame) => match codec::decode(&frame) {
                Ok(RegistryRequest::Propose {
                    proposals,
                    deadline_ms,
                }) => self.propose(peer, proposals, deadline_ms).await,
                Ok(RegistryRequest::ReadIndex) => self.read_index().await,
                Err(error) => RegistryAnswer::Refused(error.to_string()),
            },
            Err(error) => RegistryAnswer::Refused(error.to_string()),
        };
        if let RegistryAnswer::Refused(reason) = &answer {
            tracing::warn!(peer = %peer.node, reason, "a registry request was refused");
        }
        codec::encode(&answer)
            .inspect_err(|error| tracing::error!(%error, "a registry answer cannot be encoded"))
            .ok()
            .map(Bytes::from)
    }
}

impl RegistryService {
    async fn propose(
        &self,
        peer: Peer,
        proposals: Vec<Proposal>,
        deadline_ms: u32,
    ) -> RegistryAnswer {
        let count = proposals.len();
        if let Err(limit) = limits::FORWARDED_REQUESTS.check("the number of requests", count) {
            return RegistryAnswer::Refused(limit.to_string());
        }
        // Only the leader is sure to know members and operators.
        if !self.status.borrow().is_leader {
            return self.not_leader();
        }
        if self.status.borrow().space != Space::Enough {
            return RegistryAnswer::Refused("the disk of the leader is nearly full".to_owned());
        }
        let wait = Duration::from_millis(u64::from(deadline_ms)).min(limits::FORWARDED_DEADLINE);
        let deadline = Instant::now() + wait;
        let mut checked = Vec::with_capacity(count);
        for Proposal { request, operator } in proposals {
            let item = match Item::checked(request)
                .and_then(|item| self.no_earlier(item))
                .and_then(|item| self.stamped(peer, item))
            {
                Ok(item) => item,
                Err(error) => return RegistryAnswer::Refused(error.to_string()),
            };
            let verdict = match item.request() {
                Ok(request) => self.check(peer, item.len(), &request.command, operator.as_ref()),
                Err(error) => return RegistryAnswer::Refused(error.to_string()),
            };
            checked.push(verdict.map(|()| item));
        }
        let all = checked.into_iter().map(|checked| async {
            match checked {
                Ok(item) => self.propose_one(item, deadline).await,
                Err(rejection) => Ok(Err(rejection)),
            }
        });
        match tokio::time::timeout_at(deadline, try_join_all(all)).await {
            Ok(Ok(answers)) => RegistryAnswer::Proposed(answers),
            Ok(Err(not_leader)) => not_leader,
            Err(_) => RegistryAnswer::Unfinished,
        }
    }

    /// A join token ends by the clock of the voter that was shown it, and by the leader's: one whose clock is behind
    /// must not give it a longer life.
    fn no_earlier(&self, item: Item) -> Result<Item, CodecError> {
        let request = item.request()?;
        let here = self.clock.now();
        match &request.command {
            Command::Join { now, .. } if *now < here => {
                let mut request = request.clone();
                if let Command::Join { now, .. } = &mut request.command {
                    *now = here;
                }
                Item::new(request)
            }
            _ => Ok(item),
        }
    }

    /// The history says where a request came from, and not where it says that it came from.
    fn stamped(&self, peer: Peer, item: Item) -> Result<Item, CodecError> {
        let request = item.request()?;
        if request.stamp.node == Some(peer.node) {
            return Ok(item);
        }
        let mut request = request.clone();
        request.stamp.node = Some(peer.node);
        Item::new(request)
    }

    /// Whether the peer may ask for this, and it is not too large.
    fn check(
        &self,
        peer: Peer,
        bytes: usize,
        command: &Command,
        operator: Option<&OperatorToken>,
    ) -> Result<(), Rejection> {
        limits::REQUEST_BYTES.check("the request", bytes)?;
        let sender = Sender {
            node: peer.node,
            role: peer.role,
            operator: operator.is_some_and(|token| self.is_operator(token)),
        };
        authority::check(sender, command).inspect_err(|rejection| {
            self.refused.inc();
            tracing::warn!(peer = %peer.node, %rejection, "a request handed on was refused");
        })
    }

    /// Looked up by SHA-256, as the API does.
    fn is_operator(&self, token: &OperatorToken) -> bool {
        let hash: [u8; 32] = Sha256::digest(token.0.as_bytes()).into();
        self.state.borrow().api_tokens.contains_key(&hash)
    }

    async fn propose_one(&self, item: Item, deadline: Instant) -> Result<Answer, RegistryAnswer> {
        let (done, attempt) = oneshot::channel();
        let waiting = Waiting {
            item: Arc::new(item),
            operator: None,
            forwarded: true,
            deadline,
            done,
        };
        if self.proposals.send(waiting).await.is_err() {
            return Err(self.not_leader());
        }
        match attempt.await {
            Ok(Attempt::Answered(answer)) => Ok(answer),
            Ok(Attempt::Again | Attempt::Stopped) | Err(_) => Err(self.not_leader()),
        }
    }

    async fn read_index(&self) -> RegistryAnswer {
        let (done, index) = oneshot::channel();
        let reader = Reader {
            forwarded: true,
            done,
        };
        if self.readers.send(reader).await.is_err() {
            return self.not_leader();
        }
        match index.await {
            Ok(ReadIndex::At(index)) => RegistryAnswer::ReadIndex(index),
            Ok(ReadIndex::Again | ReadIndex::Stopped) | Err(_) => self.not_leader(),
        }
    }

    fn not_leader(&self) -> RegistryAnswer {
        RegistryAnswer::NotLeader {
            leader: self.status.borrow().leader,
        }
    }
}
