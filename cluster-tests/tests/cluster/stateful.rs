//! Promise: what a deployment keeps is never lost, moved, or given to two instances; a deployment finds those that it
//! depends on; and a secret is seen by its program and nowhere else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, eventually, http, process};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Longer than it takes to call a node dead and to place instances anew: what does not move by then does not move.
const UNMOVED: Duration = Duration::from_secs(6);

fn deploy(cluster: &Cluster, name: &str, flags: &[&str]) {
    let folder = cluster.keep_folder();
    let (folder, command) = (folder.to_str().unwrap(), "exec ./keep-service");
    let create = [
        "deploy",
        "create",
        name,
        "--path",
        folder,
        "--command",
        command,
    ];
    let rest = [
        "--tld",
        "example.test",
        "--watch",
        "0s",
        "--wait",
        "--timeout",
        "60s",
    ];
    let mark = whose(cluster);
    let all = [&create[..], &["--env", &mark], flags, &rest[..]].concat();
    cluster.nebula(&all).ok();
}

/// What the deployment answers at some edge that runs, once it does.
fn ask(cluster: &Cluster, name: &str, path: &str) -> String {
    let host = format!("{name}.example.test");
    eventually(DEADLINE, &format!("an answer to {path} of {name}"), || {
        let running = cluster.members.iter().find(|m| process::is_running(m.pid));
        let edge = running.ok_or("nobody runs")?.edge;
        match http::get(edge, &host, path) {
            Ok(response) if response.status == 200 => Ok(response.text()),
            Ok(response) => Err(format!("{} {}", response.status, response.text())),
            Err(error) => Err(error.to_string()),
        }
    })
}

fn volumes(cluster: &Cluster) -> Vec<Value> {
    let list = cluster.nebula(&["volume", "list", "--json"]).ok().json();
    list["volumes"].as_array().unwrap().clone()
}

/// Where the only volume is: its node among the members, and its folder.
fn home(cluster: &Cluster) -> (usize, PathBuf) {
    let all = volumes(cluster);
    assert_eq!(all.len(), 1, "{all:?}");
    let node = all[0]["node"].as_str().unwrap();
    let index = cluster.members.iter().position(|m| m.name == node).unwrap();
    let dir = &cluster.members[index].data_dir;
    (index, dir.join("volumes/db/0/data/data"))
}

fn ready(cluster: &Cluster, name: &str) {
    eventually(DEADLINE, &format!("{name} is ready"), || {
        let status = cluster.status(name);
        holds(status["phase"] == "ready", &status)
    });
}

/// Tests run beside each other: the programs of this one's cluster.
fn programs(cluster: &Cluster) -> Vec<u32> {
    process::mentioning(&format!("{}\0", whose(cluster)))
}

fn whose(cluster: &Cluster) -> String {
    format!("WHOSE={}", cluster.keep_folder().display())
}

fn was_alone(data: &Path) {
    assert!(data.join("count").exists(), "{}", data.display());
    assert!(!data.join("two-at-once").exists(), "two had one volume");
}

