//! A command beside a program, as exec probes ask for it: `nodectl shim DIR --beside`.
//!
//! What to run comes by standard input ([`StartSpec`] as one line of JSON), since arguments can be read by others. What the
//! command prints goes to standard error, and how it ended to standard output ([`Said`]). The command has all that
//! keeps the program within its limits and away from others: it joins the program's control groups, namespaces and root
//! folder, and takes on its user, its system calls and its Landlock rules anew. Should any of it fail, nothing is run.
//!
//! Standard input stays open for as long as somebody wants to know. When it is closed, or the command has ended, whatever the
//! command started is killed. This process stays outside and does the killing; the command's parent is a process within
//! ([`init`]), to which orphans come.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::child::{Apart, Job, hung_up};
use super::{KILL_ROUND, dont_wait, init, program, spawn};
use crate::confine::namespaces::Namespaces;
use crate::confine::{Controls, Kind};
use crate::driver::{Exit, StartSpec};
use crate::procfs::{self, ProcessId};
use crate::record::{self, SpecRecord, StateRecord};

/// More than any environment and command that the registry takes.
const JOB_BYTES: u64 = 16 << 20;
/// The process within ends by itself once it has no children. One that somebody stopped is killed after this.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// A process that does not go away by then is stuck in the kernel, and nobody waits for it.
const GIVE_UP: Duration = Duration::from_secs(5);

/// The last word.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Said {
    Ended(Exit),
    /// Nothing was run, and why.
    Refused(String),
}

/// Runs one command beside the program of the instance in `dir`, to its end.
pub fn main(dir: &Path) -> ExitCode {
    program::forget_inheritance();
    let said = match run(dir) {
        Ok(exit) => Said::Ended(exit),
        Err(reason) => Said::Refused(reason),
    };
    // Nobody listens any more.
    let _ = serde_json::to_writer(io::stdout(), &said);
    let _ = io::stdout().flush();
    ExitCode::SUCCESS
}

fn run(dir: &Path) -> Result<Exit, String> {
    let cannot = |what: &'static str| move |error: Errno| format!("{what}: {error}");
    // Fails only for the leader of a process group.
    let _ = nix::unistd::setsid();
    nix::sys::prctl::set_child_subreaper(true).map_err(cannot("cannot become a subreaper"))?;
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGCHLD);
    let signals = ends
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&ends, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC))
        .map_err(cannot("cannot take signals"))?;
    let start = asked()?;
    let state = running(dir, start.run)?;
    let plan = state
        .plan
        .clone()
        .ok_or("the program was started by an older version: restart the instance")?;
    let namespaces = match state.isolation.holds(Kind::Namespaces) {
        true => Some(namespaces(&state)?),
        false => None,
    };
    let mut controls = Controls::default();
    if state.groups.count_processes() {
        controls.held(Kind::Pids, "the program's control group");
    }
    let spec = SpecRecord {
        start,
        token: state.token.clone(),
        output: Default::default(),
        plan,
    };
    let job = Job {
        shim: nix::unistd::getpid(),
        spec: &spec,
        groups: &state.groups,
        apart: namespaces.as_ref().map_or(Apart::No, Apart::Of),
        controls,
        beside: Some(&state.isolation),
    };
    let output = || io::stderr().as_fd().try_clone_to_owned();
    let output = output().and_then(|out| Ok([out, output()?]));
    let output = output.map_err(|error| format!("cannot share the output: {error}"))?;
    let process = spawn::fork(job, output).map_err(|error| error.told(&spec.start))?;
    let exit = Watch {
        first: process.pid,
        is_apart: namespaces.is_some(),
        status: process.status.inspect(dont_wait),
        signals,
        exit: None,
        over: None,
        _alive: process.alive,
    }
    .run();
    if !state.shim.is_alive() {
        // The shim could not remove them while the command was in them.
        state.groups.remove();
    }
    Ok(exit)
}

fn asked() -> Result<StartSpec, String> {
    let mut line = String::new();
    let read = BufReader::new(io::stdin().take(JOB_BYTES)).read_line(&mut line);
    read.map_err(|error| format!("cannot read what to run: {error}"))?;
    // What is wrong with it may quote it, and it may hold secrets.
    serde_json::from_str(&line).map_err(|_| "what to run is not understood".to_owned())
}

