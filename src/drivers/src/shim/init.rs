//! The first process of an instance's own process namespace (pid_namespaces(7)): parent of the program and of everything
//! whose parent is gone, and the one with which all of them end.
//!
//! It is as confined as the program. It passes SIGTERM on to the program's process group, takes the status of whatever
//! ends, says how the program ended, and ends itself when nothing is left.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::driver::Exit;

/// What is sent of an end: a kind, and a number in the machine's own order.
const REPORT_BYTES: usize = 5;

/// To its end, with the program running. `status` is where the program's end is told.
pub(super) fn run(program: Pid, status: OwnedFd) -> i32 {
    let mut status = File::from(status);
    let mut running = Some(program);
    // All blocked: a signal that the first process of a namespace neither blocks nor handles is not delivered.
    let signals = SigSet::all();
    loop {
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) | Err(Errno::EINTR) => continue,
                // ECHILD: nothing is left.
                Err(_) => return 0,
            };
            if running == Some(pid) {
                running = None;
                // Nobody to tell: then the shim is gone, and this process with it.
                let _ = status.write_all(&encode(exit));
            }
        }
        if let (Ok(Signal::SIGTERM), Some(program)) = (signals.wait(), running) {
            let _ = killpg(program, Signal::SIGTERM);
            let _ = killpg(program, Signal::SIGCONT);
        }
    }
}

/// What the shim hears.
pub(super) enum Heard {
    Nothing,
    End(Exit),
    /// It was killed, and everything with it.
    Gone,
}

/// The shim's side of `status`, which does not wait.
pub(super) fn read(status: &mut File) -> Heard {
    let mut bytes = [0; REPORT_BYTES];
    // Written at once, and less than a pipe takes at once: all of it or nothing (pipe(7)).
    match status.read(&mut bytes) {
        Ok(REPORT_BYTES) => decode(bytes).map_or(Heard::Gone, Heard::End),
        Ok(_) => Heard::Gone,
        Err(_) => Heard::Nothing,
    }
}

fn encode(exit: Exit) -> [u8; REPORT_BYTES] {
    let (kind, number) = match exit {
        Exit::Code(code) => (0, code),
        Exit::Signal(signal) => (1, signal),
        // Only the two come from waitpid(2).
        _ => (2, 0),
    };
    let [a, b, c, d] = number.to_ne_bytes();
    [kind, a, b, c, d]
}

fn decode([kind, number @ ..]: [u8; REPORT_BYTES]) -> Option<Exit> {
    let number = i32::from_ne_bytes(number);
    match kind {
        0 => Some(Exit::Code(number)),
        1 => Some(Exit::Signal(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_read_back() {
        for exit in [Exit::Code(0), Exit::Code(255), Exit::Signal(9)] {
            assert_eq!(decode(encode(exit)), Some(exit));
        }
        assert_eq!(decode([9; REPORT_BYTES]), None);
    }
}
