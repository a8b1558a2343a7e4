//! The trait that every way of running programs implements, and its vocabulary.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nebula_domain::ids::{InstanceId, ReleaseNumber};
use nebula_domain::isolation::Isolation;
use nebula_domain::names::DeploymentName;
use nebula_domain::observed::signal_name;
use nebula_domain::resources::{Disk, Memory, Resources};
use nebula_domain::time::Millis;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::confine::{Controls, Usage};
use crate::image::Image;
use crate::volume::Mount;

/// Runs programs. What runs is a value to watch, so a supervisor that is made anew misses nothing.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// Starts one run of an instance; `Ok` means that the program's parent has started it, not
    /// that it is well. The run is in [`Driver::runs`] before this returns. Dropping the future
    /// does not take the start back.
    ///
    /// # Errors
    /// [`DriverError::AlreadyRuns`] when an earlier run of the instance has not ended. After an error the run is in
    /// [`Driver::runs`] all the same if its program may have begun: then it has ended, or is another's.
    async fn start(&self, spec: StartSpec) -> Result<(), DriverError>;

    /// Asks for an end: SIGTERM now, SIGKILL after `grace`, for the program and everything it
    /// started. Returns once asked; the end shows in [`Driver::runs`]. Asking again can shorten
    /// the grace and never lengthens it. An instance that does not run is no error.
    async fn stop(&self, instance: InstanceId, grace: Duration) -> Result<(), DriverError>;

    /// Returns once no start is on its way: whatever was asked for shows in [`Driver::runs`].
    async fn starts_done(&self) {}

    /// The latest run of every instance that has not been removed, those from before a restart of
    /// the daemon included.
    fn runs(&self) -> watch::Receiver<Arc<Runs>>;

    /// Instances that left something and have no run: their start came to nothing, or what it wrote
    /// down was lost. [`Driver::remove`] deletes it.
    fn leftovers(&self) -> Vec<InstanceId>;

    /// Forgets an ended instance and deletes what it left; a driver may keep its output elsewhere. An
    /// unknown instance is no error.
    ///
    /// # Errors
    /// [`DriverError::AlreadyRuns`] when it has not ended.
    async fn remove(&self, instance: InstanceId) -> Result<(), DriverError>;

    /// What an instance uses now, as far as this machine counts it. Reads some small files.
    fn usage(&self, _instance: InstanceId) -> Option<Usage> {
        None
    }

    /// Adds a line of the platform's own to the instance's output. Best effort.
    fn note(&self, instance: InstanceId, text: &str);
}

/// The latest run of each instance.
pub type Runs = BTreeMap<InstanceId, Run>;

/// What to run.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartSpec {
    pub instance: InstanceId,
    /// Counts the starts of this instance, from 1.
    pub run: u64,
    pub deployment: DeploymentName,
    pub release: ReleaseNumber,
    /// This node's name, for the program's `NEBULA_NODE`.
    pub node: String,
    /// Handed to `/bin/sh -c`; empty: the image's own.
    pub command: String,
    pub env: BTreeMap<String, String>,
    /// The working directory: the unpacked artifact, or the instance's copy of its image's.
    pub workdir: PathBuf,
    /// The files that the program sees in place of the machine's.
    #[serde(default)]
    pub image: Option<Image>,
    /// On 127.0.0.1; the program's `PORT`. None: it listens nowhere.
    pub port: Option<u16>,
    /// Ports on 127.0.0.1 that lead to what it depends on: of Nebula's own, it may connect to these besides the ports of its
    /// deployment.
    #[serde(default)]
    pub reach: Vec<u16>,
    /// From SIGTERM to SIGKILL when a stop does not say.
    pub stop_grace: Duration,
    pub resources: Resources,
    pub isolation: Isolation,
    /// What it finds again; see [`crate::volume`].
    #[serde(default)]
    pub volumes: Vec<Mount>,
    /// More environment variables, which are never written down: the shim is told them by a pipe.
    #[serde(skip)]
    pub secrets: Secrets,
}