/// The record of the run that was asked about, which goes on.
fn running(dir: &Path, run: u64) -> Result<StateRecord, String> {
    let state: Option<StateRecord> = record::read(dir, record::STATE)
        .map_err(|error| format!("cannot read the instance's folder: {error}"))?;
    let boot = procfs::boot_id().map_err(|error| format!("cannot read the boot id: {error}"))?;
    let lives = |state: &StateRecord| {
        let program = state.program.is_some_and(ProcessId::is_alive);
        state.run == run && state.boot_id == boot && state.shim.is_alive() && program
    };
    state
        .filter(lives)
        .ok_or_else(|| "the program has ended".to_owned())
}

/// By its first process; a daemon that is not root may not look at that one, and takes another that is in there with it:
/// none can leave.
fn namespaces(state: &StateRecord) -> Result<Namespaces, String> {
    let below = procfs::descendants(state.shim.pid);
    let others = below.iter().map(|stat| ProcessId {
        pid: stat.pid,
        start: stat.start,
    });
    let mut refused = None;
    for process in state.program.into_iter().chain(others) {
        match Namespaces::of(process.pid) {
            // What was looked at was this process if it is there still.
            Ok(found) if process.is_alive() => return Ok(found),
            Ok(_) => {}
            Err(error) => {
                refused.get_or_insert(error);
            }
        }
    }
    Err(match refused {
        Some(error) => format!("cannot open the program's namespaces: {error}"),
        None => "the program has ended".to_owned(),
    })
}

struct Watch {
    /// The command, or the process within that is its parent.
    first: Pid,
    is_apart: bool,
    /// Where the process within tells how the command ended.
    status: Option<File>,
    signals: SignalFd,
    exit: Option<Exit>,
    /// Since when all that is left is killed.
    over: Option<Instant>,
    _alive: File,
}

impl Watch {
    fn run(mut self) -> Exit {
        loop {
            let alone = self.reap();
            self.take_status();
            if alone {
                break;
            }
            if self.over.is_none() && (self.exit.is_some() || hung_up(&io::stdin())) {
                self.over = Some(Instant::now());
            }
            if let Some(since) = self.over {
                if since.elapsed() >= GIVE_UP {
                    break;
                }
                self.kill(since.elapsed() >= END_PATIENCE);
            }
            self.wait();
            while let Ok(Some(_)) = self.signals.read_signal() {}
        }
        self.exit.unwrap_or(Exit::Unseen)
    }

    /// Takes the status of every child that ended; true when no descendant is left.
    fn reap(&mut self) -> bool {
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) => return false,
                Ok(_) | Err(Errno::EINTR) => continue,
                // ECHILD: as a subreaper, no children means no descendants.
                Err(_) => return true,
            };
            if pid == self.first {
                self.take_status();
                self.exit.get_or_insert(exit);
            }
        }
    }

    fn take_status(&mut self) {
        let Some(status) = &mut self.status else {
            return;
        };
        match init::read(status) {
            init::Heard::Nothing => {}
            init::Heard::End(exit) => {
                self.status = None;
                self.exit.get_or_insert(exit);
            }
            init::Heard::Gone => self.status = None,
        }
    }

    /// The process within comes last: without it, orphans would go where they are not found.
    fn kill(&self, even_the_first: bool) {
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        for process in procfs::descendants(me) {
            if self.is_apart && process.pid == self.first.as_raw() && !even_the_first {
                continue;
            }
            let id = ProcessId {
                pid: process.pid,
                start: process.start,
            };
            // One that may not be signalled is tried again next round.
            let _ = id.signal(rustix::process::Signal::KILL);
        }
    }

    /// Until a child's end, the command's, or that of the interest in it.
    fn wait(&self) {
        let stdin = io::stdin();
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let status = self.status.iter();
        fds.extend(status.map(|status| PollFd::new(status.as_fd(), PollFlags::POLLIN)));
        let timeout = match self.over {
            Some(_) => PollTimeout::try_from(KILL_ROUND).unwrap_or(PollTimeout::MAX),
            None => {
                // Only its end.
                fds.push(PollFd::new(stdin.as_fd(), PollFlags::empty()));
                PollTimeout::NONE
            }
        };
        // Interrupted or not, the loop looks at everything.
        let _ = poll(&mut fds, timeout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_run_that_was_asked_about_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(running(dir.path(), 1).unwrap_err(), "the program has ended");
        std::fs::write(dir.path().join(record::STATE), "{").unwrap();
        assert_eq!(running(dir.path(), 1).unwrap_err(), "the program has ended");
    }

    #[test]
    fn the_last_word_reads_back() {
        for said in [
            Said::Ended(Exit::Code(3)),
            Said::Refused("a reason".to_owned()),
        ] {
            let text = serde_json::to_string(&said).unwrap();
            assert_eq!(serde_json::from_str::<Said>(&text).unwrap(), said);
        }
    }
}
