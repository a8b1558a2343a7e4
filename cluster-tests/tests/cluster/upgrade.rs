//! Promise: members are upgraded one after the other while the cluster is used; no request fails, and members of both
//! versions work together on the way.
//!
//! `NEBULA_TEST_PREVIOUS` names a folder with the programs of an earlier version (`just upgrade COMMIT` builds them);
//! without it the version before is a copy of the present one.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::process;
use nebula_cluster_tests::traffic::Users;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, binaries, eventually};
use nix::sys::signal::Signal;

const HOST: &str = "api.example.test";

/// The daemon to begin with, and the folder that it lies in where that is the test's own.
fn previous() -> (PathBuf, Option<tempfile::TempDir>) {
    if let Some(folder) = std::env::var_os("NEBULA_TEST_PREVIOUS") {
        return (PathBuf::from(folder).join("nodectl"), None);
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("nodectl");
    std::fs::copy(binaries::path("nodectl"), &program).unwrap();
    (program, Some(folder))
}

/// As `nodectl upgrade` says: the leader last.
fn order(cluster: &Cluster) -> Vec<usize> {
    let leader = cluster.leader();
    let mut order: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    order.push(leader);
    order
}

/// The instances that serve, with their processes' restarts.
fn programs(cluster: &Cluster) -> BTreeSet<(String, u64)> {
    let status = cluster.status("api");
    let instances = status["instances"].as_array().unwrap().iter();
    instances
        .map(|i| {
            let id = i["id"].as_str().unwrap().to_owned();
            (id, i["restarts"].as_u64().unwrap())
        })
        .collect()
}

#[test]
fn a_cluster_is_upgraded_node_by_node() {
    let (old, _folder) = previous();
    let mut cluster = Cluster::start_of(&old, 3, &[]);
    cluster.deploy_echo("api", 3);
    let mut release = 1;
    for index in order(&cluster) {
        // Whoever balances over the machines leaves out the one that is worked on.
        let others: Vec<usize> = (0..3).filter(|i| *i != index).collect();
        let edges: Vec<_> = others.iter().map(|i| cluster.members[*i].edge).collect();
        for edge in &edges {
            cluster.serves(*edge, HOST);
        }
        let users = Users::arrive(&edges, HOST, 4, 200, Some(Duration::from_secs(2)));
        let before = programs(&cluster);
        process::signal(cluster.members[index].pid, Signal::SIGTERM);
        cluster.wait_gone(index);
        cluster.restart(index);
        cluster.wait_all_alive();
        eventually(DEADLINE, "all instances are ready", || {
            let status = cluster.status("api");
            holds(status["ready"] == 3, status)
        });
        assert_eq!(programs(&cluster), before, "a restart moves no program");

        // Both versions at once: what one writes the others read, and a release goes out over all of them.
        let (key, value) = (format!("user.upgraded{index}"), release.to_string());
        cluster.nebula(&["config", "set", &key, &value]).ok();
        for member in &cluster.members {
            eventually(DEADLINE, "every member knows what was set", || {
                let got = cluster.nebula_at(member, &["config", "get", &key]);
                holds(got.stdout.trim() == value, got.to_string())
            });
        }
        release += 1;
        let number = format!("N={release}");
        cluster
            .nebula(&["deploy", "update", "api", "--env", &number, "--watch", "0s"])
            .ok();
        assert_eq!(cluster.status("api")["release"], release);

        let report = users.leave();
        println!(
            "{}: {} of {} requests failed, {} of {} sockets were cut",
            cluster.members[index].name,
            report.failed,
            report.requests,
            report.sockets_cut,
            report.sockets
        );
        assert!(report.requests > 0);
        assert_eq!(report.failed, 0, "{:#?}", report.told);
    }
    let guide = cluster.nodectl(&["upgrade", "--json"]).ok().json();
    assert!(
        guide["next"].is_null() && guide["wait"].is_null(),
        "{guide}"
    );
    assert!(
        guide["members"]
            .as_array()
            .unwrap()
            .iter()
            .all(|m| m["done"] == true),
        "{guide}"
    );
}
