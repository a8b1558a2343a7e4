//! Promise: what happened to deployments, instances and nodes is told in order and with its reason, by any node; whoever
//! follows misses nothing and hears nothing twice, also when the node that was asked dies.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nebula_cluster_tests::cluster::{DEADLINE, Member};
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, binaries, command, eventually, process};
use nix::sys::signal::Signal;
use serde_json::Value;

/// `nebula events --follow --json`, writing to a file.
struct Follower {
    child: Child,
    path: PathBuf,
}

impl Follower {
    /// It asks this member first.
    fn start(cluster: &Cluster, first: &Member) -> Follower {
        let text = std::fs::read(&cluster.cluster_file).unwrap();
        let mut file: Value = serde_json::from_slice(&text).unwrap();
        let mut apis: Vec<Value> = file["apis"].as_array().unwrap().clone();
        let own = Value::from(first.api.trim_start_matches("https://"));
        apis.retain(|api| *api != own);
        apis.insert(0, own);
        file["apis"] = Value::from(apis);
        let folder = cluster.scratch("follower");
        let cluster_file = folder.join("cluster.json");
        std::fs::write(&cluster_file, file.to_string()).unwrap();
        let path = folder.join("events");
        let mut follow =
            command::prepare(&binaries::path("nebula"), ["events", "--follow", "--json"]);
        follow
            .env("NEBULA_CLUSTER", cluster_file)
            .stdout(File::create(&path).unwrap())
            .stderr(Stdio::inherit());
        Follower {
            child: follow.spawn().unwrap(),
            path,
        }
    }

    /// Whole lines so far.
    fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.path).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn heard(&self, what: &str, fits: impl Fn(&Value) -> bool) {
        eventually(DEADLINE, what, || {
            let events = self.events();
            let last = events.iter().rev().take(8).cloned().collect::<Vec<_>>();
            holds(events.iter().any(&fits), last)
        });
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        process::end(&mut self.child);
    }
}

