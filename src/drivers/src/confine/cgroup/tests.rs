use nebula_domain::resources::Memory;

use super::*;

/// A folder in place of the hierarchies: which files are written, and how they are read.
fn place(version: Version, mount: &Path) -> Place {
    let one = Some(Hierarchy {
        version,
        mount: mount.to_owned(),
    });
    Place {
        hierarchies: Hierarchies {
            memory: one.clone(),
            cpu: one.clone(),
            cpuacct: one.clone().filter(|_| version == Version::V1),
            cpuset: one.clone(),
            pids: one,
        },
        folder: "nebula/n".into(),
    }
}

fn resources() -> Resources {
    Resources {
        memory: Some(Memory::mib(64)),
        cpu: Some(Cpu(1500)),
        pids: 100,
        ..Resources::default()
    }
}

#[test]
fn the_first_version_has_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut controls = Controls::default();
    let groups = place(Version::V1, dir.path()).of(InstanceId(7));
    let groups = groups.create(&resources(), &mut controls);
    assert_eq!(controls.missing().count(), 0, "{controls:?}");
    let own = dir.path().join("nebula/n/i-7");
    let read = |file: &str| fs::read_to_string(own.join(file)).unwrap();
    assert_eq!(read("memory.limit_in_bytes"), "67108864");
    assert_eq!(read("memory.memsw.limit_in_bytes"), "67108864");
    assert_eq!(read("cpu.cfs_quota_us"), "150000");
    assert_eq!(read("pids.max"), "101");
    groups.join().unwrap();
    assert_eq!(read("cgroup.procs"), "0");

    fs::write(own.join("memory.usage_in_bytes"), "4096\n").unwrap();
    fs::write(own.join("cpuacct.usage"), "2000000000\n").unwrap();
    fs::write(own.join("pids.current"), "3\n").unwrap();
    let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
    fs::write(own.join("memory.oom_control"), text).unwrap();
    let expected = Usage {
        memory_bytes: Some(4096),
        cpu: Some(Duration::from_secs(2)),
        pids: Some(3),
        memory_kills: Some(2),
    };
    assert_eq!((groups.usage(), groups.memory_kills()), (expected, 2));
}

#[test]
fn the_second_version_passes_controllers_on_and_has_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut controls = Controls::default();
    let groups = place(Version::V2, dir.path()).of(InstanceId(7));
    let groups = groups.create(&resources(), &mut controls);
    assert_eq!(controls.missing().count(), 0, "{controls:?}");
    for above in ["", "nebula", "nebula/n"] {
        let file = dir.path().join(above).join("cgroup.subtree_control");
        assert!(file.exists(), "{above}");
    }
    let own = dir.path().join("nebula/n/i-7");
    let read = |file: &str| fs::read_to_string(own.join(file)).unwrap();
    assert!(!own.join("cgroup.subtree_control").exists());
    assert_eq!(read("memory.max"), "67108864");
    assert_eq!(read("memory.swap.max"), "0");
    assert_eq!(read("cpu.max"), "150000 100000");
    fs::write(own.join("cpu.stat"), "nr_periods 1\nusage_usec 1500\n").unwrap();
    fs::write(own.join("memory.events"), "oom 4\noom_kill 3\n").unwrap();
    assert_eq!(groups.usage().cpu, Some(Duration::from_micros(1500)));
    assert_eq!(groups.memory_kills(), 3);
}

#[test]
fn what_is_missing_is_told_only_when_it_was_asked_for() {
    let mut controls = Controls::default();
    let none = Place {
        hierarchies: Hierarchies::default(),
        folder: "nebula".into(),
    };
    let groups = none.of(InstanceId(1)).create(&resources(), &mut controls);
    assert_eq!(groups, Groups::default());
    let missing: Vec<_> = controls.missing().map(|control| control.kind).collect();
    assert_eq!(missing, [Kind::Memory, Kind::Cpu, Kind::Pids]);
    let mut controls = Controls::default();
    none.of(InstanceId(1))
        .create(&Resources::default(), &mut controls);
    let missing: Vec<_> = controls.missing().map(|control| control.kind).collect();
    assert_eq!(missing, [Kind::Pids]);
}

/// Each controller in a hierarchy of its own.
fn apart(mount: &Path) -> Groups {
    let hierarchy = |name: &str| {
        let mount = mount.join(name);
        fs::create_dir_all(&mount).unwrap();
        let version = Version::V1;
        Some(Hierarchy { version, mount })
    };
    let place = Place {
        hierarchies: Hierarchies {
            memory: hierarchy("memory"),
            cpu: hierarchy("cpu"),
            cpuacct: hierarchy("cpuacct"),
            cpuset: hierarchy("cpuset"),
            pids: hierarchy("pids"),
        },
        folder: "nebula/n".into(),
    };
    place.of(InstanceId(7))
}

