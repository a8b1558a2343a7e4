//! The small files in an instance's folder, by which daemon and shim know of each other:
//!
//! | file | written by | says |
//! |---|---|---|
//! | `spec.json` | daemon | what to run. Mode 0600, and deleted by the shim once read: the environment may be private. Secrets of the cluster are never in it |
//! | `state.json` | shim | what runs, and which processes it is |
//! | `stop.json` | daemon | the grace that goes with a SIGTERM to the shim |
//! | `exit.json` | shim, or the daemon for it | how the run ended |
//! | `lock` | shim | locked for as long as the shim lives: one shim for each folder |
//!
//! Each is replaced as a whole (written aside, then renamed), so a reader never sees half of one.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nebula_domain::ids::{InstanceId, ReleaseNumber};
use nebula_domain::names::DeploymentName;
use nebula_domain::time::Millis;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::confine::cgroup::Groups;
use crate::confine::{Controls, Plan};
use crate::driver::{Exit, StartSpec};
use crate::image::Image;
use crate::logfile::Bounds;
use crate::procfs::ProcessId;

pub(crate) const SPEC: &str = "spec.json";
pub(crate) const STATE: &str = "state.json";
pub(crate) const STOP: &str = "stop.json";
pub(crate) const EXIT: &str = "exit.json";
const LOCK: &str = "lock";

#[derive(Serialize, Deserialize)]
pub(crate) struct SpecRecord {
    pub start: StartSpec,
    /// In the environment of everything the run starts, so that it can be found again.
    pub token: String,
    /// How much of its output is kept.
    #[serde(default)]
    pub output: Bounds,
    pub plan: Plan,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateRecord {
    pub instance: InstanceId,
    pub run: u64,
    pub deployment: DeploymentName,
    pub release: ReleaseNumber,
    pub port: Option<u16>,
    /// Ports of other deployments that it may connect to; empty in a record of an older version.
    #[serde(default)]
    pub reach: Vec<u16>,
    /// Where the program was started; empty in a record of an older version.
    #[serde(default)]
    pub workdir: PathBuf,
    /// What the program sees in place of the machine's files.
    #[serde(default)]
    pub image: Option<Image>,
    pub started_at: Millis,
    pub token: String,
    /// A process id means nothing after the machine went down.
    pub boot_id: String,
    pub shim: ProcessId,
    /// Leader of the program's session; none while it is being started.
    pub program: Option<ProcessId>,
    /// Empty in records of shims from before there were any.
    #[serde(default)]
    pub groups: Groups,
    #[serde(default)]
    pub isolation: Controls,
    /// By which a command beside the program is confined; none in a record of an older version.
    #[serde(default)]
    pub plan: Option<Plan>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExitRecord {
    pub run: u64,
    pub exit: Exit,
    pub at: Millis,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StopRecord {
    pub grace: Duration,
}

/// Where a file is written before it takes its place.
pub(crate) fn aside(name: &str) -> String {
    format!("{name}.new")
}

/// Replaces `dir/name`.
pub(crate) fn write<T: Serialize>(dir: &Path, name: &str, record: &T) -> io::Result<()> {
    let (aside, _) = write_aside(dir, name, record)?;
    fs::rename(&aside, dir.join(name))
}

/// The same; it is there too when the machine loses its power right after.
pub(crate) fn write_synced<T: Serialize>(dir: &Path, name: &str, record: &T) -> io::Result<()> {
    let (aside, file) = write_aside(dir, name, record)?;
    file.sync_all()?;
    fs::rename(&aside, dir.join(name))?;
    File::open(dir)?.sync_all()
}

fn write_aside<T: Serialize>(dir: &Path, name: &str, record: &T) -> io::Result<(PathBuf, File)> {
    let aside = dir.join(self::aside(name));
    // A leftover could have another mode.
    remove(dir, &self::aside(name))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    Ok((aside, file))
}

/// `None` when there is no such file, or it is not of our making (such as cut by a crash).
pub(crate) fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<Option<T>> {
    match fs::read(dir.join(name)) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn remove(dir: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(dir.join(name)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The folder's lock, or `None` while another process has it.
pub(crate) fn try_lock(dir: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Every instance's folder.
pub(crate) fn instance_dirs(
    instances_dir: &Path,
) -> io::Result<Vec<(InstanceId, std::path::PathBuf)>> {
    let entries = match fs::read_dir(instances_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some(id) = entry.file_name().to_str().and_then(|n| n.parse().ok()) {
            found.push((id, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}
