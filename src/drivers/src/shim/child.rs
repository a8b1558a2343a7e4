//! The forked process on its way to the program: it confines itself step by step and tells how that goes ([`Report`]).
//! Then it becomes the program, or, in a process namespace of its own, its first process ([`init`]) with the program as
//! its child.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout};
use serde::{Deserialize, Serialize};

use super::{init, program};
use crate::confine::cgroup::Groups;
use crate::confine::namespaces::Namespaces;
use crate::confine::{
    Controls, Enforce, Failure, Kind, Plan, landlock, namespaces, privileges, rlimits, root,
    seccomp,
};
use crate::record::SpecRecord;

/// Exit codes of a child that could not become the program (POSIX.1-2017, "Shell Command Language", 2.8.2).
pub(super) const CANNOT_RUN: i32 = 126;

/// What the child says, a line each, on its way to the program.
#[derive(Serialize, Deserialize)]
pub(super) enum Report {
    /// The first process of the namespace, or of a command in it, by its number out here.
    First(i32),
    Controls(Controls),
    Failed(Failure),
    Exec(i32),
}

/// The child's ends of the pipes.
pub(super) struct Ends {
    /// Closed by [`close_others`].
    pub(super) out: ManuallyDrop<OwnedFd>,
    pub(super) err: ManuallyDrop<OwnedFd>,
    pub(super) report: File,
    pub(super) status: OwnedFd,
    pub(super) alive: File,
}

impl Ends {
    fn say(&mut self, report: &Report) {
        say(&mut self.report, report);
    }
}

fn say(to: &mut File, report: &Report) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        // Nobody listens: the shim is gone.
        let _ = to.write_all(&line);
    }
}

/// What the child has to do.
pub(super) struct Job<'a> {
    /// Known before the fork: afterwards the parent may be another already.
    pub(super) shim: Pid,
    pub(super) spec: &'a SpecRecord,
    pub(super) groups: &'a Groups,
    pub(super) apart: Apart<'a>,
    pub(super) controls: Controls,
    /// What holds for the program that this one is to run beside: it must hold for this one too.
    pub(super) beside: Option<&'a Controls>,
}