#[test]
fn what_is_kept_outlives_instances_releases_daemons_and_the_deployment() {
    let mut cluster = Cluster::start(3);
    deploy(&cluster, "db", &["--volume", "data:/data"]);
    assert_eq!(ask(&cluster, "db", "/add"), "1");
    let (node, data) = home(&cluster);
    let told = PathBuf::from(ask(&cluster, "db", "/place"));
    assert!(
        told == data || told == Path::new("/data"),
        "{}",
        told.display()
    );

    // A new release, a restart, an end of the program, an end of the daemon.
    let wait = ["--wait", "--timeout", "60s"];
    cluster
        .nebula(&[&["deploy", "update", "db", "--env", "A=1"][..], &wait].concat())
        .ok();
    assert_eq!(ask(&cluster, "db", "/add"), "2");
    cluster
        .nebula(&[&["deploy", "restart", "db"][..], &wait].concat())
        .ok();
    assert_eq!(ask(&cluster, "db", "/add"), "3");
    let before = programs(&cluster);
    for pid in &before {
        process::signal(*pid, Signal::SIGKILL);
    }
    eventually(DEADLINE, "another program", || {
        let now = programs(&cluster);
        holds(
            !now.is_empty() && now.iter().all(|pid| !before.contains(pid)),
            &now,
        )
    });
    assert_eq!(ask(&cluster, "db", "/add"), "4");
    let before = programs(&cluster);
    cluster.kill_daemon(node);
    cluster.restart(node);
    cluster.wait_all_alive();
    ready(&cluster, "db");
    assert_eq!(
        programs(&cluster),
        before,
        "a daemon's restart restarts no program"
    );
    assert_eq!(ask(&cluster, "db", "/add"), "5");
    assert_eq!(home(&cluster), (node, data.clone()));
    let size = volumes(&cluster)[0]["used_bytes"].as_u64();
    assert!(size.is_some_and(|bytes| bytes > 0), "{size:?}");
    was_alone(&data);

    // Its node cannot be rid of it.
    let name = cluster.members[node].name.clone();
    let drained = cluster.nodectl(&["drain", &name]);
    drained.fails(5, "its volume 'data' is there");
    eventually(DEADLINE, "the status says why it stays", || {
        let status = cluster.status("db");
        holds(
            status
                .to_string()
                .contains("is draining: its volume 'data' is there"),
            &status,
        )
    });
    assert_eq!(ask(&cluster, "db", "/add"), "6");
    cluster.nodectl(&["undrain", &name]).ok();

    // Removed and made again it finds its data; removed with its volumes it does not.
    cluster.nebula(&["deploy", "remove", "db", "--wait"]).ok();
    assert_eq!(volumes(&cluster)[0]["standing"], "left");
    deploy(&cluster, "db", &["--volume", "data:/data"]);
    assert_eq!(ask(&cluster, "db", "/count"), "6");
    let refused = cluster.nebula(&["volume", "delete", "db"]);
    assert_eq!(refused.code, 1, "{refused}");
    assert!(data.exists());
    cluster
        .nebula(&["deploy", "remove", "db", "--volumes", "--wait"])
        .ok();
    eventually(DEADLINE, "the volume is deleted", || {
        let left = volumes(&cluster);
        holds(left.is_empty() && !data.exists(), &left)
    });
    deploy(&cluster, "db", &["--volume", "data:/data"]);
    assert_eq!(ask(&cluster, "db", "/count"), "0");
}

#[test]
fn a_lost_node_takes_its_volume_along_and_brings_it_back() {
    let mut cluster = Cluster::start(3);
    deploy(&cluster, "db", &["--volume", "data:/data"]);
    assert_eq!(ask(&cluster, "db", "/add"), "1");
    let (lost, data) = home(&cluster);
    cluster.kill_machine(lost);
    let name = cluster.members[lost].name.clone();
    let waits =
        format!("waits for node {name}, which is not reachable: its volume 'data' is there");
    eventually(DEADLINE, "the status says what is waited for", || {
        let done = cluster.nebula(&["deploy", "status", "db"]);
        holds(done.stdout.contains(&waits), done.to_string())
    });
    // It is not started anywhere else, without its data.
    std::thread::sleep(UNMOVED);
    let status = cluster.status("db");
    let instances = status["instances"].as_array().unwrap();
    assert!(
        instances.iter().all(|i| i["node"] == name.as_str()),
        "{status}"
    );
    assert_eq!(programs(&cluster), Vec::<u32>::new());

    cluster.restart(lost);
    cluster.wait_all_alive();
    ready(&cluster, "db");
    assert_eq!(ask(&cluster, "db", "/add"), "2");
    assert_eq!(home(&cluster), (lost, data.clone()));
    was_alone(&data);
}

#[test]
fn each_instance_has_a_volume_of_its_own_and_two_are_refused_at_once() {
    let cluster = Cluster::start(3);
    deploy(
        &cluster,
        "db",
        &["--volume", "data:/data", "--instances", "2"],
    );
    let all = volumes(&cluster);
    assert_eq!(all.len(), 2, "{all:?}");
    assert_ne!(all[0]["node"], all[1]["node"], "{all:?}");
    assert_ne!(all[0]["instance"], all[1]["instance"], "{all:?}");
    let refused = cluster.nebula(&["deploy", "update", "db", "--strategy", "rolling"]);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(refused.stderr.contains("'recreate'"), "{refused}");
    let refused = cluster.nebula(&["deploy", "update", "db", "--volume", "data:/etc/x"]);
    assert_eq!(refused.code, 2, "{refused}");
}

