//! The life of one instance on this node: `(stage, what is wanted, what runs, now) -> effect`.
//!
//! Every effect is answered by an event (a fetch ends, a run shows in the driver), so the stages
//! only ever wait for something that comes, or for a time.

use std::time::{Duration, Instant};

use nebula_domain::backoff::Backoff;
use nebula_domain::observed::Phase;
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
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Nothing is under way; begin at this time.
    Due(Instant),
    Fetching,
    Starting,
    Running,
    /// Files are served.
    Serving,
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
            Stage::Running | Stage::Serving => Phase::Running,
            Stage::Draining(_) | Stage::Stopping => Phase::Stopping,
            Stage::Gone => Phase::Stopped,
        }
    }

    /// When the slot has to be looked at again, if nothing else happens.
    pub fn due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Due(at) | Stage::Draining(at) => Some(at),
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
            (Want::Stop { .. }, Stage::Serving) => {
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
            (Want::Program | Want::Files, _) => None,
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
                self.tries = 0;
                self.reason.clear();
                self.stage = Stage::Serving;
                None
            }
            (Ok(()), Want::Stop { .. }) => {
                self.stage = Stage::Due(now);
                None
            }
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

#[cfg(test)]
mod tests {
    use nebula_domain::ids::ReleaseNumber;
    use nebula_domain::time::Millis;
    use nebula_drivers::Exit;

    use super::*;

    fn run(number: u64, ended: Option<Exit>) -> Run {
        let status = ended.map_or(RunStatus::Running, |exit| RunStatus::Ended {
            exit,
            at: Millis(1_000),
        });
        Run {
            run: number,
            deployment: "api".parse().unwrap(),
            release: ReleaseNumber(1),
            port: 20_000,
            started_at: Millis(0),
            status,
        }
    }

    const WAITS: Want = Want::Stop { let_go: false };
    const LET_GO: Want = Want::Stop { let_go: true };

    #[test]
    fn a_program_is_fetched_started_and_started_again_after_a_pause() {
        let now = Instant::now();
        let mut slot = Slot::new(None, now);
        assert_eq!(slot.phase(), Phase::Pending);
        assert_eq!(slot.step(Want::Program, None, now), Some(Effect::Fetch));
        assert_eq!(
            slot.fetched(Want::Program, Ok(()), now),
            Some(Effect::Start(1))
        );
        assert_eq!(slot.step(Want::Program, Some(&run(1, None)), now), None);
        assert_eq!((slot.phase(), slot.restarts()), (Phase::Running, 0));

        let ended = run(1, Some(Exit::Code(1)));
        let note = slot.step(Want::Program, Some(&ended), now);
        assert!(matches!(note, Some(Effect::Note(text)) if text.contains("exited with code 1")));
        assert_eq!(slot.phase(), Phase::Backoff);
        assert_eq!(
            slot.step(Want::Program, Some(&ended), now),
            None,
            "the pause is kept"
        );
        let later = slot.due().unwrap();
        assert!(later > now);
        assert_eq!(
            slot.step(Want::Program, Some(&ended), later),
            Some(Effect::Fetch)
        );
        assert_eq!(
            slot.fetched(Want::Program, Ok(()), later),
            Some(Effect::Start(2))
        );
        slot.step(Want::Program, Some(&run(2, None)), later);
        assert_eq!(
            (slot.restarts(), slot.reason.as_str()),
            (1, "exited with code 1")
        );
    }

    #[test]
    fn a_stop_waits_for_every_proxy_but_not_for_ever() {
        let now = Instant::now();
        let running = run(1, None);
        for (want, at) in [(LET_GO, now), (WAITS, now + ACK_DEADLINE)] {
            let mut slot = Slot::new(Some(&running), now);
            assert_eq!(slot.step(WAITS, Some(&running), now), None);
            assert_eq!(slot.phase(), Phase::Stopping);
            assert_eq!(slot.step(want, Some(&running), at), Some(Effect::Stop));
            assert_eq!(slot.step(want, Some(&running), at), None, "asked once");
            let ended = run(1, Some(Exit::Signal(15)));
            assert!(matches!(
                slot.step(want, Some(&ended), at),
                Some(Effect::Note(_))
            ));
            assert_eq!(slot.step(want, Some(&ended), at), None);
            assert_eq!(slot.phase(), Phase::Stopped);
        }
    }

    #[test]
    fn what_never_ran_is_gone_at_once() {
        let now = Instant::now();
        let mut slot = Slot::new(None, now);
        assert_eq!(slot.step(WAITS, None, now), None);
        assert_eq!(slot.phase(), Phase::Stopped);
    }

