//! Output that outlives its instance: whose it is, in a file beside it, and how it gets there.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nebula_domain::ids::{InstanceId, ReleaseNumber};
use nebula_domain::names::DeploymentName;
use serde::{Deserialize, Serialize};

use super::segments;
use crate::record;

/// The name of the file.
const ABOUT: &str = "about.json";

/// Whose output a folder holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub instance: InstanceId,
    pub deployment: DeploymentName,
    pub release: ReleaseNumber,
    /// Of the node that it ran on, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

impl About {
    /// Where it belongs: `<root>/<deployment>/<instance>-<release>`.
    pub fn folder(&self, root: &Path) -> PathBuf {
        let name = format!("{}-{}", self.instance, self.release);
        root.join(self.deployment.as_str()).join(name)
    }

    /// Of a folder of kept output; `None` when it does not say.
    pub fn read(dir: &Path) -> io::Result<Option<About>> {
        record::read(dir, ABOUT)
    }

    pub fn write(&self, dir: &Path) -> io::Result<()> {
        record::write(dir, ABOUT, self)
    }

    /// Of the folder of an instance that has been started.
    pub fn of_instance(dir: &Path) -> io::Result<Option<About>> {
        // Its state says this and more.
        record::read(dir, record::STATE)
    }
}

/// Moves the output in an ended instance's folder to where it is kept, by one rename of the whole folder;
/// everything else in it is deleted first. False when there is nothing to keep.
pub(crate) fn keep(dir: &Path, root: &Path) -> io::Result<bool> {
    // One that cannot be read says nothing, and must not keep the folder from being deleted.
    let Some(about) = About::of_instance(dir).unwrap_or(None) else {
        return Ok(false);
    };
    if segments(dir)?.iter().all(|s| s.bytes <= s.mark_bytes) {
        return Ok(false);
    }
    about.write(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let stays = name == ABOUT || name == record::STATE || name == "log" || is_numbered(&name);
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false if !stays => fs::remove_file(entry.path())?,
            false => {}
        }
    }
    let mut to = about.folder(root);
    if let Some(parent) = to.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)?;
    }
    // Ids are not used again, but an instance may have been taken for gone too early.
    for again in 1.. {
        match fs::rename(dir, &to) {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists
                ) =>
            {
                let name = format!("{}-{}.{again}", about.instance, about.release);
                to.set_file_name(name);
            }
            Err(error) => return Err(error),
            Ok(()) => break,
        }
    }
    // Last, so that until now a driver could still tell what this was.
    record::remove(&to, record::STATE)?;
    Ok(true)
}

fn is_numbered(name: &str) -> bool {
    name.strip_prefix("log.")
        .is_some_and(|n| n.parse::<u32>().is_ok())
}
