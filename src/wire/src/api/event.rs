//! The shape of one event; the events endpoint sends one JSON object per line.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something that happened to a deployment, an instance, a node or the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Counts the cluster's events; the same event has the same number on every node.
    pub seq: u64,
    /// RFC 3339, UTC, by the clock of the node that said so.
    pub time: String,
    /// Such as `instance-ended`; the first word says what it is about.
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The node that it is about, or where it happened, by the name that it had then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Why, or what more there is to say; may be empty.
    pub reason: String,
    /// The operator, by the name of the token or as a release's author; `local` for the owner of a node's machine; empty
    /// for what the cluster did by itself.
    pub who: String,
}
