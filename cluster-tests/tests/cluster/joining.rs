//! Promise: only who holds a valid token for this very cluster joins it; who leaves or is removed is out.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use nebula_cluster_tests::cluster::{DEADLINE, Member, free_ports};
use nebula_cluster_tests::command::on_node;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, Output, eventually, nodectl, process};
use nix::sys::signal::Signal;

/// A machine that would join: a data folder and free ports.
struct Machine {
    dir: tempfile::TempDir,
    name: String,
    ports: [u16; 3],
}

impl Machine {
    fn new(name: &str) -> Machine {
        Machine {
            dir: tempfile::tempdir().unwrap(),
            name: name.to_owned(),
            ports: free_ports(),
        }
    }

    fn data_dir(&self) -> String {
        self.dir.path().join("data").to_str().unwrap().to_owned()
    }

    fn join(&self, api: &str, token: &str, more: &[&str]) -> Output {
        let data_dir = self.data_dir();
        let [quic, api_addr, edge] = self.ports.map(|port| format!("127.0.0.1:{port}"));
        let args = [
            "join",
            api,
            "--token",
            token,
            "--data-dir",
            &data_dir,
            "--name",
            &self.name,
        ];
        let addresses = [
            "--quic-addr",
            &quic,
            "--api-addr",
            &api_addr,
            "--edge-addr",
            &edge,
        ];
        nodectl([&args[..], &addresses[..], more].concat())
    }
}

fn api(cluster: &Cluster) -> String {
    cluster.members[0]
        .api
        .trim_start_matches("https://")
        .to_owned()
}