#[test]
fn one_that_stays_keeps_no_other_from_ending() {
    let dir = tempfile::tempdir().unwrap();
    let groups = apart(dir.path());
    for group in groups.all() {
        // As container engines make them.
        fs::create_dir_all(group.path.join("below/below")).unwrap();
    }
    let busy = groups.memory.as_ref().unwrap().path.join("below");
    fs::write(busy.join("file"), "").unwrap();
    groups.end_within(Duration::ZERO).unwrap_err();
    let left: Vec<_> = groups.all().filter(|group| group.path.exists()).collect();
    assert_eq!(left, [groups.memory.as_ref().unwrap()]);
    fs::remove_file(busy.join("file")).unwrap();
    groups.end_within(Duration::ZERO).unwrap();
    assert!(!groups.memory.unwrap().path.exists());
}

#[test]
fn a_quota_is_kept_to_as_many_processors_as_it_fills() {
    let dir = tempfile::tempdir().unwrap();
    let place = |instance| {
        let groups = Groups {
            memory: None,
            ..apart(dir.path())
        };
        let at = |group: Option<Group>| {
            group.map(|group| Group {
                path: group.path.with_file_name(format!("i-{instance}")),
                ..group
            })
        };
        Groups {
            cpu: at(groups.cpu),
            cpuset: at(groups.cpuset),
            pids: at(groups.pids),
            ..Groups::default()
        }
    };
    let cpuset = dir.path().join("cpuset");
    fs::create_dir_all(&cpuset).unwrap();
    for (file, text) in [
        ("cpuset.effective_cpus", "0-1\n"),
        ("cpuset.cpus", "0-1\n"),
        ("cpuset.mems", "0\n"),
    ] {
        fs::write(cpuset.join(file), text).unwrap();
    }
    let start = |instance, millis| {
        let resources = Resources {
            memory: None,
            cpu: Some(Cpu(millis)),
            ..resources()
        };
        let mut controls = Controls::default();
        let made = place(instance).create(&resources, &mut controls);
        let own = cpuset.join(format!("nebula/n/i-{instance}"));
        let cpus = fs::read_to_string(own.join("cpuset.cpus")).ok();
        assert_eq!(made.cpuset.is_some(), cpus.is_some());
        let mems = fs::read_to_string(own.join("cpuset.mems")).ok();
        assert_eq!(mems.as_deref(), cpus.as_ref().map(|_| "0\n"));
        cpus
    };
    assert_eq!(start(1, 600).as_deref(), Some("1"));
    assert_eq!(start(2, 300).as_deref(), Some("0"));
    assert_eq!(start(3, 500).as_deref(), Some("0"));
    // 600 on one, 800 on the other.
    assert_eq!(start(4, 600), None, "it runs on both");
    assert_eq!(start(5, 2000), None);
    for ended in [1, 4, 5] {
        fs::remove_dir_all(dir.path().join(format!("cpu/nebula/n/i-{ended}"))).unwrap();
    }
    assert_eq!(start(6, 500).as_deref(), Some("1"));
}

#[test]
fn one_that_takes_no_limit_is_not_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let groups = apart(dir.path());
    let memory = groups.memory.clone().unwrap().path;
    // In its place, where the limit would be written.
    fs::create_dir_all(memory.join("memory.limit_in_bytes")).unwrap();
    let mut controls = Controls::default();
    let made = groups.create(&resources(), &mut controls);
    assert!(made.memory.is_none() && !memory.exists());
    let kept: Vec<_> = made.all().map(|group| group.path.exists()).collect();
    assert_eq!(
        kept,
        [true, true, true],
        "and none for processors: nothing says which there are"
    );
    let missing: Vec<_> = controls.missing().map(|control| control.kind).collect();
    assert_eq!(missing, [Kind::Memory]);
}

#[test]
fn the_second_version_is_asked_to_kill_all_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let groups = place(Version::V2, dir.path()).of(InstanceId(7));
    let group = groups.memory.as_ref().unwrap();
    fs::create_dir_all(&group.path).unwrap();
    let file = group.path.join("cgroup.kill");
    group.kill().unwrap();
    assert!(!file.exists(), "a kernel before 5.14 has none");
    fs::write(&file, "").unwrap();
    group.kill().unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "1");
}
