//! Promise: restarting every daemon loses nothing and restarts no program.

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, eventually};

#[test]
fn all_daemons_are_killed_and_started_again() {
    let mut cluster = Cluster::start(3);
    cluster.deploy_echo("api", 3);
    for i in 0..20 {
        cluster
            .nebula(&["config", "set", &format!("user.k{i}"), &format!("v{i}")])
            .ok();
    }
    let programs = cluster.programs("api");
    assert!(programs.len() >= 3, "{programs:?}");

    (0..3).for_each(|i| cluster.kill_daemon(i));
    (0..3).for_each(|i| cluster.restart(i));
    cluster.wait_all_alive();

    for i in 0..20 {
        // A read says what the asked node knows; the last write is known again once there is a leader.
        eventually(DEADLINE, "what was acknowledged is read back", || {
            let got = cluster.nebula(&["config", "get", &format!("user.k{i}")]);
            holds(got.stdout.trim() == format!("v{i}"), got.to_string())
        });
    }
    eventually(DEADLINE, "all instances ready again", || {
        let status = cluster.status("api");
        holds(status["ready"] == 3, status)
    });
    for edge in cluster.edges() {
        cluster.serves(edge, "api.example.test");
    }
    let after = cluster.programs("api");
    for pid in &programs {
        assert!(
            after.contains(pid),
            "program {pid} was restarted: before {programs:?}, after {after:?}"
        );
    }
    let restarts: Vec<_> = cluster.status("api")["instances"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["restarts"].clone())
        .collect();
    assert!(restarts.iter().all(|r| *r == 0), "{restarts:?}");
}
