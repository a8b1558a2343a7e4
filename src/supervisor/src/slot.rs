//! The life of one instance on this node: `(stage, what is wanted, what runs, now) -> effect`.
//!
//! Every effect is answered by an event (a fetch ends, a run shows in the driver), so the stages
//! only ever wait for something that comes, or for a time.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use nebula_domain::backoff::Backoff;
use nebula_domain::observed::{Health, Phase};
use nebula_drivers::{Run, RunStatus};

/// A stop waits this long for proxies to let go: a live one needs a second at most, and a node that
/// is dead but not yet known to be must not hold up the others.
pub const ACK_DEADLINE: Duration = Duration::from_secs(5);
/// Between the first two tries to get an artifact or to start a program that could not even be started.
pub const RETRY: Duration = Duration::from_secs(2);
/// What fails again and again is tried this rarely: each try may ask every node, or fill the disk once more.
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// What the registry wants of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A program is to run.
    Program,
    /// Files are to be here; the proxy serves them.
    Files,
    /// It is to end; whether every live proxy has let go of it.
    Stop { let_go: bool },
    /// It is to end, but the cluster cannot be asked: what runs goes on, and nothing is begun.
    Hold,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Nothing is under way; begin at this time.
    Due(Instant),
    Fetching,
    Starting,
    Running,
    /// Files are served. Look again then whether they are all there; none: a look is under way.
    Serving(Option<Instant>),
    /// Waits for proxies to let go, at most until this time.
    Draining(Instant),
    /// The driver was asked to end it.
    Stopping,
    Gone,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Fetch,
    /// Start the run with this number.
    Start(u64),
    Stop,
    /// See whether the files are all there.
    Check,
    /// A line for the instance's log.
    Note(String),
}

#[derive(Debug)]
pub struct Slot {
    pub stage: Stage,
    backoff: Backoff,
    /// Number of the latest run; 0 before the first.
    pub run: u64,
    /// What went wrong last.
    pub reason: String,
    /// Tries in a row that came to no run.
    tries: u32,
    /// Files that were served are gone from the disk.
    files_lost: bool,
    /// Whether the latest run's end has been dealt with.
    settled: bool,
}

impl Slot {
    /// A slot for an instance that this node was assigned, or that runs here already.
    ///
    /// A run that has ended meanwhile is dealt with by the first step, as if it had ended now.
    pub fn new(run: Option<&Run>, now: Instant) -> Slot {
        let number = run.map_or(0, |run| run.run);
        let running = run.is_some_and(Run::is_running);
        let restarts = u32::try_from(number.saturating_sub(1)).unwrap_or(u32::MAX);
        Slot {
            stage: if running {
                Stage::Running
            } else {
                Stage::Due(now)
            },
            backoff: Backoff::resumed(restarts),
            run: number,
            reason: String::new(),
            tries: 0,
            files_lost: false,
            settled: run.is_none(),
        }
    }

    pub fn restarts(&self) -> u32 {
        u32::try_from(self.run.saturating_sub(1)).unwrap_or(u32::MAX)
    }

    pub fn phase(&self) -> Phase {
        match self.stage {
            Stage::Due(_) if self.run > 0 => Phase::Backoff,
            Stage::Due(_) => Phase::Pending,
            Stage::Fetching => Phase::Fetching,
            Stage::Starting => Phase::Starting,
            Stage::Running | Stage::Serving(_) => Phase::Running,
            Stage::Draining(_) | Stage::Stopping => Phase::Stopping,
            Stage::Gone => Phase::Stopped,
        }
    }

    /// Health as far as it is not for probes to say.
    pub fn health(&self) -> Option<Health> {
        match self.stage {
            Stage::Serving(_) => Some(Health::Healthy),
            _ => self.files_lost.then_some(Health::Unhealthy),
        }
    }

