//! Programs as processes of this machine, each under a shim of its own (see [`crate::shim`]).
//!
//! The folder is the truth: everything a driver knows is read from it when it is opened, so a
//! daemon that was restarted or killed finds its instances again. A shim is known by process id,
//! start time and boot id. Should a shim be killed, its program dies with it (parent-death signal)
//! and the rest is found by a token in the environment; see [`sweep`].

mod confined;
mod down;
mod exec;
mod start;
mod sweep;
mod walled;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use nebula_domain::ids::InstanceId;
use nebula_domain::time::Millis;
use nebula_telemetry::{Clock, Random};
use rustix::process::Signal;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::confine::cgroup::Place;
use crate::confine::{self, Usage};
use crate::driver::{Driver, DriverError, Exit, Run, RunStatus, Runs, StartSpec};
use crate::firewall::{self, Firewall};
use crate::logfile::{self, Bounds};
use crate::procfs;
use crate::record::{self, ExitRecord, StateRecord, StopRecord};

pub use down::{Down, stop_everything};

/// Where an adopted shim's end cannot be awaited (no pidfd), it is looked for this often.
const POLL: Duration = Duration::from_millis(250);

/// A shim that has not reported by then is in trouble even on a machine that swaps.
pub const REPORT_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Config {
    /// `<instances dir>/<i-N>/` for every instance. Made when missing.
    pub dir: PathBuf,
    /// The program that becomes a shim, with its first arguments; the instance's folder follows.
    pub shim: Vec<OsString>,
    /// How much of each instance's output is kept.
    pub output: Bounds,
    /// Where the output of removed instances goes; none: it is deleted with them.
    pub kept_dir: Option<PathBuf>,
    pub confine: confine::Settings,
    /// A start that is not heard of by then has failed.
    pub report_within: Duration,
    /// Rules of the machine's network; none: instances reach all that listens on it. Without root there are none either.
    pub firewall: Option<firewall::Config>,
}

impl Config {
    /// This executable's own `shim` subcommand, and default settings.
    pub fn own(dir: PathBuf) -> std::io::Result<Config> {
        let exe = std::env::current_exe()?.into_os_string();
        // As Linux shows an executable that was replaced: its successor has the old name.
        let exe = match exe.to_str().and_then(|e| e.strip_suffix(" (deleted)")) {
            Some(path) => OsString::from(path),
            None => exe,
        };
        Ok(Config {
            dir,
            shim: vec![exe, "shim".into()],
            output: Bounds::default(),
            kept_dir: None,
            confine: confine::Settings::default(),
            report_within: REPORT_WITHIN,
            firewall: None,
        })
    }
}

/// Dropping it leaves everything running.
pub struct ProcessDriver {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    shim: Vec<OsString>,
    output: Bounds,
    kept_dir: Option<PathBuf>,
    report_within: Duration,
    clock: Clock,
    random: Random,
    settings: confine::Settings,
    place: Place,
    firewall: Option<Firewall>,
    /// Held while the users of deployments are read and changed.
    users: Mutex<()>,
    runs: watch::Sender<Arc<Runs>>,
    /// Instances with a start on its way; stops and removals wait for it.
    starting: watch::Sender<BTreeSet<InstanceId>>,
    /// One for each shim that runs. They end with the driver.
    watchers: Mutex<JoinSet<()>>,
}

