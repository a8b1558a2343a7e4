//! How large volumes are: one node asks another for those that lie there.

use nebula_domain::{DeploymentName, VolumeName};
use serde::{Deserialize, Serialize};

/// Volumes in one answer; they fit a frame of the mesh.
pub const VOLUMES: usize = 5_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// None: all.
    pub deployment: Option<DeploymentName>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub volumes: Vec<Volume>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub deployment: DeploymentName,
    pub ordinal: u32,
    pub name: VolumeName,
    pub used_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_answer_fits_a_frame() {
        let label = "x".repeat(63);
        let volume = Volume {
            deployment: label.parse().unwrap(),
            ordinal: u32::MAX,
            name: label.parse().unwrap(),
            used_bytes: u64::MAX,
        };
        let answer = Answer {
            volumes: vec![volume; VOLUMES],
        };
        assert!(crate::codec::encode(&answer).is_ok());
    }
}
