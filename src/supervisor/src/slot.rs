//! The life of one instance on this node: `(stage, what is wanted, what runs, now) -> effect`.
//!
//! Every effect is answered by an event (a fetch ends, a run shows in the driver), so the stages
//! only ever wait for something that comes, or for a time.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use nebula_domain::backoff::Backoff;
use nebula_domain::observed::{Busy, Ended, Health, LastEnd, Phase};
use nebula_drivers::{Exit, Run, RunStatus};

/// A stop waits this long for proxies to let go: a live one needs a second at most, and a node that
/// is dead but not yet known to be must not hold up the others.
pub const ACK_DEADLINE: Duration = Duration::from_secs(5);
/// Between the first two tries to get an artifact or to start a program that could not even be started.
pub const RETRY: Duration = Duration::from_secs(2);
/// What fails again and again is tried this rarely: each try may ask every node, or fill the disk once more.
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// signal(7): the same on every Linux.
pub const SIGKILL: i32 = 9;

/// What the registry wants of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A program is to run.
    Program,
    /// A program is to run to its end, once.
    Once,
    /// Files are to be here; the proxy serves them.
    Files,
    /// It is to end.
    Stop(Farewell),
    /// It is to end, but the cluster cannot be asked: what runs goes on, and nothing is begun.
    Hold,
}

/// What an instance that is to end still has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Farewell {
    /// Every live proxy has let go of it.
    pub let_go: bool,
    /// What it still does for their clients.
    pub busy: Option<Busy>,
    /// Requests have so long to end,
    pub drain: Duration,
    /// and connections of other protocols so long.
    pub socket_grace: Duration,
}

impl Farewell {
    /// Nobody asks it anything any more.
    pub const NOW: Farewell = Farewell {
        let_go: true,
        busy: None,
        drain: Duration::ZERO,
        socket_grace: Duration::ZERO,
    };

