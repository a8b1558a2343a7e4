//! Promise: when a majority of the voters is gone for good, traffic goes on, and one survivor brings the cluster
//! back: once, by an operator's word, with all that it knew; the old voters are refused from then on.

use std::path::Path;
use std::time::{Duration, Instant};

use nebula_cluster_tests::cluster::{DEADLINE, free_ports};
use nebula_cluster_tests::command::on_node;
use nebula_cluster_tests::load::{Shot, failures};
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, Load, Member, Output, eventually, nodectl, process};
use nix::sys::signal::Signal;
use serde_json::Value;

const HOST: &str = "api.example.test";
/// From a fault until every edge has noticed it; until then a request may fail.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);
/// Between two requests of the load.
const EVERY: Duration = Duration::from_millis(50);

/// Joins a machine through `through` and starts its daemon.
fn join(cluster: &mut Cluster, through: usize, name: &str, role: &str) -> usize {
    let through = cluster.members[through].clone();
    let made = on_node(
        &through.data_dir,
        "nodectl",
        ["token", "create", "--role", role, "--json"],
    );
    let token = made.ok().json()["token"].as_str().unwrap().to_owned();
    let data_dir = cluster.scratch("joined").join(name);
    let [quic, api, edge] = free_ports().map(|port| format!("127.0.0.1:{port}"));
    let dir = data_dir.to_str().unwrap();
    let at = through.api.trim_start_matches("https://");
    let args = [
        "join",
        at,
        "--token",
        &token,
        "--data-dir",
        dir,
        "--name",
        name,
        "--no-start",
        "--json",
        "--quic-addr",
        &quic,
        "--api-addr",
        &api,
        "--edge-addr",
        &edge,
    ];
    let joined = nodectl(args).ok().json();
    cluster.members.push(Member {
        name: name.to_owned(),
        id: joined["id"].as_u64().unwrap(),
        pid: 0,
        api: format!("https://{api}"),
        edge: edge.parse().unwrap(),
        edge_tls: None,
        data_dir,
    });
    let index = cluster.members.len() - 1;
    cluster.restart(index);
    index
}

fn status(member: &Member) -> Result<Value, String> {
    let done = on_node(&member.data_dir, "nodectl", ["status", "--json"]);
    serde_json::from_str(&done.stdout).map_err(|_| done.to_string())
}

fn members(member: &Member) -> Result<Vec<Value>, String> {
    let done = on_node(&member.data_dir, "nodectl", ["members", "--json"]);
    let list: Value = serde_json::from_str(&done.stdout).map_err(|_| done.to_string())?;
    Ok(list["members"].as_array().cloned().unwrap_or_default())
}

fn wait_voters(member: &Member, count: usize) {
    eventually(DEADLINE, &format!("{count} voters"), || {
        let list = members(member)?;
        let voters = list
            .iter()
            .filter(|m| m["role"] == "voter" && m["status"] == "alive");
        holds(voters.count() == count, &list)
    });
}

/// Ends a daemon and leaves its instances running.
fn stop(member: &Member) {
    process::signal(member.pid, Signal::SIGTERM);
    eventually(DEADLINE, "the daemon has stopped", || {
        holds(!process::is_running(member.pid), &member.name)
    });
}

fn recover(data_dir: &Path, more: &[&str]) -> Output {
    let args = ["recover", "--data-dir", data_dir.to_str().unwrap()];
    nodectl([&args[..], more].concat())
}

/// No request failed, but for those soon after a fault.
#[track_caller]
fn untouched(shots: &[Shot], faults: &[(Instant, Instant)]) {
    let excused = |shot: &Shot| {
        let mut faults = faults.iter();
        faults.any(|(from, to)| shot.at + shot.took >= *from && shot.at <= *to + NOTICED_WITHIN)
    };
    let wrong: Vec<_> = failures(shots)
        .into_iter()
        .filter(|s| !excused(s))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {}: {wrong:#?}",
        wrong.len(),
        shots.len()
    );
    let outside = shots.iter().filter(|s| !excused(s)).count();
    assert!(
        outside > 20,
        "only {outside} of {} requests tell",
        shots.len()
    );
}