fn token(cluster: &Cluster, more: &[&str]) -> String {
    let args = [&["token", "create", "--json"], more].concat();
    cluster.nodectl(&args).ok().json()["token"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn tokens_that_are_not_valid_are_refused() {
    let cluster = Cluster::start(1);
    let api = api(&cluster);
    let refused = |token: &str, words: &str| {
        let machine = Machine::new("stranger");
        machine.join(&api, token, &["--no-start"]).fails(1, words);
        assert!(
            !machine.dir.path().join("data").exists(),
            "a refused joiner leaves nothing behind"
        );
    };

    let used = token(&cluster, &[]);
    Machine::new("first")
        .join(&api, &used, &["--no-start"])
        .ok();
    refused(&used, "already used");

    // The secret is the last part; another one is as good as none.
    let good = token(&cluster, &[]);
    let (rest, _) = good.rsplit_once('.').unwrap();
    refused(&format!("{rest}.{}", "A".repeat(43)), "not known");

    // Another cluster's CA: refused before the secret is sent, so the token stays unused.
    let mut parts: Vec<_> = good.split('.').map(str::to_owned).collect();
    parts[1] = "0".repeat(64);
    refused(&parts.join("."), "not the one in the join token");

    let short = token(&cluster, &["--ttl", "1s"]);
    eventually(DEADLINE, "the token has expired", || {
        let list = cluster.nodectl(&["token", "list", "--json"]).ok().json();
        holds(
            list["tokens"]
                .as_array()
                .unwrap()
                .iter()
                .any(|t| t["expired"] == true),
            list,
        )
    });
    refused(&short, "expired");

    let revoked = token(&cluster, &[]);
    let id = revoked.split('.').nth(2).unwrap();
    cluster.nodectl(&["token", "revoke", id]).ok();
    refused(&revoked, "not known");

    let machine = Machine::new("nonsense");
    machine
        .join(&api, "not-a-token", &["--no-start"])
        .fails(2, "not a join token");

    // After all that the good one still works, and members are as they should be.
    Machine::new("second")
        .join(&api, &good, &["--no-start"])
        .ok();
    let members = cluster.member_list();
    let names: Vec<_> = members["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["name"].as_str().unwrap())
        .collect();
    assert_eq!(names[1..], ["first", "second"], "{members}");
}

#[test]
fn a_machine_joins_works_and_leaves() {
    let cluster = Cluster::start(3);
    cluster.deploy_echo("api", 3);
    let machine = Machine::new("n4");
    let joined = machine
        .join(
            &api(&cluster),
            &token(&cluster, &["--role", "worker"]),
            &["--json"],
        )
        .ok();
    let id = joined.json()["id"]
        .as_u64()
        .unwrap_or_else(|| panic!("{joined}"));
    assert_eq!(id, 4);
    let find = || {
        let list = cluster.member_list();
        list["members"]
            .as_array()
            .unwrap()
            .iter()
            .find(|m| m["id"] == 4)
            .cloned()
    };
    eventually(DEADLINE, "the new machine is an alive learner", || {
        let member = find();
        holds(
            member
                .as_ref()
                .is_some_and(|m| m["status"] == "alive" && m["role"] == "learner"),
            member,
        )
    });
    cluster
        .nebula(&["deploy", "scale", "api", "--instances", "4", "--wait"])
        .ok();
    let status = cluster.status("api");
    assert!(
        status["instances"].to_string().contains("\"n4\""),
        "{status}"
    );
    let edge = SocketAddr::from(([127, 0, 0, 1], machine.ports[2]));
    cluster.serves(edge, "api.example.test");

    // A worker is not taken at its word: its owner is no operator, and an operator's token is passed on.
    let data_dir = PathBuf::from(machine.data_dir());
    on_node(&data_dir, "nebula", ["config", "set", "user.x", "1"]).fails(1, "operator's token");
    let worker = Member {
        name: "n4".to_owned(),
        id: 4,
        pid: 0,
        api: format!("https://127.0.0.1:{}", machine.ports[1]),
        edge,
        edge_tls: None,
        data_dir,
    };
    cluster
        .nebula_at(&worker, &["config", "set", "user.x", "1"])
        .ok();

    nodectl(["leave", "--data-dir", &machine.data_dir()]).ok();
    assert!(find().is_none(), "{}", cluster.member_list());
    eventually(DEADLINE, "four ready instances on three machines", || {
        let status = cluster.status("api");
        holds(
            status["ready"] == 4 && !status["instances"].to_string().contains("\"n4\""),
            status,
        )
    });
    eventually(
        Duration::from_secs(20),
        "nothing of it runs any more",
        || {
            let left = process::mentioning(&machine.data_dir());
            holds(left.is_empty(), left)
        },
    );
    // Its id is never given out again.
    let again = Machine::new("n5");
    let joined = again
        .join(
            &api(&cluster),
            &token(&cluster, &[]),
            &["--no-start", "--json"],
        )
        .ok();
    assert_eq!(joined.json()["id"], 5);
    for pid in process::mentioning(&again.data_dir()) {
        process::signal(pid, Signal::SIGKILL);
    }
}

#[test]
fn a_machine_that_died_while_it_joined_joins_again() {
    let cluster = Cluster::start(1);
    let api = api(&cluster);
    let machine = Machine::new("n2");
    let join = |more: &[&str]| {
        let joined = machine.join(&api, &token(&cluster, &[]), more).ok().json();
        joined["id"].as_u64().unwrap()
    };
    let first = join(&["--no-start", "--json"]);
    let member = |id: u64| {
        let list = cluster.member_list();
        let members = list["members"].as_array().unwrap();
        members.iter().find(|m| m["id"] == id).cloned()
    };
    assert_eq!(member(first).unwrap()["status"], "joining");
    // The answer never reached the disk.
    std::fs::remove_dir_all(machine.data_dir()).unwrap();
    let second = join(&["--json"]);
    assert!(second > first);
    assert!(member(first).is_none(), "{}", cluster.member_list());
    eventually(DEADLINE, "the second try is alive", || {
        let member = member(second);
        holds(
            member.as_ref().is_some_and(|m| m["status"] == "alive"),
            member,
        )
    });
    // Asked again after a lost answer, a removal is still a success; an id that never was is not.
    let id = second.to_string();
    nodectl(["leave", "--data-dir", &machine.data_dir()]).ok();
    cluster.nodectl(&["remove", &id]).ok();
    cluster
        .nodectl(&["remove", "99"])
        .fails(1, "no member '99'");
}

#[test]
fn a_removed_machine_is_refused() {
    let mut cluster = Cluster::start(3);
    let victim = (cluster.leader() + 1) % 3;
    cluster.kill_machine(victim);
    let name = cluster.members[victim].name.clone();
    cluster.nodectl(&["remove", &name]).ok();
    cluster.restart(victim);
    // It cannot catch up: nobody speaks with it, and it never serves a change.
    let member = cluster.members[victim].clone();
    eventually(
        DEADLINE,
        "the removed machine's daemon gives up or is refused",
        || {
            let done = cluster.nebula_at(&member, &["config", "set", "user.x", "1"]);
            holds(done.code == 3, done.to_string())
        },
    );
    let list = cluster.member_list();
    assert!(
        !list["members"].to_string().contains(&format!("\"{name}\"")),
        "{list}"
    );
}

#[test]
fn the_first_machine_is_lost_for_good() {
    let cluster = Cluster::start(3);
    cluster.kill_machine(0);
    let first = cluster.members[0].name.clone();
    eventually(DEADLINE, "the first machine is removed", || {
        let done = cluster.nodectl(&["remove", &first]);
        holds(done.code == 0, done.to_string())
    });
    // Any voter can sign: a new machine joins through one that did not make the CA.
    let machine = Machine::new("n4");
    let api = cluster.members[1]
        .api
        .trim_start_matches("https://")
        .to_owned();
    machine.join(&api, &token(&cluster, &[]), &[]).ok();
    eventually(DEADLINE, "three voters again", || {
        let list = cluster.member_list();
        let voters = list["members"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|m| m["role"] == "voter")
            .count();
        holds(voters == 3, list)
    });
    nodectl(["leave", "--data-dir", &machine.data_dir()]).ok();
}

#[test]
fn a_cluster_shrinks_to_one_machine_and_goes_on() {
    let cluster = Cluster::start(3);
    cluster.nebula(&["config", "set", "user.kept", "yes"]).ok();
    // The leader first, each time: it has to hand over before it goes.
    for _ in 0..2 {
        let leader = cluster.leader();
        let dir = cluster.members[leader].data_dir.to_str().unwrap();
        nodectl(["leave", "--data-dir", dir]).ok();
        eventually(DEADLINE, "its daemon has ended", || {
            let pid = cluster.members[leader].pid;
            holds(!process::is_running(pid), pid)
        });
    }
    let left = cluster.leader();
    let got = cluster
        .nebula_at(&cluster.members[left], &["config", "get", "user.kept"])
        .ok();
    assert_eq!(got.stdout.trim(), "yes");
    cluster
        .nebula_at(
            &cluster.members[left],
            &["config", "set", "user.kept", "still"],
        )
        .ok();
    assert_eq!(
        cluster.member_list()["members"].as_array().unwrap().len(),
        1
    );
}