fn listed(output: &str) -> Vec<Value> {
    let lines = output.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn is(event: &Value, kind: &str, reason: &str) -> bool {
    event["kind"] == kind && event["reason"].as_str().unwrap().contains(reason)
}

/// Each of these happened after the one before.
fn in_order(events: &[Value], story: &[(&str, &str)]) {
    let mut rest = events.iter();
    for (kind, reason) in story {
        let found = rest.any(|event| is(event, kind, reason));
        assert!(
            found,
            "'{kind}' with '{reason}' is not where it should be in {events:#?}"
        );
    }
}

/// The program of an instance.
fn program_of(member: &Member, instance: &str) -> Option<u32> {
    let needle = format!("NEBULA_INSTANCE={instance}");
    let inside = |pid: u32, dir: &Path| {
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd"));
        cwd.is_ok_and(|cwd| cwd.starts_with(dir.join("work").join(instance)))
    };
    let all = process::all().into_iter();
    let mut own = all.filter(|pid| {
        let env = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        env.split(|b| *b == 0).any(|e| e == needle.as_bytes())
            && name.trim() == "echo-service"
            && inside(*pid, &member.data_dir)
    });
    own.next()
}

fn ready(cluster: &Cluster, instances: u64) -> Value {
    eventually(DEADLINE, "the deployment is ready", || {
        let status = cluster.status("api");
        let all = status["instances"].as_array().unwrap();
        let calm = status["phase"] == "ready" && status["ready"] == instances;
        holds(calm && all.len() as u64 == instances, &status).map(|()| status)
    })
}

#[test]
fn the_story_of_a_deployment_and_its_nodes_is_told_in_order() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let asked = (leader + 1) % 3;
    let follower = Follower::start(&cluster, &cluster.members[asked]);
    let files = cluster.echo_folder();
    let files = files.to_str().unwrap();
    let create = [
        "deploy",
        "create",
        "api",
        "--path",
        files,
        "--command",
        "exec ./echo-service",
    ];
    let rest = [
        "--instances",
        "2",
        "--tld",
        "example.test",
        "--wait",
        "--timeout",
        "60s",
    ];
    cluster.nebula(&[&create[..], &rest].concat()).ok();
    cluster
        .nebula(&[
            "deploy", "update", "api", "--env", "A=1", "--watch", "0s", "-m", "louder",
        ])
        .ok();
    cluster
        .nebula(&["deploy", "update", "api", "--env", "FAULT=exit"])
        .fails(4, "exited with code 1");

    // One ends by a signal, and comes back.
    let status = ready(&cluster, 2);
    let victim = status["instances"][0].clone();
    let id = victim["id"].as_str().unwrap().to_owned();
    let member = cluster
        .members
        .iter()
        .find(|m| victim["node"] == m.name.as_str());
    let pid = program_of(member.unwrap(), &id).expect("its program runs");
    process::signal(pid, Signal::SIGKILL);
    follower.heard("it is started again", |event| {
        event["instance"] == id.as_str() && is(event, "instance-restarted", "")
    });
    follower.heard("that it ended", |event| {
        event["instance"] == id.as_str() && is(event, "instance-ended", "SIGKILL")
    });
    // What a node says of its instances reaches the history a moment after the status.
    eventually(DEADLINE, "it is told to be ready again", || {
        let events = follower.events();
        let mut own = events.iter().filter(|e| e["instance"] == id.as_str());
        own.find(|event| is(event, "instance-restarted", ""));
        holds(own.any(|event| is(event, "instance-ready", "")), &events)
    });
    let told = ready(&cluster, 2)["instances"]
        .as_array()
        .unwrap()
        .iter()
        .find(|i| i["id"] == id.as_str())
        .cloned();
    let end = told.as_ref().map(|i| i["last_end"].clone()).unwrap();
    assert_eq!(
        (end["how"].as_str(), end["number"].as_i64()),
        (Some("signal"), Some(9)),
        "{told:?}"
    );

    // A node is drained, and opened again.
    let drained = member.unwrap().name.clone();
    cluster.nodectl(&["drain", &drained]).ok();
    let moved = format!("node {drained} is drained");
    follower.heard("its instance moves", |event| {
        is(event, "instance-moved", &moved)
    });
    eventually(DEADLINE, "what takes its place is told to be ready", || {
        let events = follower.events();
        let mut later = events.iter();
        later.find(|event| is(event, "instance-moved", &moved));
        holds(later.any(|event| is(event, "instance-ready", "")), &events)
    });
    ready(&cluster, 2);
    cluster.nodectl(&["undrain", &drained]).ok();

    // The node that the follower asks is gone at once; the cluster's own word of it is heard at another.
    let name = cluster.members[asked].name.clone();
    cluster.kill_machine(asked);
    follower.heard("the node is dead", |event| {
        event["node"] == name.as_str() && is(event, "node-dead", "")
    });
    ready(&cluster, 2);
    cluster
        .nebula(&["config", "set", "scheduler.default_tld", "example.test"])
        .ok();
    follower.heard("the setting", |event| {
        is(event, "setting-set", "scheduler.default_tld")
    });

    let heard = follower.events();
    let numbers: Vec<u64> = heard
        .iter()
        .map(|event| event["seq"].as_u64().unwrap())
        .collect();
    let first = numbers[0];
    let expected: Vec<u64> = (first..first + numbers.len() as u64).collect();
    assert_eq!(numbers, expected, "none is missed and none comes twice");
    in_order(
        &heard,
        &[
            ("deployment-created", ""),
            ("release-started", ""),
            ("instance-placed", ""),
            ("instance-started", ""),
            ("instance-ready", ""),
            ("release-good", ""),
            ("release-started", "after release r1: louder"),
            ("instance-stopping", "release r2 takes its place"),
            ("release-good", ""),
            ("release-started", "after release r2"),
            ("instance-ended", "exited with code 1"),
            ("release-taken-back", "release r2 is wanted again"),
            ("instance-ended", "SIGKILL"),
            ("instance-restarted", ""),
            ("instance-ready", ""),
            ("node-draining", ""),
            ("instance-moved", &moved),
            ("instance-ready", ""),
            ("node-opened", ""),
            ("node-dead", ""),
            ("setting-set", ""),
        ],
    );
    let by = |kind: &str| heard.iter().find(|event| event["kind"] == kind).unwrap()["who"].clone();
    assert_eq!(by("node-draining"), "init", "the token's name");
    assert_eq!(by("instance-placed"), "", "the cluster itself");

    // Every node that is left tells the same.
    for member in cluster.members.iter().filter(|m| m.name != name) {
        let all = cluster.nebula_at(member, &["events", "--json"]).ok();
        let all = listed(&all.stdout);
        let own: Vec<&Value> = all
            .iter()
            .filter(|e| numbers.contains(&e["seq"].as_u64().unwrap()))
            .collect();
        assert_eq!(own, heard.iter().collect::<Vec<_>>());
    }
    // What is asked for is what is shown.
    let of_node = cluster
        .nebula(&["events", "--node", &name, "--kind", "node", "--json"])
        .ok();
    let of_node = listed(&of_node.stdout);
    assert!(is(of_node.last().unwrap(), "node-dead", ""), "{of_node:#?}");
    let text = cluster
        .nebula(&[
            "deploy", "events", "api", "--since", "1h", "--kind", "release",
        ])
        .ok();
    assert!(text.stdout.contains("release-taken-back"), "{text}");
    assert!(!text.stdout.contains("instance-"), "{text}");
    cluster
        .nebula(&["deploy", "events", "nobody"])
        .fails(1, "no deployment named 'nobody'");
}