#[test]
fn one_survivor_brings_the_cluster_back() {
    let mut cluster = Cluster::start(3);
    let worker = join(&mut cluster, 0, "w1", "worker");
    cluster.wait_all_alive();
    cluster.deploy_echo("api", 4);
    wait_voters(&cluster.members[0], 3);
    let leader = cluster.leader();
    let lost = [leader, (leader + 1) % 3];
    let survivor = 3 - lost[0] - lost[1];
    let left = cluster.members[survivor].clone();
    let follower = cluster.members[worker].clone();
    for i in 0..20 {
        let (key, value) = (format!("user.k{i}"), format!("v{i}"));
        cluster.nebula(&["config", "set", &key, &value]).ok();
    }
    let read = |member: &Member, key: &str, value: &str| {
        let got = cluster_get(&cluster, member, key);
        holds(got.stdout.trim() == value, got.to_string())
    };
    eventually(DEADLINE, "the survivor knows all", || {
        read(&left, "user.k19", "v19")
    });
    eventually(DEADLINE, "the survivor can sign", || {
        let key = left.data_dir.join("ca.key");
        holds(key.exists(), key)
    });
    // A cluster that works is left alone, also by a voter whose daemon is stopped.
    recover(&left.data_dir, &["--accept-loss"]).fails(1, "already runs");
    stop(&left);
    recover(&left.data_dir, &["--accept-loss"]).fails(1, "follows a leader");
    cluster.restart(survivor);
    cluster.wait_all_alive();
    let left = cluster.members[survivor].clone();
    for edge in [left.edge, follower.edge] {
        cluster.serves(edge, HOST);
    }
    let (before, there) = (left.programs("api"), follower.programs("api"));
    assert!(!before.is_empty() && !there.is_empty());
    let here_load = Load::start(&[left.edge], HOST, EVERY);
    let there_load = Load::start(&[follower.edge], HOST, EVERY);

    let killed = Instant::now();
    for index in lost {
        cluster.kill_machine(index);
    }
    let killed = (killed, Instant::now());
    eventually(DEADLINE, "the survivor knows that it is alone", || {
        let status = status(&left)?;
        holds(status["quorum"] == false, &status)
    });
    for member in [&left, &follower] {
        let set = ["config", "set", "user.alone", "yes"];
        cluster.nebula_at(member, &set).fails(3, "");
    }

    // Recovery wants the daemon to be stopped; what it runs goes on.
    recover(&left.data_dir, &["--accept-loss"]).fails(1, "already runs");
    let stopped = Instant::now();
    stop(&left);
    let asked = recover(&left.data_dir, &[]).fails(2, "nothing was changed");
    for index in lost {
        assert!(
            asked.stderr.contains(&cluster.members[index].name),
            "{asked}"
        );
    }
    let asked = recover(&left.data_dir, &["--json"]);
    let found: Value = serde_json::from_str(&asked.stdout).unwrap();
    assert_eq!(found["needs"], "accept_loss", "{asked}");
    assert_eq!(found["removed"].as_array().unwrap().len(), 2, "{asked}");
    recover(&cluster.scratch("nobody"), &["--accept-loss"]).fails(2, "no node");
    let done = recover(&left.data_dir, &["--accept-loss", "--json"])
        .ok()
        .json();
    assert_eq!(done["changed"], true, "{done}");
    assert_eq!(done["removed"].as_array().unwrap().len(), 2, "{done}");
    let again = recover(&left.data_dir, &["--accept-loss", "--json"])
        .ok()
        .json();
    assert_eq!(again["changed"], false, "{again}");
    cluster.restart(survivor);
    let left = cluster.members[survivor].clone();
    cluster.serves(left.edge, HOST);
    let stopped = (stopped, Instant::now());

    let first = eventually(DEADLINE, "the survivor leads", || {
        let status = status(&left)?;
        holds(
            status["leader"] == left.id && status["quorum"] == true,
            &status,
        )
        .map(|()| status)
    });
    assert_eq!(first["recovered"]["by"], left.id, "{first}");
    assert_eq!(first["recovered"]["removed"].as_array().unwrap().len(), 2);
    for i in 0..20 {
        let got = cluster_get(&cluster, &left, &format!("user.k{i}")).ok();
        assert_eq!(got.stdout.trim(), format!("v{i}"));
    }
    let set = ["config", "set", "user.after", "yes"];
    cluster.nebula_at(&left, &set).ok();
    eventually(DEADLINE, "the worker follows", || {
        let got = cluster_get(&cluster, &follower, "user.after");
        holds(got.stdout.trim() == "yes", got.to_string())
    });
    eventually(DEADLINE, "what was lost runs again", || {
        let shown = cluster.nebula_at(&left, &["deploy", "status", "api", "--json"]);
        let shown: Value = serde_json::from_str(&shown.stdout).map_err(|_| shown.to_string())?;
        holds(shown["ready"] == 4, shown)
    });
    let now = [left.programs("api"), follower.programs("api")].concat();
    for pid in before.iter().chain(&there) {
        assert!(
            now.contains(pid),
            "{pid} of {before:?}, {there:?} was not left alone: {now:?}"
        );
    }
    untouched(&here_load.stop(), &[killed, stopped]);
    untouched(&there_load.stop(), &[killed, (stopped.0, stopped.0)]);

    // The old voters come back together: a majority of what was, and nobody's.
    for index in lost {
        cluster.restart(index);
    }
    for index in lost {
        let member = &cluster.members[index];
        eventually(DEADLINE, "an old voter's daemon has ended", || {
            holds(!process::is_running(member.pid), &member.name)
        });
        assert!(member.programs("api").is_empty());
        recover(&member.data_dir, &["--accept-loss"]).fails(1, "was removed");
    }
    let later = status(&left).unwrap();
    assert_eq!(later["leader"], left.id, "{later}");
    assert_eq!(later["term"], first["term"], "{later}");
    let names = members(&left).unwrap();
    assert_eq!(names.len(), 2, "{names:?}");

    // The cluster grows again.
    for name in ["n8", "n9"] {
        join(&mut cluster, survivor, name, "voter");
    }
    wait_voters(&left, 3);
    let ids: Vec<u64> = members(&left)
        .unwrap()
        .iter()
        .filter_map(|m| m["id"].as_u64())
        .collect();
    assert!(
        ids.iter()
            .all(|id| lost.iter().all(|i| cluster.members[*i].id != *id)),
        "{ids:?}"
    );
    cluster
        .nebula_at(&left, &["config", "set", "user.grown", "yes"])
        .ok();
    for index in (worker..cluster.members.len()).chain([survivor]) {
        let pid = cluster.members[index].pid;
        process::signal(pid, Signal::SIGINT);
        eventually(DEADLINE, "a daemon has ended", || {
            holds(!process::is_running(pid), pid)
        });
    }

    // Nor is it brought back on a worker, or from a disk that lost what was written.
    recover(&follower.data_dir, &["--accept-loss"]).fails(1, "is a worker");
    for part in ["raft-log", "raft-state"] {
        let db = left.data_dir.join("registry").join(part).join("db");
        std::fs::write(db, "").unwrap();
    }
    recover(&left.data_dir, &["--accept-loss"]).fails(1, "is damaged");
}

fn cluster_get(cluster: &Cluster, member: &Member, key: &str) -> Output {
    cluster.nebula_at(member, &["config", "get", key])
}
