//! Which ports this user's other `dev` clusters count on, also while none of their daemons runs.
//!
//! A look at what is bound is not enough: a cluster's third node starts seconds after its ports were chosen, and a
//! daemon that was killed is to come back where it was. A claim is a symbolic link from the first of a node's ports to
//! the folder of its cluster, and holds as long as that folder is there.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use nebula_node::private_dir;

use crate::error::{CliError, Outcome};

const LOCK: &str = "lock";

/// Held while ports are chosen, so that two clusters choose one after the other.
pub struct Claims {
    dir: PathBuf,
    _lock: File,
}

impl Claims {
    /// Those of this user, whose claims another user can neither make nor take away.
    pub fn of_this_user() -> Outcome<Claims> {
        let user = nix::unistd::geteuid();
        Claims::open(std::env::temp_dir().join(format!("nebula-dev-ports-{user}")))
    }

    fn open(dir: PathBuf) -> Outcome<Claims> {
        let failed =
            |e: &std::io::Error| CliError::io(format!("cannot note ports in {}", dir.display()), e);
        private_dir(&dir).map_err(|e| failed(&e))?;
        // Where everybody may write, somebody else may have been first.
        let found = dir.symlink_metadata().map_err(|e| failed(&e))?;
        let ours = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw();
        if !ours || found.mode() & 0o077 != 0 {
            return Err(failed(&ErrorKind::PermissionDenied.into()));
        }
        let lock = File::create(dir.join(LOCK)).map_err(|e| failed(&e))?;
        lock.lock().map_err(|e| failed(&e))?;
        Ok(Claims { dir, _lock: lock })
    }

    fn path(&self, port: u16) -> PathBuf {
        self.dir.join(port.to_string())
    }

    /// Whether another cluster's node counts on the ports from this one on.
    pub fn holds(&self, port: u16) -> bool {
        self.path(port).exists()
    }

    /// Notes the ports from this one on for the cluster in `home`, in place of one that is gone.
    pub fn add(&self, port: u16, home: &Path) -> Outcome {
        let path = self.path(port);
        let made = match std::fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => symlink(home, &path),
        };
        made.map_err(|e| CliError::io(format!("cannot note ports in {}", self.dir.display()), &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_others_may_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(dir.path(), open).unwrap();
        assert!(Claims::open(dir.path().to_owned()).is_err());
        let link = dir.path().join("link");
        symlink("/", &link).unwrap();
        assert!(Claims::open(link).is_err());
    }

    #[test]
    fn a_claim_holds_as_long_as_its_cluster_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let home = tempfile::tempdir().unwrap();
        let claims = Claims::open(dir.path().join("claims")).unwrap();
        assert!(!claims.holds(10_000));
        claims.add(10_000, home.path()).unwrap();
        assert!(claims.holds(10_000));
        assert!(!claims.holds(10_004));
        drop(home);
        assert!(!claims.holds(10_000));
        claims.add(10_000, dir.path()).unwrap();
        assert!(claims.holds(10_000));
    }
}
