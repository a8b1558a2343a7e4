//! The life of one instance on this node, as a pure state machine: no clock, no task, no driver.
//!
//! [`Machine::advance`] is told what is wanted, what the driver sees and what has been done since,
//! and answers with what to do next. Seeing, not remembering, decides: whatever the driver lists
//! as running is running, whoever started it.

use std::time::Duration;

use nebula_domain::backoff::Backoff;
use nebula_domain::observed::Phase;
use nebula_drivers::Exit;
use nebula_membership::PhaseFacts;

/// How long a stop waits for every live node to say that it no longer routes to the instance. A
/// node that is slower than this is as good as dead, and its proxy retries on another instance.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// A stop that the driver could not even ask for is asked for again after this.
pub const STOP_RETRY: Duration = Duration::from_secs(1);

/// What has to hold, and what is seen. Times are since some moment in the past.
#[derive(Debug, Clone, Default)]
pub(crate) struct Input {
    pub now: Duration,
    pub wanted: Wanted,
    pub seen: Option<Seen>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Wanted {
    #[default]
    Run,
    /// `acked`: every live node has stopped choosing it.
    Stop { acked: bool },
}

/// The instance's latest run, as the driver lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub run: u64,
    pub port: u16,
    /// Since its start.
    pub age: Duration,
    /// `None`: it runs.
    pub exit: Option<Exit>,
}

/// How an [`Effect`] went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    Fetched(Result<(), String>),
    Started {
        run: u64,
        result: Result<u16, String>,
    },
    StopAsked(Result<(), String>),
}

/// What to do. The first three report back with a [`Done`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    Fetch,
    /// On this port if it is free.
    Start {
        run: u64,
        port: Option<u16>,
    },
    Stop,
    Note(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    Fetching,
    /// The artifact could not be had.
    FetchWait {
        until: Duration,
    },
    Starting,
    Running {
        since: Duration,
    },
    Backoff {
        until: Duration,
    },
    Draining {
        until: Duration,
    },
    /// `again`: the request failed and is repeated then.
    Stopping {
        again: Option<Duration>,
    },
    Stopped,
}

/// Whether there is a program, or only files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Static,
    Service,
}

#[derive(Debug, Clone)]
pub(crate) struct Machine {
    kind: Kind,
    stage: Stage,
    /// Starts so far.
    run: u64,
    port: Option<u16>,
    backoff: Backoff,
    fetch_backoff: Backoff,
    /// What went wrong last.
    reason: String,
}

impl Machine {
    pub(crate) fn new(kind: Kind) -> Machine {
        Machine {
            kind,
            stage: Stage::New,
            run: 0,
            port: None,
            backoff: Backoff::default(),
            fetch_backoff: Backoff::default(),
            reason: String::new(),
        }
    }

    /// Moves on as far as the input allows.
    pub(crate) fn advance(&mut self, input: &Input, done: Option<Done>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut done = done;
        loop {
            let before = self.stage;
            self.step(input, done.take(), &mut effects);
            if self.stage == before {
                return effects;
            }
        }
    }

    fn step(&mut self, input: &Input, done: Option<Done>, effects: &mut Vec<Effect>) {
        let now = input.now;
        let stop = matches!(input.wanted, Wanted::Stop { .. });
        match self.stage {
            Stage::New => self.begin(input, effects),
            Stage::Fetching => match done {
                _ if stop => self.stage = Stage::Stopped,
                Some(Done::Fetched(Ok(()))) => self.fetched(now, effects),
                Some(Done::Fetched(Err(reason))) => {
                    let delay = self.fetch_backoff.delay(Duration::ZERO);
                    self.reason = format!("the artifact could not be fetched: {reason}");
                    self.stage = Stage::FetchWait { until: now + delay };
                }
                _ => {}
            },
            Stage::FetchWait { until } | Stage::Backoff { until } => {
                if stop {
                    self.stage = Stage::Stopped;
                } else if now >= until {
                    self.fetch(effects);
                }
            }
            // Even when it is to stop: only what has started can be stopped for sure.
            Stage::Starting => match (done, input.seen) {
                (_, Some(seen)) if seen.exit.is_none() || seen.run == self.run => {
                    self.adopt(seen, now);
                    effects.push(Effect::Note("started".to_owned()));
                }
                (Some(Done::Started { run, result }), _) if run == self.run => match result {
                    Ok(port) => {
                        self.port = Some(port);
                        self.stage = Stage::Running { since: now };
                    }
                    Err(reason) => self.ended(reason, Duration::ZERO, now, effects),
                },
                _ => {}
            },
            Stage::Running { since } => match (self.end_seen(input), stop) {
                (Some(_), true) => self.stage = Stage::Stopped,
                (Some(exit), false) => {
                    self.ended(exit.to_string(), now.saturating_sub(since), now, effects);
                }
                (None, true) => {
                    self.stage = Stage::Draining {
                        until: now + ACK_TIMEOUT,
                    };
                }
                (None, false) => {}
            },
            Stage::Draining { until } => match input.wanted {
                _ if self.end_seen(input).is_some() => self.stage = Stage::Stopped,
                Wanted::Run => self.stage = Stage::New,
                Wanted::Stop { acked } if acked || now >= until => match self.kind {
                    Kind::Static => self.stage = Stage::Stopped,
                    Kind::Service => self.stop(effects),
                },
                Wanted::Stop { .. } => {}
            },
            Stage::Stopping { again } => match done {
                _ if self.end_seen(input).is_some() => {
                    effects.push(Effect::Note("stopped".to_owned()));
                    self.stage = Stage::Stopped;
                }
                Some(Done::StopAsked(Err(reason))) => {
                    self.reason = reason;
                    self.stage = Stage::Stopping {
                        again: Some(now + STOP_RETRY),
                    };
                }
                _ if again.is_some_and(|at| now >= at) => self.stop(effects),
                _ => {}
            },
            Stage::Stopped => match (stop, input.seen) {
                (false, _) => self.stage = Stage::New,
                (true, Some(Seen { exit: None, .. })) => self.stop(effects),
                _ => {}
            },
        }
    }

