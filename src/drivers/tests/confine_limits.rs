//! What an instance may use: each limit with a program that goes over it.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::confined::{possible, text};
use common::{Folder, ONE, eventually, exit_of, is_gone, run_of, signal};
use nebula_domain::ids::InstanceId;
use nebula_domain::resources::{Cpu, Disk, Memory, Resources};
use nebula_drivers::confine::{Kind, Settings};
use nebula_drivers::{Driver as _, Exit, StartSpec};
use rustix::process::Signal;

const PYTHON: &str = "/usr/bin/python3";

fn limited(folder: &Folder, command: &str, resources: Resources) -> StartSpec {
    StartSpec {
        resources,
        ..folder.confined(ONE, "api", command)
    }
}

fn with_memory(mib: u64) -> Resources {
    Resources {
        memory: Some(Memory::mib(mib)),
        ..Resources::default()
    }
}

#[tokio::test]
async fn a_memory_bomb_is_ended_and_the_limit_is_told() {
    if !possible(&[PYTHON]) {
        return;
    }
    let folder = Folder::new();
    let driver = folder.confining(Settings::default());
    let bomb = "exec /usr/bin/python3 -c 'x=[bytearray(1<<20) for _ in range(4096)]'";
    let spec = limited(&folder, bomb, with_memory(64));
    driver.start(spec).await.unwrap();
    let exit = exit_of(&driver, ONE).await;
    assert_eq!(exit.to_string(), "killed: out of memory (limit 64Mi)");
    // Also where a shell is in between, and says only that its child was killed.
    let spec = limited(&folder, &bomb.replace("exec ", ""), with_memory(64));
    driver.start(StartSpec { run: 2, ..spec }).await.unwrap();
    let limit = Some(Memory::mib(64));
    assert_eq!(exit_of(&driver, ONE).await, Exit::OutOfMemory { limit });
}

#[tokio::test]
async fn memory_in_tmp_counts() {
    if !possible(&[]) {
        return;
    }
    let folder = Folder::new();
    let driver = folder.confining(Settings::default());
    let fill = "dd if=/dev/zero of=/tmp/x bs=1M count=128 2>/dev/null; exit 3";
    driver
        .start(limited(&folder, fill, with_memory(32)))
        .await
        .unwrap();
    // dd is killed, or its file does not fit; in no case is there as much as was wanted.
    let exit = exit_of(&driver, ONE).await;
    assert!(
        matches!(exit, Exit::Code(3) | Exit::OutOfMemory { .. }),
        "{exit}"
    );
}