impl ProcessDriver {
    /// Adopts what runs in `config.dir`. To be called within a tokio runtime. A folder in it that cannot be
    /// read is left alone: it must not keep the node from running the others.
    ///
    /// # Errors
    /// `config.dir` itself cannot be made or read.
    pub fn open(
        config: Config,
        clock: Clock,
        random: Random,
    ) -> Result<ProcessDriver, DriverError> {
        std::fs::create_dir_all(&config.dir).map_err(DriverError::io(
            "cannot make the instances' folder",
            &config.dir,
        ))?;
        // Shims have another working directory.
        let dir = config.dir.canonicalize().map_err(DriverError::io(
            "cannot resolve the instances' folder",
            &config.dir,
        ))?;
        let found = record::instance_dirs(&dir)
            .map_err(DriverError::io("cannot read the instances' folder", &dir))?;
        let place = confined::place(&config.confine, &dir)
            .map_err(DriverError::io("cannot read the instances' folder", &dir))?;
        let is_root = nix::unistd::geteuid().is_root();
        if config.firewall.is_none() {
            // Those of a daemon with other settings would stay as they were.
            firewall::remove(&dir);
        }
        let firewall = config.firewall.filter(|_| is_root);
        let firewall = firewall
            .map(|config| Firewall::new(config, &dir))
            .transpose()
            .map_err(DriverError::io("cannot read the instances' folder", &dir))?;
        let inner = Arc::new(Inner {
            dir,
            firewall,
            settings: config.confine,
            place,
            users: Mutex::default(),
            shim: config.shim,
            output: config.output,
            kept_dir: config.kept_dir,
            report_within: config.report_within,
            clock,
            random,
            runs: watch::Sender::new(Arc::new(Runs::new())),
            starting: watch::Sender::new(BTreeSet::new()),
            watchers: Mutex::default(),
        });
        for (instance, dir) in &found {
            if let Err(error) = inner.adopt(*instance, dir) {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%instance, %error, cause, "an instance is not taken over");
            }
        }
        inner.judge_all();
        inner.sweep_groups(&found);
        Ok(ProcessDriver { inner })
    }
}

#[async_trait]
impl Driver for ProcessDriver {
    async fn start(&self, spec: StartSpec) -> Result<(), DriverError> {
        let inner = self.inner.clone();
        // A task of its own: once begun, a start is finished even if the caller goes away.
        run_to_end(async move { inner.start(spec).await }).await
    }

    async fn stop(&self, instance: InstanceId, grace: Duration) -> Result<(), DriverError> {
        self.inner.started(instance).await;
        let dir = self.inner.dir_of(instance);
        blocking(move || ask_to_stop(&dir, grace)).await
    }

    fn runs(&self) -> watch::Receiver<Arc<Runs>> {
        self.inner.runs.subscribe()
    }

    async fn starts_done(&self) {
        let mut starting = self.inner.starting.subscribe();
        // The sender lives as long as `self`.
        let _ = starting.wait_for(BTreeSet::is_empty).await;
    }

    fn leftovers(&self) -> Vec<InstanceId> {
        let folders = match record::instance_dirs(&self.inner.dir) {
            Ok(folders) => folders,
            Err(error) => {
                tracing::warn!(%error, "cannot look for instances that left something");
                return Vec::new();
            }
        };
        let runs = self.inner.runs.borrow();
        let ids = folders.into_iter().map(|(id, _)| id);
        ids.filter(|id| !runs.contains_key(id)).collect()
    }

    async fn remove(&self, instance: InstanceId) -> Result<(), DriverError> {
        self.inner.started(instance).await;
        if self.inner.is_running(instance) {
            return Err(DriverError::AlreadyRuns(instance));
        }
        let (dir, kept_dir) = (self.inner.dir_of(instance), self.inner.kept_dir.clone());
        blocking(move || delete(instance, &dir, kept_dir.as_deref())).await?;
        self.inner.change(|runs| {
            runs.remove(&instance);
        });
        Ok(())
    }

    fn usage(&self, instance: InstanceId) -> Option<Usage> {
        self.inner.usage(instance)
    }

    fn note(&self, instance: InstanceId, text: &str) {
        let (dir, at, text) = (
            self.inner.dir_of(instance),
            self.inner.clock.now(),
            text.to_owned(),
        );
        tokio::task::spawn_blocking(move || {
            if let Err(error) = logfile::append_note(&dir, at, &text) {
                tracing::debug!(%instance, %error, "a note was not written");
            }
        });
    }
}

