//! Where this machine has its control groups: both versions of them, often at once.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// cgroups(7): version 1 has a hierarchy for each controller, version 2 one for all. A controller is in one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Version {
    V1,
    V2,
}

/// The root of the hierarchy that a controller is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub version: Version,
    pub mount: PathBuf,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    pub memory: Option<Hierarchy>,
    pub cpu: Option<Hierarchy>,
    /// In version 2 a part of `cpu`.
    pub cpuacct: Option<Hierarchy>,
    pub cpuset: Option<Hierarchy>,
    pub pids: Option<Hierarchy>,
}

/// What is mounted here. Nothing where there are no control groups.
pub(crate) fn here() -> Hierarchies {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    parse(&mounts, |mount| {
        std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()
    })
}

/// `mounts` is proc_pid_mountinfo(5); `controllers` is what the root of version 2 offers.
fn parse(mounts: &str, controllers: impl Fn(&Path) -> String) -> Hierarchies {
    let mut found = Hierarchies::default();
    for line in mounts.lines() {
        let Some((front, back)) = line.split_once(" - ") else {
            continue;
        };
        let Some(mount) = front.split(' ').nth(4).map(PathBuf::from) else {
            continue;
        };
        let mut back = back.split(' ');
        let (kind, options) = (
            back.next().unwrap_or_default(),
            back.nth(1).unwrap_or_default(),
        );
        let (version, offered) = match kind {
            "cgroup" => (Version::V1, options.replace(',', " ")),
            "cgroup2" => (Version::V2, controllers(&mount)),
            _ => continue,
        };
        let hierarchy = Hierarchy { version, mount };
        for name in offered.split_ascii_whitespace() {
            let place = match name {
                "memory" => &mut found.memory,
                "cpu" => &mut found.cpu,
                "cpuacct" => &mut found.cpuacct,
                "cpuset" => &mut found.cpuset,
                "pids" => &mut found.pids,
                _ => continue,
            };
            // The same one may be mounted again elsewhere: the first is the usual place.
            place.get_or_insert_with(|| hierarchy.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 20 0:22 / /proc rw,relatime - proc proc rw
30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
33 25 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
";

    #[test]
    fn a_controller_is_where_the_kernel_has_it() {
        let found = parse(HYBRID, |_| "hugetlb pids".to_owned());
        let at = |hierarchy: &Option<Hierarchy>| {
            let found = hierarchy.as_ref().unwrap();
            (found.version, found.mount.display().to_string())
        };
        let cpu = (Version::V1, "/sys/fs/cgroup/cpu,cpuacct".to_owned());
        assert_eq!((at(&found.cpu), at(&found.cpuacct)), (cpu.clone(), cpu));
        assert_eq!(at(&found.memory).0, Version::V1);
        assert_eq!(
            at(&found.pids),
            (Version::V2, "/sys/fs/cgroup/unified".to_owned())
        );
    }

    #[test]
    fn a_unified_machine_has_all_in_one_place() {
        let mounts = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        let found = parse(mounts, |_| "cpuset cpu io memory pids\n".to_owned());
        assert_eq!(found.memory, found.cpu);
        assert_eq!(found.pids, found.cpu);
        assert!(found.cpuacct.is_none() && found.cpu.is_some());
        assert_eq!(parse("", |_| String::new()), Hierarchies::default());
    }
}
