//! Promise: certificates renew by themselves at half of their life, also without the first machine; and machines that
//! were all off for longer than certificates live come back by themselves.

use std::path::Path;

use nebula_cluster_tests::binaries::time_machine;
use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::command::on_node;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, Output, eventually};

/// A command on a member's own machine, by its socket: this process lives in another time than the daemons, and
/// would not trust their certificates.
fn on(cluster: &Cluster, index: usize, program: &str, args: &[&str]) -> Output {
    on_node(&cluster.members[index].data_dir, program, args)
}

fn status(cluster: &Cluster, index: usize) -> Output {
    on(cluster, index, "nodectl", &["status", "--json"])
}

/// When the node's certificate ends: RFC 3339 in UTC, so that text order is time order.
fn ends(output: &Output) -> String {
    output.json()["certificate_expires_at"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Kills every machine, and starts these again so much later.
fn sleep_through(cluster: &mut Cluster, library: &Path, later: &str, woken: &[usize]) {
    (0..cluster.members.len()).for_each(|i| cluster.kill_machine(i));
    let env = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME", later),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    for index in woken {
        cluster.restart_with(*index, &env);
    }
}

fn wait_for_later_certificates(cluster: &Cluster, before: &[String], woken: &[usize]) {
    for i in woken {
        eventually(DEADLINE, "a later certificate", || {
            let now = status(cluster, *i);
            holds(now.code == 0 && ends(&now) > before[*i], now.to_string())
        });
    }
}

fn wait_for_a_change(cluster: &Cluster, through: usize) {
    eventually(DEADLINE, "a change", || {
        let args = ["config", "set", "user.later", "1"];
        let done = on(cluster, through, "nebula", &args);
        holds(done.code == 0, done.to_string())
    });
}

#[test]
fn after_thirteen_hours_the_others_have_new_certificates() {
    let Some(library) = time_machine() else {
        return;
    };
    let mut cluster = Cluster::start(3);
    let before: Vec<String> = (0..3).map(|i| ends(&status(&cluster, i).ok())).collect();
    sleep_through(&mut cluster, &library, "+13h", &[1, 2]);
    wait_for_later_certificates(&cluster, &before, &[1, 2]);
    // The renewed ones are what the two speak with: they still agree on changes.
    wait_for_a_change(&cluster, 1);
}

#[test]
fn after_two_days_without_power_everyone_comes_back() {
    let Some(library) = time_machine() else {
        return;
    };
    let mut cluster = Cluster::start(3);
    // It has no CA key to sign its own certificate with.
    cluster.join("worker", "worker");
    cluster.wait_all_alive();
    let all = [0, 1, 2, 3];
    let before: Vec<String> = all.map(|i| ends(&status(&cluster, i).ok())).into();
    sleep_through(&mut cluster, &library, "+48h", &all);
    wait_for_later_certificates(&cluster, &before, &all);
    wait_for_a_change(&cluster, 1);
    // The worker follows again, and the others see it.
    eventually(DEADLINE, "all four alive", || {
        let list = on(&cluster, 0, "nodectl", &["members", "--json"]);
        let alive = list.stdout.matches("\"alive\"").count();
        holds(alive == 4, list.to_string())
    });
    eventually(DEADLINE, "the worker has the change", || {
        let got = on(&cluster, 3, "nebula", &["config", "get", "user.later"]);
        holds(got.code == 0, got.to_string())
    });
}
