//! One daemon for a data folder: an advisory lock that the kernel drops with the process.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::files::LOCK_FILE;

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("a daemon (pid {pid}) already runs on {}: stop it first", data_dir.display())]
    Held { data_dir: PathBuf, pid: String },
    #[error("cannot lock the data folder {}", data_dir.display())]
    Io {
        data_dir: PathBuf,
        source: std::io::Error,
    },
}

/// Held for as long as the daemon runs. The file holds its pid, for people and for `nodectl`.
pub(crate) struct Lock(#[allow(dead_code, reason = "held, not read")] Flock<File>);

fn open(data_dir: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(data_dir.join(LOCK_FILE))
}

pub(crate) fn take(data_dir: &Path) -> Result<Lock, LockError> {
    let io = |source| LockError::Io {
        data_dir: data_dir.to_owned(),
        source,
    };
    let file = open(data_dir).map_err(io)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            file.set_len(0).map_err(io)?;
            file.rewind().map_err(io)?;
            writeln!(file, "{}", std::process::id()).map_err(io)?;
            Ok(Lock(file))
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            Err(LockError::Held {
                data_dir: data_dir.to_owned(),
                pid: pid.trim().to_owned(),
            })
        }
        Err((_, errno)) => Err(io(errno.into())),
    }
}

/// The pid of the daemon that runs on the data folder, if one does.
pub fn daemon_pid(data_dir: &Path) -> Option<u32> {
    match take_shared(data_dir)? {
        Ok(_free) => None,
        Err(pid) => pid,
    }
}

/// `Err` with the holder's pid when the lock is held; `None` when there is no lock file.
fn take_shared(data_dir: &Path) -> Option<Result<Flock<File>, Option<u32>>> {
    let file = OpenOptions::new()
        .read(true)
        .open(data_dir.join(LOCK_FILE))
        .ok()?;
    Some(
        Flock::lock(file, FlockArg::LockSharedNonblock).map_err(|(mut file, _)| {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            pid.trim().parse().ok()
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_who_holds_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(daemon_pid(dir.path()), None);
        let held = take(dir.path()).unwrap();
        assert_eq!(daemon_pid(dir.path()), Some(std::process::id()));
        let Err(error) = take(dir.path()) else {
            panic!("locked twice")
        };
        assert!(error.to_string().contains(&std::process::id().to_string()));
        drop(held);
        assert_eq!(daemon_pid(dir.path()), None);
        take(dir.path()).unwrap();
    }
}
