//! Folders that deployments keep, between text and the domain's types.

use nebula_domain::names::NameError;
use nebula_domain::spec::VolumeSpec;

use crate::api::{ApiError, Volume};

pub(super) fn volumes(wire: &[Volume]) -> Result<Vec<VolumeSpec>, ApiError> {
    let volume = |(position, wire): (usize, &Volume)| {
        let name = wire.name.parse().map_err(|error: NameError| {
            let message = format!("volumes[{position}].name: {error}");
            ApiError::bad_request(message, "see docs/volumes.md")
        })?;
        Ok(VolumeSpec {
            name,
            path: wire.path.clone(),
        })
    };
    wire.iter().enumerate().map(volume).collect()
}

pub(super) fn told(volumes: &[VolumeSpec]) -> Vec<Volume> {
    let told = |volume: &VolumeSpec| Volume {
        name: volume.name.to_string(),
        path: volume.path.clone(),
    };
    volumes.iter().map(told).collect()
}
