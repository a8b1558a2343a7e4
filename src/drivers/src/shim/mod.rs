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
//! the shim is a child subreaper (prctl(2)): orphans become its children.

mod output;
mod program;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nebula_domain::time::Millis;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::driver::Exit;
use crate::procfs::{self, ProcessId};
use crate::record::{self, ExitRecord, SpecRecord, StateRecord, StopRecord};
use output::Output;
pub(crate) use program::{PASSED_ON, TOKEN};

/// What the program leaves running when it ends by itself has this long to end too.
pub const LEFTOVER_GRACE: Duration = Duration::from_secs(2);
/// Between two rounds of SIGKILL to descendants; new ones may have appeared in between.
const KILL_ROUND: Duration = Duration::from_millis(50);
/// Whoever looks whether a folder is in use holds its lock for a moment.
const LOCK_TRIES: u32 = 25;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

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
    default_grace: Duration,
    signals: SignalFd,
    output: Output,
    /// How the program ended.
    exit: Option<Exit>,
    /// From here on what is left gets SIGKILL.
    kill_at: Option<Instant>,
    _lock: File,
}

fn start(dir: &Path) -> Result<Shim<'_>, String> {
    let told = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    // Fails only for the leader of a process group: then somebody runs this by hand.
    let _ = nix::unistd::setsid();
    let lock = lock(dir).map_err(told("cannot lock the instance's folder"))?;
    let lock = lock.ok_or_else(|| BUSY.to_owned())?;
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|e| format!("cannot become a subreaper: {e}"))?;

    let spec: SpecRecord = record::read(dir, record::SPEC)
        .map_err(told("cannot read spec.json"))?
        .ok_or("there is no valid spec.json")?;
    for stale in [record::SPEC, record::STOP, record::EXIT] {
        record::remove(dir, stale).map_err(told("cannot clear the instance's folder"))?;
    }

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
        started_at: now(),
        token: spec.token.clone(),
        boot_id: procfs::boot_id().map_err(told("cannot read the boot id"))?,
        shim: ProcessId::of(me).ok_or("cannot read /proc")?,
        program: None,
    };
    // Before the program: from its first moment on it can be found.
    record::write(dir, record::STATE, &state).map_err(told("cannot write state.json"))?;
    let mut child = match program::spawn(&spec) {
        Ok(child) => child,
        Err(error) => {
            let exit = ExitRecord {
                run: state.run,
                exit: Exit::Code(126),
                at: now(),
            };
            let _ = record::write(dir, record::EXIT, &exit);
            let at = spec.start.workdir.display();
            return Err(format!("cannot start /bin/sh in {at}: {error}"));
        }
    };
    let pid = i32::try_from(child.id()).unwrap_or(0);
    state.program = ProcessId::of(pid);
    // Without it the program is still found, by its token.
    let _ = record::write(dir, record::STATE, &state);

    Ok(Shim {
        dir,
        run: state.run,
        program: Pid::from_raw(pid),
        default_grace: spec.start.stop_grace,
        signals,
        output: Output::new(dir, child.stdout.take(), child.stderr.take()),
        exit: None,
        kill_at: None,
        _lock: lock,
    })
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
            exit: self.exit.unwrap_or(Exit::Unseen),
            at: now(),
        };
        // A full disk frees itself at times; without a record the daemon says "unseen".
        let _ = record::write(self.dir, record::EXIT, &record);
    }

    /// Until a signal, output, or the deadline.
    fn wait(&self) {
        let timeout = match self.kill_at {
            None => PollTimeout::NONE,
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                let left = if left.is_zero() { KILL_ROUND } else { left };
                // One millisecond more: poll rounds down, and would spin through the last one.
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
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
                self.exit = Some(exit);
                self.end_leftovers();
            }
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
