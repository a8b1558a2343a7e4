//! What lies where in a data folder, and writing a private file whole or not at all.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// `nodectl` and `nebula` on this machine reach the API here without a token.
pub const API_SOCKET: &str = "api.sock";
/// Points other machines' CLIs at the cluster; holds a token.
pub const CLUSTER_FILE: &str = "cluster.json";
pub const INSTANCES_DIR: &str = "instances";
/// Output of instances that are gone, and copies of other nodes'.
pub(crate) const LOGS_DIR: &str = "logs";
/// Requests of deployments whose policy wants them written down.
pub(crate) const ACCESS_LOG: &str = "access.log";
pub(crate) const ARTIFACTS_DIR: &str = "artifacts";
pub(crate) const REGISTRY_DIR: &str = "registry";
/// One folder for each running instance's program to run in.
pub(crate) const WORK_DIR: &str = "work";
/// Members at the time of joining.
pub(crate) const PEERS_FILE: &str = "peers.json";
/// The first node's first proposal, until it has been made.
pub(crate) const BOOTSTRAP_FILE: &str = "bootstrap.json";
/// Which port leads to which deployment that programs here depend on.
pub(crate) const BRIDGES_FILE: &str = "bridges.json";
pub(crate) const LOCK_FILE: &str = "lock";

/// Makes a folder, and those above it, that only its owner may enter; one that exists is left as it is.
pub fn private_dir(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Writes a file that only its owner may read, durably: a reader or a crash sees all of it or none. Two
/// processes may write the same one.
pub fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    match std::fs::remove_file(&temporary) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    std::fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn private_files_are_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/secret.json");
        private_dir(path.parent().unwrap()).unwrap();
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );
    }
}
