//! JSON about places: what nodes have and are labelled with, what a deployment wishes for, and what a drain has left.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Resources;

/// Wishes for the nodes of a deployment's instances. Rules on labels read `disk=ssd`, `zone!=eu`, `gpu` (has the
/// label) or `!gpu`; every node has the label `node`, its name. `docs/placement.md` says what each means.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Placement {
    /// Only on nodes to which all of these rules apply.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<String>,
    /// First on nodes to which more of these rules apply, while they have room.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefer: Vec<String>,
    /// Last on nodes to which any of these rules applies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub avoid: Vec<String>,
    /// Evenly over the values of this label, such as `zone`, before evenly over nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
    /// Never on a node with an instance of these deployments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub apart_from: Vec<String>,
    /// Better on a node with an instance of these deployments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub near: Vec<String>,
}

/// What a node has for instances, and what those there ask for together, the stopping ones included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeRoom {
    /// Instances of programs.
    pub instances: u32,
    /// How many of them it is willing to run.
    pub instances_most: u32,
    pub memory_asked_bytes: u64,
    /// 0 while the node has not said.
    pub memory_bytes: u64,
    pub cpu_asked_millis: u64,
    pub cpu_millis: u64,
}

/// Whether instances of a program would have places, if all of them were new.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PlacementQuestion {
    pub name: String,
    pub instances: u32,
    #[serde(default)]
    pub resources: Resources,
    #[serde(default)]
    pub placement: Placement,
    /// That each of them has to have on its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PlacementAnswer {
    /// Why not all of them have one, one sentence; absent when they have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unplaced: Option<String>,
}

/// A change of a node's labels.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelChange {
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Keys; one that is not there is no error.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// A node's labels as they are now.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeLabels {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// How far a drain has come.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DrainStatus {
    pub id: u64,
    pub name: String,
    /// Whether its instances are to move elsewhere.
    pub draining: bool,
    /// Instances that are there still, in the order of their ids.
    pub left: Vec<LeftInstance>,
}

/// An instance on a draining node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftInstance {
    pub id: String,
    pub deployment: String,
    /// As in a deployment's status.
    pub phase: String,
    /// Why it cannot go, one sentence; absent while it is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It cannot run anywhere else, because its volumes are there.
    #[serde(default)]
    pub bound: bool,
}
