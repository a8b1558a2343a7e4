//! Promise: the data plane needs no control plane. A machine that has lost all others goes on serving, starts
//! again what ends, stops nothing, and says how old its knowledge is.

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::command::on_node;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, eventually, process};
use nix::sys::signal::Signal;

const HOST: &str = "api.example.test";

#[test]
fn two_of_three_machines_are_lost_and_the_third_goes_on() {
    let mut cluster = Cluster::start(3);
    cluster.deploy_echo("api", 3);
    let lost: Vec<usize> = {
        let leader = cluster.leader();
        vec![leader, (leader + 1) % 3]
    };
    let left = cluster.members[3 - lost[0] - lost[1]].clone();
    cluster.serves(left.edge, HOST);
    let before = left.programs("api");
    assert!(!before.is_empty());

    for index in &lost {
        cluster.kill_machine(*index);
    }
    let status = eventually(DEADLINE, "the survivor knows that it is alone", || {
        let status = on_node(&left.data_dir, "nodectl", ["status", "--json"])
            .ok()
            .json();
        holds(status["quorum"] == false, &status).map(|()| status)
    });
    assert!(status["no_quorum_since"].is_string(), "{status}");
    assert!(status["applied_index"].as_u64().unwrap() > 0, "{status}");
    let text = on_node(&left.data_dir, "nodectl", ["status"]).ok().stdout;
    assert!(text.contains("without a quorum since"), "{text}");
    cluster
        .nebula(&["config", "set", "user.alone", "yes"])
        .fails(3, "");

    // What runs here is served here, also after it was killed.
    cluster.serves(left.edge, HOST);
    for pid in &before {
        process::signal(*pid, Signal::SIGKILL);
    }
    let after = eventually(DEADLINE, "the instance runs again", || {
        let now = left.programs("api");
        let new = !now.is_empty() && now.iter().all(|pid| !before.contains(pid));
        holds(new, &now).map(|()| now)
    });
    let shown = eventually(DEADLINE, "the survivor's instance is healthy again", || {
        let status = cluster.status("api");
        let own = status["instances"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|i| i["node"] == left.name.as_str());
        let healthy = own.is_some_and(|i| i["restarts"] == 1 && i["health"] == "healthy");
        holds(healthy, &status).map(|()| status)
    });
    cluster.serves(left.edge, HOST);
    let as_of = &shown["as_of"];
    assert_eq!(as_of["consistency"], "stale", "{shown}");
    assert!(as_of["no_quorum_since"].is_string(), "{shown}");
    assert!(as_of["applied_index"].as_u64().unwrap() > 0, "{shown}");
    for args in [&["deploy", "list"][..], &["deploy", "status", "api"]] {
        let text = cluster.nebula(args).ok().stdout;
        let first = text.lines().next().unwrap_or_default();
        assert!(first.contains("without a quorum since"), "{text}");
    }

    // The others return: nothing is stopped here, and the label goes.
    for index in &lost {
        cluster.restart(*index);
    }
    cluster.wait_all_alive();
    eventually(DEADLINE, "all instances ready, by a quorum's word", || {
        let status = cluster.status("api");
        let sure = status["as_of"]["no_quorum_since"].is_null();
        holds(sure && status["ready"] == 3, status)
    });
    // The first look may have come between a program's first process and the next.
    let now = left.programs("api");
    assert!(
        after.iter().all(|pid| now.contains(pid)),
        "the survivor's program was left alone: {after:?}, then {now:?}"
    );
}
