//! JSON of the HTTP API, version 1. Additive changes only; field names are the contract.

mod detail;
mod event;
mod http;
mod image;
mod placement;
mod probe;
mod release;
mod run;
mod secret;
mod volume;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use detail::{Control, InstanceDetail, LastEnd, Used};
pub use event::Event;
pub use http::{
    Http, HttpAddresses, HttpBasicAuth, HttpCache, HttpCors, HttpLimits, HttpMaintenance,
    HttpRateLimit, HttpRule, HttpSecurity,
};

pub use image::Image;
pub use placement::{
    DrainStatus, LabelChange, LeftInstance, NodeLabels, NodeRoom, Placement, PlacementAnswer,
    PlacementQuestion,
};
pub use probe::{DeploymentHealth, InstanceHealth, Probe, ProbeChange, ProbeHealth, SilentNode};
pub use release::{
    Isolation, Order, ReleaseInfo, ReleaseStrategy, Releases, Resources, RollBack, RolloutStatus,
};

pub use run::{Attempt, Cron, Hooks, Job, Run, RunBegun, Runs};
pub use secret::{SecretInfo, SecretRef, SecretValue, Secrets};
pub use volume::{Volume, VolumeInfo, VolumeStanding, Volumes};

/// Request header: 32 hexadecimal digits; a repeated request with the same id is applied once.
pub const REQUEST_ID_HEADER: &str = "x-nebula-request-id";
/// Response header: `linearizable` or `stale`.
pub const CONSISTENCY_HEADER: &str = "x-nebula-consistency";
/// Response header: the registry revision that an answer speaks from.
pub const REVISION_HEADER: &str = "x-nebula-revision";
/// Response header, only there without a quorum: see [`AsOf::no_quorum_since`].
pub const NO_QUORUM_SINCE_HEADER: &str = "x-nebula-no-quorum-since";

/// What an answer speaks from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AsOf {
    /// `linearizable`, or `stale` for what the asked node has applied so far.
    pub consistency: String,
    pub revision: u64,
    /// Entries of the registry's log that the asked node has applied.
    pub applied_index: u64,
    /// Since when the asked node has known of no leader that a majority follows; absent while it does. What
    /// the others decided since is not in the answer. RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_quorum_since: Option<String>,
}

/// Every error of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    pub code: ErrorCode,
    /// One sentence: what is wrong.
    pub message: String,
    /// One sentence: what to do.
    pub hint: String,
}

/// The hint of an answer to a path or a method that the API does not have, in every version: a newer client tells by it that the
/// node is older.
pub const NO_ACTION_HINT: &str = "see GET /v1/openapi.json";

/// Stable names of what can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    LimitExceeded,
    InvalidToken,
    ArtifactMissing,
    DigestMismatch,
    BadArchive,
    DiskFull,
    NoQuorum,
    Timeout,
    Unavailable,
    Internal,
}