impl StartSpec {
    /// Where the program finds its work folder.
    pub(crate) fn seen(&self) -> &Path {
        match &self.image {
            Some(image) => &image.workdir,
            None => &self.workdir,
        }
    }
}

/// Environment variables whose values are secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(pub BTreeMap<String, String>);

/// Names only.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Names of variables only: values and arguments may hold secrets.
impl fmt::Debug for StartSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartSpec")
            .field("instance", &self.instance)
            .field("run", &self.run)
            .field("deployment", &self.deployment)
            .field("release", &self.release)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("workdir", &self.workdir)
            .field("image", &self.image)
            .field("port", &self.port)
            .field("reach", &self.reach)
            .field("resources", &self.resources)
            .field("isolation", &self.isolation)
            .field("volumes", &self.volumes)
            .field("secrets", &self.secrets)
            .finish_non_exhaustive()
    }
}

/// One run of an instance's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub run: u64,
    pub deployment: DeploymentName,
    pub release: ReleaseNumber,
    pub port: Option<u16>,
    pub started_at: Millis,
    pub status: RunStatus,
    /// What holds of its limits and its isolation, and what does not.
    pub isolation: Controls,
}

impl Run {
    pub fn is_running(&self) -> bool {
        self.status == RunStatus::Running
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunStatus {
    Running,
    /// The program and everything it had started are gone.
    Ended {
        exit: Exit,
        at: Millis,
    },
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// The kernel killed it for memory: over this limit, or, without one, because the machine had none left.
    OutOfMemory {
        limit: Option<Memory>,
    },
    /// It had more in its folder than this limit.
    OutOfDisk {
        limit: Disk,
    },
    /// Its parent was killed, so nobody saw the end.
    Unseen,
    /// The machine went down while it ran.
    Reboot,
    /// Its parent did not tell in time that it had begun: both were killed.
    Unheard,
}

impl Exit {
    pub fn is_success(self) -> bool {
        self == Exit::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // POSIX.1-2017, "Shell Command Language", 2.8.2: what sh says of a command it cannot run.
            Exit::Code(127) => f.write_str("exited with code 127 (command not found)"),
            Exit::Code(126) => f.write_str("exited with code 126 (the command is not executable)"),
            Exit::Code(code) => write!(f, "exited with code {code}"),
            Exit::Signal(number) => match signal_name(*number) {
                Some(name) => write!(f, "killed by {name}"),
                None => write!(f, "killed by signal {number}"),
            },
            Exit::OutOfMemory { limit: Some(limit) } => {
                write!(f, "killed: out of memory (limit {limit})")
            }
            Exit::OutOfMemory { limit: None } => {
                f.write_str("killed: out of memory (the machine had none left)")
            }
            Exit::OutOfDisk { limit } => write!(f, "killed: out of disk (limit {limit})"),
            Exit::Unseen => f.write_str("ended with its parent process, which was killed"),
            Exit::Reboot => f.write_str("ended when the machine went down"),
            Exit::Unheard => f.write_str("killed: nobody was told in time whether it had begun"),
        }
    }
}

/// Why a driver could not do as asked. Never holds a variable's value.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error("{0} already runs")]
    AlreadyRuns(InstanceId),
    #[error("{what} ({path})")]
    Io {
        what: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Start(String),
    #[error("{0} does not run")]
    NotRunning(InstanceId),
    /// A command beside a program; what it said, or how it ended.
    #[error("{0}")]
    Command(String),
    #[error("the command did not end within {} ms{}", .limit.as_millis(), after(.said))]
    CommandTimeout {
        limit: Duration,
        /// What it had said by then.
        said: String,
    },
    #[error("the parent process of {0} did not report within {1:?}")]
    StartTimeout(InstanceId, Duration),
}

/// `: what was said`.
fn after(said: &str) -> String {
    match said {
        "" => String::new(),
        said => format!(": {said}"),
    }
}

impl DriverError {
    pub(crate) fn io(
        what: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> DriverError {
        let path = path.display().to_string();
        move |source| DriverError::Io { what, path, source }
    }
}
