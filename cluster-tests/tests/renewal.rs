//! Promise: certificates renew by themselves at half of their life, also without the first machine.

#![allow(clippy::unwrap_used)]

use nebula_cluster_tests::binaries::{libfaketime, unless_missing};
use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::command::on_node;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, Output, eventually};

fn status(cluster: &Cluster, index: usize) -> Output {
    on_node(
        &cluster.members[index].data_dir,
        "nodectl",
        ["status", "--json"],
    )
}

#[test]
fn after_thirteen_hours_the_others_have_new_certificates() {
    let library = libfaketime();
    let missing = library
        .is_none()
        .then_some("libfaketime (Debian package 'faketime') is not installed");
    if !unless_missing(missing) {
        return;
    }
    let library = library.unwrap();
    let mut cluster = Cluster::start(3);
    let ends = |output: &Output| {
        output.json()["certificate_expires_at"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let before: Vec<String> = (0..3).map(|i| ends(&status(&cluster, i).ok())).collect();
    (0..3).for_each(|i| cluster.kill_machine(i));
    let later = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME", "+13h"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    for i in [1, 2] {
        cluster.restart_with(i, &later);
    }
    for i in [1, 2] {
        eventually(DEADLINE, "a later certificate", || {
            let now = status(&cluster, i);
            // RFC 3339 in UTC: text order is time order.
            holds(now.code == 0 && ends(&now) > before[i], now.to_string())
        });
    }
    // The renewed ones are what the two speak with: they still agree on changes.
    eventually(DEADLINE, "a change between the two", || {
        let done = on_node(
            &cluster.members[1].data_dir,
            "nebula",
            ["config", "set", "user.later", "1"],
        );
        holds(done.code == 0, done.to_string())
    });
}
