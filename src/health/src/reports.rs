//! How a deployment's instances are doing, wherever they run: each node's [`Book`], asked over the mesh.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use nebula_domain::{DeploymentName, NodeId, State};
use nebula_mesh::{CallError, Mesh, Peer, Service, Stream};
use nebula_wire::codec::{self, CodecError};
use nebula_wire::peer::Protocol;
use nebula_wire::peer::health::{Answer, INSTANCES, Probed, Request};
use tokio::sync::watch;

use crate::book::Book;

/// A node that has not answered by then is reported as silent.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A name and a switch.
const REQUEST_BYTES: usize = 4 * 1024;

/// Why a node's probes are not known.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("it does not answer")]
    Call(#[from] CallError),
    #[error("its answer cannot be read")]
    Codec(#[from] CodecError),
}

/// Answers other nodes, and asks them. Cheap to clone.
#[derive(Clone)]
pub struct Reports {
    book: Book,
    mesh: Mesh,
    state: watch::Receiver<Arc<State>>,
}

/// What one node says, or why it does not.
pub struct Report {
    pub node: NodeId,
    pub probed: Result<Vec<Probed>, ReportError>,
}

impl Reports {
    /// Begins to answer other nodes.
    pub fn start(book: Book, mesh: Mesh, state: watch::Receiver<Arc<State>>) -> Reports {
        let reports = Reports { book, mesh, state };
        let service = Serve(reports.clone());
        reports.mesh.serve(Protocol::Health, Arc::new(service));
        reports
    }

    /// What every node that has instances of the deployment says of them.
    pub async fn of(&self, deployment: &DeploymentName, history: bool) -> Vec<Report> {
        let mut nodes: Vec<NodeId> = {
            let state = self.state.borrow();
            let instances = state.instances_of(deployment);
            instances.map(|instance| instance.node).collect()
        };
        nodes.sort_unstable();
        nodes.dedup();
        let asked = nodes.into_iter().map(|node| async move {
            Report {
                node,
                probed: self.ask(node, deployment, history).await,
            }
        });
        join_all(asked).await
    }

    async fn ask(
        &self,
        node: NodeId,
        deployment: &DeploymentName,
        history: bool,
    ) -> Result<Vec<Probed>, ReportError> {
        let request = Request {
            deployment: deployment.clone(),
            history,
        };
        if node == self.mesh.me() {
            return Ok(self.answer(&request).instances);
        }
        let request = codec::encode(&request)?;
        let call = self
            .mesh
            .call(node, Protocol::Health, request.into(), ANSWER_WITHIN);
        let answer: Answer = codec::decode(&call.await?)?;
        Ok(answer.instances)
    }

    fn answer(&self, request: &Request) -> Answer {
        let me = self.mesh.me();
        let state = self.state.borrow().clone();
        let own = state.instances_of(&request.deployment);
        let own = own.filter(|instance| instance.node == me).take(INSTANCES);
        Answer {
            instances: self
                .book
                .read(own.map(|instance| instance.id), request.history),
        }
    }
}

struct Serve(Reports);

#[async_trait]
impl Service for Serve {
    async fn serve(&self, peer: Peer, mut stream: Stream) {
        let reading = stream.read_frame(REQUEST_BYTES);
        let Ok(Ok(frame)) = tokio::time::timeout(ANSWER_WITHIN, reading).await else {
            return;
        };
        stream.stop_reading();
        let answer = codec::decode(&frame)
            .map(|request| self.0.answer(&request))
            .and_then(|answer| codec::encode(&answer));
        match answer {
            Ok(bytes) => {
                // The asker may have gone; it asks again.
                let _ = tokio::time::timeout(ANSWER_WITHIN, stream.write_frame(&bytes)).await;
            }
            Err(error) => {
                tracing::debug!(peer = %peer.node, %error, "another node's question about probes cannot be answered");
            }
        }
    }
}
