//! Which processors a program with a quota of processor time runs on: no more of them than its quota fills.
//!
//! A program that may use half a processor and is let onto two has used up its quota of 100 ms in the first 25, on both;
//! whoever wakes meanwhile may wait for the kernel's next tick, wherever it wakes (4 ms at 250 Hz; `nebula-bench
//! neighbour` shows it). On one processor it takes twice as long, and leaves the other to everybody else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use super::find::Version;
use super::{Group, PERIOD_US, make_dir};

pub(super) type Processors = BTreeSet<u32>;

/// For this long a start waits for others that choose; then it goes on without.
const PATIENCE: Duration = Duration::from_secs(1);
const ROUND: Duration = Duration::from_millis(5);

/// Of all nodes on this machine one start at a time sets its quota and chooses: two at once would choose the same, and one that has
/// its quota and not yet its processors looks as if it were on all.
pub(super) struct Turn(#[expect(dead_code, reason = "held for its lock")] File);

impl Turn {
    /// `cpu`: the group with the quota, which need not be there yet. `None`: somebody holds the lock.
    pub(super) fn take(cpu: &Group) -> io::Result<Option<Turn>> {
        let folder = File::open(cpu.make_for_all_nodes()?)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(Some(Turn(folder))),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(ROUND);
                }
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }
}

/// Puts the group on the processors of which the least is promised to others. `None`: what it may use does not fit there, or that
/// is no restriction, and it runs on all of them; a group that was made for it is the caller's to remove. `cpu`: its group
/// with the quota, which has been made.
pub(super) fn confine(
    group: &Group,
    cpu: &Group,
    millis: u64,
    _turn: &Turn,
) -> io::Result<Option<Processors>> {
    let all = available(group)?;
    if millis.div_ceil(1000) >= all.len() as u64 || !may_be_passed_on(group) {
        return Ok(None);
    }
    let Some(chosen) = choose(&promised(group, cpu, &all)?, millis) else {
        return Ok(None);
    };
    group.make()?;
    group.pass_on_along(&["+cpuset"]);
    group.inherit_processors()?;
    fs::write(group.path.join("cpuset.cpus"), shown(&chosen))?;
    Ok(Some(chosen))
}

/// In version 2 the first group with processors of its own makes the kernel forget, before Linux 6.2, which ones every other
/// process of the machine was given (sched_setaffinity(2), `CPUAffinity=`). So only where that has happened already, or cannot.
fn may_be_passed_on(group: &Group) -> bool {
    let enabled = || fs::read_to_string(group.mount.join("cgroup.subtree_control"));
    let has = |enabled: String| enabled.split_whitespace().any(|one| one == "cpuset");
    group.version == Version::V1
        || enabled().is_ok_and(has)
        || fs::read_to_string("/proc/sys/kernel/osrelease")
            .is_ok_and(|release| keeps_affinity(&release))
}

fn keeps_affinity(release: &str) -> bool {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    let mut part = || parts.next().and_then(|part| part.parse::<u32>().ok());
    (part(), part()) >= (Some(6), Some(2))
}

/// As many processors as `millis` thousandths of one fill, with the least promised; the last of equals, since the first ones
/// have the machine's own work. `None` when they would be promised more than there is, or are all.
fn choose(promised: &BTreeMap<u32, u64>, millis: u64) -> Option<Processors> {
    let count = usize::try_from(millis.div_ceil(1000)).ok()?;
    let each = millis.div_ceil(count.max(1) as u64);
    if count == 0 || count >= promised.len() {
        return None;
    }
    let mut least: Vec<(u64, u32)> = promised.iter().map(|(cpu, taken)| (*taken, *cpu)).collect();
    least.sort_by_key(|(taken, cpu)| (*taken, u32::MAX - cpu));
    least.truncate(count);
    let fits = least.iter().all(|(taken, _)| taken + each <= 1000);
    fits.then(|| least.into_iter().map(|(_, cpu)| cpu).collect())
}

/// Of each processor how many thousandths the quotas of others may take.
fn promised(group: &Group, cpu: &Group, all: &Processors) -> io::Result<BTreeMap<u32, u64>> {
    let mut promised: BTreeMap<u32, u64> = all.iter().map(|cpu| (*cpu, 0)).collect();
    for node in fs::read_dir(cpu.for_all_nodes())? {
        // Files of the group itself, and nodes whose last instance ends just now.
        let Ok(instances) = fs::read_dir(node?.path()) else {
            continue;
        };
        for other in instances.flatten().map(|entry| entry.path()) {
            if other == cpu.path {
                continue;
            }
            let Some(millis) = quota(cpu.version, &other) else {
                continue;
            };
            let below = other.strip_prefix(&cpu.mount).unwrap_or(&other);
            let own = fs::read_to_string(group.mount.join(below).join("cpuset.cpus"));
            let own = own.map_or_else(|_| Processors::new(), |text| parse(&text));
            let own = if own.is_empty() { all } else { &own };
            for cpu in own {
                if let Some(taken) = promised.get_mut(cpu) {
                    *taken += millis.div_ceil(own.len() as u64);
                }
            }
        }
    }
    Ok(promised)
}