    /// When the slot has to be looked at again, if nothing else happens.
    pub fn due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Due(at) | Stage::Draining(at) => Some(at),
            Stage::Serving(at) => at,
            _ => None,
        }
    }

    /// Decides one thing; to be called until it gives `None`.
    pub fn step(&mut self, want: Want, run: Option<&Run>, now: Instant) -> Option<Effect> {
        let running = run.is_some_and(Run::is_running);
        self.take_over(run);
        if let Some(note) = self.settle(want, run, now) {
            return Some(Effect::Note(note));
        }
        match (want, &self.stage) {
            (Want::Stop { .. }, Stage::Gone) => None,
            (Want::Stop { let_go }, Stage::Draining(deadline)) => {
                if !let_go && now < *deadline {
                    return None;
                }
                self.end(running)
            }
            // A start that is under way shows as a run soon; until then there is nothing to stop.
            (Want::Stop { .. }, Stage::Starting) if !running && !self.settled => None,
            (Want::Stop { .. }, Stage::Stopping) => {
                if !running {
                    self.stage = Stage::Gone;
                }
                None
            }
            (Want::Stop { .. }, Stage::Serving(_)) => {
                self.stage = Stage::Draining(now + ACK_DEADLINE);
                None
            }
            (Want::Stop { .. }, _) if running => {
                self.stage = Stage::Draining(now + ACK_DEADLINE);
                self.step(want, run, now)
            }
            (Want::Stop { .. }, _) => {
                self.stage = Stage::Gone;
                None
            }
            (Want::Program | Want::Files, Stage::Due(at)) if *at <= now => {
                self.stage = Stage::Fetching;
                Some(Effect::Fetch)
            }
            (Want::Program, Stage::Starting | Stage::Draining(_)) if running => {
                self.tries = 0;
                self.stage = Stage::Running;
                None
            }
            // Wanted after all: the registry had not caught up when it was taken for removed.
            (Want::Program | Want::Files, Stage::Draining(_) | Stage::Gone) => {
                self.stage = Stage::Due(now);
                self.step(want, run, now)
            }
            (Want::Files, Stage::Serving(Some(at))) if *at <= now => {
                self.stage = Stage::Serving(None);
                Some(Effect::Check)
            }
            (Want::Hold, Stage::Stopping) if !running => {
                self.stage = Stage::Gone;
                None
            }
            (Want::Program | Want::Files | Want::Hold, _) => None,
        }
    }

    fn end(&mut self, running: bool) -> Option<Effect> {
        if running {
            self.stage = Stage::Stopping;
            return Some(Effect::Stop);
        }
        self.stage = Stage::Gone;
        None
    }

    /// A run that this slot did not ask for (a start that an earlier supervisor had under way) is
    /// the run of this instance all the same; its end is looked for by its number.
    fn take_over(&mut self, run: Option<&Run>) {
        let Some(run) = run.filter(|run| run.is_running() && run.run != self.run) else {
            return;
        };
        self.run = run.run;
        self.settled = false;
        if matches!(
            self.stage,
            Stage::Due(_) | Stage::Fetching | Stage::Starting | Stage::Gone
        ) {
            self.stage = Stage::Running;
        }
    }

    /// Takes in a run that ended, once.
    fn settle(&mut self, want: Want, run: Option<&Run>, now: Instant) -> Option<String> {
        let run = run.filter(|run| run.run == self.run)?;
        let RunStatus::Ended { exit, at } = &run.status else {
            return None;
        };
        if self.settled {
            return None;
        }
        self.settled = true;
        if want != Want::Program {
            // One that ended before this slot was made has been spoken of.
            let known = !matches!(self.stage, Stage::Due(_));
            return known.then(|| "stopped".to_owned());
        }
        self.tries = 0;
        let delay = self.backoff.delay(at.since(run.started_at));
        self.reason = exit.to_string();
        self.stage = Stage::Due(now + delay);
        Some(format!("{exit}; starting again in {delay:?}"))
    }

    /// The artifact is here, or why not.
    pub fn fetched(
        &mut self,
        want: Want,
        result: Result<(), String>,
        now: Instant,
    ) -> Option<Effect> {
        if self.stage != Stage::Fetching {
            return None;
        }
        match (result, want) {
            (Err(reason), _) => {
                self.reason = reason;
                self.stage = Stage::Due(now + self.retry());
                None
            }
            (Ok(()), Want::Program) => {
                self.run += 1;
                self.settled = false;
                self.stage = Stage::Starting;
                Some(Effect::Start(self.run))
            }
            (Ok(()), Want::Files) => {
                // Whether they are whole is seen at once: what was here already may not be.
                self.stage = Stage::Serving(Some(now));
                None
            }
            (Ok(()), Want::Stop { .. } | Want::Hold) => {
                self.stage = Stage::Due(now);
                None
            }
        }
    }

    /// Whether the files that are served are all there; if so, the next look is at `next`.
    pub fn checked(&mut self, whole: bool, now: Instant, next: Instant) {
        if self.stage != Stage::Serving(None) {
            return;
        }
        if whole {
            self.tries = 0;
            self.files_lost = false;
            self.reason.clear();
            self.stage = Stage::Serving(Some(next));
        } else {
            self.files_lost = true;
            "files of the site are missing on this node's disk".clone_into(&mut self.reason);
            self.stage = Stage::Due(now + self.retry());
        }
    }

    /// The driver could not start the program.
    pub fn not_started(&mut self, reason: String, now: Instant) {
        if self.stage == Stage::Starting {
            self.settled = true;
            self.reason = reason;
            self.stage = Stage::Due(now + self.retry());
        }
    }

    fn retry(&mut self) -> Duration {
        let doublings = self.tries.min(8);
        self.tries = self.tries.saturating_add(1);
        RETRY.saturating_mul(1 << doublings).min(RETRY_MAX)
    }

    /// The driver could not be asked to end it: back to where a stop is decided.
    pub fn not_stopped(&mut self, now: Instant) {
        if self.stage == Stage::Stopping {
            self.stage = Stage::Draining(now);
        }
    }
}