/// Whether memory can be limited here.
fn can_limit_memory() -> bool {
    let v1 = Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists();
    let v2 = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    let missing = match nix::unistd::geteuid().is_root() {
        false => Some("root is needed for control groups"),
        true if v1 || v2.is_ok_and(|text| text.contains("memory")) => None,
        true => Some("there is no control group with the memory controller"),
    };
    binaries::unless_missing(missing)
}

const CONFINED: &str = r#"
name = "api"
command = "./echo-service"
path = "../echo"
tld = "example.test"
instances = 1

[resources]
memory = "64Mi"
cpu = "500m"

[probe]
type = "exec"
command = "grep -q nebula-init /proc/1/comm && test $(id -un) = instance"
period = "200ms"
"#;

/// A command answers for the instance within its confines; what it uses and what confines it is in the status; and when
/// memory runs out, that is what status and events say.
#[test]
fn a_confined_instance_is_told_of_and_so_is_the_end_of_its_memory() {
    if !can_limit_memory() {
        return;
    }
    let cluster = Cluster::start(1);
    cluster.echo_folder();
    let file = cluster.scratch("file").join("nebula.toml");
    std::fs::write(&file, CONFINED).unwrap();
    let file = file.to_str().unwrap();
    cluster
        .nebula(&["deploy", "apply", "-f", file, "--timeout", "60s"])
        .ok();
    let status = eventually(DEADLINE, "what it uses is measured", || {
        let status = cluster.status("api");
        let used = status["instances"][0]["detail"]["used"].clone();
        let measured = used["memory_bytes"].as_u64() > Some(0) && used["cpu_millis"].is_u64();
        holds(measured, &status).map(|()| status)
    });
    let detail = &status["instances"][0]["detail"];
    assert_eq!(detail["used"]["memory_limit_bytes"], 64 << 20, "{detail}");
    assert_eq!(detail["used"]["cpu_limit_millis"], 500, "{detail}");
    let holds_here = |what: &str| {
        let all = detail["isolation"].as_array().unwrap();
        all.iter()
            .any(|control| control["what"] == what && control["holds"] == true)
    };
    for what in [
        "memory limit",
        "own user",
        "namespaces",
        "own root folder",
        "no privileges",
        "seccomp",
    ] {
        assert!(holds_here(what), "{what}: {detail}");
    }
    assert_eq!(detail["probes"][0]["asks"], "command", "{detail}");
    assert_eq!(detail["probes"][0]["state"], "passing", "{detail}");
    let text = cluster.nebula(&["deploy", "status", "api"]).ok();
    for part in [" / 64Mi", " / 500m", "isolation of i-1", "own user"] {
        assert!(text.stdout.contains(part), "{part}: {text}");
    }

    let hog = [
        "deploy",
        "update",
        "api",
        "--env",
        "FAULT=hog",
        "--no-rollback",
        "--no-wait",
    ];
    cluster.nebula(&hog).ok();
    let status = eventually(DEADLINE, "the end of its memory is told", || {
        let status = cluster.status("api");
        let all = status["instances"].as_array().unwrap();
        let told = all.iter().any(|i| i["last_end"]["how"] == "out_of_memory");
        holds(told, &status).map(|()| status)
    });
    let all = status["instances"].as_array().unwrap();
    let instance = all
        .iter()
        .find(|i| i["last_end"]["how"] == "out_of_memory")
        .unwrap();
    assert_eq!(
        instance["last_end"]["said"], "killed: out of memory",
        "{instance}"
    );
    eventually(DEADLINE, "the event", || {
        let events = cluster
            .nebula(&[
                "deploy",
                "events",
                "api",
                "--kind",
                "instance-ended",
                "--json",
            ])
            .ok();
        let events = listed(&events.stdout);
        let told = events.iter().any(|event| {
            event["instance"] == instance["id"]
                && is(
                    event,
                    "instance-ended",
                    "killed: out of memory (limit 64Mi)",
                )
        });
        holds(told, events)
    });
}
