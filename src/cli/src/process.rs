//! Other processes, named by pid and start time, so that a pid that was given out again is never mistaken for them.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// Between two looks at a process that is ending.
const PAUSE: Duration = Duration::from_millis(20);

/// A process that was seen running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// Clock ticks from the machine's boot to the process's start: field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
}

impl Process {
    /// The process that has this pid now, unless it has ended.
    pub fn running(pid: u32) -> Option<Process> {
        let start_ticks = start_of_running(pid)?;
        Some(Process { pid, start_ticks })
    }

    pub fn is_running(self) -> bool {
        start_of_running(self.pid) == Some(self.start_ticks)
    }

    /// Sends a signal to this process and to no other; false when it has ended.
    pub fn signal(self, signal: Signal) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else { return false };
        // The descriptor names one process for good: looking at the start time after opening it leaves no gap.
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => self.is_running() && pidfd_send_signal(&fd, signal).is_ok(),
            Err(_) => false,
        }
    }

    /// Waits until the process has ended; false when the deadline came first.
    pub async fn ended(self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        while self.is_running() {
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(PAUSE).await;
        }
        true
    }

    /// Asks with `signal`, waits, and kills what does not listen. True when it ended by itself.
    pub async fn stop(self, signal: Signal, grace: Duration) -> bool {
        self.signal(signal);
        if self.ended(grace).await {
            return true;
        }
        self.signal(Signal::KILL);
        // SIGKILL cannot be refused; the wait is for the kernel to clean up.
        self.ended(Duration::from_secs(5)).await;
        false
    }
}

/// proc(5): the command name in parentheses may hold anything, so count from the last one. A zombie has ended.
fn start_of_running(pid: u32) -> Option<u64> {
    let stat =
        std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    let fields: Vec<_> = after.split_whitespace().collect();
    if matches!(fields.first(), None | Some(&"Z") | Some(&"X")) {
        return None;
    }
    // Field 3 is the first here, so field 22 is at 19.
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_known_by_its_start_and_stopped_alone() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Process::running(child.id()).unwrap();
        assert!(process.is_running());
        let other = Process {
            start_ticks: process.start_ticks + 1,
            ..process
        };
        assert!(
            !other.is_running(),
            "the same pid with another start is another process"
        );
        assert!(!other.signal(Signal::KILL));
        assert!(process.is_running());
        assert!(process.stop(Signal::TERM, Duration::from_secs(10)).await);
        assert!(!process.is_running(), "a zombie has ended");
        child.wait().unwrap();
        assert_eq!(Process::running(process.pid), None);
    }

    #[tokio::test]
    async fn one_that_does_not_listen_is_killed() {
        let mut child = std::process::Command::new("sh")
            .args([
                "-c",
                "trap '' TERM; echo ready; while :; do sleep 0.05; done",
            ])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let process = Process::running(child.id()).unwrap();
        assert!(!process.stop(Signal::TERM, Duration::from_millis(100)).await);
        assert!(!process.is_running());
        child.wait().unwrap();
    }
}
