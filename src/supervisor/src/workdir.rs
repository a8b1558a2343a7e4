//! A copy of the artifact for each instance. Programs write where they run (caches, pid files, local
//! databases); the unpacked artifact is shared between instances and has to stay as it was uploaded.

use std::io;
use std::path::{Path, PathBuf};

use nebula_domain::InstanceId;

/// The folder of an instance.
pub fn place(work_dir: &Path, instance: InstanceId) -> PathBuf {
    work_dir.join(instance.to_string())
}

/// `<work dir>/<i-N>`, made from `tree`, or empty, unless it is there: a program that starts again finds its files.
pub fn prepare(work_dir: &Path, instance: InstanceId, tree: Option<&Path>) -> io::Result<PathBuf> {
    let own = place(work_dir, instance);
    if own.exists() {
        return Ok(own);
    }
    // Whole or not at all, also when the daemon ends in between; and in a folder of this call's own,
    // since one made by an earlier supervisor may still be at work.
    let partial = tempfile::Builder::new()
        .prefix(&format!("{instance}.partial-"))
        .tempdir_in(work_dir)?;
    let tree_copy = partial.path().join("tree");
    match tree {
        Some(tree) => copy(tree, &tree_copy)?,
        None => std::fs::create_dir(&tree_copy)?,
    }
    match std::fs::rename(&tree_copy, &own) {
        Err(_) if own.exists() => Ok(own),
        renamed => renamed.map(|()| own),
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

/// What lies in the folder, and of which instance; none: unfinished.
pub fn list(work_dir: &Path) -> io::Result<Vec<(Option<InstanceId>, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(work_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let instance = name.to_str().and_then(|name| name.parse().ok());
        found.push((instance, entry.path()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use nebula_drivers::tree;

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

        let own = prepare(&work, InstanceId(7), Some(&tree)).unwrap();
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
        prepare(&work, InstanceId(7), Some(&tree)).unwrap();
        assert_eq!(std::fs::read(own.join("data")).unwrap(), b"kept");

        let found = list(&work).unwrap();
        assert_eq!(found, [(Some(InstanceId(7)), own.clone())]);
        std::fs::set_permissions(own.join("bin"), std::fs::Permissions::from_mode(0o555)).unwrap();
        tree::remove(&own).unwrap();
        assert!(!own.exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