/// Thousandths of a processor; `None` without a limit.
fn quota(version: Version, path: &Path) -> Option<u64> {
    let read = |file| fs::read_to_string(path.join(file)).ok();
    let quota: u64 = match version {
        // -1 is none.
        Version::V1 => read("cpu.cfs_quota_us")?.trim().parse().ok()?,
        Version::V2 => read("cpu.max")?.split_once(' ')?.0.parse().ok()?,
    };
    Some(quota * 1000 / PERIOD_US)
}

/// All that the group may be given: those of the groups above it that are there, as far as this process may run on them.
fn available(group: &Group) -> io::Result<Processors> {
    let file = match group.version {
        Version::V1 => "cpuset.effective_cpus",
        Version::V2 => "cpuset.cpus.effective",
    };
    let above = group.path.ancestors().skip(1);
    let above = above.take_while(|path| path.starts_with(&group.mount));
    let told = above.filter_map(|path| fs::read_to_string(path.join(file)).ok());
    let told = told.map(|text| parse(&text)).find(|all| !all.is_empty());
    let told = told.ok_or_else(|| io::Error::other("nothing says which processors there are"))?;
    let own = rustix::thread::sched_getaffinity(None)?;
    let may = |cpu: &u32| usize::try_from(*cpu).is_ok_and(|cpu| own.is_set(cpu));
    Ok(told.into_iter().filter(may).collect())
}

/// cpuset(7), "List format": `0-3,8`. What is none has no processors.
fn parse(text: &str) -> Processors {
    let range = |part: &str| -> Option<RangeInclusive<u32>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// The same as a list.
pub(super) fn shown(processors: &Processors) -> String {
    let each: Vec<String> = processors.iter().map(u32::to_string).collect();
    each.join(",")
}

impl Group {
    /// The folder with the nodes of this machine, above the node's own.
    fn for_all_nodes(&self) -> &Path {
        self.path.ancestors().nth(2).unwrap_or(&self.mount)
    }

    fn make_for_all_nodes(&self) -> io::Result<&Path> {
        let folder = self.for_all_nodes();
        let mut path = self.mount.clone();
        for part in folder.strip_prefix(&self.mount).unwrap_or(folder) {
            path.push(part);
            make_dir(&path)?;
        }
        Ok(folder)
    }

    /// In version 1 a new group has neither processors nor memory, and takes no process until it has.
    fn inherit_processors(&self) -> io::Result<()> {
        if self.version == Version::V2 {
            return Ok(());
        }
        let mut above = self.mount.clone();
        for part in self.path.strip_prefix(&self.mount).unwrap_or(&self.path) {
            let path = above.join(part);
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let has = match fs::read_to_string(path.join(file)) {
                    Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
                    has => has?,
                };
                if has.trim().is_empty() {
                    fs::write(path.join(file), fs::read_to_string(above.join(file))?)?;
                }
            }
            above = path;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        for (text, expected) in [
            ("0-1\n", vec![0, 1]),
            ("0,2-3,7", vec![0, 2, 3, 7]),
            ("\n", vec![]),
            ("x", vec![]),
        ] {
            assert_eq!(parse(text).into_iter().collect::<Vec<_>>(), expected);
        }
        assert_eq!(shown(&parse("0,2-3")), "0,2,3");
    }

    #[test]
    fn kernels_that_keep_affinity_are_told_by_their_number() {
        for (release, keeps) in [
            ("6.1.0-40-amd64", false),
            ("5.15.0-91-generic", false),
            ("6.2.0", true),
            ("6.18.44-fc-v595", true),
            ("10.0", true),
            ("unknown", false),
        ] {
            assert_eq!(keeps_affinity(release), keeps, "{release}");
        }
    }

    #[test]
    fn the_least_promised_are_chosen_while_there_is_room() {
        let chosen = |taken: &[u64], millis| {
            let promised = (0u32..).zip(taken.iter().copied()).collect();
            choose(&promised, millis).map(|chosen| shown(&chosen))
        };
        assert_eq!(chosen(&[0, 0], 500).as_deref(), Some("1"));
        assert_eq!(chosen(&[0, 500], 500).as_deref(), Some("0"));
        assert_eq!(chosen(&[500, 500], 500).as_deref(), Some("1"));
        assert_eq!(chosen(&[600, 600], 500), None, "it fits on neither alone");
        assert_eq!(chosen(&[0, 0], 1500), None, "that is all of them");
        assert_eq!(chosen(&[0, 300, 0, 0], 1500).as_deref(), Some("2,3"));
        assert_eq!(chosen(&[0], 100), None);
    }

    proptest! {
        #[test]
        fn no_processor_is_promised_twice(
            cpus in 1usize..9,
            asked in prop::collection::vec(1u64..4000, 0..30),
        ) {
            let mut promised: BTreeMap<u32, u64> = (0u32..).take(cpus).map(|cpu| (cpu, 0)).collect();
            for millis in asked {
                let Some(chosen) = choose(&promised, millis) else { continue };
                prop_assert!(chosen.len() as u64 * 1000 >= millis);
                prop_assert!((chosen.len() as u64 - 1) * 1000 < millis);
                for cpu in &chosen {
                    *promised.get_mut(cpu).unwrap() += millis.div_ceil(chosen.len() as u64);
                }
            }
            prop_assert!(promised.values().all(|taken| *taken <= 1000));
        }
    }
}
