//! Promise: output outlives its instance, its daemon's process and its machine. What a killed daemon's instances
//! write is found after, in order and once; a lost machine's is read through another; following goes on.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, binaries, command, eventually};
use serde_json::Value;

/// Serves, and counts aloud.
const COUNTS: &str = "(n=0; while sleep 0.05; do n=$((n+1)); echo \"[WARN] counted $n\"; done) & exec ./echo-service";

fn deploy(cluster: &Cluster, name: &str, instances: &str) {
    let folder = cluster.echo_folder();
    let args = [
        "deploy",
        "create",
        name,
        "--path",
        folder.to_str().unwrap(),
        "--command",
        COUNTS,
        "--instances",
        instances,
        "--tld",
        "example.test",
        "--wait",
        "--timeout",
        "60s",
    ];
    cluster.nebula(&args).ok();
}

/// Lines of the log at a member, as JSON.
fn lines(cluster: &Cluster, at: usize, args: &[&str]) -> Vec<Value> {
    let args = [&["deploy", "logs", "--json"][..], args].concat();
    let output = cluster.nebula_at(&cluster.members[at], &args).ok();
    let lines = output.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What the instance counted, of the lines given.
fn counted(lines: &[Value], instance: &str) -> Vec<u64> {
    let of = lines.iter().filter(|line| line["instance"] == instance);
    let texts = of.filter_map(|line| line["line"].as_str());
    let numbers = texts.filter_map(|text| text.strip_prefix("[WARN] counted ")?.parse().ok());
    numbers.collect()
}

fn instances(cluster: &Cluster, name: &str) -> Vec<(String, String)> {
    let status = cluster.status(name);
    let instances = status["instances"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    instances
        .iter()
        .map(|i| (text(&i["id"]), text(&i["node"])))
        .collect()
}

/// Of all files of an instance in a folder and those below it.
fn text_below(dir: &Path, instance: &str) -> String {
    let mut text = String::new();
    // `i-1`, or `i-1-r2` for a copy.
    let is_own = |path: &Path| {
        let mut parts = path.iter().filter_map(|part| part.to_str());
        parts.any(|part| part == instance || part.starts_with(&format!("{instance}-")))
    };
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            text.push_str(&text_below(&path, instance));
        } else if is_own(&path) {
            text.push_str(&std::fs::read_to_string(&path).unwrap_or_default());
        }
    }
    text
}

/// `deploy logs --follow`, read in the background.
struct Follower {
    child: Child,
    lines: Receiver<Value>,
}

impl Follower {
    fn start(cluster: &Cluster, at: usize, name: &str) -> Follower {
        let args = ["deploy", "logs", name, "--json", "--follow", "--tail", "0"];
        let mut program = command::prepare(&binaries::path("nebula"), args);
        program.env("NEBULA_DATA_DIR", &cluster.members[at].data_dir);
        let mut child = program.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        Follower { child, lines }
    }

