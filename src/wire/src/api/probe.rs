//! JSON about probes: how instances are asked, and what came of it. `docs/probes.md` says what each field means.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One probe. What is left out has its default.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Probe {
    /// `tcp`, `http`, `exec`, `grpc` or `process` (it is there).
    #[serde(rename = "type")]
    pub kind: String,
    /// HTTP: what is asked for; `/` unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// HTTP: header fields that are sent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// HTTP: codes that are a success, such as `200-399` or `204,301`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codes: Option<String>,
    /// Exec: run by /bin/sh beside the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// gRPC: the service that is asked after; the whole server unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_threshold: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_threshold: Option<u32>,
}

/// Values of header fields and commands may be secrets.
impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe")
            .field("kind", &self.kind)
            .field("path", &self.path)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("codes", &self.codes)
            .field("service", &self.service)
            .field("delay_ms", &self.delay_ms)
            .field("period_ms", &self.period_ms)
            .field("timeout_ms", &self.timeout_ms)
            .field("failure_threshold", &self.failure_threshold)
            .field("success_threshold", &self.success_threshold)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeploymentHealth {
    pub name: String,
    pub instances: Vec<InstanceHealth>,
    /// Nodes that did not say how their instances are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<SilentNode>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InstanceHealth {
    pub id: String,
    pub node: String,
    pub release: u32,
    /// Counts the program's starts.
    pub run: u64,
    pub probes: Vec<ProbeHealth>,
    /// The latest changes, oldest first, as long as the instance's node has been up; only where they are asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<ProbeChange>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProbeHealth {
    /// `startup`, `readiness` or `liveness`.
    pub probe: String,
    /// Such as `GET /health`.
    pub asks: String,
    /// `waiting` (for the startup probe), `pending`, `passing` or `failing`.
    pub state: String,
    /// Whether the latest result was a success; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<bool>,
    /// When that was, by the clock of the instance's node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Why it failed; empty when it did not.
    pub reason: String,
    /// Results in a row like the latest.
    pub streak: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProbeChange {
    pub at: String,
    pub run: u64,
    pub probe: String,
    pub state: String,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SilentNode {
    pub node: String,
    pub reason: String,
}
