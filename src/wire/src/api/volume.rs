//! Folders that deployments keep.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A folder that belongs to the deployment and outlives its instances and releases.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Lower-case letters, digits and dashes, such as `data`; its place is told to the program by `NEBULA_VOLUME_DATA`.
    pub name: String,
    /// Where an isolated program finds it, such as `/data`.
    pub path: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Volumes {
    pub volumes: Vec<VolumeInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<super::AsOf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeInfo {
    pub deployment: String,
    /// Each instance of a deployment has its own, numbered from 0.
    pub ordinal: u32,
    pub name: String,
    /// Node name.
    pub node: String,
    pub node_id: u64,
    pub standing: VolumeStanding,
    /// The instance that has it; absent when none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Absent when its node does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VolumeStanding {
    /// An instance has it.
    Used,
    /// It waits for one.
    Free,
    /// Its deployment is gone; one of the same name will find it.
    Left,
    /// Its node is to delete it.
    Deleting,
    /// Its node is not heard.
    Unreachable,
    /// Its node is no member any more.
    Lost,
}
