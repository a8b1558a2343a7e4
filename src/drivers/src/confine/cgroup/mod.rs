//! The control groups of one run: made by its shim, joined by the program before its first instruction, read by whoever
//! asks for usage, and removed when the run is over, by the shim or whoever finds them without one.
//!
//! Both versions behind one interface: a run has a group in every hierarchy that has a controller it needs.

mod find;
mod processors;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nebula_domain::ids::InstanceId;
use nebula_domain::resources::{Cpu, Resources};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::{Control, Controls, Failure, Kind};
use find::{Hierarchies, Hierarchy, Version};
use processors::Turn;

pub(crate) use sweep::sweep;

/// What the kernel counts a share of processor time against: its default, 100 ms.
const PERIOD_US: u64 = 100_000;
/// A group whose processes were killed is empty soon after; longer means one is stuck in the kernel.
const EMPTY_PATIENCE: Duration = Duration::from_secs(5);
const ROUND: Duration = Duration::from_millis(5);

/// The group of a run in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    version: Version,
    /// The hierarchy's root.
    mount: PathBuf,
    path: PathBuf,
}

/// All groups of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Groups {
    memory: Option<Group>,
    cpu: Option<Group>,
    cpuacct: Option<Group>,
    /// Only of a program that is kept to some processors. Records of earlier versions have none.
    #[serde(default)]
    cpuset: Option<Group>,
    pids: Option<Group>,
}

/// What a run uses now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub memory_bytes: Option<u64>,
    /// Since it started.
    pub cpu: Option<Duration>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Processes that were killed because memory ran out.
    pub memory_kills: Option<u64>,
}

/// Where the groups of one node's instances are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    hierarchies: Hierarchies,
    /// Below each hierarchy's root.
    folder: PathBuf,
}

impl Place {
    /// `node` tells apart the nodes of one machine.
    pub(crate) fn here(parent: &Path, node: &str) -> Place {
        Place {
            hierarchies: find::here(),
            folder: relative(parent).join(node),
        }
    }

    pub(crate) fn of(&self, instance: InstanceId) -> Groups {
        let group = |hierarchy: &Option<Hierarchy>| {
            hierarchy
                .as_ref()
                .map(|Hierarchy { version, mount }| Group {
                    version: *version,
                    mount: mount.clone(),
                    path: mount.join(&self.folder).join(instance.to_string()),
                })
        };
        Groups {
            memory: group(&self.hierarchies.memory),
            cpu: group(&self.hierarchies.cpu),
            cpuacct: group(&self.hierarchies.cpuacct),
            cpuset: group(&self.hierarchies.cpuset),
            pids: group(&self.hierarchies.pids),
        }
    }
}

/// A path that was given from the root of the hierarchies is meant below it.
fn relative(parent: &Path) -> &Path {
    parent.strip_prefix("/").unwrap_or(parent)
}

impl Groups {
    fn all(&self) -> impl Iterator<Item = &Group> {
        let all = [
            &self.memory,
            &self.cpu,
            &self.cpuacct,
            &self.cpuset,
            &self.pids,
        ];
        let mut seen = BTreeSet::new();
        all.into_iter()
            .flatten()
            .filter(move |group| seen.insert(&group.path))
    }

    /// Makes them new and sets the limits. What cannot be had is left out of the result and told.
    pub(crate) fn create(&self, resources: &Resources, controls: &mut Controls) -> Groups {
        let mut made = Groups::default();
        let memory = resources.memory;
        made.memory = self.limited(
            Kind::Memory,
            &self.memory,
            memory.map(|memory| (memory.to_string(), memory.bytes())),
            controls,
            Group::limit_memory,
        );
        let cpu = resources.cpu;
        let turn = cpu.and_then(|_| self.turn());
        made.cpu = self.limited(
            Kind::Cpu,
            &self.cpu,
            cpu.map(|cpu| (cpu.to_string(), u64::from(cpu.millis()))),
            controls,
            Group::limit_cpu,
        );
        made.cpuset = turn.and_then(|turn| {
            let (made, cpu) = (made.cpu.as_ref()?, cpu?);
            self.keep_together(made, cpu, controls, &turn)
        });
        // The instance's own first process is none of what it asked for.
        let pids = u64::from(resources.pids) + 1;
        let limit = Some((resources.pids.to_string(), pids));
        made.pids = self.limited(Kind::Pids, &self.pids, limit, controls, |group, pids| {
            group.set("pids.max", pids)
        });
        let cpuacct = self.cpuacct.as_ref();
        made.cpuacct = cpuacct.filter(|group| group.make().is_ok()).cloned();
        self.remove_but(&made);
        made
    }

    fn turn(&self) -> Option<Turn> {
        let (cpu, _) = (self.cpu.as_ref()?, self.cpuset.as_ref()?);
        Turn::take(cpu).unwrap_or_else(|error| {
            tracing::debug!(%error, "a program runs on all processors");
            None
        })
    }

