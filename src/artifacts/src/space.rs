//! Room on the disk.

use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use crate::error::ArtifactError;

/// A folder's disk, and how much of it stays free whatever comes in.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    dir: PathBuf,
    floor: u64,
}

impl Space {
    pub fn new(dir: &Path, floor: u64) -> Space {
        Space {
            dir: dir.to_owned(),
            floor,
        }
    }

    /// An error if `wanted` further bytes would leave less than the floor.
    pub fn check(&self, wanted: u64) -> Result<(), ArtifactError> {
        let found = statvfs(&self.dir)
            .map_err(io::Error::from)
            .map_err(ArtifactError::disk("look at the free space of", &self.dir))?;
        // For users other than root: what the file system keeps back is not ours to use.
        let free = found
            .blocks_available()
            .saturating_mul(found.fragment_size());
        if free >= self.floor.saturating_add(wanted) {
            return Ok(());
        }
        Err(ArtifactError::DiskFull {
            free,
            wanted,
            floor: self.floor,
        })
    }
}
