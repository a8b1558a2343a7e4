//! A copy of the artifact for each instance. Programs write where they run (caches, pid files, local
//! databases); the unpacked artifact is shared between instances and has to stay as it was uploaded.

use std::io;
use std::path::{Path, PathBuf};

use nebula_domain::InstanceId;

/// `<work dir>/<i-N>`, made from `tree` unless it is there: a program that starts again finds its files.
pub fn prepare(work_dir: &Path, instance: InstanceId, tree: &Path) -> io::Result<PathBuf> {
    let own = work_dir.join(instance.to_string());
    if own.exists() {
        return Ok(own);
    }
    // Whole or not at all, also when the daemon ends in between.
    let partial = work_dir.join(format!("{instance}.partial"));
    remove_if_there(&partial)?;
    copy(tree, &partial)?;
    std::fs::rename(&partial, &own)?;
    Ok(own)
}

/// Deletes what an instance that is gone has left.
pub fn remove(work_dir: &Path, instance: InstanceId) -> io::Result<()> {
    remove_if_there(&work_dir.join(instance.to_string()))?;
    remove_if_there(&work_dir.join(format!("{instance}.partial")))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Folders, files with their modes (by reflink where the file system can), links as they are.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&source)?, &target)?;
        } else {
            std::fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// Deletes the copies of instances that are not among `wanted`.
pub fn sweep(work_dir: &Path, wanted: impl Fn(InstanceId) -> bool) -> io::Result<()> {
    for entry in std::fs::read_dir(work_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.parse().ok());
        if !id.is_some_and(&wanted) {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_copy_is_the_instances_own_and_survives_a_restart() {
        let dir = std::env::temp_dir().join(format!("nebula-workdir-{}", std::process::id()));
        let (tree, work) = (dir.join("tree"), dir.join("work"));
        std::fs::create_dir_all(tree.join("bin")).unwrap();
        std::fs::create_dir_all(&work).unwrap();
        std::fs::write(tree.join("bin/run"), "#!").unwrap();
        std::fs::set_permissions(tree.join("bin/run"), std::fs::Permissions::from_mode(0o755))
            .unwrap();
        std::os::unix::fs::symlink("bin/run", tree.join("start")).unwrap();

        let own = prepare(&work, InstanceId(7), &tree).unwrap();
        assert_eq!(
            std::fs::read_link(own.join("start")).unwrap(),
            Path::new("bin/run")
        );
        assert_eq!(
            std::fs::metadata(own.join("start"))
                .unwrap()
                .permissions()
                .mode()
                & 0o111,
            0o111
        );
        std::fs::write(own.join("data"), "kept").unwrap();
        assert!(!tree.join("data").exists());
        prepare(&work, InstanceId(7), &tree).unwrap();
        assert_eq!(std::fs::read(own.join("data")).unwrap(), b"kept");

        sweep(&work, |id| id == InstanceId(7)).unwrap();
        assert!(own.exists());
        sweep(&work, |_| false).unwrap();
        assert!(!own.exists());
        remove(&work, InstanceId(7)).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