#[test]
fn a_dependent_waits_for_what_it_needs_and_reaches_it_from_any_node() {
    let mut cluster = Cluster::start(3);
    let folder = cluster.keep_folder();
    let early = [
        "deploy",
        "create",
        "web",
        "--path",
        folder.to_str().unwrap(),
        "--command",
        "exec ./keep-service",
        "--tld",
        "example.test",
        "--depends-on",
        "db",
    ];
    let refused = cluster.nebula(&early);
    assert_eq!(refused.code, 1, "{refused}");
    assert!(refused.stderr.contains("no such deployment"), "{refused}");
    deploy(&cluster, "db", &["--volume", "data:/data"]);
    deploy(&cluster, "web", &["--depends-on", "db", "--instances", "3"]);
    let (node, _) = home(&cluster);

    // One instance of the dependent on each node; the balance goes through all of them.
    for expected in 1..=9 {
        assert_eq!(ask(&cluster, "web", "/via/db/add"), expected.to_string());
    }
    // A circle, and the removal of what is needed.
    let circle = cluster.nebula(&["deploy", "update", "db", "--depends-on", "web"]);
    assert!(
        circle.code != 0 && circle.stderr.contains("db -> web -> db"),
        "{circle}"
    );
    let needed = cluster.nebula(&["deploy", "remove", "db"]);
    assert!(
        needed.code != 0 && needed.stderr.contains("'web' depends on 'db'"),
        "{needed}"
    );

    // A restarted daemon has the same port for the programs that went on.
    let before = programs(&cluster);
    let other = (node + 1) % 3;
    cluster.kill_daemon(other);
    cluster.restart(other);
    cluster.wait_all_alive();
    ready(&cluster, "web");
    assert_eq!(programs(&cluster), before);
    let edge = cluster.members[other].edge;
    eventually(
        DEADLINE,
        "each instance of the dependent reaches it",
        || {
            let counted: Result<Vec<u64>, String> = (0..6)
                .map(|_| {
                    let answer = http::get(edge, "web.example.test", "/via/db/add");
                    let answer = answer.map_err(|error| error.to_string())?;
                    answer.text().parse().map_err(|_| answer.text())
                })
                .collect();
            counted.map(|_| ())
        },
    );

    // Without it the dependent goes on, and no more of it is begun.
    cluster.kill_machine(node);
    eventually(DEADLINE, "the status says what is waited for", || {
        let done = cluster.nebula(&["deploy", "status", "web"]);
        let waits = "waits for 'db', which has no ready instance";
        holds(done.stdout.contains(waits), done.to_string())
    });
    assert_eq!(ask(&cluster, "web", "/"), "here");
    cluster.restart(node);
    cluster.wait_all_alive();
    ready(&cluster, "db");
    eventually(
        DEADLINE,
        "the dependent is whole and reaches it again",
        || {
            let status = cluster.status("web");
            holds(status["phase"] == "ready", &status)
        },
    );
    let count: u64 = ask(&cluster, "web", "/via/db/count").parse().unwrap();
    assert!(count >= 15, "{count}");
}

/// Unlike anything else that lies on a disk.
const NAME: &str = "API_SHIBBOLETH";

/// Whether all programs have this value, wherever they run.
fn all_have(cluster: &Cluster, value: &str) -> bool {
    let wanted = format!("{NAME}={value}\0");
    programs(cluster).iter().all(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(&wanted)
    })
}

/// Every file below a folder that holds these bytes.
fn holding(folder: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                // One that is gone by now holds nothing.
                let bytes = std::fs::read(&path).unwrap_or_default();
                if bytes.windows(needle.len()).any(|part| part == needle) {
                    found.push(path);
                }
            }
        }
    }
    found
}

