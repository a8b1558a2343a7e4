//! JSON about releases: how one takes over, what it may use, and what became of it.
//!
//! Values are text as people write it: times (`30s`), sizes (`512Mi`), parts (`25%`). What is left out has its default,
//! and what has its default is left out when a spec is told. `docs/releases.md` says what each means.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a release takes over from the one before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReleaseStrategy {
    /// `rolling` (the default), `blue-green`, `canary` or `recreate`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Rolling: instances above the wanted number, such as `1` or `25%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub surge: Option<String>,
    /// Rolling: instances below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
    /// Blue-green: how long the old instances stay ready after the switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm: Option<String>,
    /// Canary: percent of the visitors and time, such as `10% 2m`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
    /// For so long a release is watched before it counts as good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch: Option<String>,
    /// Without progress for so long it has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// Whether a release that failed is taken back by itself; true unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback: Option<bool>,
    /// `requests=50 errors=5% p95=200%`, or `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<String>,
}

/// What one instance may use; absent: no limit but the node's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// `512Mi`, `1Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// `500m` (half a core), `2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Processes and threads; 4096 unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Open files of a process; 65536 unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u32>,
    /// What it may keep in its own folder: `1Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
}

/// What one instance may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Isolation {
    /// `default`, `strict` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// `host` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

/// A release on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutStatus {
    /// The release to go back to; absent for a first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u32>,
    pub to: u32,
    /// `rolling`, `blue-green`, `canary`, `recreate`.
    pub strategy: String,
    /// `pre-release`, `job`, `replacing`, `beside`, `warm`, `canary`, `watching`.
    pub stage: String,
    /// The new release's share of the visitors; absent where all instances are alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    pub paused: bool,
    /// Instances of the new release that this stage is to have; those that are ready are the deployment's `ready`.
    pub wanted: u32,
    /// RFC 3339.
    pub began_at: String,
    /// When time alone moves it on or fails it; absent while paused. RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<String>,
}

/// One release and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseInfo {
    pub number: u32,
    /// RFC 3339.
    pub created_at: String,
    pub author: String,
    pub message: String,
    pub artifact: String,
    /// `open`, `good`, `failed`, `aborted`, `superseded`.
    pub fate: String,
    /// When that was settled; absent while open. RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<String>,
    /// What spoke against one that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Whether it is the one that is wanted.
    pub wanted: bool,
    /// Only in the history, where one deployment's releases are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<super::DeploymentSpec>,
}

/// The kept releases of a deployment, newest first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Releases {
    pub name: String,
    pub releases: Vec<ReleaseInfo>,
}

/// Which release is to come back: absent, the one before the present one.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct RollBack {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u32>,
}

/// What is to be done with a release on its way.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Order {
    /// `pause`, `resume`, `promote` or `abort`.
    pub order: String,
}
