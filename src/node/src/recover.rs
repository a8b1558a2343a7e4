//! Brings a cluster back on one survivor when a majority of its voters is gone for good. The daemon must be
//! stopped; the instances run on meanwhile, and are taken over by the next one.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nebula_domain::NodeId;
use nebula_domain::recovery::{self, RecoveryError};
use nebula_domain::state::Recovery;
use nebula_mesh::{Directory, Mesh, MeshError};
use nebula_pki::{Authority, Identity, PkiError};
pub use nebula_registry::RecoverError as RegistryError;
use nebula_registry::{RECOVERY_ASKING, Survivor};
use nebula_telemetry::{Clock, Metrics};
use tokio::sync::watch;

use crate::files::REGISTRY_DIR;
use crate::lock::{self, LockError};
use crate::setup;
use crate::wiring::{StartError, present_identity};

/// Why nothing was changed, unless it is [`RecoverError::Registry`]: then asking again tells.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("there is no node in the data folder {}", .0.display())]
    NotPrepared(PathBuf),
    #[error(
        "the data folder {} belongs to user {owner}, and this is user {me}: the daemon could not read what would be left there", data_dir.display()
    )]
    Owner {
        data_dir: PathBuf,
        owner: u32,
        me: u32,
    },
    #[error("cannot look at the data folder {}", data_dir.display())]
    DataDir {
        data_dir: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Identity(#[from] StartError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Survivor(#[from] RecoveryError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the other members cannot be asked whether they are alive")]
    Mesh(#[from] MeshError),
    #[error(
        "this node does not hold the CA's key yet: nobody could join, and all certificates would end within a day"
    )]
    NoAuthority,
    #[error(
        "this node is the only voter already: there is nothing to bring back, start its daemon"
    )]
    Alone,
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
    check_owner(data_dir)?;
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

/// What another user writes here, root above all, the daemon cannot read or replace.
fn check_owner(data_dir: &Path) -> Result<(), RecoverError> {
    let found = std::fs::metadata(data_dir).map_err(|source| RecoverError::DataDir {
        data_dir: data_dir.to_owned(),
        source,
    })?;
    let (owner, me) = (found.uid(), nix::unistd::geteuid().as_raw());
    match owner == me {
        true => Ok(()),
        false => Err(RecoverError::Owner {
            data_dir: data_dir.to_owned(),
            owner,
            me,
        }),
    }
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
        let last = state.recoveries.last().filter(|last| last.by == me);
        // Since then it has voted alone: one that grew and shrank again has gone on in later terms and entries.
        let already = last.filter(|_| survivor.is_just_recovered());
        return already.cloned().map(Err).ok_or(RecoverError::Alone);
    }
    if Authority::load(data_dir)?.is_none() {
        return Err(RecoverError::NoAuthority);
    }
    let kept = answering(identity, survivor).await?;
    let known = survivor.known();
    let named = |id: &NodeId| Named {
        id: *id,
        name: survivor.name_of(*id),
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

/// The other voters that can be reached; an error if there is no need, or no right, to go on without the rest.
async fn answering(
    identity: Identity,
    survivor: &Survivor,
) -> Result<BTreeSet<NodeId>, RecoverError> {
    let directory = survivor.directory();
    let mesh_config = nebula_mesh::Config {
        listen: asking_from(&directory),
        limits: nebula_mesh::Limits::default(),
    };
    let (_directory, known) = watch::channel(Arc::new(directory));
    let mesh = Mesh::bind(mesh_config, identity, known, &Metrics::new())?;
    let voices = survivor.ask(&mesh, RECOVERY_ASKING).await;
    mesh.close().await;
    Ok(survivor.judge(&voices)?)
}

/// Not the daemon's address, which a flag of `nodectl run` may replace: from one that reaches nobody, everybody
/// seems lost.
fn asking_from(directory: &Directory) -> SocketAddr {
    let mut others = directory.nodes.values();
    match others.any(|node| node.quic.is_ipv6()) {
        true => (Ipv6Addr::UNSPECIFIED, 0).into(),
        false => (Ipv4Addr::UNSPECIFIED, 0).into(),
    }
}
