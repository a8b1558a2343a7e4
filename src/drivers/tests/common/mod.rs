//! A driver of either kind under test, and how to wait for what it does.
#![allow(dead_code)] // Each test binary uses its own part.

pub mod confined;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nebula_domain::ids::{InstanceId, ReleaseNumber};
use nebula_domain::isolation::{Isolation, Profile};
use nebula_domain::resources::Resources;
use nebula_drivers::confine;
use nebula_drivers::logfile::{self, Tail};
use nebula_drivers::process::{self, ProcessDriver};
use nebula_drivers::{Driver, Exit, Run, RunStatus, StartSpec};
use nebula_telemetry::{Clock, Random};

/// Far above what anything here takes; reached only by a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const ONE: InstanceId = InstanceId(1);

pub struct Folder {
    pub root: tempfile::TempDir,
    pub bounds: logfile::Bounds,
}

impl Folder {
    pub fn new() -> Folder {
        Folder {
            root: tempfile::tempdir().unwrap(),
            bounds: logfile::Bounds::default(),
        }
    }

    /// Of the output of removed instances.
    pub fn kept(&self) -> PathBuf {
        self.root.path().join("kept")
    }

    pub fn instances(&self) -> PathBuf {
        self.root.path().join("instances")
    }

    pub fn dir(&self, instance: InstanceId) -> PathBuf {
        self.instances().join(instance.to_string())
    }

    /// As a daemon that starts: a new driver on the same folder.
    pub fn open(&self) -> ProcessDriver {
        let config = process::Config {
            dir: self.instances(),
            output: self.bounds,
            kept_dir: Some(self.kept()),
            shim: vec![shim()],
            confine: confine::Settings::default(),
            report_within: process::REPORT_WITHIN,
            firewall: None,
        };
        ProcessDriver::open(config, Clock::system(), Random::system()).unwrap()
    }

    pub fn spec(&self, instance: InstanceId, command: &str) -> StartSpec {
        spec(instance, command, self.root.path())
    }

    pub fn lines(&self, instance: InstanceId) -> Vec<String> {
        Tail::open(&self.dir(instance), 100_000)
            .unwrap()
            .0
            .iter()
            .map(|line| {
                let entry = logfile::parse(line).unwrap();
                format!("{}: {}", entry.stream, entry.text)
            })
            .collect()
    }

    /// A number that the instance's program has written to a file of the working directory.
    pub async fn number(&self, file: &str) -> i32 {
        let path = self.root.path().join(file);
        eventually(file, || {
            let text = std::fs::read_to_string(&path).ok()?;
            text.strip_suffix('\n')?.trim().parse().ok()
        })
        .await
    }

    pub fn shim_pid(&self, instance: InstanceId) -> i32 {
        let text = std::fs::read_to_string(self.dir(instance).join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_str(&text).unwrap();
        state["shim"]["pid"].as_i64().unwrap() as i32
    }
}

/// Something that listens as programs or bridges do, at all addresses of this machine.
pub fn listener(range: RangeInclusive<u16>) -> (TcpListener, u16) {
    // Tests and clusters of others run beside this: each begins somewhere else.
    let begin = u64::from(std::process::id()) * 31 % range.len() as u64;
    let ports = range.clone().skip(begin as usize).chain(range);
    let mut free = ports.filter_map(|port| Some((TcpListener::bind(("::", port)).ok()?, port)));
    free.next().unwrap()
}

/// Whatever a failed test leaves running ends with it.
impl Drop for Folder {
    fn drop(&mut self) {
        let _ = process::stop_everything(&self.instances(), Duration::ZERO);
    }
}

/// Elsewhere when a test runs as another user, who cannot come to where it was built.
pub fn shim() -> std::ffi::OsString {
    std::env::var_os("NEBULA_TEST_SHIM")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_nebula-shim-for-tests").into())
}

pub fn spec(instance: InstanceId, command: &str, workdir: &Path) -> StartSpec {
    StartSpec {
        instance,
        run: 1,
        deployment: "api".parse().unwrap(),
        release: ReleaseNumber(3),
        node: "a".to_owned(),
        command: command.to_owned(),
        env: BTreeMap::new(),
        workdir: workdir.to_owned(),
        image: None,
        port: Some(20_001),
        reach: Vec::new(),
        stop_grace: Duration::from_secs(10),
        resources: Resources::default(),
        // Most tests look at processes and files from outside, by numbers and paths that are the same inside.
        isolation: Isolation {
            profile: Profile::None,
            ..Isolation::default()
        },
        volumes: Vec::new(),
        secrets: Default::default(),
    }
}

pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn run_of(driver: &dyn Driver, instance: InstanceId) -> Option<Run> {
    driver.runs().borrow().get(&instance).cloned()
}

pub async fn exit_of(driver: &dyn Driver, instance: InstanceId) -> Exit {
    let mut runs = driver.runs();
    let found = tokio::time::timeout(
        PATIENCE,
        runs.wait_for(|runs: &Arc<_>| runs.get(&instance).is_some_and(|r| !r.is_running())),
    );
    let runs = found.await.expect("the run did not end").unwrap();
    match runs[&instance].status {
        RunStatus::Ended { exit, .. } => exit,
        RunStatus::Running => unreachable!("waited for its end"),
    }
}

pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|s| !s.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

pub async fn is_gone(pid: i32) {
    eventually(&format!("process {pid} is gone"), || {
        (!is_alive(pid)).then_some(())
    })
    .await;
}

pub fn signal(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}
