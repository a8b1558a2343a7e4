//! What can be proposed to the registry, and what comes of it.

use serde::{Deserialize, Serialize};

use crate::events::{Sighting, Stamp};
use crate::ids::{Digest, InstanceId, NodeId, ReleaseNumber, RequestId, RunNumber, TokenId};
use crate::limits::LimitExceeded;
use crate::names::{DeploymentName, LabelKey, NodeName, SecretName};
use crate::placement::Labels;
use crate::rollout::{Order, Step};
use crate::runs::{Come, RunStep};
use crate::secret::Sealed;
use crate::settings::SettingError;
use crate::spec::{Spec, SpecError};
use crate::state::{Addresses, Cluster, JoinToken, Origin, Role};
use crate::time::Millis;

/// One proposal. The same id is applied once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub id: RequestId,
    pub command: Command,
    /// For the history; nothing is decided by it.
    pub stamp: Stamp,
}

impl Request {
    /// By whoever proposes it.
    pub fn new(id: RequestId, command: Command) -> Request {
        Request {
            id,
            command,
            stamp: Stamp::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry of a cluster's life: its identity, its first node (id 1), the API token.
    Init {
        cluster: Cluster,
        name: NodeName,
        addresses: Addresses,
        api_token_sha256: [u8; 32],
    },
    Join {
        token: TokenId,
        secret_sha256: [u8; 32],
        now: Millis,
        name: NodeName,
        addresses: Addresses,
        /// What the joining program understands ([`crate::level`]).
        level: u32,
    },
    /// What a node says of itself, at each start; the first time it also says that it has arrived.
    SetAddresses {
        node: NodeId,
        addresses: Addresses,
    },
    /// What a node's program understands, when that is not what it said last ([`crate::level`]).
    SetLevel {
        node: NodeId,
        level: u32,
    },
    SetDraining {
        node: NodeId,
        draining: bool,
    },
    /// Takes the node's vote away before it is removed, or gives it back.
    SetLeaving {
        node: NodeId,
        leaving: bool,
    },
    /// Removing one that was removed already is as good as removing it.
    RemoveNode {
        node: NodeId,
    },
    /// Drops a member that joined and never arrived; refused once it has.
    ForgetJoiner {
        node: NodeId,
    },
    CreateJoinToken {
        token: JoinToken,
        now: Millis,
    },
    RevokeJoinToken {
        token: TokenId,
    },
    CreateDeployment {
        name: DeploymentName,
        spec: Spec,
        scale: u32,
        artifact: Digest,
        artifact_bytes: u64,
        origin: Origin,
        now: Millis,
    },
    /// A new release. `spec: None` keeps the current one. With `based_on` it is made only of that very
    /// generation, so that what was worked out from it undoes nobody's change.
    UpdateDeployment {
        name: DeploymentName,
        based_on: Option<u64>,
        spec: Option<Spec>,
        artifact: Digest,
        artifact_bytes: u64,
        origin: Origin,
        now: Millis,
    },
    /// An older release is wanted again: this one, or else the latest good one before the present one. While a
    /// release is on its way and none is named, that one is taken back.
    RollBack {
        name: DeploymentName,
        to: Option<ReleaseNumber>,
        now: Millis,
    },
    /// What an operator says about the release on its way.
    OrderRollout {
        name: DeploymentName,
        order: Order,
        now: Millis,
    },
    /// The scheduler's, for the release on its way and the stage that it was worked out from.
    StepRollout {
        name: DeploymentName,
        release: ReleaseNumber,
        seq: u64,
        step: Step,
        now: Millis,
    },
    ScaleDeployment {
        name: DeploymentName,
        scale: u32,
        /// Refused when the deployment has another generation by now.
        based_on: Option<u64>,
    },
    RestartDeployment {
        name: DeploymentName,
        now: Millis,
    },
    RemoveDeployment {
        name: DeploymentName,
    },
    SetSetting {
        key: String,
        value: String,
    },
    UnsetSetting {
        key: String,
    },
    /// The scheduler's plan; refused when the state moved on since it was made.
    Assign {
        plan_revision: u64,
        changes: Vec<Change>,
    },
    /// Lets go of what the nodes' proxies keep of a deployment's answers. At the end, so that entries written before it are
    /// still read.
    PurgeCache {
        name: DeploymentName,
    },
    /// Deletes what a deployment that is removed, or is being removed, has kept.
    DeleteVolumes {
        name: DeploymentName,
    },
    /// A node's word that it has deleted what it was told to.
    VolumesGone {
        node: NodeId,
        name: DeploymentName,
        ordinal: u32,
    },
    SetSecret {
        name: SecretName,
        sealed: Sealed,
        author: String,
        now: Millis,
    },
    DeleteSecret {
        name: SecretName,
    },
    /// A run of a job or a cron deployment, whenever it is due otherwise.
    StartRun {
        name: DeploymentName,
        now: Millis,
    },
    CancelRun {
        name: DeploymentName,
        run: RunNumber,
        now: Millis,
    },
    /// The scheduler's, for one state of a run.
    StepRun {
        name: DeploymentName,
        run: RunNumber,
        seq: u64,
        step: RunStep,
        now: Millis,
    },
    /// The scheduler's: what a release's schedule has come to, from where it was followed last.
    TickCron {
        name: DeploymentName,
        release: ReleaseNumber,
        seen_until: Millis,
        come: Come,
        now: Millis,
    },
    /// What the leader sees and has not told yet, for the history.
    Record {
        sightings: Vec<Sighting>,
    },
    /// Sets these labels of a node and takes those away.
    SetLabels {
        node: NodeId,
        set: Labels,
        remove: Vec<LabelKey>,
    },
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Assign a new instance of this release.
    Start {
        deployment: DeploymentName,
        release: ReleaseNumber,
        node: NodeId,
    },
    /// Take the instance out of every routing table, then stop it.
    Stop { instance: InstanceId },
    /// The instance is gone: drop its record.
    Forget { instance: InstanceId },
    /// The instance gives way once another in its place is ready.
    Move { instance: InstanceId },
    /// It need not any more.
    Stay { instance: InstanceId },
}

/// What an accepted command did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done; nothing further to tell.
    Done,
    /// The answer to `Init` and to `Join`.
    Joined { node: NodeId, role: Role },
    /// The answer to every change that a person makes to a deployment, its removal included.
    Deployed {
        generation: u64,
        release: ReleaseNumber,
    },
    Assigned {
        started: u32,
        stopped: u32,
        forgotten: u32,
    },
    /// What was kept before this revision is of no use any more.
    CachePurged { revision: u64 },
    /// This is the secret's version from now on.
    SecretSet { version: u64 },
    /// The run that was asked for.
    RunBegun { run: RunNumber },
}

/// Why a command changed nothing. Stable: API codes and exit codes derive from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Rejection {
    #[error("the cluster is already initialised")]
    AlreadyInitialised,
    #[error("the cluster is not initialised")]
    NotInitialised,
    #[error(
        "the join token is not known to this cluster (never issued, revoked, or expired and dropped)"
    )]
    TokenUnknown,
    #[error("the join token has expired")]
    TokenExpired,
    #[error("the join token was already used")]
    TokenUsed,
    #[error("a node named '{0}' is already a member")]
    NodeNameTaken(NodeName),
    #[error("a member already uses the address {0}")]
    AddressTaken(std::net::SocketAddr),
    #[error("node {0} is not a member")]
    NodeUnknown(NodeId),
    #[error("node {0} has arrived and is a member like any other")]
    NodeArrived(NodeId),
    #[error("node {node} may not {action} without an operator's token")]
    NotPermitted { node: NodeId, action: String },
    #[error("node {0} is the only member that can vote; join another voter first")]
    LastVoter(NodeId),
    #[error("a deployment named '{0}' already exists")]
    DeploymentExists(DeploymentName),
    #[error("the deployment '{0}' is still being removed")]
    DeploymentRemoving(DeploymentName),
    #[error("there is no deployment named '{0}'")]
    DeploymentUnknown(DeploymentName),
    #[error(
        "the deployment '{name}' was changed meanwhile: the update was made for generation {based_on}, it is at {current}"
    )]
    DeploymentChanged {
        name: DeploymentName,
        based_on: u64,
        current: u64,
    },
    #[error("'{name}' has no release {number}, or it is no longer kept")]
    ReleaseUnknown {
        name: DeploymentName,
        number: ReleaseNumber,
    },
    #[error("release {number} of '{name}' is the one that is wanted already")]
    ReleaseWanted {
        name: DeploymentName,
        number: ReleaseNumber,
    },
    #[error("'{0}' has no earlier good release to go back to")]
    NothingToGoBackTo(DeploymentName),
    #[error("no release of '{0}' is on its way")]
    NoRollout(DeploymentName),
    #[error(
        "this release of '{0}' cannot be paused: it takes over at once, or has nothing beside it that could go on"
    )]
    CannotPause(DeploymentName),
    #[error("the first release of '{0}' has nothing to go back to: update it, or remove it")]
    FirstRelease(DeploymentName),
    #[error("the rollout of '{0}' has moved on meanwhile")]
    StaleStep(DeploymentName),
    #[error("'{0}' is a static site: it is served by every node and cannot be scaled")]
    StaticScale(DeploymentName),
    #[error("{0}")]
    Spec(#[from] SpecError),
    #[error("{0}")]
    Setting(#[from] SettingError),
    #[error("the setting '{0}' is not set")]
    SettingUnset(String),
    #[error("{0}")]
    Limit(#[from] LimitExceeded),
    #[error("the plan was made for revision {planned}, the state is at {current}")]
    StalePlan { planned: u64, current: u64 },
    #[error(
        "node {0} still votes: its vote has to be taken before it is removed; try again in a moment"
    )]
    VoteNeeded(NodeId),
    #[error("the name '{name}' belongs to the deployment '{deployment}'")]
    NameTaken {
        name: String,
        deployment: DeploymentName,
    },
    #[error("'{0}' is a static site: the response cache keeps nothing of it")]
    StaticCache(DeploymentName),
    #[error("the deployment '{0}' is there and needs its volumes")]
    VolumesNeeded(DeploymentName),
    #[error("there is no volume of '{0}'")]
    VolumesUnknown(DeploymentName),
    #[error("'{name}' depends on '{on}', and there is no such deployment")]
    DependencyUnknown {
        name: DeploymentName,
        on: DeploymentName,
    },
    #[error("there is no secret named '{0}'")]
    SecretUnknown(SecretName),
    #[error("the deployment '{by}' is given the secret '{name}'")]
    SecretNeeded {
        name: SecretName,
        by: DeploymentName,
    },
    #[error("these would wait for each other for ever: {0}")]
    DependencyCycle(String),
    #[error("'{by}' depends on '{name}'")]
    DependencyNeeded {
        name: DeploymentName,
        by: DeploymentName,
    },
    #[error("'{0}' is neither a job nor a cron deployment: it runs all the time")]
    NoRuns(DeploymentName),
    #[error("'{0}' runs to its end and is neither scaled nor restarted")]
    Finite(DeploymentName),
    #[error("'{name}' is of type {now}, and cannot become one of type {wanted}")]
    OtherType {
        name: DeploymentName,
        now: String,
        wanted: String,
    },
    #[error("no other run of '{name}' can begin: {reason}")]
    RunOpen {
        name: DeploymentName,
        reason: String,
    },
    #[error("'{name}' has no {run}, or it is no longer told of")]
    RunUnknown {
        name: DeploymentName,
        run: RunNumber,
    },
    #[error("{run} of '{name}' is over")]
    RunOver {
        name: DeploymentName,
        run: RunNumber,
    },
    #[error("the label '{0}' is what the node is called, and cannot be changed")]
    LabelReserved(LabelKey),
    #[error(
        "'{name}' depends on '{on}', which runs to its end and is never ready: a 'pre_release' hook is what comes before"
    )]
    DependencyFinite {
        name: DeploymentName,
        on: DeploymentName,
    },
    #[error("this program understands level {level}, and the cluster uses level {needed}")]
    LevelTooLow { level: u32, needed: u32 },
}
