//! The parent process of one run of one instance: `nodectl shim DIR`.
//!
//! It outlives the daemon, so that restarting the daemon restarts no program and loses no output.
//! It starts the program that `DIR/spec.json` asks for, writes its output to `DIR/log`, passes a
//! stop on, reaps every descendant, and records the end in `DIR/exit.json`.
//!
//! One thread and no async runtime: there is one of these for every instance, so each costs as
//! little memory as it can, and the parent-death signal of the program is tied to its thread.
//!
//! On SIGTERM: SIGTERM to the program's process group, and after the grace (`DIR/stop.json`)
//! SIGKILL to everything below. When the program ends by itself, whatever it left behind gets
//! SIGTERM and [`LEFTOVER_GRACE`]. All descendants are found, however they were started, because
//! the shim is a child subreaper (prctl(2)): orphans become its children. In a process namespace of its
//! own the program is the child of [`init`], which gets the signals for its group and takes its orphans.
//!
//! [`beside`] is another process for another end: one command beside a program that runs.

pub mod beside;
mod child;
mod end;
mod init;
mod output;
mod program;
mod spawn;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nebula_domain::resources::Resources;
use nebula_domain::time::Millis;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::confine::cgroup::Groups;
use crate::confine::{Control, Controls, Enforce, Failure, Kind, users};
use crate::driver::{Exit, Secrets};
use crate::logfile::NOTE_EVERY;
use crate::procfs::{self, ProcessId};
use crate::record::{self, ExitRecord, SpecRecord, StateRecord, StopRecord};
use crate::volume::Mount;
use end::Limits;
use output::Output;
pub(crate) use program::{PASSED_ON, TOKEN};
use spawn::Started;

/// What the program leaves running when it ends by itself has this long to end too.
pub const LEFTOVER_GRACE: Duration = Duration::from_secs(2);
/// Between two rounds of SIGKILL to descendants; new ones may have appeared in between.
const KILL_ROUND: Duration = Duration::from_millis(50);
/// Whoever looks whether a folder is in use holds its lock for a moment.
const LOCK_TRIES: u32 = 25;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// More than the secrets of one program have in all, escaped.
const SECRETS_BYTES: u64 = 16 << 20;

/// Said on standard output once the program runs; anything else is why it does not.
pub(crate) const STARTED: &str = "started";
/// Said when another shim has the folder.
pub(crate) const BUSY: &str = "busy";

/// Runs the instance in `dir` to its end. Says on standard output how the start went, and closes it.
pub fn main(dir: &Path) -> ExitCode {
    program::forget_inheritance();
    match start(dir) {
        Ok(shim) => {
            say(STARTED);
            shim.run();
            ExitCode::SUCCESS
        }
        Err(reason) => {
            say(&reason);
            ExitCode::FAILURE
        }
    }
}

/// The daemon may be gone already, which changes nothing.
fn say(text: &str) {
    let mut stdout = io::stdout();
    let _ = writeln!(stdout, "{text}");
    let _ = stdout.flush();
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

struct Shim<'a> {
    dir: &'a Path,
    run: u64,
    /// Of the program, its process group and its session.
    program: Pid,
    /// Where the first process of its namespace tells how it ended.
    status: Option<File>,
    default_grace: Duration,
    signals: SignalFd,
    output: Output,
    /// How the program ended.
    exit: Option<Exit>,
    /// From here on what is left gets SIGKILL.
    kill_at: Option<Instant>,
    limits: Limits,
    /// See [`spawn::Process::alive`].
    _alive: File,
    _lock: File,
    /// Held for as long as anything of the run may be alive.
    _volumes: Vec<File>,
}