    /// On few processors, where that can be had; the quota holds either way.
    fn keep_together(
        &self,
        made: &Group,
        cpu: Cpu,
        controls: &mut Controls,
        turn: &Turn,
    ) -> Option<Group> {
        let group = self.cpuset.as_ref()?;
        match processors::confine(group, made, u64::from(cpu.millis()), turn) {
            Ok(Some(chosen)) => {
                let on = processors::shown(&chosen);
                controls.set(Control {
                    kind: Kind::Cpu,
                    held: true,
                    detail: format!("{cpu} by control group, on processor {on}"),
                });
                Some(group.clone())
            }
            Ok(None) => None,
            Err(error) => {
                let path = group.path.display();
                tracing::debug!(%path, %error, "a program runs on all processors");
                None
            }
        }
    }

    /// Those that were made and took no limit: no record tells of them.
    fn remove_but(&self, kept: &Groups) {
        let kept: BTreeSet<&Path> = kept.all().map(|group| group.path.as_path()).collect();
        for group in self.all().filter(|group| !kept.contains(&*group.path)) {
            group.try_remove();
        }
    }

    fn limited(
        &self,
        kind: Kind,
        group: &Option<Group>,
        limit: Option<(String, u64)>,
        controls: &mut Controls,
        set: impl Fn(&Group, u64) -> io::Result<()>,
    ) -> Option<Group> {
        let result = match (group, &limit) {
            (None, _) => Err(Failure::new(
                kind,
                "there is no control group with this controller",
            )),
            (Some(group), limit) => group
                .make()
                .and_then(|()| {
                    limit
                        .as_ref()
                        .map_or(Ok(()), |(_, value)| set(group, *value))
                })
                .map(|()| group)
                .map_err(Failure::of(kind, group.path.display())),
        };
        match (result, limit) {
            (Ok(group), Some((shown, _))) => {
                controls.held(kind, format!("{shown} by control group"));
                Some(group.clone())
            }
            // Without a limit the group still counts.
            (Ok(group), None) => Some(group.clone()),
            (Err(failure), Some(_)) => {
                controls.lacks(failure);
                None
            }
            (Err(_), None) => None,
        }
    }

    /// Puts the calling process into all of them; what it starts from then on is in them too.
    pub(crate) fn join(&self) -> io::Result<()> {
        // cgroups(7): 0 is the writing process.
        self.all()
            .try_for_each(|group| fs::write(group.path.join("cgroup.procs"), "0"))
    }

    /// Its processes are counted here, and limited.
    pub(crate) fn count_processes(&self) -> bool {
        self.pids.is_some()
    }

    /// How many of its processes were killed because memory ran out.
    pub(crate) fn memory_kills(&self) -> u64 {
        let Some(group) = &self.memory else { return 0 };
        let file = match group.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        group.field(file, "oom_kill").unwrap_or(0)
    }

    pub(crate) fn usage(&self) -> Usage {
        let memory = self.memory.as_ref().and_then(|group| {
            group.number(match group.version {
                Version::V1 => "memory.usage_in_bytes",
                Version::V2 => "memory.current",
            })
        });
        let cpu = match (&self.cpuacct, &self.cpu) {
            (Some(group), _) => group.number("cpuacct.usage").map(Duration::from_nanos),
            (None, Some(group)) => group
                .field("cpu.stat", "usage_usec")
                .map(Duration::from_micros),
            (None, None) => None,
        };
        Usage {
            memory_bytes: memory,
            cpu,
            pids: self.pids.as_ref().and_then(|g| g.number("pids.current")),
            memory_kills: self.memory.as_ref().map(|_| self.memory_kills()),
        }
    }

    /// Kills everything in them until nothing is left, and removes them.
    ///
    /// # Errors
    /// The first that does not go away in time, or may not be removed; the others are ended all the same.
    pub(crate) fn end(&self) -> io::Result<()> {
        self.end_within(EMPTY_PATIENCE)
    }

    fn end_within(&self, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        // All of them before the first is waited for: a process is in each.
        let killed: Vec<_> = self.all().map(Group::kill).collect();
        let ended = self.all().map(|group| group.end(deadline));
        killed
            .into_iter()
            .chain(ended.collect::<Vec<_>>())
            .collect()
    }

    /// Removes them; what is in them keeps its own.
    pub(crate) fn remove(&self) {
        self.all().for_each(Group::try_remove);
    }
}

impl Group {
    /// With all groups above it. Whoever makes one has ended what an earlier run left.
    fn make(&self) -> io::Result<()> {
        // The last instance of the node may have gone in between, and the group above with it.
        let again = |error: &io::Error| error.kind() == ErrorKind::NotFound;
        match self.make_once() {
            Err(error) if again(&error) => self.make_once(),
            result => result,
        }
    }