#[tokio::test]
async fn a_fork_bomb_is_bounded_and_can_be_stopped() {
    if !possible(&[PYTHON]) {
        return;
    }
    let folder = Folder::new();
    let driver = folder.confining(Settings::default());
    let bomb = "exec /usr/bin/python3 -c '
import os, time
n = 0
while True:
    try:
        if os.fork() == 0:
            time.sleep(1000)
        n += 1
    except BlockingIOError:
        open(\"forked\", \"w\").write(str(n) + \"\\n\")
        time.sleep(1000)
'";
    let resources = Resources {
        pids: 20,
        ..Resources::default()
    };
    driver
        .start(limited(&folder, bomb, resources))
        .await
        .unwrap();
    let file = folder.work(ONE).join("forked");
    let forked: u64 = eventually("it cannot fork any more", || {
        let text = std::fs::read_to_string(&file).ok()?;
        text.strip_suffix('\n')?.parse().ok()
    })
    .await;
    assert_eq!(forked, 19, "and the program itself");
    let usage = driver.usage(ONE).unwrap();
    assert_eq!(usage.pids, Some(21), "with the first process: {usage:?}");
    assert!(usage.memory_bytes.unwrap() > 1 << 20, "{usage:?}");
    assert!(usage.cpu.unwrap() > Duration::ZERO, "{usage:?}");
    driver.stop(ONE, Duration::ZERO).await.unwrap();
    assert_eq!(exit_of(&driver, ONE).await, Exit::Signal(9));
}

#[tokio::test]
async fn processor_time_is_shared_out() {
    if !possible(&[]) {
        return;
    }
    let folder = Folder::new();
    let driver = folder.confining(Settings::default());
    let resources = Resources {
        cpu: Some(Cpu(200)),
        ..Resources::default()
    };
    let spin = "while :; do :; done & while :; do :; done";
    driver
        .start(limited(&folder, spin, resources))
        .await
        .unwrap();
    let used = || driver.usage(ONE)?.cpu;
    let before = eventually("it runs", || used().filter(|t| !t.is_zero())).await;
    let began = std::time::Instant::now();
    let after = eventually("it used some time", || {
        used().filter(|t| *t > before + Duration::from_millis(300))
    })
    .await;
    // A fifth of a core: with two loops and no limit it would be as fast as the clock, or twice. A period more.
    let most = began.elapsed().as_secs_f64() * 0.2 + 0.1;
    let took = (after - before).as_secs_f64();
    assert!(took <= most, "{took:.2} s, at most {most:.2} s");
}

#[tokio::test]
async fn a_quota_of_one_processor_is_used_up_on_one() {
    if !possible(&[]) {
        return;
    }
    let folder = Folder::new();
    // What other tests run on this machine is nobody's neighbour here.
    let parent = folder.root.path().file_name().unwrap();
    let driver = folder.confining(Settings {
        cgroup_parent: std::path::Path::new("nebula-test").join(parent),
        ..Settings::default()
    });
    let resources = Resources {
        cpu: Some(Cpu(600)),
        ..Resources::default()
    };
    let tell = "grep Cpus_allowed_list /proc/self/status > on.new; mv on.new on; sleep 1000";
    let processors = usize::from(std::thread::available_parallelism().unwrap());
    let mut taken = std::collections::BTreeSet::new();
    for number in 1..=processors.min(2) as u64 {
        let spec = StartSpec {
            resources,
            ..folder.confined(InstanceId(number), "api", tell)
        };
        driver.start(spec).await.unwrap();
        let file = folder.work(InstanceId(number)).join("on");
        let told = eventually("it tells", || std::fs::read_to_string(&file).ok()).await;
        let on: u32 = told.split_whitespace().last().unwrap().parse().unwrap();
        assert!(taken.insert(on), "{on} is promised to another");
        let controls = run_of(&driver, InstanceId(number)).unwrap().isolation.0;
        let cpu = controls.iter().find(|control| control.kind == Kind::Cpu);
        let expected = format!("600m by control group, on processor {on}");
        assert!(
            processors == 1 || cpu.unwrap().detail == expected,
            "{cpu:?}"
        );
    }
    // They fit on none together: what is left of two is on all.
    let spec = StartSpec {
        resources,
        ..folder.confined(InstanceId(9), "api", tell)
    };
    if processors == 2 {
        driver.start(spec).await.unwrap();
        let file = folder.work(InstanceId(9)).join("on");
        let told = eventually("it tells", || std::fs::read_to_string(&file).ok()).await;
        assert!(told.ends_with("0-1\n"), "{told}");
        driver.stop(InstanceId(9), Duration::ZERO).await.unwrap();
        exit_of(&driver, InstanceId(9)).await;
    }
    for number in 1..=processors.min(2) as u64 {
        driver
            .stop(InstanceId(number), Duration::ZERO)
            .await
            .unwrap();
        exit_of(&driver, InstanceId(number)).await;
    }
    for hierarchy in ["cpu", "cpuset"] {
        let groups = std::path::Path::new("/sys/fs/cgroup")
            .join(hierarchy)
            .join("nebula-test");
        let left = std::fs::read_dir(groups.join(parent));
        let left = left.map_or(0, |entries| {
            let entries = entries.flatten();
            entries
                .filter(|entry| entry.file_type().unwrap().is_dir())
                .count()
        });
        assert_eq!(left, 0, "{hierarchy}");
        let _ = std::fs::remove_dir(groups.join(parent));
        let _ = std::fs::remove_dir(groups);
    }
}

#[tokio::test]
async fn a_disk_filler_is_ended_whatever_it_fills_the_disk_with() {
    if !possible(&[PYTHON]) {
        return;
    }
    let resources = Resources {
        disk: Some(Disk::mib(16)),
        ..Resources::default()
    };
    let many =
        "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); head -c 65536 /dev/zero >f$i; done; sleep 1000";
    let forgotten = "exec /usr/bin/python3 -c '
import os, time
kept = []
for n in range(12):
    f = open(str(n), \"wb\"); os.unlink(str(n)); f.write(bytes(4 << 20)); f.flush(); kept.append(f)
time.sleep(1000)
'";
    let one = "exec head -c 100000000 /dev/zero >one";
    for command in [many, forgotten, one] {
        let folder = Folder::new();
        let driver = folder.confining(Settings::default());
        let spec = limited(&folder, command, resources);
        driver.start(spec).await.unwrap();
        let limit = Disk::mib(16);
        let exit = exit_of(&driver, ONE).await;
        assert_eq!(exit, Exit::OutOfDisk { limit }, "{command}");
        assert_eq!(exit.to_string(), "killed: out of disk (limit 16Mi)");
    }
    // What fits is left alone.
    let folder = Folder::new();
    let driver = folder.confining(Settings::default());
    let little = "head -c 8000000 /dev/zero >some; sleep 1; exit 5";
    driver
        .start(limited(&folder, little, resources))
        .await
        .unwrap();
    assert_eq!(exit_of(&driver, ONE).await, Exit::Code(5));
}

#[tokio::test]
async fn open_files_are_limited() {
    if !possible(&[]) {
        return;
    }
    let folder = Folder::new();
    let driver = folder.confining(Settings::default());
    let resources = Resources {
        files: 64,
        ..Resources::default()
    };
    let command = "ulimit -n; ulimit -Hn";
    driver
        .start(limited(&folder, command, resources))
        .await
        .unwrap();
    exit_of(&driver, ONE).await;
    assert_eq!(text(&folder.lines(ONE)), ["64", "64"]);
}

/// Every control group of the instances of this folder.
fn groups(folder: &Folder) -> Vec<std::path::PathBuf> {
    use std::os::unix::fs::MetadataExt as _;
    let own = std::fs::metadata(folder.instances()).unwrap();
    let node = format!("{:x}-{:x}", own.dev(), own.ino());
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap();
    let mut found = Vec::new();
    for hierarchy in hierarchies.flatten().map(|entry| entry.path()) {
        let entries = std::fs::read_dir(hierarchy.join("nebula").join(&node));
        found.extend(entries.into_iter().flatten().flatten().map(|e| e.path()));
    }
    let unified = std::fs::read_dir(format!("/sys/fs/cgroup/nebula/{node}"));
    let unified = unified.into_iter().flatten().flatten();
    found.extend(unified.map(|entry| entry.path()));
    found.retain(|path| path.is_dir());
    found
}

#[tokio::test]
async fn control_groups_go_with_the_instance() {
    if !possible(&[]) {
        return;
    }
    let folder = Folder::new();
    let driver = folder.confining(Settings::default());
    let wait = "echo $$ >pid; exec sleep 1000";
    driver
        .start(limited(&folder, wait, with_memory(64)))
        .await
        .unwrap();
    assert!(!groups(&folder).is_empty());
    let run = run_of(&driver, ONE).unwrap();
    assert!(run.isolation.holds(Kind::Memory), "{:?}", run.isolation);
    driver.stop(ONE, Duration::ZERO).await.unwrap();
    exit_of(&driver, ONE).await;
    assert_eq!(groups(&folder), [] as [std::path::PathBuf; 0]);

    // A shim that was killed removes nothing: the daemon does, or the next one.
    let two = InstanceId(2);
    for (instance, daemon_lives) in [(ONE, true), (two, false)] {
        let spec = folder.confined(instance, "api", wait);
        let spec = StartSpec { run: 2, ..spec };
        let driver = folder.confining(Settings::default());
        driver.start(spec).await.unwrap();
        let shim = folder.shim_pid(instance);
        if !daemon_lives {
            drop(driver);
            signal(shim, Signal::KILL);
            is_gone(shim).await;
            assert!(!groups(&folder).is_empty());
            let driver = folder.confining(Settings::default());
            assert_eq!(exit_of(&driver, instance).await, Exit::Unseen);
        } else {
            signal(shim, Signal::KILL);
            assert_eq!(exit_of(&driver, instance).await, Exit::Unseen);
        }
        assert_eq!(groups(&folder), [] as [std::path::PathBuf; 0]);
    }
}
