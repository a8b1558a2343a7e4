//! Asking other nodes: who holds an artifact, give it to me, take it from me.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use nebula_domain::{Digest, NodeId};
use nebula_wire::codec;
use nebula_wire::peer::Protocol;
use nebula_wire::peer::artifact::{ArtifactAnswer, ArtifactRequest};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::error::{ArtifactError, one_line};
use crate::limits::{
    ASK_DEADLINE, FETCH_BASE, FETCH_BYTES_PER_SECOND, MAX_FRAME_BYTES, PIECE_BYTES, STALL,
};
use crate::store;
use crate::{Artifacts, Inner};

impl Artifacts {
    /// Which of `candidates` hold the artifact, and how large it is there; those that do not answer in time
    /// do not count.
    pub async fn holders(&self, digest: Digest, candidates: &[NodeId]) -> BTreeMap<NodeId, u64> {
        let inner = &self.0;
        let asked = candidates.iter().map(|node| async move {
            if *node == inner.mesh.me() {
                return store::size(&inner.layout, digest).map(|size| (*node, size));
            }
            let request = ArtifactRequest::Has { digest };
            match inner.ask(*node, &request, ASK_DEADLINE).await {
                Ok(ArtifactAnswer::Held { size_bytes }) => Some((*node, size_bytes)),
                Ok(_) | Err(_) => None,
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Has other nodes fetch the artifact from this one until `copies` hold it, this one included. Returns
    /// all who do.
    pub async fn replicate(
        &self,
        digest: Digest,
        copies: usize,
        candidates: &[NodeId],
    ) -> Result<Vec<NodeId>, ArtifactError> {
        let inner = &self.0;
        let Some(size_bytes) = self.size(digest) else {
            return Err(ArtifactError::Missing {
                digest,
                reasons: "it was never uploaded to this node".to_owned(),
            });
        };
        store::touch(&inner.layout, digest);
        let me = inner.mesh.me();
        let others: Vec<NodeId> = candidates.iter().copied().filter(|n| *n != me).collect();
        let found = self.holders(digest, &others).await;
        let mut holders: Vec<NodeId> = found.into_keys().collect();
        holders.push(me);
        let mut left = others
            .into_iter()
            .filter(|node| !holders.contains(node))
            .collect::<Vec<_>>()
            .into_iter();
        let deadline = FETCH_BASE + Duration::from_secs(size_bytes / FETCH_BYTES_PER_SECOND);
        let mut reasons = Vec::new();
        while holders.len() < copies {
            let batch: Vec<NodeId> = left.by_ref().take(copies - holders.len()).collect();
            if batch.is_empty() {
                break;
            }
            let request = ArtifactRequest::Fetch { digest };
            let answers = batch
                .iter()
                .map(|node| inner.ask(*node, &request, deadline));
            for (node, answer) in batch.iter().zip(join_all(answers).await) {
                match answer {
                    Ok(ArtifactAnswer::Held { .. }) => holders.push(*node),
                    Ok(ArtifactAnswer::Failed { message }) => {
                        reasons.push(format!("node {node}: {message}"));
                    }
                    Ok(_) => reasons.push(format!("node {node}: an answer to another question")),
                    Err(error) => reasons.push(error),
                }
            }
        }
        holders.sort_unstable();
        if holders.len() < copies {
            if reasons.is_empty() {
                reasons.push("no other node is reachable".to_owned());
            }
            return Err(ArtifactError::NotReplicated {
                digest,
                held: holders.len(),
                wanted: copies,
                reasons: reasons.join("; "),
            });
        }
        Ok(holders)
    }
}

impl Inner {
    /// One question, one answer. The error is a sentence that names the node.
    async fn ask(
        &self,
        node: NodeId,
        request: &ArtifactRequest,
        deadline: Duration,
    ) -> Result<ArtifactAnswer, String> {
        let bytes = codec::encode(request).map_err(|error| one_line(&error))?;
        let answer = self
            .mesh
            .call(node, Protocol::Artifact, bytes.into(), deadline)
            .await
            .map_err(|error| format!("node {node}: {}", one_line(&error)))?;
        codec::decode(&answer).map_err(|error| format!("node {node}: {}", one_line(&error)))
    }

    /// With the digest's lock held: fetches it from the first source that has it whole.
    pub(crate) async fn fetch_from_any(
        &self,
        digest: Digest,
        sources: &[NodeId],
    ) -> Result<(), ArtifactError> {
        let mut reasons = Vec::new();
        for source in sources.iter().filter(|node| **node != self.mesh.me()) {
            match self.fetch(digest, *source).await {
                Ok(()) => {
                    self.metrics.fetched.inc();
                    return Ok(());
                }
                // Another node's copy would fail here in the same way.
                Err(Fault::Here(error)) => return Err(error),
                Err(Fault::There(reason)) => {
                    tracing::warn!(%digest, %source, reason, "an artifact could not be fetched");
                    reasons.push(format!("node {source}: {reason}"));
                }
            }
        }
        if reasons.is_empty() {
            reasons.push("no other node is known to hold it".to_owned());
        }
        Err(ArtifactError::Missing {
            digest,
            reasons: reasons.join("; "),
        })
    }

    async fn fetch(&self, digest: Digest, source: NodeId) -> Result<(), Fault> {
        let there = |error: &dyn std::error::Error| Fault::There(one_line(error));
        let request = codec::encode(&ArtifactRequest::Get { digest }).map_err(|e| there(&e))?;
        let mut stream = self
            .mesh
            .open(source, Protocol::Artifact, ASK_DEADLINE)
            .await
            .map_err(|e| there(&e))?;
        let answer = timeout(STALL, async {
            stream.write_frame(&request).await?;
            stream.finish().await?;
            stream.read_frame(MAX_FRAME_BYTES).await
        })
        .await
        .map_err(|_| stalled())?
        .map_err(|e| there(&e))?;
        let size_bytes = match codec::decode(&answer).map_err(|e| there(&e))? {
            ArtifactAnswer::Sending { size_bytes } => size_bytes,
            ArtifactAnswer::Missing => return Err(Fault::There("it has no copy".to_owned())),
            ArtifactAnswer::Failed { message } => return Err(Fault::There(message)),
            ArtifactAnswer::Held { .. } => {
                return Err(Fault::There("an answer to another question".to_owned()));
            }
        };
        let limit = self.config.max_artifact_bytes;
        if size_bytes > limit {
            return Err(Fault::Here(ArtifactError::TooLarge { limit }));
        }
        let mut incoming = self.incoming(digest, size_bytes).map_err(Fault::Here)?;
        let mut left = size_bytes;
        let mut buffer = vec![0; PIECE_BYTES];
        while left > 0 {
            let room = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = timeout(STALL, stream.read(&mut buffer[..room]))
                .await
                .map_err(|_| stalled())?
                .map_err(|e| there(&e))?;
            if count == 0 {
                return Err(Fault::There("it broke off".to_owned()));
            }
            left -= count as u64;
            incoming
                .write(&buffer[..count])
                .await
                .map_err(Fault::Here)?;
        }
        match incoming.finish(&self.layout).await {
            Ok(_) => Ok(()),
            Err(error @ ArtifactError::DigestMismatch { .. }) => Err(there(&error)),
            Err(error) => Err(Fault::Here(error)),
        }
    }
}

enum Fault {
    Here(ArtifactError),
    There(String),
}

fn stalled() -> Fault {
    Fault::There(format!("nothing came for {} s", STALL.as_secs()))
}
