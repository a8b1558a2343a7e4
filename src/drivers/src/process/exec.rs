//! A command beside a program, as a child of the daemon: for a few seconds, and never longer than its time limit.
//!
//! It must be confined as its program is. A program in other namespaces, in another root or of another user than the
//! daemon's is such a program, and until a command can be put in there with it, none is run for it: a command of a
//! deployment must never run with more rights than the deployment itself.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use async_trait::async_trait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::Command;

use super::{Inner, ProcessDriver, blocking};
use crate::driver::{DriverError, Exit, Secrets, StartSpec};
use crate::exec::{Exec, ExecSpec, SAID_BYTES};
use crate::procfs::ProcessId;
use crate::record::{self, StateRecord};
use crate::shim;

/// What a program shares with the daemon when nothing confines it (namespaces(7)).
const NAMESPACES: [&str; 7] = ["mnt", "pid", "user", "net", "ipc", "uts", "cgroup"];
/// Beyond this a command's output is read and dropped: it must not wait for room in the pipe.
const PIECE_BYTES: usize = 4 * 1024;

#[async_trait]
impl Exec for ProcessDriver {
    async fn exec(&self, spec: ExecSpec) -> Result<(), DriverError> {
        let command = self.inner.prepare(&spec).await?;
        let said = match tokio::time::timeout(spec.timeout, run(command)).await {
            Ok(ended) => ended,
            Err(_) => return Err(DriverError::CommandTimeout(spec.timeout)),
        };
        match said.map_err(failed)? {
            (status, _) if status.success() => Ok(()),
            (status, said) if said.is_empty() => {
                Err(DriverError::Command(exit(status).to_string()))
            }
            (_, said) => Err(DriverError::Command(said)),
        }
    }
}

fn failed(error: io::Error) -> DriverError {
    DriverError::Command(format!("the command cannot be run: {error}"))
}

impl Inner {
    async fn prepare(&self, spec: &ExecSpec) -> Result<Command, DriverError> {
        let (dir, instance) = (self.dir_of(spec.instance), spec.instance);
        let state =
            blocking(move || running(&dir)?.ok_or(DriverError::NotRunning(instance))).await?;
        let start = StartSpec {
            instance,
            run: state.run,
            deployment: state.deployment,
            release: state.release,
            node: spec.surroundings.node.clone(),
            command: spec.command.clone(),
            env: spec.surroundings.env.clone(),
            workdir: state.workdir,
            port: state.port,
            // Nobody asks a command to stop.
            stop_grace: std::time::Duration::ZERO,
            resources: Default::default(),
            isolation: Default::default(),
            volumes: Vec::new(),
            secrets: Secrets::default(),
        };
        let mut command = shim::command(&start, &state.token, false);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut command = Command::from(command);
        command.kill_on_drop(true);
        Ok(command)
    }
}

/// The record of a run whose program is alive, unconfined, and whose folder is known.
fn running(dir: &Path) -> Result<Option<StateRecord>, DriverError> {
    let bad = |e| DriverError::io("cannot read an instance's folder", dir)(e);
    let state: Option<StateRecord> = record::read(dir, record::STATE).map_err(bad)?;
    let Some(state) = state.filter(super::shim_is_alive) else {
        return Ok(None);
    };
    let Some(program) = state.program.filter(|program| program.is_alive()) else {
        return Ok(None);
    };
    let confined = is_confined(program).map_err(bad)?;
    if confined || state.workdir == PathBuf::new() {
        let what = match confined {
            true => {
                "no command can be run beside a program that is isolated: probe it by HTTP, TCP or gRPC"
            }
            false => "the program was started by an older version: restart the instance",
        };
        return Err(DriverError::Command(what.to_owned()));
    }
    // What was looked at was this program if it is there still.
    Ok(program.is_alive().then_some(state))
}

fn is_confined(program: ProcessId) -> io::Result<bool> {
    let of = |who: &str, what: &str| fs::read_link(format!("/proc/{who}/{what}"));
    let pid = program.pid.to_string();
    for name in NAMESPACES {
        let path = format!("ns/{name}");
        match (of(&pid, &path), of("self", &path)) {
            (Ok(its), Ok(own)) if its == own => {}
            // A kernel without this kind of namespace.
            (Err(its), Err(own))
                if [&its, &own]
                    .iter()
                    .all(|e| e.kind() == io::ErrorKind::NotFound) => {}
            (Err(error), _) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(true),
        }
    }
    // The owner of /proc/PID is the effective user (proc(5)).
    let its = fs::metadata(format!("/proc/{pid}"))?;
    let own = fs::metadata("/proc/self")?;
    let same_user = (its.uid(), its.gid()) == (own.uid(), own.gid());
    Ok(!same_user
        || of(&pid, "root")? != of("self", "root")?
        || restrictions(&pid)? != restrictions("self")?)
}

/// Filters of system calls, promises and capabilities (proc(5), `status`).
fn restrictions(who: &str) -> io::Result<Vec<String>> {
    const NAMES: [&str; 4] = ["Seccomp:", "NoNewPrivs:", "CapBnd:", "CapEff:"];
    let status = fs::read_to_string(format!("/proc/{who}/status"))?;
    let lines = status.lines();
    Ok(lines
        .filter(|line| NAMES.iter().any(|name| line.starts_with(name)))
        .map(str::to_owned)
        .collect())
}

/// Kills what is left of a command, however its run ends.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // The id is not given to others while a member of the group lives; without one there is nobody to signal.
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

/// How it ended, and the first line that it said on standard output or standard error.
async fn run(mut command: Command) -> io::Result<(ExitStatus, String)> {
    let (reader, writer) = io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = command.spawn()?;
    // Its ends of the pipe were the last of ours.
    drop(command);
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let _group = pid.map(|pid| Group(Pid::from_raw(pid)));
    let mut output = pipe::Receiver::from_owned_fd(reader.into())?;
    let mut said = Vec::new();
    let mut piece = [0; PIECE_BYTES];
    let mut open = true;
    let status = loop {
        tokio::select! {
            biased;
            read = output.read(&mut piece), if open => {
                let read = read?;
                open = read > 0;
                keep(&mut said, &piece[..read]);
            }
            status = child.wait() => break status?,
        }
    };
    // What it left in the pipe; others that hold the pipe are not waited for.
    while let Ok(read @ 1..) = output.try_read(&mut piece) {
        keep(&mut said, &piece[..read]);
        if said.len() >= SAID_BYTES {
            break;
        }
    }
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().map(str::trim).find(|line| !line.is_empty());
    Ok((
        status,
        line.unwrap_or_default().replace(char::is_control, " "),
    ))
}

fn keep(said: &mut Vec<u8>, piece: &[u8]) {
    let room = SAID_BYTES.saturating_sub(said.len());
    said.extend_from_slice(&piece[..piece.len().min(room)]);
}

fn exit(status: ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Unseen,
    }
}
