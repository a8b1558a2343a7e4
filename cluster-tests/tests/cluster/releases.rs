//! Promise: releases go out without a failed request, by every strategy, also when the leader dies on the way; a bad one
//! is taken back by itself, the command says so and why, and what ran before is untouched.
//!
//! `NEBULA_RELEASES` says how many releases of each strategy; 2 unless it is set.

use std::time::{Duration, Instant};

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::traffic::{Report, Users};
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, Output, eventually};

const HOST: &str = "api.example.test";

fn releases() -> usize {
    let asked = std::env::var("NEBULA_RELEASES").ok();
    asked.map_or(2, |text| text.parse().unwrap())
}

fn update(cluster: &Cluster, release: usize, flags: &[&str]) -> Output {
    let variable = format!("RELEASE={release}");
    let args = ["deploy", "update", "api", "--env", &variable];
    cluster.nebula(&[&args[..], flags].concat())
}

const ROLLING: [&str; 4] = ["--strategy", "rolling", "--watch", "500ms"];
const BLUE_GREEN: [&str; 6] = [
    "--strategy",
    "blue-green",
    "--warm",
    "500ms",
    "--watch",
    "500ms",
];
/// Judged by its errors alone: for a second or two a program that has just started on a busy machine may well be slower than
/// one that runs, and what is promised here is that no request fails.
const CANARY: [&str; 10] = [
    "--strategy",
    "canary",
    "--step",
    "20% 1s",
    "--step",
    "60% 1s",
    "--watch",
    "500ms",
    "--judge",
    "p95=0%",
];

/// Users' connections at each edge.
const CONNECTIONS: u8 = 4;
/// One for each connection at the two edges that live on: its next request comes after the answer.
const LOST_AT_MOST: usize = 2 * CONNECTIONS as usize;

fn check(report: &Report, what: &str) {
    println!(
        "{what}: {} of {} requests failed, {} of {} sockets were cut",
        report.failed, report.requests, report.sockets_cut, report.sockets
    );
    assert_eq!(
        (report.failed, report.sockets_cut),
        (0, 0),
        "{:#?}",
        report.told
    );
    assert!(report.requests > 0 && report.sockets > 0);
}

#[test]
fn no_request_fails_while_releases_go_out() {
    let cluster = Cluster::start(3);
    cluster.deploy_echo("api", 3);
    cluster
        .edges()
        .iter()
        .for_each(|edge| drop(cluster.serves(*edge, HOST)));
    let socket_time = Some(Duration::from_secs(2));
    let mut release = 1;
    for (name, flags) in [
        ("rolling", &ROLLING[..]),
        ("blue-green", &BLUE_GREEN[..]),
        ("canary", &CANARY[..]),
    ] {
        let users = Users::arrive(&cluster.edges(), HOST, CONNECTIONS, 500, socket_time);
        for _ in 0..releases() {
            release += 1;
            update(&cluster, release, flags).ok();
            assert_eq!(cluster.status("api")["release"], release);
        }
        check(&users.leave(), name);
    }
}

/// Its users are at the edges that live on.
#[test]
fn no_request_fails_when_the_leader_dies_on_the_way() {
    let mut cluster = Cluster::start(3);
    cluster.deploy_echo("api", 3);
    let mut release = 1;
    for flags in [&ROLLING[..], &BLUE_GREEN[..], &CANARY[..]] {
        for _ in 0..releases() / 2 {
            release += 1;
            let leader = cluster.leader();
            let edges: Vec<_> = (0..3)
                .filter(|i| *i != leader)
                .map(|i| cluster.members[i].edge)
                .collect();
            edges
                .iter()
                .for_each(|edge| drop(cluster.serves(*edge, HOST)));
            let users = Users::arrive(&edges, HOST, CONNECTIONS, 500, None);
            update(&cluster, release, &[flags, &["--no-wait"]].concat()).ok();
            cluster.kill_daemon(leader);
            eventually(Duration::from_secs(60), "the release is good", || {
                let status = cluster.status("api");
                let done = status["release"] == release && status["rollout"].is_null();
                holds(done && status["releases"][0]["fate"] == "good", status)
            });
            let report = users.leave();
            println!(
                "{flags:?}: {} of {} requests failed",
                report.failed, report.requests
            );
            // A POST that was under way at an instance of the machine that died can be sent to no other, unless it has a key.
            let lost = report.lost_posts();
            assert_eq!(report.failed as usize, lost, "{:#?}", report.told);
            assert!(lost <= LOST_AT_MOST, "{:#?}", report.told);
            cluster.restart(leader);
            cluster.wait_all_alive();
        }
    }
}

/// What is wrong with a release, how it goes out, and what the command says then.
struct Bad {
    flags: &'static [&'static str],
    strategy: &'static [&'static str],
    why: &'static str,
}

const WARM: [&str; 4] = ["--strategy", "blue-green", "--warm", "8s"];

