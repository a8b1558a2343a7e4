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
    let node = |i: usize, network: &Network| -> Vec<String> {
        let address = network.address(i);
        [
            "--data-dir",
            &folders[i],
            "--name",
            &format!("n{}", i + 1),
            "--quic-addr",
            &format!("{address}:7600"),
            "--api-addr",
            &format!("{address}:7601"),
            "--edge-addr",
            &format!("{address}:80"),
            "--no-start",
        ]
        .iter()
        .map(|s| (*s).to_owned())
        .collect()
    };
    let log = |i: usize| std::fs::File::create(dir.join(format!("n{}.log", i + 1))).unwrap();
    let run = |network: &Network, i: usize, args: &[&str]| network.run(i, "nodectl", args);

    let flags = node(0, network);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    run(network, 0, &[&["init"], &flags[..]].concat()).ok();
    network.spawn(0, &["run", "--data-dir", &folders[0]], log(0));
    for i in 1..3 {
        let token = eventually(DEADLINE, "a join token", || {
            let done = run(
                network,
                0,
                &["token", "create", "--json", "--data-dir", &folders[0]],
            );
            let json: Value = serde_json::from_str(&done.stdout).map_err(|_| done.to_string())?;
            json["token"]
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| done.to_string())
        });
        let api = format!("{}:7601", network.address(0));
        let flags = node(i, network);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        run(
            network,
            i,
            &[&["join", &api, "--token", &token], &flags[..]].concat(),
        )
        .ok();
        network.spawn(i, &["run", "--data-dir", &folders[i]], log(i));
    }
    eventually(DEADLINE, "three voters", || {
        let done = run(
            network,
            0,
            &["members", "--json", "--data-dir", &folders[0]],
        );
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
            "nebula",
            &[
                "config",
                "set",
                "user.side",
                value,
                "--data-dir",
                &folders[i],
            ],
        )
    };
    let get = |i: usize| {
        network.run(
            i,
            "nebula",
            &["config", "get", "user.side", "--data-dir", &folders[i]],
        )
    };
    set(0, "before").ok();
    let members = network
        .run(
            0,
            "nodectl",
            &["members", "--json", "--data-dir", &folders[0]],
        )
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