/// Namespaces and a root folder.
pub(super) enum Apart<'a> {
    /// The shim's own.
    No,
    /// New ones. The root is built at this folder.
    New(&'a Path),
    /// Those of a program that runs.
    Of(&'a Namespaces),
}

impl Job<'_> {
    fn plan(&self) -> &Plan {
        &self.spec.plan
    }

    pub(super) fn is_apart(&self) -> bool {
        !matches!(self.apart, Apart::No)
    }

    /// Returns only when there is no program, or none any more.
    pub(super) fn run(mut self, mut ends: Ends) -> i32 {
        match self.prepare(&mut ends) {
            Ok(Role::Go) => {}
            Ok(Role::Done) => return 0,
            Err(failure) => {
                ends.say(&Report::Failed(failure));
                return CANNOT_RUN;
            }
        }
        let controls = std::mem::take(&mut self.controls);
        ends.say(&Report::Controls(controls));
        if !self.is_apart() {
            return self.become_program(ends.report);
        }
        self.become_first(ends)
    }

    /// All steps up to the program's own.
    fn prepare(&mut self, ends: &mut Ends) -> Result<Role, Failure> {
        nix::unistd::setsid().map_err(lost("setsid(2)"))?;
        program::quiet_signals().map_err(lost("signals"))?;
        dup2_stdout(ends.out.as_fd()).map_err(lost("standard output"))?;
        dup2_stderr(ends.err.as_fd()).map_err(lost("standard error"))?;
        self.groups
            .join()
            .map_err(Failure::of(Kind::Pids, "cannot join the control group"))?;
        self.limits()?;
        if self.is_apart() && self.enter_namespaces(ends)? == Role::Done {
            return Ok(Role::Done);
        }
        let keep = [
            ends.report.as_raw_fd(),
            ends.status.as_raw_fd(),
            ends.alive.as_raw_fd(),
        ];
        close_others(keep);
        if self.is_apart() {
            // The one in between has to be gone before its death can be told from the shim's.
            let mut go = [0];
            ends.alive.read_exact(&mut go).map_err(lost("the shim"))?;
            self.enter_root()?;
        }
        if self.plan().enforce != Enforce::Limits {
            self.give_up_rights()?;
        }
        // Here, since a change of user takes it back (prctl(2)).
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(lost("prctl(2)"))?;
        // The signal is sent only for a death from now on.
        self.compare()?;
        let orphan = match self.is_apart() {
            true => hung_up(&ends.alive),
            false => nix::unistd::getppid() != self.shim,
        };
        if orphan {
            return Err(Failure::new(Kind::Namespaces, "the shim is gone"));
        }
        Ok(Role::Go)
    }

    fn limits(&mut self) -> Result<(), Failure> {
        let resources = self.plan().resources;
        let mut controls = std::mem::take(&mut self.controls);
        rlimits::limit_files(&resources, &mut controls);
        if let Some(disk) = resources.disk {
            rlimits::limit_file_size(&resources)?;
            controls.held(Kind::Disk, format!("{disk}, measured; no larger file"));
        }
        self.controls = controls;
        let mut missing = self.controls.missing();
        // Processes may be limited in another way yet.
        match missing.find(|control| control.kind != Kind::Pids) {
            Some(control) if self.plan().enforce == Enforce::All => {
                Err(Failure::new(control.kind, control.detail.clone()))
            }
            _ => Ok(()),
        }
    }

    /// The process in between leaves with [`Role::Done`]; its child is the first of the namespace.
    fn enter_namespaces(&mut self, ends: &mut Ends) -> Result<Role, Failure> {
        let network = self.plan().isolation.network;
        let own_users = self.own_users();
        match self.apart {
            Apart::Of(namespaces) => namespaces.join()?,
            _ => namespaces::enter(network, own_users)?,
        }
        namespaces::record(network, own_users, &mut self.controls);
        match fork().map_err(Failure::of(Kind::Namespaces, "fork(2)"))? {
            ForkResult::Parent { child } => {
                ends.say(&Report::First(child.as_raw()));
                return Ok(Role::Done);
            }
            ForkResult::Child => {}
        }
        nix::unistd::setsid().map_err(Failure::of(Kind::Namespaces, "setsid(2)"))?;
        // Where no control group counts processes, the kernel counts those of a user that nobody else has.
        if !self.controls.holds(Kind::Pids) {
            let resources = self.plan().resources;
            rlimits::limit_processes(&resources)?;
            self.controls.0.retain(|control| control.kind != Kind::Pids);
            let by = format!("{} of its user (RLIMIT_NPROC)", resources.pids);
            self.controls.held(Kind::Pids, by);
        }
        Ok(Role::Go)
    }

    /// Only root may become another user; everybody else gets a namespace in which to be root for a moment.
    fn own_users(&self) -> bool {
        !nix::unistd::geteuid().is_root()
    }

    fn ids(&self) -> (u32, u32) {
        let own = (nix::unistd::geteuid(), nix::unistd::getegid());
        let user = self.plan().user;
        (
            user.unwrap_or(own.0.as_raw()),
            user.unwrap_or(own.1.as_raw()),
        )
    }

    fn enter_root(&mut self) -> Result<(), Failure> {
        let at = match self.apart {
            Apart::New(at) => at,
            // It came with the mounts.
            _ => {
                self.controls.held(Kind::Root, "the program's");
                return Ok(());
            }
        };
        let (user, group) = self.ids();
        let image = self.spec.start.image.as_ref();
        let view = root::View {
            at,
            workdir: &self.spec.start.workdir,
            seen: self.spec.start.seen(),
            image: image.map(|image| image.root.as_path()),
            // What a node shows besides is for programs that see the machine's files.
            readable: match image {
                Some(_) => &[],
                None => &self.spec.plan.readable,
            },
            volumes: &self.spec.start.volumes,
            user,
            group,
            name: program::USER_NAME,
        };
        root::enter(&view, &mut self.controls)
    }

    fn give_up_rights(&mut self) -> Result<(), Failure> {
        let plan = &self.spec.plan;
        privileges::drop_all(plan.user, &mut self.controls)?;
        let readable = root::readable(&plan.readable).collect();
        let mut rules = landlock::rules(self.is_apart(), self.spec.start.seen(), readable);
        if self.spec.start.image.is_some() {
            rules.write.extend(["/run", "/var/tmp"].map(Into::into));
        }
        // To Landlock the program is a stranger, which a command may ask whether it lives: a namespace of processes
        // keeps both from all others.
        rules.may_signal = matches!(self.apart, Apart::Of(_));
        let volumes = self.spec.start.volumes.iter();
        let apart = self.is_apart();
        rules.write.extend(volumes.map(|volume| volume.seen(apart)));
        landlock::restrict(&rules, &mut self.controls)?;
        // Missing from the kernel is missing for good: a second line behind the root folder, unless it was asked for.
        if plan.strict && !self.controls.holds(Kind::Landlock) {
            return Err(Failure::new(Kind::Landlock, "this kernel has none"));
        }
        seccomp::restrict(&mut self.controls)?;
        if self.is_apart() {
            // Its memory is not for the program, which is the same user. An exec takes it back (prctl(2)).
            let _ = nix::sys::prctl::set_dumpable(false);
        }
        Ok(())
    }

    /// Whether all that keeps the program beside keeps this process too.
    fn compare(&self) -> Result<(), Failure> {
        let Some(beside) = self.beside else {
            return Ok(());
        };
        let missing = Kind::APART
            .into_iter()
            .find(|kind| beside.holds(*kind) && !self.controls.holds(*kind));
        match missing {
            Some(kind) => Err(Failure::new(
                kind,
                "the program has it, and a command beside it has not",
            )),
            None => Ok(()),
        }
    }

    /// The first process of the namespace, with the program as its child.
    fn become_first(&self, ends: Ends) -> i32 {
        let Ends { report, status, .. } = ends;
        // For whoever lists processes.
        let _ = nix::sys::prctl::set_name(c"nebula-init");
        // Before there is a child: its end must not be missed.
        if SigSet::all().thread_block().is_err() {
            return CANNOT_RUN;
        }
        // The namespace has a first process already when it is another's: what this program leaves must not become that one's.
        if nix::sys::prctl::set_child_subreaper(true).is_err() {
            return CANNOT_RUN;
        }
        match fork() {
            Ok(ForkResult::Child) => {
                drop(status);
                let ready = SigSet::empty()
                    .thread_set_mask()
                    .and_then(|()| nix::unistd::setsid());
                match ready {
                    Ok(_) => self.become_program(report),
                    Err(_) => CANNOT_RUN,
                }
            }
            Ok(ForkResult::Parent { child }) => {
                drop(report);
                // Nothing of the program's output is for this process.
                let _ = detach_output();
                init::run(child, status)
            }
            Err(_) => CANNOT_RUN,
        }
    }

    fn become_program(&self, mut report: File) -> i32 {
        let error = program::become_it(self.spec, self.is_apart());
        let code = error.raw_os_error().unwrap_or(libc::EIO);
        say(&mut report, &Report::Exec(code));
        CANNOT_RUN
    }
}

/// A step that only a machine in trouble refuses.
fn lost<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Failure {
    Failure::of(Kind::Namespaces, what)
}

#[derive(PartialEq, Eq)]
enum Role {
    Go,
    Done,
}

/// The other end was closed: whoever had it is gone.
pub(super) fn hung_up(pipe: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0]
            .revents()
            .is_some_and(|e| e.contains(PollFlags::POLLHUP))
}

fn detach_output() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

/// A copy of this process.
#[allow(unsafe_code)]
pub(super) fn fork() -> nix::Result<ForkResult> {
    // SAFETY: a shim and everything that it forks has one thread (see `super`), so the copy holds no lock of another
    // thread and may do all that this process may.
    unsafe { nix::unistd::fork() }
}

/// Closes every descriptor above standard error but these. The shim's lock and its own ends of the pipes are among them.
#[allow(unsafe_code)]
fn close_others(mut keep: [RawFd; 3]) {
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep.map(i32::unsigned_abs).into_iter().chain([u32::MAX]) {
        if fd > from {
            // SAFETY: only in a process that was forked for the program: it never returns to the code that owns
            // what is closed, and what it goes on to use is kept.
            unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0_u32) };
        }
        from = fd.saturating_add(1);
    }
}
