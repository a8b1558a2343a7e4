//! Folders that outlive the instances which write in them.
//!
//! A volume's own folder, `<volumes>/<deployment>/<number>/<name>`, holds the folder that the program sees, `data`, and
//! a file, `lock`, which the shim of the instance that has the volume keeps locked (flock(2)) for as long as it lives.
//! A second instance cannot be started on it before, whatever daemon asks, and nothing is deleted under a program.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nebula_domain::names::{DeploymentName, VolumeName};
use serde::{Deserialize, Serialize};

use crate::confine::disk;
use crate::record;

const DATA: &str = "data";

/// A volume as one run sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub name: VolumeName,
    /// The volume's own folder on this node.
    pub folder: PathBuf,
    /// Where a program with a root folder of its own finds its data.
    pub path: PathBuf,
}

impl Mount {
    /// The folder that the program writes in.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join(DATA)
    }

    /// Where the program finds it.
    pub(crate) fn seen(&self, apart: bool) -> PathBuf {
        match apart {
            true => self.path.clone(),
            false => self.data(),
        }
    }

    /// Makes it if it is not there yet.
    pub(crate) fn make(&self) -> io::Result<()> {
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700).create(self.data())
    }

    /// The volume is this process's until the file is closed; the error is a sentence.
    pub(crate) fn lock(&self) -> Result<File, String> {
        let (name, folder) = (&self.name, self.folder.display());
        match record::try_lock(&self.folder) {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => Err(format!(
                "the volume '{name}' is in use on this node by an instance that has not ended yet"
            )),
            Err(error) => Err(format!(
                "cannot lock the volume '{name}' ({folder}): {error}"
            )),
        }
    }
}

/// The folder with the volumes of one instance after the other.
pub fn place(volumes_dir: &Path, deployment: &DeploymentName, ordinal: u32) -> PathBuf {
    volumes_dir
        .join(deployment.as_str())
        .join(ordinal.to_string())
}

/// Bytes on the disk under a volume's own folder. Walks it.
pub fn used_bytes(folder: &Path) -> u64 {
    disk::used(&folder.join(DATA))
}

/// Deletes the volumes in a [`place`]. False, and nothing happens, while a program has one of them.
pub fn delete(place: &Path) -> io::Result<bool> {
    let folders = match fs::read_dir(place) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut locks = Vec::new();
    for folder in &folders {
        match record::try_lock(folder)? {
            Some(lock) => locks.push(lock),
            None => return Ok(false),
        }
    }
    crate::tree::remove(place)?;
    // That of the deployment, unless it has others.
    if let Some(parent) = place.parent() {
        let _ = fs::remove_dir(parent);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(dir: &Path) -> Mount {
        Mount {
            name: "data".parse().unwrap(),
            folder: place(dir, &"db".parse().unwrap(), 0).join("data"),
            path: "/data".into(),
        }
    }

    #[test]
    fn a_volume_is_made_once_and_measured() {
        let dir = tempfile::tempdir().unwrap();
        let mount = mount(dir.path());
        mount.make().unwrap();
        fs::write(mount.data().join("file"), vec![1; 1 << 20]).unwrap();
        mount.make().unwrap();
        assert!(used_bytes(&mount.folder) >= 1 << 20);
        assert_eq!(mount.seen(true), Path::new("/data"));
        assert_eq!(mount.seen(false), mount.data());
    }

    #[test]
    fn one_at_a_time_has_it_and_nobody_deletes_it_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let mount = mount(dir.path());
        let place = mount.folder.parent().unwrap();
        mount.make().unwrap();
        let lock = mount.lock().unwrap();
        let refused = mount.lock().unwrap_err();
        assert!(refused.contains("'data' is in use"), "{refused}");
        assert!(!delete(place).unwrap());
        assert!(mount.data().exists());
        drop(lock);
        assert!(delete(place).unwrap());
        assert!(!dir.path().join("db").exists());
        assert!(delete(place).unwrap(), "once more is no error");
    }
}
