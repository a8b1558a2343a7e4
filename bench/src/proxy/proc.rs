//! What a program's processes have used, as the kernel counts it, and the programs that a run starts.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use nebula_cluster_tests::process;

/// Where servers lie that a normal user's `PATH` leaves out.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A program by its name, as a shell would find it.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SBIN.map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A command for a program in a session of its own, as daemons are started: where the kernel shares cores out by session
/// (sched(7), autogroup), those that lived in this one would stand back for each other, and Nebula's daemons not. The
/// program is told to end when this process ends, also when that is not orderly.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "setsid"]).arg(program);
    command
}

/// A program that runs until this is dropped.
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts what [`command`] has made; what it says goes to the file `log` in `folder`.
    pub fn start(command: &mut Command, folder: &Path) -> anyhow::Result<Program> {
        let log = folder.join("log");
        let out = std::fs::File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("cannot run setpriv, of util-linux")?;
        Ok(Program { child, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it said, for one that does not do as it should.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        process::end(&mut self.child);
    }
}

/// A process and all that it has started.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        all.extend(process::children(pid));
        next += 1;
    }
    all
}

/// CPU time in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cpu {
    /// User and system time of all threads.
    pub all: f64,
    /// That of the edge's threads alone, where a program has threads of that name.
    pub edge: f64,
}

/// What each thread of some processes has run so far.
pub struct Threads(BTreeMap<(u32, OsString), Cpu>);

impl Threads {
    /// schedstat's first field is the time on a core in nanoseconds, user and system together (the kernel's
    /// Documentation/scheduler/sched-stats.rst); `stat` knows it in ticks of 10 ms only.
    pub fn of(pids: &[u32]) -> Threads {
        let mut all = BTreeMap::new();
        for pid in pids {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
            for thread in threads.into_iter().flatten().flatten() {
                let read = |file: &str| std::fs::read_to_string(thread.path().join(file));
                let micros = read("schedstat").map_or(0.0, |text| on_core(&text));
                let is_edge = read("comm").is_ok_and(|name| name.starts_with("edge-"));
                let edge = if is_edge { micros } else { 0.0 };
                all.insert((*pid, thread.file_name()), Cpu { all: micros, edge });
            }
        }
        Threads(all)
    }

    /// Thread by thread: one that has ended since would take its whole life off the sum. It ended because it had
    /// nothing to do, so nothing worth counting is lost with it.
    pub fn since(&self, before: &Threads) -> Cpu {
        let mut sum = Cpu::default();
        for (thread, now) in &self.0 {
            let then = before.0.get(thread).copied().unwrap_or_default();
            sum.all += now.all - then.all;
            sum.edge += now.edge - then.edge;
        }
        sum
    }
}

fn on_core(schedstat: &str) -> f64 {
    let nanos = schedstat.split_whitespace().next();
    nanos.and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1000.0
}

/// Resident memory in KB. `smaps_rollup` counts pages; `status` may be behind by some hundred of them.
pub fn resident_kb(pids: &[u32]) -> f64 {
    let of = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        resident(&text)
    };
    pids.iter().map(of).sum()
}

fn resident(rollup: &str) -> f64 {
    let line = rollup.lines().find_map(|l| l.strip_prefix("Rss:"));
    let kb = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    kb.unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        assert_eq!(on_core("1500 20 3\n"), 1.5);
        assert_eq!(on_core(""), 0.0);
        assert_eq!(resident("0-1 ---p\nRss:     1234 kB\nPss: 1 kB\n"), 1234.0);
    }

    #[test]
    fn a_thread_that_ended_takes_nothing_away() {
        let cpu = |all: f64| Cpu { all, edge: all };
        let threads = |some: &[(&str, f64)]| {
            let entry = |(name, all): &(&str, f64)| ((1, OsString::from(name)), cpu(*all));
            Threads(some.iter().map(entry).collect())
        };
        let before = threads(&[("2", 100.0), ("3", 10.0)]);
        let after = threads(&[("3", 15.0), ("4", 2.0)]);
        assert_eq!(after.since(&before), cpu(7.0));
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        let me = [std::process::id()];
        let before = Threads::of(&me);
        let mut sum = 0_u64;
        while Threads::of(&me).since(&before).all < 1.0 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(resident_kb(&me) > 100.0);
        assert!(tree(me[0]).contains(&me[0]));
    }
}