    /// How long after the beginning of the stop it has to be waited for, as far as is known now.
    fn lasts(&self) -> Duration {
        let work = match self.busy {
            Some(Busy::Requests) => self.drain,
            Some(Busy::Sockets) => self.socket_grace,
            None => Duration::ZERO,
        };
        // One node that does not follow any more takes no time from what the others still do.
        match self.let_go {
            true => work,
            false => work.max(ACK_DEADLINE),
        }
    }
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
    /// Waits since then for proxies to let go and for what is under way. Look again at the second time, if nothing
    /// happens.
    Draining(Instant, Instant),
    /// The driver was asked to end it.
    Stopping,
    /// The same, because its probes gave it up: it is to be started again.
    Ending,
    /// What was to run once has ended.
    Over,
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
    /// How the program ended last by itself.
    pub last_end: Option<LastEnd>,
    /// Tries in a row that came to no run.
    tries: u32,
    /// Files that were served are gone from the disk.
    files_lost: bool,
    /// Whether the latest run's end has been dealt with.
    settled: bool,
    /// Why the latest run is ended, when its probes gave it up.
    given_up: Option<String>,
    /// How the latest run ended.
    pub exit: Option<Exit>,
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
            last_end: None,
            tries: 0,
            files_lost: false,
            settled: run.is_none(),
            given_up: None,
            exit: None,
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
            // Out of every proxy's choice at once, with its reason.
            Stage::Ending => Phase::Backoff,
            Stage::Running | Stage::Serving(_) => Phase::Running,
            Stage::Draining(..) | Stage::Stopping => Phase::Stopping,
            Stage::Over | Stage::Gone => Phase::Stopped,
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
            Stage::Due(at) | Stage::Draining(_, at) => Some(at),
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
            (Want::Stop(_), Stage::Gone) => None,
            (Want::Stop(farewell), Stage::Draining(since, _)) => {
                let (since, until) = (*since, *since + farewell.lasts());
                if now < until {
                    self.stage = Stage::Draining(since, until);
                    return None;
                }
                self.end(running)
            }
            // A start that is under way shows as a run soon; until then there is nothing to stop.
            (Want::Stop(_), Stage::Starting) if !running && !self.settled => None,
            (Want::Stop(_), Stage::Stopping) => {
                if !running {
                    self.stage = Stage::Gone;
                }
                None
            }
            (Want::Stop(_), Stage::Serving(_)) => {
                self.stage = Stage::Draining(now, now);
                self.step(want, run, now)
            }
            (Want::Stop(_), _) if running => {
                self.stage = Stage::Draining(now, now);
                self.step(want, run, now)
            }
            (Want::Stop(_), _) => {
                self.stage = Stage::Gone;
                None
            }
            (Want::Program | Want::Once | Want::Files, Stage::Due(at)) if *at <= now => {
                self.stage = Stage::Fetching;
                Some(Effect::Fetch)
            }
            (Want::Program | Want::Once, Stage::Starting | Stage::Draining(..)) if running => {
                self.tries = 0;
                self.stage = Stage::Running;
                None
            }
            // It has ended while nothing was wanted of it: once is once.
            (Want::Once, Stage::Draining(..) | Stage::Stopping | Stage::Gone)
                if !running && self.exit.is_some() =>
            {
                self.stage = Stage::Over;
                None
            }
            // Wanted after all: the registry had not caught up when it was taken for removed.
            (Want::Program | Want::Once | Want::Files, Stage::Draining(..) | Stage::Gone) => {
                self.stage = Stage::Due(now);
                self.step(want, run, now)
            }
            // It ended while nothing was wanted of it.
            (Want::Program, Stage::Ending) if !running => {
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
            (Want::Program | Want::Once | Want::Files | Want::Hold, _) => None,
        }
    }

    /// The probes have given a run up. What is about to stop anyway is left to that.
    pub fn give_up(&mut self, want: Want, run: u64, reason: &str) -> Option<Effect> {
        if want != Want::Program || self.stage != Stage::Running || run != self.run {
            return None;
        }
        self.stage = Stage::Ending;
        reason.clone_into(&mut self.reason);
        self.given_up = Some(reason.to_owned());
        Some(Effect::Stop)
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
        self.given_up = None;
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
        self.exit = Some(*exit);
        let given_up = self.given_up.take();
        if want == Want::Once {
            self.tries = 0;
            self.stage = Stage::Over;
            self.reason = match exit {
                Exit::Code(0) => String::new(),
                exit => exit.to_string(),
            };
            return Some(exit.to_string());
        }
        if want != Want::Program {
            // One that ended before this slot was made has been spoken of.
            let known = !matches!(self.stage, Stage::Due(_));
            return known.then(|| "stopped".to_owned());
        }
        self.tries = 0;
        let delay = self.backoff.delay(at.since(run.started_at));
        self.stage = Stage::Due(now + delay);
        self.last_end = Some(LastEnd {
            how: match given_up {
                Some(_) => Ended::GivenUp,
                None => how(*exit),
            },
            at: *at,
        });
        // How it ended is then what it was told to do.
        self.reason = given_up.unwrap_or_else(|| exit.to_string());
        let reason = &self.reason;
        Some(format!("{reason}; starting again in {delay:?}"))
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
            (Ok(()), Want::Program | Want::Once) => {
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
            (Ok(()), Want::Stop(_) | Want::Hold) => {
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
        match self.stage {
            Stage::Stopping => self.stage = Stage::Draining(now, now),
            Stage::Ending => self.stage = Stage::Running,
            _ => {}
        }
    }
}

fn how(exit: Exit) -> Ended {
    match exit {
        Exit::Code(code) => Ended::Code(code),
        Exit::Signal(number) => Ended::Signal(number),
        Exit::OutOfMemory { .. } => Ended::OutOfMemory,
        Exit::OutOfDisk { .. } => Ended::OutOfDisk,
        Exit::Unseen => Ended::Unseen,
        Exit::Reboot => Ended::Reboot,
        Exit::Unheard => Ended::Signal(SIGKILL),
    }
}