    /// Continues from what is there: after a restart of the supervisor, of the daemon, of the machine.
    fn begin(&mut self, input: &Input, effects: &mut Vec<Effect>) {
        let stop = matches!(input.wanted, Wanted::Stop { .. });
        match input.seen {
            Some(seen) if seen.exit.is_none() => {
                self.adopt(seen, input.now);
            }
            _ if stop => self.stage = Stage::Stopped,
            Some(seen) => {
                self.adopt(seen, input.now);
                // The machine's going down says nothing against the program.
                if seen.exit == Some(Exit::Reboot) {
                    self.reason = Exit::Reboot.to_string();
                    self.fetch(effects);
                }
            }
            None => self.fetch(effects),
        }
    }

    fn adopt(&mut self, seen: Seen, now: Duration) {
        if self.run != seen.run {
            self.run = seen.run;
            self.backoff = Backoff::resumed(self.restarts());
        }
        self.port = Some(seen.port);
        self.stage = Stage::Running {
            since: now.saturating_sub(seen.age),
        };
    }

    fn fetch(&mut self, effects: &mut Vec<Effect>) {
        effects.push(Effect::Fetch);
        self.stage = Stage::Fetching;
    }

    fn fetched(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.fetch_backoff = Backoff::default();
        self.run += 1;
        match self.kind {
            Kind::Static => {
                self.reason.clear();
                self.stage = Stage::Running { since: now };
            }
            Kind::Service => {
                effects.push(Effect::Start {
                    run: self.run,
                    port: self.port,
                });
                self.stage = Stage::Starting;
            }
        }
    }

    fn stop(&mut self, effects: &mut Vec<Effect>) {
        effects.push(Effect::Stop);
        self.stage = Stage::Stopping { again: None };
    }

    fn ended(&mut self, why: String, ran: Duration, now: Duration, effects: &mut Vec<Effect>) {
        let delay = self.backoff.delay(ran);
        effects.push(Effect::Note(format!("{why}; starting again in {delay:?}")));
        self.reason = why;
        self.stage = Stage::Backoff { until: now + delay };
    }

    /// How the present run ended, if it has. One that the driver no longer lists has, too.
    fn end_seen(&self, input: &Input) -> Option<Exit> {
        match (self.kind, input.seen) {
            (Kind::Static, _) => None,
            (Kind::Service, Some(seen)) => seen.exit,
            (Kind::Service, None) => Some(Exit::Unseen),
        }
    }

    fn restarts(&self) -> u32 {
        u32::try_from(self.run.saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// What to tell the other nodes.
    pub(crate) fn facts(&self) -> PhaseFacts {
        let phase = match self.stage {
            Stage::New => Phase::Pending,
            Stage::Fetching | Stage::FetchWait { .. } if self.run == 0 => Phase::Fetching,
            // It was here before: what takes the time is the start.
            Stage::Fetching | Stage::Starting => Phase::Starting,
            Stage::FetchWait { .. } | Stage::Backoff { .. } => Phase::Backoff,
            Stage::Running { .. } => Phase::Running,
            Stage::Draining { .. } | Stage::Stopping { .. } => Phase::Stopping,
            Stage::Stopped => Phase::Stopped,
        };
        PhaseFacts {
            phase,
            restarts: self.restarts(),
            reason: self.reason.clone(),
            run: self.run,
        }
    }

    /// The program's port while it may be spoken to: until proxies have let go of it.
    pub(crate) fn serving(&self) -> Option<u16> {
        match self.stage {
            Stage::Running { .. } | Stage::Draining { .. } => self.port,
            _ => None,
        }
    }

    /// The port it has, or would like to have again.
    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }

    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stage == Stage::Stopped
    }

    /// Waits for other nodes to stop choosing it.
    pub(crate) fn is_draining(&self) -> bool {
        matches!(self.stage, Stage::Draining { .. })
    }

    /// When it moves on without anything happening.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match self.stage {
            Stage::FetchWait { until } | Stage::Backoff { until } | Stage::Draining { until } => {
                Some(until)
            }
            Stage::Stopping { again } => again,
            _ => None,
        }
    }
}
