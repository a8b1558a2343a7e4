//! Ending what a killed shim could not: descendants of its program that were handed to init.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::procfs::{self, ProcessId};
use crate::record::StateRecord;
use crate::shim::TOKEN;

/// Killed processes take a moment to go. One that takes longer is stuck in the kernel, and no
/// further signal will help.
const PATIENCE: Duration = Duration::from_secs(5);
const ROUND: Duration = Duration::from_millis(20);

/// When the shim's end was noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// As it happened: the program's session id still means the program's session.
    AtOnce,
    /// At some later time, when the id may belong to somebody else.
    Later,
}

/// Kills every process that carries the run's token, or is in its session, until none is left.
///
/// What left the session *and* dropped its environment is held by the run's control groups, where it has some.
pub(super) fn end_leftovers(state: &StateRecord, found: Found) {
    let entry = format!("{TOKEN}={}", state.token);
    let deadline = Instant::now() + PATIENCE;
    if let Err(error) = state.groups.end() {
        tracing::warn!(instance = %state.instance, %error, "a control group of an ended instance stays");
    }
    loop {
        let left = leftovers(state, &entry, found);
        if left.is_empty() {
            return;
        }
        for process in &left {
            if let Err(error) = process.signal(Signal::KILL) {
                let (instance, pid) = (state.instance, process.pid);
                tracing::warn!(%instance, pid, %error, "a leftover process could not be killed");
            }
        }
        if Instant::now() >= deadline {
            let (instance, left) = (state.instance, left.len());
            tracing::error!(%instance, left, "processes of an ended instance do not go away");
            return;
        }
        std::thread::sleep(ROUND);
    }
}

fn leftovers(state: &StateRecord, entry: &str, found: Found) -> Vec<ProcessId> {
    let session = state.program.filter(|program| match found {
        Found::AtOnce => true,
        Found::Later => program.is_alive(),
    });
    procfs::all()
        .into_iter()
        .filter(|process| !process.ended)
        .filter(|process| {
            session.is_some_and(|leader| {
                // Members of a session are younger than its leader.
                process.session == leader.pid && process.start >= leader.start
            }) || procfs::has_env(process.pid, entry)
        })
        .map(|process| ProcessId {
            pid: process.pid,
            start: process.start,
        })
        .collect()
}