/// Half of the visitors have it until the judge has seen enough.
const JUDGED: [&str; 6] = [
    "--strategy",
    "canary",
    "--step",
    "50% 60s",
    "--watch",
    "500ms",
];
/// At each edge, so many that both halves have some.
const VISITORS: u8 = 8;

const BAD: [Bad; 8] = [
    Bad {
        flags: &["--env", "FAULT=exit"],
        strategy: &ROLLING,
        why: "exited with code 1",
    },
    Bad {
        flags: &["--env", "FAULT=exit-after=5000"],
        strategy: &WARM,
        why: "exited with code 3",
    },
    Bad {
        flags: &["--command", "./no-such-file"],
        strategy: &CANARY,
        why: "exited with code 127",
    },
    Bad {
        flags: &["--env", "FAULT=hog", "--memory", "64Mi"],
        strategy: &ROLLING,
        why: "out of memory",
    },
    Bad {
        flags: &["--env", "FAULT=mute"],
        strategy: &ROLLING,
        why: "probe",
    },
    Bad {
        flags: &["--env", "FAULT=error", "--health-path", "/"],
        strategy: &BLUE_GREEN,
        why: "500",
    },
    Bad {
        flags: &["--env", "FAULT=slow=5000", "--health-path", "/"],
        strategy: &CANARY,
        why: "probe",
    },
    Bad {
        flags: &["--env", "FAULT=slow=600"],
        strategy: &JUDGED,
        why: "of its answers took up to",
    },
];

/// `NEBULA_BAD_RELEASES` says how many, of each kind in turn; one of each unless it is set.
#[test]
fn a_bad_release_is_taken_back_by_itself() {
    let asked = std::env::var("NEBULA_BAD_RELEASES").ok();
    let count = asked.map_or(BAD.len(), |text| text.parse().unwrap());
    let cluster = Cluster::start(3);
    cluster.deploy_echo("api", 2);
    let running = |status: &serde_json::Value| -> Vec<String> {
        let instances = status["instances"].as_array().unwrap();
        let of_first = instances
            .iter()
            .filter(|i| i["release"] == 1 && i["phase"] == "running");
        of_first.map(|i| i["id"].to_string()).collect()
    };
    let before = running(&cluster.status("api"));
    assert_eq!(before.len(), 2);
    let users = Users::arrive(&cluster.edges(), HOST, VISITORS, 100, None);
    for bad in BAD.iter().cycle().take(count) {
        let began = Instant::now();
        let flags = [bad.strategy, bad.flags].concat();
        let done = update(&cluster, 0, &flags).fails(4, bad.why);
        let took = began.elapsed();
        println!(
            "{:?}: taken back after {took:?}: {}",
            bad.flags, done.stderr
        );
        let status = eventually(DEADLINE, "nothing of it is left", || {
            let status = cluster.status("api");
            let alone = status["instances"].as_array().unwrap().len() == 2;
            holds(alone, &status).map(|()| status)
        });
        assert_eq!(running(&status), before, "{status}");
        assert_eq!(status["release"], 1, "{status}");
        assert_eq!(status["releases"][0]["fate"], "failed", "{status}");
    }
    let report = users.leave();
    println!("{} of {} requests failed", report.failed, report.requests);
    // One that is switched to and crashes then may have a POST that nobody may send again, for each connection.
    let crashes = count.div_ceil(BAD.len());
    let lost = report.lost_posts();
    assert_eq!(report.failed as usize, lost, "{:#?}", report.told);
    assert!(
        lost <= crashes * 3 * VISITORS as usize,
        "{:#?}",
        report.told
    );
}

#[test]
fn history_diff_and_rollback() {
    let cluster = Cluster::start(1);
    cluster.deploy_echo("api", 1);
    let message = ["--message", "louder", "--watch", "0s"];
    update(&cluster, 2, &message).ok();
    let history = cluster
        .nebula(&["deploy", "history", "api", "--json"])
        .ok()
        .json();
    let releases = history["releases"].as_array().unwrap();
    assert_eq!(releases.len(), 2, "{history}");
    assert_eq!(
        (&releases[0]["message"], &releases[0]["fate"]),
        (&"louder".into(), &"good".into())
    );
    let diff = cluster.nebula(&["deploy", "diff", "api", "1", "2"]).ok();
    assert!(diff.stdout.contains("env"), "{diff}");
    cluster.nebula(&["deploy", "rollback", "api"]).ok();
    let status = cluster.status("api");
    assert_eq!(status["release"], 1, "{status}");
    cluster
        .nebula(&["deploy", "rollback", "api", "9"])
        .fails(1, "no release");
    cluster
        .nebula(&["deploy", "rollback", "api"])
        .fails(1, "no earlier good release");
    cluster
        .nebula(&["deploy", "pause", "api"])
        .fails(1, "on its way");
    let all = cluster.nebula(&["deploy", "list", "--all"]).ok();
    assert!(all.stdout.contains("louder"), "{all}");
}
