//! Starting the program: a forked process confines itself and becomes it ([`child`]), and the shim hears how that went.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use nebula_domain::isolation::Network;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, pipe2};

use super::child::{self, Apart, CANNOT_RUN, Ends, Job, Report};
use super::program;
use crate::confine::cgroup::Groups;
use crate::confine::{Controls, Enforce, Failure};
use crate::driver::StartSpec;
use crate::record::SpecRecord;

/// Where a root folder is built, in the instance's own folder.
const ROOT: &str = "root";

/// A program that runs.
pub(crate) struct Started {
    pub out: File,
    pub err: File,
    pub process: Process,
}

pub(crate) struct Process {
    /// The program, or the first process of its namespace.
    pub pid: Pid,
    /// Where the first process tells how the program ended.
    pub status: Option<File>,
    pub controls: Controls,
    /// Held open: its closing is how the first process knows that the shim is gone.
    pub alive: File,
}

/// Why it does not run.
pub(crate) enum StartError {
    Confined(Failure),
    Exec(io::Error),
    Lost(String),
}

impl StartError {
    /// In one sentence.
    pub(super) fn told(&self, start: &StartSpec) -> String {
        match self {
            StartError::Confined(failure) if start.image.is_some() => {
                format!("images need a node that isolates: {failure}")
            }
            StartError::Confined(failure) => failure.to_string(),
            StartError::Exec(error) => {
                let (program, at) = (program::name(start), start.seen().display());
                format!("cannot start {program} in {at}: {error}")
            }
            StartError::Lost(error) => format!("cannot start the program: {error}"),
        }
    }
}

/// Whether namespaces and a root folder are tried. Each try is a process of its own: a step that failed half-way is gone
/// with it.
pub(crate) fn start(
    dir: &Path,
    spec: &SpecRecord,
    groups: &Groups,
    controls: &Controls,
) -> Result<Started, StartError> {
    let plan = &spec.plan;
    let apart = plan.enforce != Enforce::Limits;
    // To have no network was asked for by name.
    let may_lack = plan.enforce == Enforce::Possible
        && plan.isolation.network == Network::Host
        // Among the machine's own files its program is not what was asked for.
        && spec.start.image.is_none();
    match attempt(dir, spec, groups, controls.clone(), apart) {
        Err(StartError::Confined(failure)) if may_lack => {
            let mut controls = controls.clone();
            controls.lacks(failure);
            attempt(dir, spec, groups, controls, false)
        }
        result => result,
    }
}

fn attempt(
    dir: &Path,
    spec: &SpecRecord,
    groups: &Groups,
    controls: Controls,
    apart: bool,
) -> Result<Started, StartError> {
    let at = dir.join(ROOT);
    if apart {
        std::fs::create_dir_all(&at).map_err(lost("cannot make the root's folder"))?;
    }
    let job = Job {
        shim: nix::unistd::getpid(),
        spec,
        groups,
        apart: match apart {
            true => Apart::New(&at),
            false => Apart::No,
        },
        controls,
        beside: None,
    };
    let (out, err) = (pipe()?, pipe()?);
    Ok(Started {
        process: fork(job, [out.1, err.1])?,
        out: File::from(out.0),
        err: File::from(err.0),
    })
}

/// Forks the process that does the job, and hears how that goes. `output`: its standard output and error.
pub(super) fn fork(job: Job<'_>, output: [OwnedFd; 2]) -> Result<Process, StartError> {
    let apart = job.is_apart();
    let [report, status, alive] = [pipe()?, pipe()?, pipe()?];
    let [out, err] = output;
    let child = match child::fork().map_err(lost("cannot fork"))? {
        ForkResult::Child => {
            let ends = Ends {
                out: ManuallyDrop::new(out),
                err: ManuallyDrop::new(err),
                report: File::from(report.1),
                status: status.1,
                alive: File::from(alive.0),
            };
            // A panic must not unwind into the shim's own code, of which this would be a second copy.
            let code = catch_unwind(AssertUnwindSafe(|| job.run(ends)));
            std::process::exit(code.unwrap_or(CANNOT_RUN));
        }
        ForkResult::Parent { child } => child,
    };
    drop((out, err, report.1, status.1, alive.0));
    let mut alive = File::from(alive.1);
    let mut pid = child;
    let mut told = None;
    let result = hear(report.0, |said| match said {
        Report::First(first) => {
            // The one in between has done its part: the first process is the shim's own child from now on.
            let _ = waitpid(child, None);
            pid = Pid::from_raw(first);
            let _ = alive.write_all(b"g");
            Ok(())
        }
        Report::Controls(controls) => {
            told = Some(controls);
            Ok(())
        }
        Report::Failed(failure) => Err(StartError::Confined(failure)),
        Report::Exec(code) => Err(StartError::Exec(io::Error::from_raw_os_error(code))),
    });
    match (result, told) {
        (Ok(()), Some(controls)) => Ok(Process {
            pid,
            status: apart.then(|| File::from(status.0)),
            controls,
            alive,
        }),
        (result, _) => {
            let _ = kill(pid, Signal::SIGKILL);
            let ended = waitpid(pid, None);
            Err(result.err().unwrap_or_else(|| {
                StartError::Lost(format!("it ended before the program began ({ended:?})"))
            }))
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), StartError> {
    pipe2(OFlag::O_CLOEXEC).map_err(lost("cannot make a pipe"))
}

fn lost<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> StartError {
    move |error| StartError::Lost(format!("{what}: {error}"))
}

fn hear(
    from: OwnedFd,
    mut take: impl FnMut(Report) -> Result<(), StartError>,
) -> Result<(), StartError> {
    for line in BufReader::new(File::from(from)).lines() {
        let said = line.map_err(|e| StartError::Lost(format!("nothing was heard: {e}")))?;
        let said = serde_json::from_str(&said);
        take(said.map_err(|e| StartError::Lost(format!("not understood: {e}")))?)?;
    }
    Ok(())
}