impl Inner {
    fn dir_of(&self, instance: InstanceId) -> PathBuf {
        self.dir.join(instance.to_string())
    }

    fn is_running(&self, instance: InstanceId) -> bool {
        self.runs
            .borrow()
            .get(&instance)
            .is_some_and(Run::is_running)
    }

    fn change(&self, change: impl FnOnce(&mut Runs)) {
        self.runs.send_modify(|runs| change(Arc::make_mut(runs)));
    }

    /// Returns once no start of the instance is on its way.
    async fn started(&self, instance: InstanceId) {
        let mut starting = self.starting.subscribe();
        // The sender lives as long as `self`.
        let _ = starting.wait_for(|set| !set.contains(&instance)).await;
    }

    /// Lists what the folder says of an instance, and watches its shim if that runs.
    fn adopt(self: &Arc<Self>, instance: InstanceId, dir: &Path) -> Result<(), DriverError> {
        let bad = |e| DriverError::io("cannot read an instance's folder", dir)(e);
        let Some(state) = record::read::<StateRecord>(dir, record::STATE).map_err(bad)? else {
            return Ok(());
        };
        if shim_is_alive(&state) {
            self.list(instance, &state, RunStatus::Running);
            self.watch_end(instance, state, None);
        } else {
            let ended = ended(dir, &state, self.clock.now(), sweep::Found::Later).map_err(bad)?;
            self.list(instance, &state, ended);
        }
        Ok(())
    }

    fn list(&self, instance: InstanceId, state: &StateRecord, status: RunStatus) {
        let isolation = self.isolation_of(instance, state, status == RunStatus::Running);
        let run = Run {
            run: state.run,
            deployment: state.deployment.clone(),
            release: state.release,
            port: state.port,
            started_at: state.started_at,
            status,
            isolation,
        };
        self.change(|runs| {
            runs.insert(instance, run);
        });
    }

    /// `child`: the shim, when this process started it and so has to take its status.
    fn watch_end(self: &Arc<Self>, instance: InstanceId, state: StateRecord, child: Option<Child>) {
        let weak = Arc::downgrade(self);
        let dir = self.dir_of(instance);
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        while watchers.try_join_next().is_some() {}
        watchers.spawn(async move {
            match child {
                Some(mut child) => {
                    if child.wait().await.is_err() {
                        gone(&state).await;
                    }
                }
                None => gone(&state).await,
            }
            report_end(weak, instance, &dir, state).await;
        });
    }
}

async fn report_end(inner: Weak<Inner>, instance: InstanceId, dir: &Path, state: StateRecord) {
    let Some(now) = inner.upgrade().map(|inner| inner.clock.now()) else {
        return;
    };
    let (of, dir) = (state.clone(), dir.to_owned());
    let status = tokio::task::spawn_blocking(move || {
        let status = ended(&dir, &of, now, sweep::Found::AtOnce);
        // The shim tried, and groups may have been busy for a moment yet. No new run has made them again: this one is
        // not listed as ended.
        of.groups.remove();
        status.unwrap_or(RunStatus::Ended {
            exit: Exit::Unseen,
            at: now,
        })
    })
    .await;
    if let (Some(inner), Ok(status)) = (inner.upgrade(), status) {
        inner.list(instance, &state, status);
    }
}

/// Waits for the end of a shim that is not this process's child.
#[allow(unsafe_code)]
async fn gone(state: &StateRecord) {
    let handle = state.shim.open().and_then(|fd| {
        // SAFETY: an `OwnedFd` is the same open descriptor for as long as it is held, and it is
        // never taken out of the `AsyncFd`.
        unsafe { AsyncFd::register(fd) }.map_err(Into::into)
    });
    match handle {
        // pidfd_open(2): readable when the process has ended.
        Ok(handle) => {
            let _ = handle.readable().await;
        }
        Err(_) => {
            while state.shim.is_alive() {
                tokio::time::sleep(POLL).await;
            }
        }
    }
}

