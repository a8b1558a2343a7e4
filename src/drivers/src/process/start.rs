//! Starting a shim and hearing from it how the start went.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use nebula_domain::ids::InstanceId;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::walled::Walled;
use super::{Inner, blocking, recorded, sweep, write_down};
use crate::driver::{DriverError, Exit, RunStatus, Secrets, StartSpec};
use crate::record::{self, SpecRecord, StateRecord};
use crate::shim::{BUSY, STARTED};

/// More than any report has.
const REPORT_BYTES: u64 = 4 * 1024;
/// A marker for [`Inner::starting`], taken back when the start is over, however it ends.
struct Starting<'a>(&'a Inner, InstanceId);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.starting.send_modify(|set| {
            set.remove(&self.1);
        });
    }
}

/// Takes the request away when the start is over, however it ends: it holds what the program has for an environment, and
/// a shim that was not started, or was busy, leaves it.
struct Asked<'a>(&'a Path);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        for name in [record::SPEC.to_owned(), record::aside(record::SPEC)] {
            if let Err(error) = record::remove(self.0, &name) {
                tracing::warn!(folder = %self.0.display(), %error, "{name} was not deleted");
            }
        }
    }
}

impl Inner {
    pub(super) async fn start(self: Arc<Self>, spec: StartSpec) -> Result<(), DriverError> {
        let instance = spec.instance;
        let first = self.starting.send_if_modified(|set| set.insert(instance));
        if !first {
            return Err(DriverError::AlreadyRuns(instance));
        }
        let _starting = Starting(&self, instance);
        if self.is_running(instance) {
            return Err(DriverError::AlreadyRuns(instance));
        }
        let dir = self.dir_of(instance);
        let token = format!("{:032x}", self.random.u128());
        let _asked = Asked(&dir);
        let (prepared, own) = (dir.clone(), token.clone());
        let output = self.output;
        let secrets = spec.secrets.clone();
        let (asking, asked) = (self.clone(), spec.clone());
        let plan = blocking(move || asking.plan(&asked)).await?;
        let _walled = Walled(&self, instance);
        let plan = self.wall(&spec, plan).await?;
        blocking(move || {
            let record = SpecRecord {
                start: spec,
                token: own,
                output,
                plan,
            };
            prepare(&prepared, &record)
        })
        .await?;

        let mut child = self.spawn(&dir)?;
        let started = async {
            hand_over(&mut child, &secrets).await;
            report(&mut child).await
        };
        let report = tokio::time::timeout(self.report_within, started).await;
        let silent = report.as_ref().map_or(true, String::is_empty);
        // Nobody knows how far it came: from here on it comes no further, and what it has written down is its last word.
        if silent && let Err(error) = child.kill().await {
            tracing::warn!(%instance, %error, "a silent shim could not be killed");
        }
        let state: Option<StateRecord> = record::read(&dir, record::STATE)
            .map_err(DriverError::io("cannot read an instance's folder", &dir))?;
        let ours = state.filter(|state| state.token == token);
        match (report, ours) {
            (Ok(report), Some(state)) if report == STARTED => {
                self.list(instance, &state, RunStatus::Running);
                self.watch_end(instance, state, Some(child));
                Ok(())
            }
            (Ok(report), _) if report == BUSY => {
                // Started by a daemon that did not live to see it: from now on it is known.
                let _ = child.wait().await;
                self.adopt(instance, &dir)?;
                Err(DriverError::AlreadyRuns(instance))
            }
            (Ok(report), _) if !silent => {
                let _ = child.wait().await;
                Err(DriverError::Start(report))
            }
            (report, ours) => {
                // A shim writes this before it forks the program.
                if let Some(state) = ours {
                    self.begun_unseen(instance, state).await?;
                }
                Err(match report {
                    Ok(_) => DriverError::Start(
                        "the instance's parent process ended without a word".to_owned(),
                    ),
                    Err(_) => DriverError::StartTimeout(instance, self.report_within),
                })
            }
        }
    }

    /// The program may have begun, and nobody can say: it is ended, and listed as a run that was.
    async fn begun_unseen(
        &self,
        instance: InstanceId,
        state: StateRecord,
    ) -> Result<(), DriverError> {
        let (dir, now) = (self.dir_of(instance), self.clock.now());
        let (state, status) = blocking(move || {
            // A shim that came as far has the last word.
            let status = match recorded(&dir, &state) {
                Ok(Some(status)) => status,
                Ok(None) | Err(_) => {
                    sweep::end_leftovers(&state, sweep::Found::AtOnce);
                    write_down(&dir, &state, Exit::Unheard, now)
                }
            };
            Ok((state, status))
        })
        .await?;
        self.list(instance, &state, status);
        Ok(())
    }

    fn spawn(&self, dir: &Path) -> Result<Child, DriverError> {
        let mut command = self.helper(dir)?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command.spawn().map_err(DriverError::io(
            "cannot start an instance's parent process",
            dir,
        ))
    }

    /// The shim's own program, for an instance.
    pub(super) fn helper(&self, dir: &Path) -> Result<Command, DriverError> {
        let Some((program, arguments)) = self.shim.split_first() else {
            return Err(DriverError::Start("no shim is configured".to_owned()));
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg(dir)
            // It must keep no folder of the daemon's busy, and none of its secrets.
            .current_dir("/")
            .env_clear()
            .stdin(Stdio::null());
        for name in crate::shim::PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        Ok(command)
    }
}

fn prepare(dir: &Path, spec: &SpecRecord) -> Result<(), DriverError> {
    let bad = |e| DriverError::io("cannot prepare an instance's folder", dir)(e);
    // What an instance prints is for the node's user only.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(bad)?;
    for volume in &spec.start.volumes {
        volume
            .make()
            .map_err(DriverError::io("cannot make a volume", &volume.folder))?;
    }
    record::write(dir, record::SPEC, spec).map_err(bad)
}

/// What must not lie on a disk. A shim that does not listen ends, and says why.
async fn hand_over(child: &mut Child, secrets: &Secrets) {
    let (Some(mut pipe), Ok(bytes)) = (child.stdin.take(), serde_json::to_vec(&secrets.0)) else {
        return;
    };
    let _ = pipe.write_all(&bytes).await;
}

/// The one line a shim says, without its newline; empty when it ended without a word.
async fn report(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(stdout) = child.stdout.take() {
        // What is not readable is not "started".
        let _ = stdout.take(REPORT_BYTES).read_to_string(&mut text).await;
    }
    text.trim_end().to_owned()
}

/// SIGKILL for a shim; its program follows by the parent-death signal.
pub(super) fn kill(state: &StateRecord) {
    if let Err(error) = state.shim.signal(Signal::KILL) {
        tracing::warn!(instance = %state.instance, %error, "a shim could not be killed");
    }
}