    #[test]
    fn a_stop_during_the_start_stops_what_was_started() {
        let now = Instant::now();
        let mut slot = Slot::new(None, now);
        slot.step(Want::Program, None, now);
        slot.fetched(Want::Program, Ok(()), now);
        assert_eq!(slot.step(LET_GO, None, now), None);
        assert_eq!(
            slot.phase(),
            Phase::Starting,
            "the start is under way and will show"
        );
        assert_eq!(
            slot.step(LET_GO, Some(&run(1, None)), now),
            Some(Effect::Stop)
        );
    }

    #[test]
    fn what_runs_already_is_taken_over() {
        let now = Instant::now();
        let running = run(3, None);
        let mut slot = Slot::new(Some(&running), now);
        assert_eq!(slot.step(Want::Program, Some(&running), now), None);
        assert_eq!((slot.phase(), slot.restarts()), (Phase::Running, 2));
    }

    #[test]
    fn a_run_of_another_number_is_taken_over_and_its_end_seen() {
        let now = Instant::now();
        let mut slot = Slot::new(None, now);
        slot.step(Want::Program, None, now);
        slot.fetched(Want::Program, Ok(()), now);
        slot.not_started("i-1 already runs".into(), now);
        slot.step(Want::Program, None, now + RETRY);
        assert_eq!(
            slot.fetched(Want::Program, Ok(()), now),
            Some(Effect::Start(2))
        );
        assert_eq!(slot.step(Want::Program, Some(&run(1, None)), now), None);
        assert_eq!((slot.phase(), slot.run), (Phase::Running, 1));
        let ended = run(1, Some(Exit::Code(1)));
        assert!(slot.step(Want::Program, Some(&ended), now).is_some());
        assert_eq!(slot.phase(), Phase::Backoff);
    }

    #[test]
    fn a_run_that_ended_while_nobody_looked_is_told_of() {
        let now = Instant::now();
        let ended = run(3, Some(Exit::Code(1)));
        let mut slot = Slot::new(Some(&ended), now);
        let note = slot.step(Want::Program, Some(&ended), now);
        assert!(matches!(note, Some(Effect::Note(text)) if text.contains("exited with code 1")));
        assert_eq!(slot.reason, "exited with code 1");
        let mut slot = Slot::new(Some(&ended), now);
        assert_eq!(slot.step(LET_GO, Some(&ended), now), None);
        assert_eq!(slot.phase(), Phase::Stopped);
    }

    #[test]
    fn a_program_that_ended_during_a_stop_of_its_start_is_gone() {
        let now = Instant::now();
        let mut slot = Slot::new(None, now);
        slot.step(Want::Program, None, now);
        slot.fetched(Want::Program, Ok(()), now);
        let ended = run(1, Some(Exit::Code(1)));
        assert!(slot.step(LET_GO, Some(&ended), now).is_some());
        assert_eq!(slot.step(LET_GO, Some(&ended), now), None);
        assert_eq!(slot.phase(), Phase::Stopped);
    }

    #[test]
    fn what_is_wanted_after_all_goes_on() {
        let now = Instant::now();
        let running = run(1, None);
        let mut slot = Slot::new(Some(&running), now);
        slot.step(WAITS, Some(&running), now);
        assert_eq!(slot.step(Want::Program, Some(&running), now), None);
        assert_eq!(slot.phase(), Phase::Running);
        let mut gone = Slot::new(None, now);
        gone.step(LET_GO, None, now);
        assert_eq!(gone.step(Want::Program, None, now), Some(Effect::Fetch));
    }

    #[test]
    fn files_are_served_once_they_are_here() {
        let now = Instant::now();
        let mut slot = Slot::new(None, now);
        assert_eq!(slot.step(Want::Files, None, now), Some(Effect::Fetch));
        assert_eq!(
            slot.fetched(Want::Files, Err("no source".into()), now),
            None
        );
        assert_eq!(slot.reason, "no source");
        assert_eq!(
            slot.step(Want::Files, None, now + RETRY),
            Some(Effect::Fetch)
        );
        assert_eq!(slot.fetched(Want::Files, Ok(()), now), None);
        assert_eq!((slot.phase(), slot.reason.as_str()), (Phase::Running, ""));
        slot.step(WAITS, None, now);
        assert_eq!(slot.phase(), Phase::Stopping);
        slot.step(LET_GO, None, now);
        assert_eq!(slot.phase(), Phase::Stopped);
    }

    #[test]
    fn a_program_that_cannot_be_started_is_tried_again() {
        let now = Instant::now();
        let mut slot = Slot::new(None, now);
        slot.step(Want::Program, None, now);
        slot.fetched(Want::Program, Ok(()), now);
        slot.not_started("no space".into(), now);
        assert_eq!(slot.step(Want::Program, None, now), None);
        assert_eq!(
            slot.step(Want::Program, None, now + RETRY),
            Some(Effect::Fetch)
        );
        assert_eq!(slot.reason, "no space");
    }
}
