//! How a deployment's instances are doing, wherever they run: each node's [`Book`] and what its driver knows, asked over the
//! mesh.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use nebula_domain::excerpt::excerpt_to;
use nebula_domain::{DeploymentName, InstanceId, NodeId, State};
use nebula_drivers::Runs;
use nebula_mesh::{CallError, Mesh, Peer, Service, Stream};
use nebula_wire::codec::{self, CodecError};
use nebula_wire::peer::Protocol;
use nebula_wire::peer::health::{Answer, DETAIL_BYTES, Held, INSTANCES, Request, Running};
use tokio::sync::watch;

use crate::book::Book;
use crate::usages::Usages;

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
    sources: Sources,
    mesh: Mesh,
    state: watch::Receiver<Arc<State>>,
}

/// What this node itself knows.
#[derive(Clone)]
pub struct Sources {
    pub book: Book,
    pub usages: Usages,
    /// The driver's.
    pub runs: watch::Receiver<Arc<Runs>>,
}

/// What one node says, or why it does not.
pub struct Report {
    pub node: NodeId,
    pub answer: Result<Answer, ReportError>,
}

/// What of the instances is asked for besides their probes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Also {
    /// How the probes came to stand as they do.
    pub history: bool,
    /// What keeps the programs apart, and what they use.
    pub runs: bool,
}

impl Reports {
    /// Begins to answer other nodes.
    pub fn start(sources: Sources, mesh: Mesh, state: watch::Receiver<Arc<State>>) -> Reports {
        let reports = Reports {
            sources,
            mesh,
            state,
        };
        let service = Serve(reports.clone());
        reports.mesh.serve(Protocol::Health, Arc::new(service));
        reports
    }

    /// What every node that has instances of the deployment says of them.
    pub async fn of(&self, deployment: &DeploymentName, also: Also) -> Vec<Report> {
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
                answer: self.ask(node, deployment, also).await,
            }
        });
        join_all(asked).await
    }

    async fn ask(
        &self,
        node: NodeId,
        deployment: &DeploymentName,
        also: Also,
    ) -> Result<Answer, ReportError> {
        let request = Request {
            deployment: deployment.clone(),
            history: also.history,
            runs: also.runs,
        };
        if node == self.mesh.me() {
            return Ok(self.answer(&request));
        }
        let request = codec::encode(&request)?;
        let call = self
            .mesh
            .call(node, Protocol::Health, request.into(), ANSWER_WITHIN);
        Ok(codec::decode(&call.await?)?)
    }

    fn answer(&self, request: &Request) -> Answer {
        let me = self.mesh.me();
        let state = self.state.borrow().clone();
        let own = state.instances_of(&request.deployment);
        let own = own.filter(|instance| instance.node == me).take(INSTANCES);
        let ids: Vec<InstanceId> = own.map(|instance| instance.id).collect();
        let runs = match request.runs {
            true => ids.iter().filter_map(|id| self.running(*id)).collect(),
            false => Vec::new(),
        };
        Answer {
            instances: self.sources.book.read(ids, request.history),
            runs,
        }
    }

    fn running(&self, instance: InstanceId) -> Option<Running> {
        let runs = self.sources.runs.borrow().clone();
        let run = runs.get(&instance).filter(|run| run.is_running())?;
        let controls = run.isolation.0.iter();
        Some(Running {
            instance,
            run: run.run,
            since: run.started_at,
            held: controls
                .map(|control| Held {
                    what: control.kind.to_string(),
                    holds: control.held,
                    detail: excerpt_to(&control.detail, DETAIL_BYTES - '…'.len_utf8()),
                })
                .collect(),
            usage: self.sources.usages.of(instance),
        })
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
