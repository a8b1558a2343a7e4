//! A driver that runs nothing and does as it is told: for tests of whoever uses a driver.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nebula_domain::ids::InstanceId;
use nebula_telemetry::Clock;
use tokio::sync::watch;

use crate::confine::Controls;
use crate::driver::{Driver, DriverError, Exit, Run, RunStatus, Runs, StartSpec};
use crate::exec::{Exec, ExecSpec};
use crate::process::REPORT_WITHIN;

/// Clones are the same driver, so a test keeps one and hands the other out.
#[derive(Clone)]
pub struct FakeDriver {
    clock: Clock,
    runs: Arc<watch::Sender<Arc<Runs>>>,
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    failing_starts: BTreeMap<InstanceId, String>,
    unseen_starts: BTreeSet<InstanceId>,
    ignore_stops: BTreeSet<InstanceId>,
    leftovers: BTreeSet<InstanceId>,
    starts: Vec<StartSpec>,
    stops: Vec<(InstanceId, Duration)>,
    notes: Vec<(InstanceId, String)>,
    failing_commands: BTreeMap<InstanceId, String>,
    commands: Vec<ExecSpec>,
}

impl FakeDriver {
    pub fn new(clock: Clock) -> FakeDriver {
        FakeDriver {
            clock,
            runs: Arc::new(watch::Sender::new(Arc::new(Runs::new()))),
            script: Arc::default(),
        }
    }

    /// The program ends by itself.
    pub fn exit(&self, instance: InstanceId, exit: Exit) {
        let at = self.clock.now();
        self.change(|runs| {
            if let Some(run) = runs.get_mut(&instance)
                && run.is_running()
            {
                run.status = RunStatus::Ended { exit, at };
            }
        });
    }

    /// Starts of this instance fail from now on, until told `None`.
    pub fn fail_starts(&self, instance: InstanceId, reason: Option<&str>) {
        let mut script = self.script();
        match reason {
            Some(reason) => script.failing_starts.insert(instance, reason.to_owned()),
            None => script.failing_starts.remove(&instance),
        };
    }

    /// Starts of this instance are not heard of from now on, and its program may have begun.
    pub fn lose_starts(&self, instance: InstanceId) {
        self.script().unseen_starts.insert(instance);
    }

    /// The program takes no notice of stops: only [`FakeDriver::exit`] ends it.
    pub fn ignore_stops(&self, instance: InstanceId) {
        self.script().ignore_stops.insert(instance);
    }

    /// The instance has no run and left something all the same.
    pub fn leave_behind(&self, instance: InstanceId) {
        self.script().leftovers.insert(instance);
    }

    /// Every start so far, failed ones included.
    pub fn starts(&self) -> Vec<StartSpec> {
        self.script().starts.clone()
    }

    pub fn stops(&self) -> Vec<(InstanceId, Duration)> {
        self.script().stops.clone()
    }

    pub fn notes(&self) -> Vec<(InstanceId, String)> {
        self.script().notes.clone()
    }

    /// Commands beside this instance fail from now on, until told `None`.
    pub fn fail_commands(&self, instance: InstanceId, said: Option<&str>) {
        let mut script = self.script();
        match said {
            Some(said) => script.failing_commands.insert(instance, said.to_owned()),
            None => script.failing_commands.remove(&instance),
        };
    }

    /// Every command so far.
    pub fn commands(&self) -> Vec<ExecSpec> {
        self.script().commands.clone()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Runs)) {
        self.runs.send_modify(|runs| change(Arc::make_mut(runs)));
    }

    fn is_running(&self, instance: InstanceId) -> bool {
        self.runs
            .borrow()
            .get(&instance)
            .is_some_and(Run::is_running)
    }
}

#[async_trait]
impl Driver for FakeDriver {
    async fn start(&self, spec: StartSpec) -> Result<(), DriverError> {
        let (reason, unseen) = {
            let mut script = self.script();
            script.starts.push(spec.clone());
            let reason = script.failing_starts.get(&spec.instance).cloned();
            (reason, script.unseen_starts.contains(&spec.instance))
        };
        if let Some(reason) = reason {
            return Err(DriverError::Start(reason));
        }
        if self.is_running(spec.instance) {
            return Err(DriverError::AlreadyRuns(spec.instance));
        }
        let at = self.clock.now();
        let status = match unseen {
            true => RunStatus::Ended {
                exit: Exit::Unheard,
                at,
            },
            false => RunStatus::Running,
        };
        let run = Run {
            run: spec.run,
            deployment: spec.deployment,
            release: spec.release,
            port: spec.port,
            started_at: at,
            status,
            isolation: Controls::default(),
        };
        self.change(|runs| {
            runs.insert(spec.instance, run);
        });
        match unseen {
            true => Err(DriverError::StartTimeout(spec.instance, REPORT_WITHIN)),
            false => Ok(()),
        }
    }

    async fn stop(&self, instance: InstanceId, grace: Duration) -> Result<(), DriverError> {
        let ignored = {
            let mut script = self.script();
            script.stops.push((instance, grace));
            script.ignore_stops.contains(&instance)
        };
        if !ignored {
            self.exit(instance, Exit::Signal(libc::SIGTERM));
        }
        Ok(())
    }

    fn runs(&self) -> watch::Receiver<Arc<Runs>> {
        self.runs.subscribe()
    }

    fn leftovers(&self) -> Vec<InstanceId> {
        self.script().leftovers.iter().copied().collect()
    }

    async fn remove(&self, instance: InstanceId) -> Result<(), DriverError> {
        if self.is_running(instance) {
            return Err(DriverError::AlreadyRuns(instance));
        }
        self.script().leftovers.remove(&instance);
        self.change(|runs| {
            runs.remove(&instance);
        });
        Ok(())
    }

    fn note(&self, instance: InstanceId, text: &str) {
        self.script().notes.push((instance, text.to_owned()));
    }
}

#[async_trait]
impl Exec for FakeDriver {
    async fn exec(&self, spec: ExecSpec) -> Result<(), DriverError> {
        let mut script = self.script();
        let said = script.failing_commands.get(&spec.instance).cloned();
        script.commands.push(spec);
        match said {
            Some(said) => Err(DriverError::Command(said)),
            None => Ok(()),
        }
    }
}
