//! Brings a cluster back on one survivor when a majority of its voters is gone for good. The daemon must be
//! stopped; the instances run on meanwhile, and are taken over by the next one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nebula_domain::recovery::{self, RecoveryError};
use nebula_domain::state::Recovery;
use nebula_domain::{NodeId, State};
use nebula_mesh::{Mesh, MeshError};
use nebula_pki::{Authority, Identity, PkiError};
use nebula_registry::{RecoverError as RegistryError, Survivor, Voice};
use nebula_telemetry::{Clock, Metrics};
use tokio::sync::watch;

use crate::config::{Config, ConfigError, Overrides};
use crate::directory::{Peers, directory};
use crate::files::REGISTRY_DIR;
use crate::lock::{self, LockError};
use crate::setup;
use crate::wiring::{StartError, present_identity};

/// A connection that is refused fails a question at once; why it was refused is known a little later.
const REMOVAL_WORD: Duration = Duration::from_millis(500);

/// Why nothing was changed, unless it is [`RecoverError::Registry`]: then asking again tells.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("there is no node in the data folder {}", .0.display())]
    NotPrepared(PathBuf),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Identity(#[from] StartError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Survivor(#[from] RecoveryError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the other voters cannot be asked whether they are alive")]
    Mesh(#[from] MeshError),
    #[error(
        "this node does not hold the CA's key yet: nobody could join, and all certificates would end within a day"
    )]
    NoAuthority,
    #[error(
        "this node is the only voter already: there is nothing to bring back, start its daemon"
    )]
    Alone,
    #[error("{0} says that this node was removed from the cluster")]
    Removed(String),
    #[error("{0} follows a leader: the cluster works without being brought back")]
    Led(String),
    #[error(
        "{0} can be reached, which is a majority of the voters with this node: start its daemon, and they find a leader by themselves"
    )]
    Majority(String),
}

/// A member by both its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub id: NodeId,
    pub name: String,
}

/// What is at stake, and what would become of it.
#[derive(Debug, Clone)]
pub struct Findings {
    pub cluster: String,
    pub survivor: Named,
    /// The last log entry that this node knows.
    pub term: u64,
    pub index: u64,
    /// Voters that do not answer; they would be removed.
    pub lost: Vec<Named>,
    /// Voters that answer and are too few to decide; they would follow.
    pub kept: Vec<Named>,
}

#[derive(Debug, Clone)]
pub enum Outcome {
    /// Nothing was changed: the word of an operator is needed.
    Asked(Findings),
    Done {
        findings: Findings,
        term: u64,
        index: u64,
        revision: u64,
    },
    /// It was done before, and nothing was left to do.
    Already(Recovery),
}

/// Looks at the node of a data folder and asks the other voters; with `accept_loss`, brings the cluster back
/// without those that do not answer.
pub async fn recover(data_dir: &Path, accept_loss: bool) -> Result<Outcome, RecoverError> {
    if !setup::is_prepared(data_dir) {
        return Err(RecoverError::NotPrepared(data_dir.to_owned()));
    }
    let _lock = lock::take(data_dir)?;
    let clock = Clock::system();
    let identity = present_identity(data_dir, &clock)?;
    let registry = nebula_registry::Config::new(data_dir.join(REGISTRY_DIR));
    let survivor = Survivor::open(&registry, identity.node()).await?;
    let findings = match look(data_dir, identity, &survivor).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(already)) => {
            survivor.close().await;
            return Ok(Outcome::Already(already));
        }
        Err(error) => {
            survivor.close().await;
            return Err(error);
        }
    };
    if !accept_loss {
        survivor.close().await;
        return Ok(Outcome::Asked(findings));
    }
    // Also those whom the registry has no name for any more: whoever is not kept is lost.
    let mut lost = survivor.other_voters();
    lost.retain(|id| findings.kept.iter().all(|kept| kept.id != *id));
    let done = survivor.recover(&lost, clock.now()).await?;
    Ok(Outcome::Done {
        findings,
        term: done.term,
        index: done.index,
        revision: done.revision,
    })
}