fn shim_is_alive(state: &StateRecord) -> bool {
    procfs::boot_id().is_ok_and(|boot| boot == state.boot_id) && state.shim.is_alive()
}

/// How a run ended whose shim is gone. A shim that was killed could not say, and may have left
/// processes behind: those are ended first.
fn ended(
    dir: &Path,
    state: &StateRecord,
    now: Millis,
    found: sweep::Found,
) -> std::io::Result<RunStatus> {
    if let Some(status) = recorded(dir, state)? {
        return Ok(status);
    }
    let exit = if procfs::boot_id()? == state.boot_id {
        sweep::end_leftovers(state, found);
        Exit::Unseen
    } else {
        Exit::Reboot
    };
    Ok(write_down(dir, state, exit, now))
}

/// What the shim has said of the run's end.
fn recorded(dir: &Path, state: &StateRecord) -> std::io::Result<Option<RunStatus>> {
    let record = record::read::<ExitRecord>(dir, record::EXIT)?;
    let record = record.filter(|record| record.run == state.run);
    Ok(record.map(|record| RunStatus::Ended {
        exit: record.exit,
        at: record.at,
    }))
}

fn write_down(dir: &Path, state: &StateRecord, exit: Exit, now: Millis) -> RunStatus {
    let record = ExitRecord {
        run: state.run,
        exit,
        at: now,
    };
    // On a full disk the same is found out again by the next daemon; it must not keep this one from starting.
    if let Err(error) = record::write(dir, record::EXIT, &record) {
        tracing::warn!(instance = %state.instance, %error, "the end of a run was not written down");
    }
    RunStatus::Ended { exit, at: now }
}

/// A folder without a run may have a shim all the same, whose daemon was killed before it knew.
fn delete(instance: InstanceId, dir: &Path, kept_dir: Option<&Path>) -> Result<(), DriverError> {
    let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let bad = |e| DriverError::io("cannot delete an instance's folder", dir)(e);
    let _lock = match record::try_lock(dir) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Err(DriverError::AlreadyRuns(instance)),
        Err(error) if gone(&error) => return Ok(()),
        Err(error) => return Err(bad(error)),
    };
    if let Ok(Some(state)) = record::read::<StateRecord>(dir, record::STATE)
        && let Err(error) = state.groups.end()
    {
        tracing::warn!(%instance, %error, "a control group of an ended instance stays");
    }
    if let Some(kept_dir) = kept_dir
        && logfile::keep(dir, kept_dir).map_err(bad)?
    {
        return Ok(());
    }
    match std::fs::remove_dir_all(dir) {
        Err(error) if !gone(&error) => Err(bad(error)),
        _ => Ok(()),
    }
}

/// SIGTERM to the shim, with the grace beside it.
fn ask_to_stop(dir: &Path, grace: Duration) -> Result<(), DriverError> {
    let bad = |e| DriverError::io("cannot stop an instance", dir)(e);
    let Some(state) = record::read::<StateRecord>(dir, record::STATE).map_err(bad)? else {
        return Ok(());
    };
    if !shim_is_alive(&state) {
        return Ok(());
    }
    // On a full disk the shim falls back to the grace it was started with.
    let written = record::write(dir, record::STOP, &StopRecord { grace });
    if let Err(error) = written {
        tracing::warn!(instance = %state.instance, %error, "the stop's grace was not written");
    }
    state.shim.signal(Signal::TERM).map_err(bad)
}

async fn run_to_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, DriverError>> + Send + 'static,
) -> Result<T, DriverError> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(DriverError::Start(format!("interrupted: {error}"))),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    run_to_end(async move {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(DriverError::Start(format!("interrupted: {error}"))),
        }
    })
    .await
}