    /// Reads on until a line is as it should be.
    fn until(&self, what: &str, seen: &mut Vec<Value>, is: impl Fn(&Value) -> bool) {
        eventually(DEADLINE, what, || {
            let line = self.lines.recv_timeout(Duration::from_secs(1));
            let Ok(line) = line else {
                return Err(format!("{:?}", seen.last()));
            };
            let found = is(&line);
            seen.push(line);
            holds(found, seen.last())
        });
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `NEBULA_KILLS` says how often; 3 times unless it is set.
#[test]
fn a_killed_daemon_loses_no_line() {
    let asked = std::env::var("NEBULA_KILLS").ok();
    let kills = asked.map_or(3, |text| text.parse().unwrap());
    let mut cluster = Cluster::start(1);
    deploy(&cluster, "api", "1");
    let (instance, _) = instances(&cluster, "api").remove(0);
    for _ in 0..kills {
        cluster.kill_daemon(0);
        let folder = cluster.members[0].data_dir.join("instances");
        let written = || text_below(&folder, &instance).matches("counted").count();
        let before = written();
        eventually(DEADLINE, "lines while there is no daemon", || {
            holds(written() > before + 3, before)
        });
        cluster.restart(0);
        cluster.wait_all_alive();
    }
    let numbers = eventually(DEADLINE, "a hundred lines", || {
        let numbers = counted(&lines(&cluster, 0, &["api", "--tail", "10000"]), &instance);
        match numbers.len() {
            n if n >= 100 => Ok(numbers),
            n => Err(n.to_string()),
        }
    });
    let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
    // A program that was started again would have begun at one.
    assert_eq!(numbers, expected, "in order, and each once");
    println!("{kills} kills, {} lines", numbers.len());
    let serious = lines(
        &cluster,
        0,
        &["api", "--level", "warn", "--grep", "counted 1$"],
    );
    assert_eq!(counted(&serious, &instance), [1]);
    cluster
        .nebula(&["deploy", "logs", "api", "--grep", "("])
        .fails(2, "unclosed group");
    cluster
        .nebula(&["deploy", "logs", "api", "--since", "soon"])
        .fails(2, "is not a time");
    cluster
        .nebula(&["deploy", "logs", "api", "--instance", "i-999"])
        .fails(1, "no instance i-999");

    // Removed, and made again under its name.
    cluster.nebula(&["deploy", "remove", "api", "--wait"]).ok();
    cluster
        .nebula(&["deploy", "logs", "api"])
        .fails(1, "no deployment named 'api'");
    let past = lines(&cluster, 0, &["api", "--past", "--grep", "counted 1$"]);
    assert_eq!(counted(&past, &instance), [1]);
    deploy(&cluster, "api", "1");
    let (second, _) = instances(&cluster, "api").remove(0);
    eventually(DEADLINE, "lines of the second", || {
        let now = lines(&cluster, 0, &["api", "--tail", "10000"]);
        assert!(counted(&now, &instance).is_empty(), "of the first");
        holds(!counted(&now, &second).is_empty(), now.len())
    });
}

#[test]
fn a_lost_machines_lines_are_read_through_another_and_following_goes_on() {
    let mut cluster = Cluster::start(3);
    deploy(&cluster, "api", "2");
    let leader = cluster.leader();
    let nodes: Vec<String> = cluster
        .members
        .iter()
        .map(|member| member.name.clone())
        .collect();
    let of = |name: &str| nodes.iter().position(|node| node == name).unwrap();
    let before = instances(&cluster, "api");
    let (instance, node) = before
        .iter()
        .find(|(_, node)| of(node) != leader)
        .unwrap()
        .clone();
    let lost = of(&node);
    let asked = (0..3).find(|member| *member != lost).unwrap();
    let follower = Follower::start(&cluster, asked, "api");
    let mut seen = Vec::new();
    follower.until("a line of the one that will be lost", &mut seen, |line| {
        line["instance"] == instance.as_str()
    });

    // All but the last seconds is on another machine.
    let last = eventually(DEADLINE, "forty lines", || {
        let numbers = counted(
            &lines(&cluster, asked, &["api", "--tail", "10000"]),
            &instance,
        );
        numbers
            .last()
            .copied()
            .filter(|last| *last >= 40)
            .ok_or(format!("{numbers:?}"))
    });
    let wanted = format!("counted {last}\n");
    eventually(DEADLINE, "a copy that reaches so far", || {
        let others = (0..3).filter(|member| *member != lost);
        let mut copies = others.map(|member| cluster.members[member].data_dir.join("logs/copies"));
        let reaches = |dir: PathBuf| text_below(&dir, &instance).contains(&wanted);
        holds(copies.any(reaches), last)
    });
    cluster.kill_machine(lost);
    for member in (0..3).filter(|member| *member != lost) {
        let after = lines(&cluster, member, &["api", "--tail", "10000"]);
        let numbers = counted(&after, &instance);
        let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
        assert_eq!(numbers, expected, "in order, and each once");
        assert!(numbers.len() as u64 >= last, "{} of {last}", numbers.len());
    }

    // Another takes its place, and is followed.
    let known: Vec<String> = before.into_iter().map(|(id, _)| id).collect();
    follower.until("a line of the one that came for it", &mut seen, |line| {
        let id = line["instance"].as_str().unwrap();
        !id.is_empty() && !known.iter().any(|known| known == id)
    });
    let followed = counted(&seen, &instance);
    let expected: Vec<u64> = (followed[0]..followed[0] + followed.len() as u64).collect();
    assert_eq!(followed, expected, "no gap, nothing twice");

    // A restart replaces all instances.
    cluster
        .nebula_at(
            &cluster.members[asked],
            &["deploy", "restart", "api", "--wait"],
        )
        .ok();
    let now: Vec<String> = instances(&cluster, "api")
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    for id in now {
        follower.until("a line after the restart", &mut seen, |line| {
            line["instance"] == id.as_str()
        });
    }
    drop(follower);

    // It returns: its own lines, each once.
    cluster.restart(lost);
    cluster.wait_all_alive();
    eventually(DEADLINE, "its own lines", || {
        let after = lines(&cluster, asked, &["api", "--tail", "10000"]);
        let told = after.iter().any(|line| line["instance"] == "");
        let numbers = counted(&after, &instance);
        // Until it has caught up it may have started the program once more, which counts from 1.
        let begins = |at: &usize| *at == 0 || numbers[*at] == 1;
        let in_order = |at: usize| begins(&at) || numbers[at] == numbers[at - 1] + 1;
        let runs = (0..numbers.len()).filter(begins).count();
        let each_once = numbers.first() == Some(&1) && (0..numbers.len()).all(in_order);
        assert!(
            each_once && runs <= 2,
            "in order, and each once: {numbers:?}"
        );
        holds(!told, after.last())
    });
}