fn start(dir: &Path) -> Result<Shim<'_>, String> {
    let told = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    // Fails only for the leader of a process group: then somebody runs this by hand.
    let _ = nix::unistd::setsid();
    let lock = lock(dir).map_err(told("cannot lock the instance's folder"))?;
    let lock = lock.ok_or_else(|| BUSY.to_owned())?;
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|e| format!("cannot become a subreaper: {e}"))?;

    let mut spec: SpecRecord = record::read(dir, record::SPEC)
        .map_err(told("cannot read spec.json"))?
        .ok_or("there is no valid spec.json")?;
    spec.start.secrets = secrets().map_err(told("cannot be told the secrets"))?;
    let volumes = spec.start.volumes.iter().map(Mount::lock);
    let volumes = volumes.collect::<Result<Vec<File>, String>>();
    for stale in [record::SPEC, record::STOP, record::EXIT] {
        record::remove(dir, stale).map_err(told("cannot clear the instance's folder"))?;
    }

    let volumes = volumes?;

    // Blocked here and unblocked in the program; taken from the descriptor instead. SIGINT and
    // SIGHUP are for the terminal's foreground, which this no longer belongs to.
    let mut taken = SigSet::empty();
    taken.add(Signal::SIGTERM);
    taken.add(Signal::SIGCHLD);
    let mut blocked = taken;
    blocked.add(Signal::SIGINT);
    blocked.add(Signal::SIGHUP);
    let signals = blocked
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&taken, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC))
        .map_err(|e| format!("cannot take signals: {e}"))?;

    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let mut state = StateRecord {
        instance: spec.start.instance,
        run: spec.start.run,
        deployment: spec.start.deployment.clone(),
        release: spec.start.release,
        port: spec.start.port,
        reach: spec.start.reach.clone(),
        workdir: spec.start.workdir.clone(),
        image: spec.start.image.clone(),
        started_at: now(),
        token: spec.token.clone(),
        boot_id: procfs::boot_id().map_err(told("cannot read the boot id"))?,
        shim: ProcessId::of(me).ok_or("cannot read /proc")?,
        program: None,
        groups: Groups::default(),
        isolation: Controls::default(),
        plan: Some(spec.plan.clone()),
    };
    let started = begin(dir, &spec, &mut state);
    let started = match started {
        Ok(started) => started,
        Err(reason) => {
            let exit = ExitRecord {
                run: state.run,
                exit: Exit::Code(126),
                at: now(),
            };
            let _ = record::write(dir, record::EXIT, &exit);
            let _ = state.groups.end();
            return Err(reason);
        }
    };
    let process = started.process;
    state.program = ProcessId::of(process.pid.as_raw());
    state.isolation = process.controls;
    state.isolation.0.extend(spec.plan.firewall.clone());
    state.isolation.complete(spec.plan.enforce);
    // Without it the program is still found, by its token.
    let _ = record::write(dir, record::STATE, &state);

    Ok(Shim {
        dir,
        run: state.run,
        program: process.pid,
        status: process.status.inspect(dont_wait),
        default_grace: spec.start.stop_grace,
        signals,
        output: Output::new(dir, spec.output, started.out, started.err),
        exit: None,
        kill_at: None,
        limits: Limits::new(&spec, state.groups),
        _alive: process.alive,
        _lock: lock,
        _volumes: volumes,
    })
}

/// What the daemon tells by standard input, to its end.
fn secrets() -> io::Result<Secrets> {
    let mut text = Vec::new();
    io::stdin().take(SECRETS_BYTES).read_to_end(&mut text)?;
    if text.is_empty() {
        return Ok(Secrets::default());
    }
    Ok(Secrets(serde_json::from_slice(&text)?))
}

/// Makes the program's control groups and starts it in them.
fn begin(dir: &Path, spec: &SpecRecord, state: &mut StateRecord) -> Result<Started, String> {
    let (plan, start) = (&spec.plan, &spec.start);
    let mut controls = Controls::default();
    let is_root = nix::unistd::geteuid().is_root();
    // Of an earlier run that nobody saw end. What stays would be counted with this one, and killed with it.
    match plan.groups.end() {
        Err(error) if is_root => {
            return Err(format!(
                "control groups of an earlier run do not end: {error}"
            ));
        }
        _ => {}
    }
    state.groups = plan.groups.create(&plan.resources, &mut controls);
    // Before the program: from its first moment on it can be found.
    record::write(dir, record::STATE, state)
        .map_err(|error| format!("cannot write state.json: {error}"))?;
    let asked_for = |control: &&Control| is_asked_for(control.kind, plan.enforce, &plan.resources);
    if let Some(control) = controls.missing().find(asked_for)
        && (is_root || plan.enforce == Enforce::All)
    {
        let failure = Failure::new(control.kind, control.detail.clone());
        return Err(failure.to_string());
    }
    let at = start.workdir.display();
    if let Some(user) = plan.user {
        users::hand_over(&start.workdir, user)
            .map_err(|error| format!("cannot give {at} to user {user}: {error}"))?;
        for volume in &start.volumes {
            users::hand_over(&volume.data(), user).map_err(|error| {
                let name = &volume.name;
                format!("cannot give the volume '{name}' to user {user}: {error}")
            })?;
        }
    }
    let started = spawn::start(dir, spec, &state.groups, &controls);
    started.map_err(|error| error.told(start))
}

/// A limit that somebody gave, and that nothing but a control group enforces.
fn is_asked_for(limit: Kind, enforce: Enforce, resources: &Resources) -> bool {
    match limit {
        Kind::Memory | Kind::Cpu => true,
        // Confined, the program has a user whose processes are counted instead.
        Kind::Pids => enforce == Enforce::Limits && resources.pids != Resources::default().pids,
        _ => false,
    }
}

