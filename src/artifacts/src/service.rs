//! Answers other nodes.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use nebula_domain::{Digest, NodeId};
use nebula_mesh::{Peer, Service, Stream};
use nebula_wire::codec;
use nebula_wire::peer::artifact::{ArtifactAnswer, ArtifactRequest};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::Inner;
use crate::error::one_line;
use crate::limits::{MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, PIECE_BYTES, STALL};
use crate::store;

/// Weak, so that the mesh and the store do not keep each other alive.
pub(crate) struct Serve(Weak<Inner>);

impl Serve {
    pub fn new(inner: &Arc<Inner>) -> Serve {
        Serve(Arc::downgrade(inner))
    }
}

#[async_trait]
impl Service for Serve {
    async fn serve(&self, peer: Peer, stream: Stream) {
        let Some(inner) = self.0.upgrade() else {
            return;
        };
        if let Err(reason) = inner.answer(peer.node, stream).await {
            tracing::debug!(peer = %peer.node, reason, "a request for an artifact was not answered");
        }
    }
}

impl Inner {
    async fn answer(&self, peer: NodeId, mut stream: Stream) -> Result<(), String> {
        let frame = timeout(STALL, stream.read_frame(MAX_FRAME_BYTES))
            .await
            .map_err(|_| "the request did not arrive".to_owned())?
            .map_err(|e| one_line(&e))?;
        // Whoever waits for a turn must not fill windows meanwhile.
        stream.stop_reading();
        let answer = match codec::decode(&frame).map_err(|e| one_line(&e))? {
            ArtifactRequest::Has { digest } => match store::size(&self.layout, digest) {
                Some(size_bytes) => {
                    store::touch(&self.layout, digest);
                    ArtifactAnswer::Held { size_bytes }
                }
                None => ArtifactAnswer::Missing,
            },
            ArtifactRequest::Fetch { digest } => self.fetch_for(peer, digest).await,
            ArtifactRequest::Get { digest } => return self.send(digest, stream).await,
        };
        reply(&mut stream, &answer).await?;
        stream.finish().await.map_err(|e| one_line(&e))
    }

    /// Holding it already is as good as fetching it.
    async fn fetch_for(&self, peer: NodeId, digest: Digest) -> ArtifactAnswer {
        let _lock = self.locks.lock(digest).await;
        let result = match self.fetches.acquire().await {
            Ok(_turn) => self.hold(digest, &[peer]).await,
            Err(_) => Ok(()),
        };
        let failed = |mut message: String| {
            while message.len() > MAX_MESSAGE_BYTES {
                message.pop();
            }
            ArtifactAnswer::Failed { message }
        };
        match (result, store::size(&self.layout, digest)) {
            (Ok(()), Some(size_bytes)) => {
                store::touch(&self.layout, digest);
                ArtifactAnswer::Held { size_bytes }
            }
            (Ok(()), None) => failed("it was lost again".to_owned()),
            (Err(error), _) => failed(one_line(&error)),
        }
    }

    /// The archive's bytes, hashed on the way: the last piece is held back until the digest is known to
    /// be right, so that a damaged copy is never sent whole.
    async fn send(&self, digest: Digest, mut stream: Stream) -> Result<(), String> {
        let Ok(_turn) = self.sends.acquire().await else {
            return Ok(());
        };
        let path = self.layout.blob(digest);
        let mut file = match File::open(&path).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                reply(&mut stream, &ArtifactAnswer::Missing).await?;
                return stream.finish().await.map_err(|e| one_line(&e));
            }
            Err(error) => {
                let message = "its copy cannot be read".to_owned();
                reply(&mut stream, &ArtifactAnswer::Failed { message }).await?;
                return Err(one_line(&error));
            }
        };
        let size_bytes = file.metadata().await.map_err(|e| one_line(&e))?.len();
        reply(&mut stream, &ArtifactAnswer::Sending { size_bytes }).await?;
        let mut hasher = blake3::Hasher::new();
        let mut left = size_bytes;
        let mut piece = vec![0; PIECE_BYTES];
        while left > 0 {
            let room = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            file.read_exact(&mut piece[..room])
                .await
                .map_err(|e| one_line(&e))?;
            hasher.update(&piece[..room]);
            left -= room as u64;
            if left == 0 && hasher.finalize().as_bytes() != &digest.0 {
                drop(stream);
                // Unless somebody is at work on it, who will find out as well.
                if let Some(_lock) = self.locks.try_lock(digest) {
                    self.quarantine(digest).await.map_err(|e| one_line(&e))?;
                }
                return Err("this node's copy is damaged".to_owned());
            }
            timeout(STALL, stream.write_all(&piece[..room]))
                .await
                .map_err(|_| "the peer takes nothing".to_owned())?
                .map_err(|e| one_line(&e))?;
        }
        stream.finish().await.map_err(|e| one_line(&e))?;
        self.metrics.sent.inc();
        Ok(())
    }
}

async fn reply(stream: &mut Stream, answer: &ArtifactAnswer) -> Result<(), String> {
    let bytes = codec::encode(answer).map_err(|e| one_line(&e))?;
    timeout(STALL, stream.write_frame(&bytes))
        .await
        .map_err(|_| "the peer takes nothing".to_owned())?
        .map_err(|e| one_line(&e))
}
