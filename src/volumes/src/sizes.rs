//! How much lies in volumes, wherever they are: each node measures its own, and is asked over the mesh.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use nebula_domain::{DeploymentName, NodeId, State};
use nebula_drivers::volume;
use nebula_mesh::{CallError, Mesh, Peer, Service, Stream};
use nebula_wire::codec::{self, CodecError};
use nebula_wire::peer::Protocol;
use nebula_wire::peer::volumes::{Answer, Request, VOLUMES, Volume};
use tokio::sync::{Semaphore, watch};

/// To walk through many files takes a while; a node that has not answered by then is told as silent.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A name.
const REQUEST_BYTES: usize = 4 * 1024;
/// Walks at once: a disk is no faster for more, and programs need it too.
const WALKS: usize = 2;

/// Why a node's volumes have no sizes.
#[derive(Debug, thiserror::Error)]
enum SizeError {
    #[error("it does not answer")]
    Call(#[from] CallError),
    #[error("its answer cannot be read")]
    Codec(#[from] CodecError),
}

/// Answers other nodes, and asks them. Cheap to clone.
#[derive(Clone)]
pub struct Sizes {
    volumes_dir: Arc<PathBuf>,
    mesh: Mesh,
    state: watch::Receiver<Arc<State>>,
    walks: Arc<Semaphore>,
}

/// What one node says of its volumes; nothing when it does not answer.
pub struct Measured {
    pub node: NodeId,
    pub volumes: Vec<Volume>,
}

impl Sizes {
    /// Begins to answer other nodes.
    pub fn start(volumes_dir: PathBuf, mesh: Mesh, state: watch::Receiver<Arc<State>>) -> Sizes {
        let sizes = Sizes {
            volumes_dir: Arc::new(volumes_dir),
            mesh,
            state,
            walks: Arc::new(Semaphore::new(WALKS)),
        };
        let service = Serve(sizes.clone());
        sizes.mesh.serve(Protocol::Volumes, Arc::new(service));
        sizes
    }

    /// Of one deployment, or of all, on every node that has some.
    pub async fn of(&self, deployment: Option<&DeploymentName>) -> Vec<Measured> {
        let nodes: BTreeSet<NodeId> = {
            let state = self.state.borrow();
            let known = state.volumes.iter();
            let known = known.filter(|(name, _)| deployment.is_none_or(|wanted| wanted == *name));
            let members = known.flat_map(|(_, sets)| sets.values().map(|set| set.node));
            members
                .filter(|node| state.nodes.contains_key(node))
                .collect()
        };
        let asked = nodes.into_iter().map(|node| async move {
            let volumes = self.ask(node, deployment).await.unwrap_or_else(|error| {
                tracing::debug!(%node, %error, "a node does not tell how large its volumes are");
                Vec::new()
            });
            Measured { node, volumes }
        });
        join_all(asked).await
    }

    async fn ask(
        &self,
        node: NodeId,
        deployment: Option<&DeploymentName>,
    ) -> Result<Vec<Volume>, SizeError> {
        let request = Request {
            deployment: deployment.cloned(),
        };
        if node == self.mesh.me() {
            return Ok(self.answer(request).await.volumes);
        }
        let request = codec::encode(&request)?;
        let call = self
            .mesh
            .call(node, Protocol::Volumes, request.into(), ANSWER_WITHIN);
        let answer: Answer = codec::decode(&call.await?)?;
        Ok(answer.volumes)
    }

    async fn answer(&self, request: Request) -> Answer {
        let me = self.mesh.me();
        let state = self.state.borrow().clone();
        let dir = self.volumes_dir.clone();
        // Never closed.
        let _turn = self.walks.acquire().await;
        let walk = move || {
            let wanted = request.deployment.as_ref();
            let known = state.volumes.iter();
            let known = known.filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name));
            let mut volumes = Vec::new();
            for (deployment, sets) in known {
                for (ordinal, set) in sets.iter().filter(|(_, set)| set.node == me) {
                    let place = volume::place(&dir, deployment, *ordinal);
                    volumes.extend(set.names.iter().map(|name| Volume {
                        deployment: deployment.clone(),
                        ordinal: *ordinal,
                        name: name.clone(),
                        used_bytes: volume::used_bytes(&place.join(name.as_str())),
                    }));
                }
            }
            volumes.truncate(VOLUMES);
            Answer { volumes }
        };
        let walked = tokio::task::spawn_blocking(walk).await;
        walked.unwrap_or_default()
    }
}

struct Serve(Sizes);

#[async_trait]
impl Service for Serve {
    async fn serve(&self, peer: Peer, mut stream: Stream) {
        let reading = stream.read_frame(REQUEST_BYTES);
        let Ok(Ok(frame)) = tokio::time::timeout(ANSWER_WITHIN, reading).await else {
            return;
        };
        stream.stop_reading();
        let answer = match codec::decode(&frame) {
            Ok(request) => codec::encode(&self.0.answer(request).await),
            Err(error) => Err(error),
        };
        match answer {
            Ok(bytes) => {
                // The asker may have gone; it asks again.
                let _ = tokio::time::timeout(ANSWER_WITHIN, stream.write_frame(&bytes)).await;
            }
            Err(error) => {
                tracing::debug!(peer = %peer.node, %error, "another node's question about volumes cannot be answered");
            }
        }
    }
}
