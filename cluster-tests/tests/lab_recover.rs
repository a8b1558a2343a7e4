//! Promise: `nodectl recover`, ended at any point between two writes to the disk, leaves the node as it was or
//! recovered, and another run completes it.

use std::path::Path;
use std::process::Command;

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::command::{self, Output, nodectl, on_node};
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, binaries, eventually, process};
use nix::sys::signal::Signal;
use serde_json::Value;

/// In the order in which they come, and whether the node has recovered by then.
const POINTS: [(&str, bool); 11] = [
    ("vote-begin", false),
    ("journal-before-write", false),
    ("journal-before-sync", false),
    ("vote-end", false),
    ("recover-after-vote", false),
    ("snapshot-before-parts-sync", false),
    ("snapshot-after-parts-sync", false),
    ("snapshot-before-name-sync", false),
    ("snapshot-after-name-sync", true),
    ("recover-after-snapshot", true),
    ("purge-begin", true),
];

fn recover(data_dir: &Path, more: &[&str]) -> Output {
    let dir = data_dir.to_str().expect("UTF-8");
    nodectl([&["recover", "--data-dir", dir, "--json"], more].concat())
}

fn end_at(point: &str, data_dir: &Path) -> Output {
    let program = binaries::with_fault_points("nodectl-fault-points");
    let mut command = command::prepare(&program, ["recover", "--accept-loss", "--data-dir"]);
    command.arg(data_dir);
    command.env("NEBULA_FAULT_POINT", format!("{point}=1"));
    command::run(command)
}

#[test]
fn a_recovery_is_ended_at_every_point() {
    let mut cluster = Cluster::start(3);
    cluster.nebula(&["config", "set", "user.kept", "yes"]).ok();
    let survivor = (cluster.leader() + 1) % 3;
    let known = cluster.members[survivor].clone();
    eventually(
        DEADLINE,
        "the survivor knows the write and can sign",
        || {
            let got = cluster.nebula_at(&known, &["config", "get", "user.kept"]);
            let signs = known.data_dir.join("ca.key").exists();
            holds(signs && got.stdout.trim() == "yes", got.to_string())
        },
    );
    for index in (0..3).filter(|index| *index != survivor) {
        cluster.kill_daemon(index);
    }
    process::signal(known.pid, Signal::SIGTERM);
    eventually(DEADLINE, "the survivor's daemon has stopped", || {
        holds(!process::is_running(known.pid), known.pid)
    });

    for (point, recovered) in POINTS {
        let dir = cluster.scratch(point).join("data");
        let copied = Command::new("cp")
            .arg("-a")
            .args([&known.data_dir, &dir])
            .status();
        assert!(copied.is_ok_and(|s| s.success()), "cp failed");

        let ended = end_at(point, &dir);
        assert!(ended.stderr.contains("fault point reached"), "{ended}");
        if recovered {
            let asked = recover(&dir, &[]).ok().json();
            assert_eq!(asked["changed"], false, "{point}: {asked}");
        }
        let done = recover(&dir, &["--accept-loss"]).ok().json();
        assert_eq!(done["changed"], !recovered, "{point}: {done}");

        cluster.members[survivor].data_dir = dir.clone();
        cluster.restart(survivor);
        let alone = eventually(DEADLINE, point, || {
            let told = on_node(&dir, "nodectl", ["status", "--json"]);
            let status: Value = serde_json::from_str(&told.stdout).map_err(|_| told.to_string())?;
            let leads = status["leader"] == known.id && status["quorum"] == true;
            holds(leads, &status).map(|()| status)
        });
        assert_eq!(alone["recovered"]["by"], known.id, "{point}: {alone}");
        on_node(&dir, "nebula", ["config", "set", "user.after", "yes"]).ok();
        let got = on_node(&dir, "nebula", ["config", "get", "user.kept"]).ok();
        assert_eq!(got.stdout.trim(), "yes", "{point}");
        cluster.kill_daemon(survivor);
    }
    cluster.members[survivor].data_dir = known.data_dir;
}
