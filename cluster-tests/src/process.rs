//! Signals to exactly the processes a test started.

use std::process::Child;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Instances have 10 s to end unless their deployments say otherwise.
const END_DEADLINE: Duration = Duration::from_secs(15);

/// Sends a signal; a process that is gone already is no error.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid fits"));
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => panic!("cannot send {signal} to {pid}: {error}"),
    }
}

/// Ends a daemon that a test started as Ctrl-C does, which ends its instances too; by force if that takes too long.
pub fn end(daemon: &mut Child) {
    signal(daemon.id(), Signal::SIGINT);
    let until = Instant::now() + END_DEADLINE;
    while matches!(daemon.try_wait(), Ok(None)) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = daemon.kill();
    let _ = daemon.wait();
}

/// Whether a process runs. A zombie does not, unless a thread of it is still ending: a sync under way holds its files
/// and their locks after the kill.
pub fn is_running(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok())
        .any(|stat| is_alive(&stat))
}

fn is_alive(stat: &str) -> bool {
    // The state follows the command's name, which is in parentheses and may hold anything.
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Pids of a process's children.
pub fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let text = text.unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Pid of a process's parent.
pub fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Pids of all processes, zombies included.
pub fn all() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect()
}

/// Pids of all running processes whose environment or command line holds `needle`.
pub fn mentioning(needle: &str) -> Vec<u32> {
    let pids = all().into_iter();
    let holds = |pid: u32, file: &str| {
        std::fs::read(format!("/proc/{pid}/{file}"))
            .is_ok_and(|b| String::from_utf8_lossy(&b).contains(needle))
    };
    let own = std::process::id();
    pids.filter(|&pid| {
        pid != own && is_running(pid) && (holds(pid, "cmdline") || holds(pid, "environ"))
    })
    .collect()
}