/// Sets a secret as people should: by standard input.
fn set_secret(cluster: &Cluster, name: &str, value: &str) {
    let file = cluster.scratch("secret").join("value");
    std::fs::write(&file, value).unwrap();
    let set = ["secrets", "set", name, "--file", file.to_str().unwrap()];
    let done = cluster.nebula(&set).ok();
    assert!(!done.to_string().contains(value), "{done}");
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_secret_is_seen_by_its_program_and_nowhere_else() {
    let mut cluster = Cluster::start(3);
    // A worker has no key of its own.
    cluster.join("worker", "worker");
    cluster.wait_all_alive();
    let (first, second) = ("first-67b1c2d8e0", "second-5f90a3417c");
    let folder = cluster.keep_folder();
    let missing = [
        "deploy",
        "create",
        "api",
        "--path",
        folder.to_str().unwrap(),
        "--command",
        "x",
        "--secret",
        NAME,
    ];
    let refused = cluster.nebula(&[&missing[..], &["--tld", "example.test"]].concat());
    assert!(
        refused.stderr.contains("no secret named 'API_SHIBBOLETH'"),
        "{refused}"
    );
    set_secret(&cluster, NAME, first);
    deploy(
        &cluster,
        "api",
        &[
            "--secret",
            NAME,
            "--secret",
            "OTHER=API_SHIBBOLETH",
            "--instances",
            "4",
        ],
    );
    let status = cluster.status("api");
    let nodes: std::collections::BTreeSet<_> = status["instances"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["node"].to_string())
        .collect();
    assert_eq!(nodes.len(), 4, "one on the worker too: {status}");
    for _ in 0..8 {
        assert_eq!(ask(&cluster, "api", "/env/API_SHIBBOLETH"), first);
        assert_eq!(ask(&cluster, "api", "/env/OTHER"), first);
    }
    assert!(all_have(&cluster, first), "also on the worker");

    // A new value reaches nobody before a restart: not even a program that starts again.
    set_secret(&cluster, NAME, second);
    let before = programs(&cluster);
    for pid in &before {
        process::signal(*pid, Signal::SIGKILL);
    }
    eventually(DEADLINE, "other programs", || {
        let now = programs(&cluster);
        holds(
            now.len() == 4 && now.iter().all(|pid| !before.contains(pid)),
            &now,
        )
    });
    ready(&cluster, "api");
    assert_eq!(ask(&cluster, "api", "/env/API_SHIBBOLETH"), first);
    assert!(all_have(&cluster, first));
    let list = cluster.nebula(&["secrets", "list", "--json"]).ok().json();
    assert_eq!(list["secrets"][0]["behind"][0], "api", "{list}");
    cluster
        .nebula(&["deploy", "restart", "api", "--wait", "--timeout", "60s"])
        .ok();
    assert_eq!(ask(&cluster, "api", "/env/API_SHIBBOLETH"), second);
    assert!(all_have(&cluster, second));
    let status = cluster.status("api");
    let instances = status["instances"].as_array().unwrap();
    assert!(
        instances.iter().all(|i| i["secrets"][NAME] == 2),
        "{status}"
    );

    // It is in no answer, no argument and on no disk.
    let used = cluster.nebula(&["secrets", "delete", NAME]);
    assert!(used.code != 0 && used.stderr.contains("'api'"), "{used}");
    for args in [
        &["deploy", "status", "api"][..],
        &["deploy", "status", "api", "--json"],
        &["deploy", "history", "api", "--json"],
        &["deploy", "logs", "api"],
        &["secrets", "list"],
        &["secrets", "list", "--json"],
    ] {
        let told = cluster.nebula(args).to_string();
        assert!(!told.contains(first) && !told.contains(second), "{args:?}");
    }
    for pid in process::all() {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        assert!(!arguments.contains(second), "{pid}: {arguments}");
    }
    for member in &cluster.members {
        for value in [first, second] {
            let found = holding(&member.data_dir, value.as_bytes());
            assert_eq!(found, Vec::<PathBuf>::new(), "{}", member.name);
        }
        let (name, key) = (&member.name, member.data_dir.join("ca.key"));
        assert_eq!(key.exists(), name != "worker", "{name}");
    }
    // The search finds what is there.
    let told = holding(&cluster.members[0].data_dir, NAME.as_bytes());
    assert!(!told.is_empty(), "the registry tells the name");
}