/// Cannot fail for a pipe of our own.
fn dont_wait(pipe: &File) {
    let _ = fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
}

fn lock(dir: &Path) -> io::Result<Option<File>> {
    for _ in 0..LOCK_TRIES {
        if let Some(lock) = record::try_lock(dir)? {
            return Ok(Some(lock));
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Ok(None)
}

impl Shim<'_> {
    fn run(mut self) {
        loop {
            let alone = self.reap();
            self.output.read(now());
            if alone {
                break;
            }
            self.take_status();
            if self.limits.is_over(Instant::now()) {
                if let Some(why) = self.limits.say() {
                    self.output.note(now(), &why);
                }
                self.kill_all();
            }
            if self.kill_at.is_some_and(|at| at <= Instant::now()) {
                self.kill_all();
            }
            self.wait();
            self.take_signals();
        }
        // Everything that could write is gone; what it wrote is in the pipes.
        self.output.end(now());
        let record = ExitRecord {
            run: self.run,
            // Only a program whose end was not reported comes here without; there is none.
            exit: self.limits.explain(self.exit.unwrap_or(Exit::Unseen)),
            at: now(),
        };
        self.limits.end();
        // A full disk frees itself at times; without a record the daemon says "unseen".
        let _ = record::write(self.dir, record::EXIT, &record);
    }

    /// Until a signal, output, or the deadline.
    fn wait(&self) {
        let note = self.output.owes_note().then(|| Instant::now() + NOTE_EVERY);
        let deadline = [self.kill_at, self.limits.next(), note];
        let deadline = deadline.into_iter().flatten().min();
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                // Something that is due is not done in one round.
                let left = if left.is_zero() { KILL_ROUND } else { left };
                // One millisecond more: poll rounds down, and would spin through the last one.
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            self.status
                .iter()
                .map(|status| PollFd::new(status.as_fd(), PollFlags::POLLIN)),
        );
        fds.extend(
            self.output
                .fds()
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN)),
        );
        // Interrupted or not, the loop looks at everything.
        let _ = poll(&mut fds, timeout);
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            if i32::try_from(info.ssi_signo) == Ok(Signal::SIGTERM as i32) {
                self.stop();
            }
        }
    }

    fn stop(&mut self) {
        let asked: Option<StopRecord> = record::read(self.dir, record::STOP).unwrap_or(None);
        let grace = asked.map_or(self.default_grace, |stop| stop.grace);
        let at = Instant::now() + grace;
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
        if self.exit.is_none() {
            let _ = killpg(self.program, Signal::SIGTERM);
            // A stopped process would see the request only after somebody else woke it.
            let _ = killpg(self.program, Signal::SIGCONT);
        }
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
            if pid == self.program {
                self.take_status();
                self.exit.get_or_insert(exit);
                self.end_leftovers();
            }
        }
    }

    /// Hears from the first process of a namespace how the program ended.
    fn take_status(&mut self) {
        let Some(status) = &mut self.status else {
            return;
        };
        match init::read(status) {
            init::Heard::Nothing => {}
            init::Heard::End(exit) => {
                self.status = None;
                self.exit = Some(exit);
                self.end_leftovers();
            }
            init::Heard::Gone => self.status = None,
        }
    }

    fn end_leftovers(&mut self) {
        self.kill_at
            .get_or_insert_with(|| Instant::now() + LEFTOVER_GRACE);
        self.signal_all(rustix::process::Signal::TERM);
        self.signal_all(rustix::process::Signal::CONT);
    }

    fn kill_all(&self) {
        if self.exit.is_none() {
            let _ = killpg(self.program, Signal::SIGKILL);
        }
        self.signal_all(rustix::process::Signal::KILL);
    }

    fn signal_all(&self, signal: rustix::process::Signal) {
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        for process in procfs::descendants(me) {
            let id = ProcessId {
                pid: process.pid,
                start: process.start,
            };
            // One that may not be signalled (it changed its user) is tried again next round.
            let _ = id.signal(signal);
        }
    }
}

fn now() -> Millis {
    Millis(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_processes_that_nothing_counts_is_refused_when_it_was_given() {
        let (given, default) = (
            Resources {
                pids: 100,
                ..Resources::default()
            },
            Resources::default(),
        );
        assert!(is_asked_for(Kind::Pids, Enforce::Limits, &given));
        assert!(!is_asked_for(Kind::Pids, Enforce::Limits, &default));
        assert!(!is_asked_for(Kind::Pids, Enforce::Possible, &given));
        assert!(is_asked_for(Kind::Memory, Enforce::Possible, &default));
    }
}