    fn make_once(&self) -> io::Result<()> {
        let below = self.path.strip_prefix(&self.mount).unwrap_or(&self.path);
        let mut path = self.mount.clone();
        for part in below.parent().unwrap_or(below) {
            self.pass_on(&path);
            path.push(part);
            make_dir(&path)?;
        }
        self.pass_on(&path);
        make_dir(&self.path)
    }

    /// The same of further controllers, along the whole way; the groups are there.
    fn pass_on_along(&self, controllers: &[&str]) {
        let mut above: Vec<&Path> = self.path.ancestors().skip(1).collect();
        above.reverse();
        for path in above.into_iter().filter(|p| p.starts_with(&self.mount)) {
            self.pass_on_some(path, controllers);
        }
    }

    fn pass_on(&self, path: &Path) {
        self.pass_on_some(path, &["+memory", "+cpu", "+pids"]);
    }

    /// In version 2 a group's children have the controllers that it passes on.
    fn pass_on_some(&self, path: &Path, controllers: &[&str]) {
        if self.version == Version::V2 {
            for controller in controllers {
                // What is missing shows when the limit is set.
                let _ = fs::write(path.join("cgroup.subtree_control"), controller);
            }
        }
    }

    fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        match self.version {
            Version::V1 => {
                self.set("memory.limit_in_bytes", bytes)?;
                // Memory and swap together. Not there when the kernel does not account swap: then there is none to give.
                self.set_if_there("memory.memsw.limit_in_bytes", bytes)
            }
            Version::V2 => {
                self.set("memory.max", bytes)?;
                self.set_if_there("memory.swap.max", 0)?;
                // All of it or nothing: half a program is none.
                self.set_if_there("memory.oom.group", 1)
            }
        }
    }

    fn limit_cpu(&self, millis: u64) -> io::Result<()> {
        let quota = millis * PERIOD_US / 1000;
        match self.version {
            Version::V1 => {
                self.set("cpu.cfs_period_us", PERIOD_US)?;
                self.set("cpu.cfs_quota_us", quota)
            }
            Version::V2 => fs::write(self.path.join("cpu.max"), format!("{quota} {PERIOD_US}")),
        }
    }

    fn set(&self, file: &str, value: u64) -> io::Result<()> {
        fs::write(self.path.join(file), value.to_string())
    }

    fn set_if_there(&self, file: &str, value: u64) -> io::Result<()> {
        match self.set(file, value) {
            // Files of control groups cannot be made by writing: this one is none.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                Ok(())
            }
            result => result,
        }
    }

    fn number(&self, file: &str) -> Option<u64> {
        let text = fs::read_to_string(self.path.join(file)).ok()?;
        text.trim().parse().ok()
    }

    /// The number behind a word that begins a line.
    fn field(&self, file: &str, name: &str) -> Option<u64> {
        let text = fs::read_to_string(self.path.join(file)).ok()?;
        text.lines().find_map(|line| {
            let (word, value) = line.split_once(' ')?;
            (word == name).then(|| value.trim().parse().ok())?
        })
    }

    fn end(&self, deadline: Instant) -> io::Result<()> {
        loop {
            self.kill()?;
            match self.remove() {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(ROUND),
            }
        }
    }

    fn kill(&self) -> io::Result<()> {
        // Since Linux 5.14 version 2 kills all at once, the groups below too, and what is being forked just then.
        let all = File::options()
            .write(true)
            .open(self.path.join("cgroup.kill"));
        if all.and_then(|mut all| all.write_all(b"1")).is_ok() {
            return Ok(());
        }
        for path in self.tree() {
            let procs = match fs::read_to_string(path.join("cgroup.procs")) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                procs => procs?,
            };
            for pid in procs.lines().filter_map(|pid| pid.parse().ok()) {
                // A number read just now; one that is gone already is what was wanted.
                if let Some(pid) = Pid::from_raw(pid) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
        }
        Ok(())
    }

    /// The group and those that the program made below it, the lowest first.
    fn tree(&self) -> Vec<PathBuf> {
        let mut found = vec![self.path.clone()];
        let mut next = 0;
        while let Some(path) = found.get(next) {
            next += 1;
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            let below: Vec<PathBuf> = below.map(|entry| entry.path()).collect();
            found.extend(below);
        }
        found.reverse();
        found
    }

    /// With the one above, when it was the last in it.
    fn remove(&self) -> io::Result<()> {
        for path in self.tree() {
            match fs::remove_dir(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if let Some(above) = self.path.parent() {
            // Others are in it.
            let _ = fs::remove_dir(above);
        }
        Ok(())
    }

    fn try_remove(&self) {
        if let Err(error) = self.remove() {
            let path = self.path.display();
            tracing::debug!(%path, %error, "a control group was not removed");
        }
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
