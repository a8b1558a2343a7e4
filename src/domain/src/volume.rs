//! Where the folders are that deployments keep: which node has those of which instance.
//!
//! Instances of a deployment with volumes are numbered from 0, and each number has a set of its own, all of it on one
//! node. At most one instance holds a set at any time; it holds it until its node has said that it has ended, so that no
//! other can be started on it before.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{InstanceId, NodeId};
use crate::names::{DeploymentName, VolumeName};
use crate::state::State;

/// Those of one deployment, by the number of the instance that they are for.
pub type VolumeSets = BTreeMap<u32, VolumeSet>;

/// What one instance after the other finds again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSet {
    pub node: NodeId,
    pub names: BTreeSet<VolumeName>,
    /// The instance that has it, until that has ended.
    pub holder: Option<InstanceId>,
    /// Its node is to delete it.
    pub deleting: bool,
}

impl VolumeSet {
    /// Whether an instance may be started on it.
    pub fn is_free(&self) -> bool {
        self.holder.is_none() && !self.deleting
    }

    /// `its volume 'data'`, `its volumes 'data' and 'wal'`.
    pub fn told(&self) -> String {
        let names: Vec<String> = self.names.iter().map(|name| format!("'{name}'")).collect();
        match names.as_slice() {
            [one] => format!("its volume {one}"),
            names => format!("its volumes {}", names.join(" and ")),
        }
    }
}

impl State {
    /// Those of a deployment, which need not be there any more.
    pub fn volumes_of<'a>(
        &'a self,
        name: &DeploymentName,
    ) -> impl Iterator<Item = (u32, &'a VolumeSet)> + use<'a> {
        let sets = self.volumes.get(name).into_iter().flatten();
        sets.map(|(ordinal, set)| (*ordinal, set))
    }

    /// The number of the instance among those of its deployment, and what it holds.
    pub fn volumes_held(
        &self,
        name: &DeploymentName,
        instance: InstanceId,
    ) -> Option<(u32, &VolumeSet)> {
        self.volumes_of(name)
            .find(|(_, set)| set.holder == Some(instance))
    }
}

/// `NEBULA_VOLUME_DATA` for `data`: the variable that tells a program where its volume is.
pub fn variable(name: &VolumeName) -> String {
    let name = name.as_str().to_ascii_uppercase().replace('-', "_");
    format!("NEBULA_VOLUME_{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_names_that_a_shell_takes() {
        let name = "write-ahead".parse().unwrap();
        assert_eq!(variable(&name), "NEBULA_VOLUME_WRITE_AHEAD");
    }
}
