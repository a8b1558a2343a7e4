//! Which processors a program with a quota of processor time runs on: no more of them than its quota fills.
//!
//! A program that may use half a processor and is let onto two has used up its quota of 100 ms in the first 25, on both;
//! whoever wakes meanwhile may wait for the kernel's next tick, wherever it wakes (4 ms at 250 Hz; `nebula-bench
//! neighbour` shows it). On one processor it takes twice as long, and leaves the other to everybody else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::path::Path;

use super::find::Version;
use super::{Group, PERIOD_US};

pub(super) type Processors = BTreeSet<u32>;

/// Puts the group on the processors of which the least is promised to others. `None`, and no group: what it may use does not fit
/// there, and it runs on all of them, or that is no restriction. `cpu`: its group with the quota, which has been made.
pub(super) fn confine(group: &Group, cpu: &Group, millis: u64) -> io::Result<Option<Processors>> {
    let all = effective(group)?;
    // Of all nodes on this machine. Two that look at the same moment would choose the same.
    let folder = cpu.path.ancestors().nth(2).unwrap_or(&cpu.mount);
    let lock = File::open(folder)?;
    lock.lock()?;
    let Some(chosen) = choose(&promised(folder, group, cpu, &all)?, millis) else {
        return Ok(None);
    };
    let put = group
        .make()
        .and_then(|()| group.inherit_processors())
        .and_then(|()| fs::write(group.path.join("cpuset.cpus"), shown(&chosen)));
    if put.is_err() && group.path != cpu.path {
        group.try_remove();
    }
    put.map(|()| Some(chosen))
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
fn promised(
    folder: &Path,
    group: &Group,
    cpu: &Group,
    all: &Processors,
) -> io::Result<BTreeMap<u32, u64>> {
    let mut promised: BTreeMap<u32, u64> = all.iter().map(|cpu| (*cpu, 0)).collect();
    for node in fs::read_dir(folder)? {
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

/// All that groups of this hierarchy may run on.
fn effective(group: &Group) -> io::Result<Processors> {
    let file = match group.version {
        Version::V1 => "cpuset.effective_cpus",
        Version::V2 => "cpuset.cpus.effective",
    };
    fs::read_to_string(group.mount.join(file)).map(|text| parse(&text))
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