impl ErrorCode {
    /// The one mapping from codes to HTTP statuses.
    pub fn http_status(self) -> u16 {
        match self {
            ErrorCode::BadRequest | ErrorCode::BadArchive => 400,
            ErrorCode::Unauthorized | ErrorCode::InvalidToken => 401,
            ErrorCode::Forbidden => 403,
            ErrorCode::NotFound => 404,
            ErrorCode::AlreadyExists | ErrorCode::Conflict | ErrorCode::ArtifactMissing => 409,
            ErrorCode::LimitExceeded => 413,
            ErrorCode::DigestMismatch => 422,
            ErrorCode::Internal => 500,
            ErrorCode::NoQuorum | ErrorCode::Unavailable => 503,
            ErrorCode::Timeout => 504,
            ErrorCode::DiskFull => 507,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Members {
    pub cluster_id: String,
    /// Node id of the leader; none while no majority of the voters follows one, as far as this node knows.
    pub leader: Option<u64>,
    pub term: u64,
    pub members: Vec<Member>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Member {
    pub id: u64,
    pub name: String,
    /// Mesh address (QUIC).
    pub address: String,
    pub api: String,
    pub edge: String,
    /// `voter`, or `learner` for a member that follows without a vote.
    pub role: String,
    pub status: MemberStatus,
    pub leader: bool,
    pub version: String,
    /// What its program understands; formats of a higher level wait until every member has reached it.
    #[serde(default = "first_level")]
    pub level: u32,
    /// What the operator says of it; see `nodectl label`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub room: NodeRoom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MemberStatus {
    /// Has joined and was not heard of yet.
    Joining,
    Alive,
    Draining,
    /// Hands its vote over, to be removed.
    Leaving,
    /// Its daemon has ended in order within the last 30 s; its programs run on.
    Restarting,
    Dead,
}

/// One node's own account of itself.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    pub cluster_id: String,
    pub id: u64,
    pub name: String,
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    pub leader: Option<u64>,
    pub term: u64,
    pub role: String,
    /// Whether this node can reach a leader that a quorum follows.
    pub quorum: bool,
    /// Since when it cannot; absent while it can. RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_quorum_since: Option<String>,
    /// Absent while the registry's disk has room: `low`, and this node does not lead; `full`, and it takes
    /// no part in changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    pub revision: u64,
    /// The last time that an operator has brought the cluster back on one survivor; absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<RecoveryInfo>,
    pub applied_index: u64,
    pub rss_bytes: u64,
    pub instances: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub room: NodeRoom,
    pub deployments: u32,
    pub certificate_expires_at: String,
    pub data_dir: String,
    pub api: String,
    pub edge: String,
    pub quic: String,
}

/// A cluster that was brought back without a majority of its voters.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RecoveryInfo {
    /// RFC 3339.
    pub at: String,
    /// Id of the node on which it was done.
    pub by: u64,
    /// The last log entry which that node knew; what was decided after it is lost.
    pub term: u64,
    pub index: u64,
    /// Names of the voters that were lost, and are members no more.
    pub removed: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateJoinToken {
    /// `voter` or `worker`.
    pub role: String,
    pub ttl_seconds: u64,
    #[serde(default)]
    pub reusable: bool,
}

/// The only answer that holds the secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedJoinToken {
    pub id: String,
    pub token: String,
    pub role: String,
    pub expires_at: String,
    pub reusable: bool,
    /// API address to hand to `nodectl join`.
    pub address: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JoinTokenInfo {
    pub id: String,
    pub role: String,
    pub created_at: String,
    pub expires_at: String,
    pub reusable: bool,
    pub used: u32,
    pub expired: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JoinTokens {
    pub tokens: Vec<JoinTokenInfo>,
}

/// Sent by a joiner after it has checked the CA.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct JoinRequest {
    /// 32 hexadecimal digits; the same joiner repeats it when it tries again.
    pub request_id: String,
    pub token_id: String,
    /// Hexadecimal.
    pub secret: String,
    pub name: String,
    pub quic: String,
    pub api: String,
    pub edge: String,
    /// PEM certificate signing request; its key is the node's.
    pub csr: String,
    /// What the joining program understands.
    #[serde(default = "first_level")]
    pub level: u32,
}

/// Of programs that do not say theirs.
fn first_level() -> u32 {
    1
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JoinResponse {
    pub cluster_id: String,
    pub node_id: u64,
    pub role: String,
    pub certificate: String,
    pub ca: String,
    /// Members at the time, to reach the first of them before the registry has been received.
    pub peers: Vec<Peer>,
    /// `State::next_node_id` at the time.
    pub next_node_id: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    pub id: u64,
    pub quic: String,
    /// `voter` or `worker`.
    pub role: String,
}

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentSpec {
    /// `static`, `service`, `worker`, `job` or `cron`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The artifact is this container image; the program sees its files in place of the machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// The program listens there on every node and cannot be told another port; one instance for each node then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
    /// Falls back to the setting `scheduler.default_tld`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tld: Option<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// May it be given requests? A TCP probe unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// Has the program come up? Until it has, the other probes do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Probe>,
    /// Is it of any use still? If not it is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Probe>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace_ms: Option<u64>,
    /// Before SIGTERM requests under way have so long to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_ms: Option<u64>,
    /// And WebSockets and their like so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_grace_ms: Option<u64>,
    #[serde(default)]
    pub spa: bool,
    /// How the proxy treats its requests; absent when all is as by default.
    #[serde(default, skip_serializing_if = "Http::is_empty")]
    pub http: Http,
    /// How a release takes over; what is left out is as by default.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strategy: ReleaseStrategy,
    /// What an instance may use.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Resources,
    /// What an instance may reach.
    #[serde(default, skip_serializing_if = "is_default")]
    pub isolation: Isolation,
    /// Folders that outlive its instances and releases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Deployments that have to be ready before an instance is started; it is told where they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// Secrets of the cluster that the program is given; never their values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretRef>,
    /// How often and how long a run of a job or a cron deployment may try.
    #[serde(default, skip_serializing_if = "is_default")]
    pub job: Job,
    /// When a cron deployment is due.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cron: Cron,
    /// Commands that run once for each release.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hooks: Hooks,
    /// On which nodes its instances may be, and had better be.
    #[serde(default, skip_serializing_if = "is_default")]
    pub placement: Placement,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Names of variables only: their values and the command may hold secrets.
impl std::fmt::Debug for DeploymentSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeploymentSpec")
            .field("kind", &self.kind)
            .field("image", &self.image)
            .field("port", &self.port)
            .field("tld", &self.tld)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("probe", &self.probe)
            .field("startup", &self.startup)
            .field("liveness", &self.liveness)
            .field("stop_grace_ms", &self.stop_grace_ms)
            .field("drain_ms", &self.drain_ms)
            .field("socket_grace_ms", &self.socket_grace_ms)
            .field("spa", &self.spa)
            .field("http", &self.http)
            .field("strategy", &self.strategy)
            .field("resources", &self.resources)
            .field("isolation", &self.isolation)
            .field("volumes", &self.volumes)
            .field("depends_on", &self.depends_on)
            .field("secrets", &self.secrets)
            .field("job", &self.job)
            .field("cron", &self.cron)
            .field("hooks", &self.hooks)
            .field("placement", &self.placement)
            .finish_non_exhaustive()
    }
}

/// An artifact already uploaded: its BLAKE3 in hexadecimal and its archive's size.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ArtifactInfo {
    pub digest: String,
    pub size_bytes: u64,
    /// Nodes that hold it.
    pub nodes: Vec<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateDeployment {
    pub name: String,
    pub spec: DeploymentSpec,
    pub instances: u32,
    /// Digest of an uploaded artifact.
    pub artifact: String,
    /// Who makes it and why, for the history.
    #[serde(default)]
    pub author: String,
    #[serde(default)]
    pub message: String,
}

/// A new release: `spec: null` keeps the current spec, any other replaces all of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UpdateDeployment {
    #[serde(default)]
    pub spec: Option<DeploymentSpec>,
    pub artifact: String,
    /// The generation that the update was worked out from; refused with `conflict` when the deployment has
    /// another by now. Without it the last update wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub based_on: Option<u64>,
    /// Who makes it and why, for the history.
    #[serde(default)]
    pub author: String,
    #[serde(default)]
    pub message: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Scale {
    pub instances: u32,
    /// Refused with `conflict` when the deployment has another generation by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub based_on: Option<u64>,
}

/// Answer to every change of a deployment.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Deployed {
    pub name: String,
    pub generation: u64,
    pub release: u32,
    pub urls: Vec<String>,
}

/// Answer to the purge of a deployment's response cache.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CachePurged {
    pub name: String,
    /// What was kept before this revision is not given any more.
    pub revision: u64,
    /// Live nodes whose proxies know of it.
    pub nodes: u32,
    /// Names of live nodes that have not said so in time; they will, as soon as they hear of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Deployments {
    pub deployments: Vec<DeploymentStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<AsOf>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeploymentStatus {
    pub name: String,
    /// `static`, `service`, `worker`, `job` or `cron`.
    #[serde(rename = "type")]
    pub kind: String,
    pub generation: u64,
    /// The one that is wanted.
    pub release: u32,
    pub phase: DeploymentPhase,
    /// A release on its way; absent when none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// Instances wanted.
    pub desired: u32,
    /// Instances of the current release that take requests.
    pub ready: u32,
    pub urls: Vec<String>,
    pub artifact: String,
    /// Of the current release; only where one deployment is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<DeploymentSpec>,
    /// The newest kept ones with what became of them, newest first; only where one deployment is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub releases: Vec<ReleaseInfo>,
    pub instances: Vec<InstanceStatus>,
    /// Why instances are missing; empty when none is.
    pub problems: Vec<String>,
    /// The latest run of a job, a cron deployment or a hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<Run>,
    /// When a cron deployment is due next. RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_at: Option<String>,
    /// Only where one deployment is asked for; a list has one for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<AsOf>,
    /// Nodes that did not give details of their instances, where those are asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<SilentNode>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentPhase {
    /// Instances are being started, replaced or stopped.
    Progressing,
    /// All wanted instances of the current release are ready and no other is left.
    Ready,
    /// Some are ready, and nothing is under way that would add the others soon.
    Degraded,
    /// None is ready and the program keeps ending.
    Failed,
    Removing,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InstanceStatus {
    pub id: String,
    /// Node name.
    pub node: String,
    pub node_id: u64,
    pub release: u32,
    /// `pending`, `fetching`, `starting`, `running`, `backoff`, `stopping`, `stopped`, `lost`.
    pub phase: String,
    /// `unknown`, `healthy`, `unhealthy`.
    pub health: String,
    pub restarts: u32,
    pub reason: String,
    /// The versions of the secrets that it was given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, u64>,
    /// How its program ended last by itself; absent when it did not since the node's daemon was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<LastEnd>,
    /// What its node says of it; only where details are asked for, of programs that run on nodes that answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<InstanceDetail>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Settings {
    pub settings: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SettingValue {
    pub value: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    pub key: String,
    pub value: String,
    pub revision: u64,
}

/// One line of an instance's output; the log endpoint sends one JSON object per line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// RFC 3339, UTC.
    pub time: String,
    pub instance: String,
    pub node: String,
    pub release: u32,
    /// `stdout`, `stderr`, or `nebula` for what the platform says about the instance.
    pub stream: String,
    /// What the line says of its level: `trace`, `debug`, `info`, `warn`, `error` or `fatal`; none when it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    pub line: String,
}

/// The file that points a client at a cluster; `nodectl dev` and `nodectl init` write it.
#[derive(Clone, Serialize, Deserialize)]
pub struct ClusterFile {
    pub cluster_id: String,
    /// `host:port` of every node's API.
    pub apis: Vec<String>,
    /// The CA's certificate, PEM.
    pub ca: String,
    /// Bearer token. The file is readable by its owner only.
    pub token: String,
}
