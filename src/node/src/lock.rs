//! One daemon for a data folder: an advisory lock that the kernel drops with the process.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::files::LOCK_FILE;

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("a process (pid {pid}) already runs on {}, a daemon or 'nodectl recover': end it first", data_dir.display())]
    Held { data_dir: PathBuf, pid: String },
    #[error("cannot lock the data folder {}", data_dir.display())]
    Io {
        data_dir: PathBuf,
        source: std::io::Error,
    },
}

/// Held for as long as the daemon runs. The file holds its pid, for people and for `nodectl`.
pub(crate) struct Lock {
    #[allow(dead_code, reason = "the lock goes when the file is closed")]
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Removes the file while it is still held: whoever has it open already finds, once it has the lock, that
    /// it holds a file without a name, and opens the next one.
    pub(crate) fn discard(self) -> std::io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

pub(crate) fn take(data_dir: &Path) -> Result<Lock, LockError> {
    let io = |source| LockError::Io {
        data_dir: data_dir.to_owned(),
        source,
    };
    let path = data_dir.join(LOCK_FILE);
    loop {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io)?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file())) {
            Ok(_) if is_at(&file, &path).map_err(io)? => {
                write_pid(&mut file).map_err(io)?;
                return Ok(Lock { file, path });
            }
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => {
                return Err(LockError::Held {
                    data_dir: data_dir.to_owned(),
                    pid: read_pid(&mut file)
                        .map_or_else(|| "unknown".to_owned(), |p| p.to_string()),
                });
            }
            Err(errno) => return Err(io(errno.into())),
        }
    }
}

/// The pid of the daemon that runs on the data folder, if one does. Only looks: a daemon that starts at this
/// moment is not kept from the lock.
pub fn daemon_pid(data_dir: &Path) -> Option<u32> {
    let mut file = File::open(data_dir.join(LOCK_FILE)).ok()?;
    let mut lock = whole_file();
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).ok()?;
    let held = i32::from(lock.l_type) != libc::F_UNLCK;
    held.then(|| read_pid(&mut file)).flatten()
}

/// An exclusive lock of the open file, not of the process: fcntl(2), "Open file description locks".
fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Whether the open file is the one with this name.
fn is_at(file: &File, path: &Path) -> std::io::Result<bool> {
    let open = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((open.dev(), open.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Over the former one, so that the file is never empty in between.
fn write_pid(file: &mut File) -> std::io::Result<()> {
    let pid = format!("{}\n", std::process::id());
    file.rewind()?;
    file.write_all(pid.as_bytes())?;
    file.set_len(pid.len() as u64)
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut pid = String::new();
    file.read_to_string(&mut pid).ok()?;
    pid.lines().next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

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

    #[test]
    fn looking_for_a_daemon_keeps_none_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        drop(take(dir.path()).unwrap());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    daemon_pid(dir.path());
                }
            });
            let starts = (0..2000).map(|_| take(dir.path()).map(drop));
            let refused = starts.filter(Result::is_err).count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(refused, 0);
        });
    }

    #[test]
    fn a_file_that_was_discarded_locks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path()).unwrap();
        first.discard().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let _second = take(dir.path()).unwrap();
        assert!(take(dir.path()).is_err());
    }
}
