//! Folders that outlive the instances which write in them.
//!
//! A volume's own folder, `<volumes>/<deployment>/<number>/<name>`, holds the folder that the program sees, `data`, and
//! a file, `lock`, which the shim of the instance that has the volume keeps locked (flock(2)) for as long as it lives.
//! A second instance cannot be started on it before, whatever daemon asks, and nothing is deleted under a program.
//!
//! What is to be deleted is first moved to `<volumes>/.deleting`, all at once: what was begun and not ended there is
//! finished by whoever comes next ([`finish`]), and is never mistaken for what has the same name since.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nebula_domain::names::{DeploymentName, VolumeName};
use serde::{Deserialize, Serialize};

use crate::confine::disk;
use crate::record;

const DATA: &str = "data";
/// No deployment's name begins with a dot.
const DELETING: &str = ".deleting";

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

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// Nothing is left, on the disk too.
    All,
    /// A program has one of them; nothing was touched.
    InUse,
    /// It was not to be deleted any more; nothing was touched.
    Unwanted,
}

/// Deletes the volumes in a [`place`]. `still_due` is asked last, when nobody can begin to use them: what is made there
/// afterwards is another's, and stays.
///
/// # Errors
/// What cannot be moved away or deleted; asking again goes on.
pub fn delete(
    volumes_dir: &Path,
    (deployment, ordinal): (&DeploymentName, u32),
    still_due: impl FnOnce() -> bool,
) -> io::Result<Deleted> {
    let place = place(volumes_dir, deployment, ordinal);
    let mut locks = Vec::new();
    for folder in entries(&place)? {
        match record::try_lock(&folder)? {
            Some(lock) => locks.push(lock),
            None => return Ok(Deleted::InUse),
        }
    }
    if !still_due() {
        return Ok(Deleted::Unwanted);
    }
    let aside = volumes_dir.join(DELETING);
    let of = format!("{deployment}.{ordinal}.");
    move_aside(&place, &aside, &of)?;
    for folder in entries(&aside)? {
        let name = folder.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with(&of)) {
            crate::tree::remove(&folder)?;
        }
    }
    Ok(Deleted::All)
}

/// Deletes what was moved away and not deleted when this node went down.
///
/// # Errors
/// The first thing that cannot be deleted.
pub fn finish(volumes_dir: &Path) -> io::Result<()> {
    crate::tree::remove(&volumes_dir.join(DELETING))
}

/// Durable when it returns: what was told as deleted does not come back with the power.
fn move_aside(place: &Path, aside: &Path, of: &str) -> io::Result<()> {
    let parent = place.parent().unwrap_or(aside);
    let mut private = DirBuilder::new();
    private.recursive(true).mode(0o700);
    // An earlier one that could not be deleted keeps its number.
    let free = |number: &u64| !aside.join(format!("{of}{number}")).exists();
    let Some(number) = (0..).find(free) else {
        return Err(io::Error::other("no name is free to move a volume to"));
    };
    if place.exists() {
        private.create(aside)?;
        fs::rename(place, aside.join(format!("{of}{number}")))?;
        File::open(aside)?.sync_all()?;
    }
    match File::open(parent) {
        Ok(folder) => folder.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    // That of the deployment, unless it has others.
    let _ = fs::remove_dir(parent);
    Ok(())
}

/// None of a folder that is not there.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
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
        let db = "db".parse().unwrap();
        let delete = || delete(dir.path(), (&db, 0), || true).unwrap();
        mount.make().unwrap();
        let lock = mount.lock().unwrap();
        let refused = mount.lock().unwrap_err();
        assert!(refused.contains("'data' is in use"), "{refused}");
        assert_eq!(delete(), Deleted::InUse);
        assert!(mount.data().exists());
        drop(lock);
        assert_eq!(delete(), Deleted::All);
        assert!(!dir.path().join("db").exists());
        assert_eq!(delete(), Deleted::All, "once more is no error");
    }

    #[test]
    fn what_is_not_to_be_deleted_any_more_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mount = mount(dir.path());
        mount.make().unwrap();
        let db = "db".parse().unwrap();
        let locked = || {
            assert!(mount.lock().is_err(), "nobody begins to use it meanwhile");
            false
        };
        let kept = delete(dir.path(), (&db, 0), locked).unwrap();
        assert_eq!(kept, Deleted::Unwanted);
        assert!(mount.data().exists());
        assert!(mount.lock().is_ok());
    }

    /// The daemon was killed after the folder was moved away and before it was deleted.
    #[test]
    fn what_was_begun_is_finished_and_what_was_made_since_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mount = mount(dir.path());
        mount.make().unwrap();
        fs::write(mount.data().join("old"), "1").unwrap();
        let aside = dir.path().join(DELETING);
        move_aside(mount.folder.parent().unwrap(), &aside, "db.0.").unwrap();
        mount.make().unwrap();
        fs::write(mount.data().join("new"), "2").unwrap();

        finish(dir.path()).unwrap();
        assert!(!aside.exists());
        assert!(!mount.data().join("old").exists());
        assert!(mount.data().join("new").exists());
        finish(dir.path()).unwrap();
    }

    #[test]
    fn what_could_not_be_deleted_before_goes_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let mount = mount(dir.path());
        let place = mount.folder.parent().unwrap();
        let aside = dir.path().join(DELETING);
        for _ in 0..2 {
            mount.make().unwrap();
            move_aside(place, &aside, "db.0.").unwrap();
        }
        fs::create_dir(aside.join("db.01.0")).unwrap();
        let db = "db".parse().unwrap();
        let deleted = delete(dir.path(), (&db, 0), || true).unwrap();
        assert_eq!(deleted, Deleted::All);
        assert_eq!(entries(&aside).unwrap(), [aside.join("db.01.0")]);
    }
}
