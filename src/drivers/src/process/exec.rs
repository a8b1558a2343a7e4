//! A command beside a program, run by a helper of the shim's making ([`crate::shim::beside`]) for a few seconds, and never
//! longer than its time limit. It is confined as the program is: a command of a deployment never has more rights than
//! the deployment itself.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::process::Command;

use super::{Inner, ProcessDriver, blocking};
use crate::driver::{DriverError, Secrets, StartSpec};
use crate::exec::{Exec, ExecSpec, Tail};
use crate::record::{self, StateRecord};
use crate::shim::beside::Said;

/// Read at once of what a command prints.
const PIECE_BYTES: usize = 4 * 1024;
/// As many as a pipe holds (pipe(7)).
const PIECES_LEFT: usize = 64 * 1024 / PIECE_BYTES;
/// More than any last word of a helper has.
const WORD_BYTES: u64 = 4 * 1024;

#[async_trait]
impl Exec for ProcessDriver {
    async fn exec(&self, spec: ExecSpec) -> Result<(), DriverError> {
        let start = self.inner.beside(&spec).await?;
        let mut command = self.inner.helper(&self.inner.dir_of(spec.instance))?;
        command.arg("--beside");
        let mut printed = Tail::default();
        // At the limit, as when the future is dropped, the helper loses its standard input and ends everything.
        let ended = tokio::time::timeout(spec.timeout, run(command, &start, &mut printed)).await;
        let printed = printed.text();
        match ended {
            Err(_) => Err(DriverError::CommandTimeout {
                limit: spec.timeout,
                said: printed,
            }),
            Ok(Err(error)) => Err(cannot(&error)),
            Ok(Ok(Said::Refused(reason))) => Err(cannot(&reason)),
            Ok(Ok(Said::Ended(exit))) if exit.is_success() => Ok(()),
            Ok(Ok(Said::Ended(exit))) if printed.is_empty() => {
                Err(DriverError::Command(exit.to_string()))
            }
            Ok(Ok(Said::Ended(_))) => Err(DriverError::Command(printed)),
        }
    }
}

fn cannot(error: &dyn std::fmt::Display) -> DriverError {
    DriverError::Command(format!("the command cannot be run: {error}"))
}

impl Inner {
    /// What the helper is to run: as the program was started, with another command.
    async fn beside(&self, spec: &ExecSpec) -> Result<StartSpec, DriverError> {
        let (dir, instance) = (self.dir_of(spec.instance), spec.instance);
        let state =
            blocking(move || running(&dir)?.ok_or(DriverError::NotRunning(instance))).await?;
        Ok(StartSpec {
            instance,
            run: state.run,
            deployment: state.deployment,
            release: state.release,
            node: spec.surroundings.node.clone(),
            command: spec.command.clone(),
            env: spec.surroundings.env.clone(),
            workdir: state.workdir,
            image: state.image,
            port: state.port,
            reach: state.reach,
            // Nobody asks a command to stop.
            stop_grace: std::time::Duration::ZERO,
            // The helper finds what holds for the program in its record.
            resources: Default::default(),
            isolation: Default::default(),
            volumes: Vec::new(),
            secrets: Secrets::default(),
        })
    }
}

/// The record of a run whose program is alive, and whose folder is known.
fn running(dir: &Path) -> Result<Option<StateRecord>, DriverError> {
    let bad = |e| DriverError::io("cannot read an instance's folder", dir)(e);
    let state: Option<StateRecord> = record::read(dir, record::STATE).map_err(bad)?;
    let Some(state) = state.filter(super::shim_is_alive) else {
        return Ok(None);
    };
    if !state.program.is_some_and(|program| program.is_alive()) {
        return Ok(None);
    }
    if state.workdir == PathBuf::new() {
        let what = "the program was started by an older version: restart the instance";
        return Err(DriverError::Command(what.to_owned()));
    }
    Ok(Some(state))
}

async fn run(mut command: Command, start: &StartSpec, printed: &mut Tail) -> io::Result<Said> {
    let (reader, writer) = io::pipe()?;
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(writer);
    let mut child = command.spawn()?;
    // Its ends of the pipe were the last of ours.
    drop(command);
    let mut output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    // Kept open: its closing is how the helper knows that nobody waits.
    let mut stdin = child.stdin.take();
    if let Some(stdin) = &mut stdin {
        let mut job = serde_json::to_vec(start)?;
        job.push(b'\n');
        stdin.write_all(&job).await?;
        stdin.flush().await?;
    }
    let mut piece = [0; PIECE_BYTES];
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            read = output.read(&mut piece), if open => {
                let read = read?;
                open = read > 0;
                printed.push(&piece[..read]);
            }
            status = child.wait() => {
                status?;
                break;
            }
        }
    }
    // What was left in the pipe; others that hold the pipe are not waited for.
    for _ in 0..PIECES_LEFT {
        match output.try_read(&mut piece) {
            Ok(read @ 1..) => printed.push(&piece[..read]),
            _ => break,
        }
    }
    let mut word = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(WORD_BYTES).read_to_end(&mut word).await?;
    }
    serde_json::from_slice(&word)
        .map_err(|_| io::Error::other("its helper did not say how it ended"))
}