/// What there is to bring back; or the last time that it was done, if nothing has come after it.
async fn look(
    data_dir: &Path,
    identity: Identity,
    survivor: &Survivor,
) -> Result<Result<Findings, Recovery>, RecoverError> {
    let state = survivor.state();
    let me = identity.node();
    let node = recovery::check(state, me)?;
    let voters = survivor.other_voters();
    if voters.is_empty() {
        let already = state.recoveries.last().filter(|last| last.by == me);
        return already.cloned().map(Err).ok_or(RecoverError::Alone);
    }
    if Authority::load(data_dir)?.is_none() {
        return Err(RecoverError::NoAuthority);
    }
    let kept = answering(data_dir, identity, survivor).await?;
    let known = survivor.known();
    let named = |id: &NodeId| Named {
        id: *id,
        name: name_of(state, *id),
    };
    Ok(Ok(Findings {
        cluster: state
            .cluster
            .as_ref()
            .map_or_else(String::new, |c| c.id.to_string()),
        survivor: Named {
            id: me,
            name: node.name.to_string(),
        },
        term: known.term,
        index: known.index,
        lost: voters.difference(&kept).map(named).collect(),
        kept: voters.intersection(&kept).map(named).collect(),
    }))
}

/// The other voters that can be reached; an error if there is no need to go on without the rest.
async fn answering(
    data_dir: &Path,
    identity: Identity,
    survivor: &Survivor,
) -> Result<BTreeSet<NodeId>, RecoverError> {
    let state = survivor.state();
    let config = Config::load(
        None,
        &Overrides {
            data_dir: Some(data_dir.to_owned()),
            ..Overrides::default()
        },
    )?;
    let told = Peers {
        next_node_id: 0,
        peers: Vec::new(),
    };
    let known = directory(identity.node(), state, &told);
    let (_directory, known) = watch::channel(Arc::new(known));
    let mesh_config = nebula_mesh::Config {
        // The daemon's address, whose port is not needed to ask.
        listen: SocketAddr::new(config.quic.ip(), 0),
        limits: nebula_mesh::Limits::default(),
    };
    let mesh = Mesh::bind(mesh_config, identity, known, &Metrics::new())?;
    let voices = survivor.ask(&mesh).await;
    let unclear = voices.values().any(|v| matches!(v, Voice::Unclear(_)));
    let removed = unclear && {
        let mut word = mesh.removed();
        let told = word.wait_for(|removed| *removed);
        matches!(tokio::time::timeout(REMOVAL_WORD, told).await, Ok(Ok(_)))
    };
    mesh.close().await;
    let names = |wanted: &dyn Fn(&Voice) -> bool| {
        let found = voices.iter().filter(|(_, voice)| wanted(voice));
        let found: Vec<String> = found.map(|(id, _)| name_of(state, *id)).collect();
        found.join(", ")
    };
    if removed {
        let by = match names(&|v| *v != Voice::Silent) {
            none if none.is_empty() => "another voter".to_owned(),
            by => by,
        };
        return Err(RecoverError::Removed(by));
    }
    if voices.values().any(|voice| *voice == Voice::Led) {
        return Err(RecoverError::Led(names(&|v| *v == Voice::Led)));
    }
    let there = voices.iter().filter(|(_, voice)| **voice != Voice::Silent);
    let there: BTreeSet<NodeId> = there.map(|(id, _)| *id).collect();
    if survivor.would_be_quorum(&there) {
        return Err(RecoverError::Majority(names(&|v| *v != Voice::Silent)));
    }
    Ok(there)
}

fn name_of(state: &State, id: NodeId) -> String {
    let node = state.nodes.get(&id);
    node.map_or_else(|| format!("node {id}"), |node| node.name.to_string())
}
