//! Promise: a machine that is cut off refuses changes, the others go on, and after healing all agree.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use nebula_cluster_tests::eventually;
use nebula_cluster_tests::namespaces::{Network, available};
use nebula_cluster_tests::wait::holds;
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);

/// Three machines with addresses of their own, bootstrapped as people do it.
fn bootstrap(network: &mut Network, dir: &std::path::Path) -> Vec<String> {
    let folders: Vec<String> = (1..=3)
        .map(|i| dir.join(format!("n{i}")).to_str().unwrap().to_owned())
        .collect();
    let run = |network: &Network, i: usize, args: &[&str]| {
        let (address, name) = (network.address(i), format!("n{}", i + 1));
        let [quic, api, edge] = [7600, 7601, 80].map(|port| format!("{address}:{port}"));
        let flags = [
            "--name",
            &name,
            "--quic-addr",
            &quic,
            "--api-addr",
            &api,
            "--edge-addr",
            &edge,
            "--no-start",
        ];
        let flags = [&["--data-dir", &folders[i]], &flags[..]].concat();
        network
            .run(i, &folders[i], "nodectl", &[args, &flags].concat())
            .ok();
    };
    let start = |network: &mut Network, i: usize| {
        let log = std::fs::File::create(dir.join(format!("n{}.log", i + 1))).unwrap();
        network.spawn(i, &["run", "--data-dir", &folders[i]], log);
    };
    run(network, 0, &["init"]);
    start(network, 0);
    for i in 1..3 {
        let token = eventually(DEADLINE, "a join token", || {
            let done = network.run(0, &folders[0], "nodectl", &["token", "create", "--json"]);
            let json: Value = serde_json::from_str(&done.stdout).map_err(|_| done.to_string())?;
            json["token"]
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| done.to_string())
        });
        run(
            network,
            i,
            &[
                "join",
                &format!("{}:7601", network.address(0)),
                "--token",
                &token,
            ],
        );
        start(network, i);
    }
    eventually(DEADLINE, "three voters", || {
        let done = network.run(0, &folders[0], "nodectl", &["members", "--json"]);
        let json: Value = serde_json::from_str(&done.stdout).map_err(|_| done.to_string())?;
        let voters = json["members"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|m| m["role"] == "voter")
            .count();
        holds(voters == 3, json)
    });
    folders
}

#[test]
fn the_leader_is_cut_off_and_comes_back() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut network = Network::new(3);
    let folders = bootstrap(&mut network, dir.path());
    let set = |i: usize, value: &str| {
        network.run(
            i,
            &folders[i],
            "nebula",
            &["config", "set", "user.side", value],
        )
    };
    let get = |i: usize| network.run(i, &folders[i], "nebula", &["config", "get", "user.side"]);
    set(0, "before").ok();
    let members = network
        .run(0, &folders[0], "nodectl", &["members", "--json"])
        .ok()
        .json();
    let leader = usize::try_from(members["leader"].as_u64().unwrap()).unwrap() - 1;
    let other = (leader + 1) % 3;

    network.cut(leader);
    eventually(DEADLINE, "the majority takes a change", || {
        let done = set(other, "majority");
        holds(done.code == 0, done.to_string())
    });
    let refused = set(leader, "minority");
    assert_eq!(refused.code, 3, "{refused}");

    network.heal(leader);
    eventually(
        DEADLINE,
        "the one that was cut off agrees with the majority",
        || {
            let done = get(leader);
            holds(done.stdout.trim() == "majority", done.to_string())
        },
    );
    set(leader, "after").ok();
}
