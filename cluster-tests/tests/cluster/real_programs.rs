//! Promise: programs that others wrote run as they are, confined: PostgreSQL and Redis keep their data through releases
//! and restarts of the daemon, what depends on them waits for them and reaches them, a schedule dumps the database, and
//! nobody is told their passwords. The manifests are those of docs/examples.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nebula_cluster_tests::binaries::{unless_missing, works};
use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, Output, eventually, http, process};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A new database is made by a program that takes seconds, on a machine that builds and serves three nodes.
const COMES_UP: Duration = Duration::from_secs(180);
const NOTES: &str = "notes.example.test";
const SECRETS: [(&str, &str); 2] = [
    ("POSTGRES_PASSWORD", "pg-3f9c51d07be2486a"),
    ("REDIS_PASSWORD", "redis-c8102e6fa4d97b35"),
];
/// Deployed in this order, the dependants at once after what they depend on.
const PROGRAMS: [&str; 5] = ["postgres", "redis", "httpbin", "notes", "dump"];
/// The Python that a confined program sees, whatever else is on the path of whoever runs the tests.
const PYTHON: &str = "/usr/bin/python3";

fn has_postgres() -> bool {
    let versions = std::fs::read_dir("/usr/lib/postgresql");
    let mut versions = versions.into_iter().flatten().flatten();
    versions.any(|version| version.path().join("bin/initdb").exists())
}

fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("only root can confine programs to their limits");
    }
    if !has_postgres() || !works("psql", &["--version"]) {
        return Some("PostgreSQL (Debian package 'postgresql') is not installed");
    }
    if !works("redis-server", &["--version"]) || !works("redis-cli", &["--version"]) {
        return Some("Redis (Debian package 'redis-server') is not installed");
    }
    if !works("node", &["--version"]) {
        return Some("Node.js (Debian package 'nodejs') is not installed");
    }
    if !works(PYTHON, &["-m", "pip", "--version"]) {
        return Some("pip for /usr/bin/python3 (Debian package 'python3-pip') is not installed");
    }
    if httpbin().is_none() {
        return Some("pip could not fetch httpbin and gunicorn");
    }
    None
}

/// httpbin and what it needs, fetched once for each target folder.
fn httpbin() -> Option<PathBuf> {
    let site = Path::new(env!("CARGO_TARGET_TMPDIR")).join("httpbin");
    if site.exists() {
        return Some(site);
    }
    let fresh = site.with_extension("new");
    let _ = std::fs::remove_dir_all(&fresh);
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ];
    let fetched = Command::new(PYTHON)
        .args(pip)
        .arg("--target")
        .arg(&fresh)
        .args(["httpbin", "gunicorn"])
        .status();
    let fetched = fetched.is_ok_and(|status| status.success());
    (fetched && std::fs::rename(&fresh, &site).is_ok()).then_some(site)
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-R").args([from, to]).status();
    assert!(copied.is_ok_and(|s| s.success()), "{}", from.display());
}

/// The examples as a person has copied them, and prepared as they say.
fn examples(cluster: &Cluster) -> PathBuf {
    let folder = cluster.scratch("real").join("examples");
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    copy(&ours, &folder);
    copy(&httpbin().unwrap(), &folder.join("httpbin/site"));
    folder
}

fn apply(cluster: &Cluster, examples: &Path, name: &str, more: &[&str]) -> Output {
    let file = examples.join(name).join("nebula.toml");
    let args = ["deploy", "apply", "-f", file.to_str().unwrap()];
    cluster.nebula(&[&args[..], more].concat())
}

/// Sets a secret as people should: not on the command line.
fn set_secret(cluster: &Cluster, (name, value): (&str, &str)) {
    let file = cluster.scratch("secret").join("value");
    std::fs::write(&file, value).unwrap();
    let set = ["secrets", "set", name, "--file", file.to_str().unwrap()];
    cluster.nebula(&set).ok();
    std::fs::remove_file(file).unwrap();
}

fn is_ready(cluster: &Cluster, name: &str) {
    eventually(COMES_UP, &format!("{name} is ready"), || {
        let status = cluster.status(name);
        holds(status["phase"] == "ready", &status)
    });
}

/// What is told of a deployment, once it holds `words`.
fn told(cluster: &Cluster, name: &str, words: &str) {
    eventually(DEADLINE, &format!("'{words}' of {name}"), || {
        let done = cluster.nebula(&["deploy", "status", name]);
        holds(done.stdout.contains(words), done.to_string())
    });
}

/// Asks one node's edge until the answer is a success.
fn ask(cluster: &Cluster, member: usize, host: &str, path: &str) -> String {
    let edge = cluster.members[member].edge;
    eventually(
        DEADLINE,
        &format!("an answer of {host}{path}"),
        || match http::get(edge, host, path) {
            Ok(response) if response.status == 200 => Ok(response.text()),
            Ok(response) => Err(format!("{} {}", response.status, response.text())),
            Err(error) => Err(error.to_string()),
        },
    )
}

fn notes(cluster: &Cluster, member: usize) -> Value {
    serde_json::from_str(&ask(cluster, member, NOTES, "/")).unwrap()
}

fn keep_note(cluster: &Cluster, member: usize, text: &str) {
    let edge = cluster.members[member].edge;
    let length = text.len();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {NOTES}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    );
    let response = http::send(edge, &request, http::DEADLINE).unwrap();
    assert_eq!(response.status, 201, "{}", response.text());
}

/// The place of the only instance among the members, its number, and the folder of its volume.
fn home(cluster: &Cluster, name: &str, volume: &str) -> (usize, String, PathBuf) {
    let list = cluster.nebula(&["volume", "list", "--json"]).ok().json();
    let all = list["volumes"].as_array().unwrap();
    let own: Vec<&Value> = all.iter().filter(|v| v["deployment"] == name).collect();
    let [own] = own[..] else {
        panic!("one volume of {name}: {all:?}");
    };
    let index = cluster
        .members
        .iter()
        .position(|m| own["node"] == m.name.as_str());
    let index = index.unwrap();
    let folder = format!("volumes/{name}/0/{volume}/data");
    let instance = own["instance"].as_str().unwrap_or_default().to_owned();
    (
        index,
        instance,
        cluster.members[index].data_dir.join(folder),
    )
}

/// The first process of the program that works in this folder; its sessions are its children.
fn server(folder: &Path, program: &str) -> u32 {
    // A folder is the same one wherever it is mounted, and only one program has a volume.
    let wanted = std::fs::metadata(folder).unwrap();
    let here = |pid: &u32| {
        let inside = std::fs::metadata(format!("/proc/{pid}/cwd"));
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let same = |found: Metadata| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino());
        name.trim() == program && inside.is_ok_and(same)
    };
    let all: Vec<u32> = process::all().into_iter().filter(here).collect();
    let is_first = |pid: &&u32| process::parent(**pid).is_none_or(|parent| !all.contains(&parent));
    *all.iter()
        .find(is_first)
        .unwrap_or_else(|| panic!("no {program} in {}", folder.display()))
}

fn postgres_server(cluster: &Cluster) -> u32 {
    server(
        &home(cluster, "postgres", "data").2.join("data"),
        "postgres",
    )
}

fn at(told: &Value) -> OffsetDateTime {
    let text = told["time"].as_str().unwrap();
    OffsetDateTime::parse(text, &Rfc3339).unwrap()
}

/// The first line that a command prints and that is as asked for.
fn first_of(done: Output, is: impl Fn(&Value) -> bool) -> Value {
    let done = done.ok();
    let mut all = done.stdout.lines().map(serde_json::from_str::<Value>);
    let found = all.find_map(|line| line.ok().filter(|line| is(line)));
    found.unwrap_or_else(|| panic!("no such line: {done}"))
}

/// When the first program of a deployment was given a node, that of a hook included.
fn began(cluster: &Cluster, name: &str) -> OffsetDateTime {
    let args = ["deploy", "events", name, "--json"];
    let is_placed = |event: &Value| event["kind"] == "instance-placed";
    at(&first_of(cluster.nebula(&args), is_placed))
}

/// When a database said that it is ready. What the cluster tells of it comes later.
fn was_there(cluster: &Cluster, name: &str) -> OffsetDateTime {
    let args = ["deploy", "logs", name, "--json", "--tail", "10000"];
    let says = |line: &Value| {
        let text = line["line"].as_str().unwrap_or_default();
        text.to_lowercase().contains("ready to accept connections")
    };
    at(&first_of(cluster.nebula(&args), says))
}

fn is_confined(cluster: &Cluster, name: &str, pid: u32) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |field: &str| status.lines().find(|line| line.starts_with(field));
    let user = line("Uid:").and_then(|line| line.split_whitespace().nth(1));
    assert!(user.unwrap().parse::<u32>().unwrap() >= 200_000, "{status}");
    let none = |line: &str| line.ends_with("0000000000000000");
    assert!(line("CapBnd:").is_some_and(none), "{status}");
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    assert!(root.join("usr").exists() && !root.join("root").exists());
    let detail = &cluster.status(name)["instances"][0]["detail"];
    let controls = detail["isolation"].as_array().unwrap();
    for what in [
        "memory limit",
        "own user",
        "namespaces",
        "own root folder",
        "seccomp",
    ] {
        let mut kept = controls.iter().filter(|control| control["holds"] == true);
        assert!(
            kept.any(|control| control["what"] == what),
            "{what}: {detail}"
        );
    }
}

/// Every file below a folder that holds these bytes.
fn holding(folder: &Path, needle: &str) -> Vec<PathBuf> {
    let found = Command::new("grep")
        .args(["--recursive", "--files-with-matches", "--binary-files=text"])
        .args(["--devices=skip", "--fixed-strings", "--regexp", needle])
        .arg(folder)
        .output()
        .unwrap();
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    found.lines().map(PathBuf::from).collect()
}

fn nothing_is_told(cluster: &Cluster) {
    for (name, value) in SECRETS {
        for program in PROGRAMS {
            for args in [
                &["deploy", "status", program][..],
                &["deploy", "status", program, "--json"],
                &["deploy", "history", program, "--json"],
                &["deploy", "events", program, "--json"],
                &["deploy", "logs", program, "--tail", "10000"],
            ] {
                let said = cluster.nebula(args).ok().to_string();
                assert!(!said.contains(value), "{name}: {args:?}");
            }
        }
        for pid in process::all() {
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments).into_owned();
            assert!(!arguments.contains(value), "{name}: {pid}: {arguments}");
        }
        // The search finds what is there.
        let told = holding(&cluster.members[0].data_dir, name);
        assert!(!told.is_empty(), "the registry tells the name");
        for member in &cluster.members {
            let found = holding(&member.data_dir, value);
            assert_eq!(found, Vec::<PathBuf>::new(), "{name} on {}", member.name);
        }
    }
}

fn runs(cluster: &Cluster) -> Vec<Value> {
    let done = cluster.nebula(&["deploy", "runs", "dump", "--json"]);
    done.ok().json()["runs"].as_array().unwrap().clone()
}

/// The id of a dump that waits: the one that is asked for now, or one that was due just before.
fn pending_dump(cluster: &Cluster) -> Value {
    eventually(DEADLINE, "a dump waits for its database", || {
        // Refused while another goes on.
        cluster.nebula(&["deploy", "run", "dump", "--no-wait"]);
        let newest = runs(cluster).into_iter().next().unwrap_or_default();
        holds(newest["state"] == "pending", &newest).map(|()| newest["id"].clone())
    })
}

fn succeeded(cluster: &Cluster, what: &str, is: impl Fn(&Value) -> bool) {
    eventually(COMES_UP, what, || {
        let all = runs(cluster);
        let good = |run: &Value| is(run) && run["state"] == "succeeded";
        holds(all.iter().any(good), &all)
    });
    println!("{what} succeeded");
}

#[test]
fn databases_servers_and_a_dump_of_others_run_as_they_are() {
    if !unless_missing(missing()) {
        return;
    }
    let mut cluster = Cluster::start(3);
    let examples = examples(&cluster);
    for secret in SECRETS {
        set_secret(&cluster, secret);
    }
    for name in PROGRAMS {
        apply(&cluster, &examples, name, &["--no-wait"]).ok();
    }
    for name in ["postgres", "redis", "httpbin", "notes"] {
        is_ready(&cluster, name);
        println!("{name} is ready");
    }
    for (name, on) in [
        ("notes", "postgres"),
        ("notes", "redis"),
        ("httpbin", "redis"),
    ] {
        let (begun, there) = (began(&cluster, name), was_there(&cluster, on));
        assert!(
            begun > there,
            "{name} began {begun}, and {on} was there {there}"
        );
        println!("{name} began {} after {on}", begun - there);
    }
    let postgres = postgres_server(&cluster);
    let redis = server(&home(&cluster, "redis", "data").2, "redis-server");
    is_confined(&cluster, "postgres", postgres);
    is_confined(&cluster, "redis", redis);

    // Through every node, whichever has the instances.
    for member in 0..3 {
        keep_note(&cluster, member, &format!("it's note {member}"));
        let echo = ask(
            &cluster,
            member,
            "httpbin.example.test",
            "/get?from=outside",
        );
        assert!(echo.contains(r#""from": "outside""#), "{echo}");
        let edge = cluster.members[member].edge;
        let direct = http::get(edge, "postgres.example.test", "/").unwrap();
        assert_eq!(direct.status, 404, "the edge does not lead to the database");
    }
    let written = notes(&cluster, 0);
    let expected = serde_json::json!(["it's note 0", "it's note 1", "it's note 2"]);
    assert_eq!(written["notes"], expected);
    assert_eq!(written["visits"], 1);

    // A release of each database: other programs, the same data.
    for name in ["postgres", "redis"] {
        let file = examples.join(name).join("nebula.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(
            &file,
            text.replace("memory = \"", "pids = 500\nmemory = \""),
        )
        .unwrap();
        let before = home(&cluster, name, "data");
        let begun = Instant::now();
        apply(&cluster, &examples, name, &["--timeout", "180s"]).ok();
        println!("{name} was released anew in {:?}", begun.elapsed());
        let after = home(&cluster, name, "data");
        assert_eq!((after.0, &after.2), (before.0, &before.2));
        assert_ne!(after.1, before.1, "another instance has it");
    }
    assert!(!process::is_running(postgres) && !process::is_running(redis));
    let log = cluster
        .nebula(&["deploy", "logs", "postgres", "--tail", "10000"])
        .ok();
    let orderly = "database system is shut down";
    assert!(log.stdout.contains(orderly), "{log}");
    assert!(!log.stdout.contains("was not properly shut down"), "{log}");
    let read = notes(&cluster, 1);
    assert_eq!((&read["notes"], &read["visits"]), (&expected, &2.into()));

    // The daemon of the database's node is killed and comes back: its programs have not noticed.
    let postgres = postgres_server(&cluster);
    let (node, ..) = home(&cluster, "postgres", "data");
    cluster.kill_daemon(node);
    cluster.restart(node);
    cluster.wait_all_alive();
    is_ready(&cluster, "postgres");
    assert_eq!(postgres_server(&cluster), postgres);
    keep_note(&cluster, (node + 1) % 3, "after the daemon");
    let read = notes(&cluster, node);
    assert_eq!(read["notes"][3], "after the daemon", "{read}");

    // What depends on it waits while it is away, and what runs goes on.
    cluster
        .nebula(&["deploy", "scale", "postgres", "--instances", "0"])
        .ok();
    eventually(DEADLINE, "postgres is away", || {
        holds(!process::is_running(postgres), postgres)
    });
    let waiting = pending_dump(&cluster);
    cluster
        .nebula(&["deploy", "scale", "notes", "--instances", "3", "--no-wait"])
        .ok();
    told(
        &cluster,
        "notes",
        "waits for 'postgres', which has no ready instance",
    );
    let state = |run: &Value| run["id"] == waiting && run["state"] == "pending";
    assert!(runs(&cluster).iter().any(state), "{:?}", runs(&cluster));
    cluster
        .nebula(&["deploy", "scale", "postgres", "--instances", "1"])
        .ok();
    is_ready(&cluster, "postgres");
    is_ready(&cluster, "notes");
    succeeded(&cluster, "the dump that waited", |run| run["id"] == waiting);
    succeeded(&cluster, "a dump that was due", |run| {
        run["cause"] == "cron"
    });
    let (_, _, dumps) = home(&cluster, "dump", "dumps");
    for text in [
        "CREATE TABLE public.notes",
        "it's note 2",
        "after the daemon",
    ] {
        assert!(!holding(&dumps, text).is_empty(), "no dump holds '{text}'");
    }
    println!("dumps: {:?}", holding(&dumps, "after the daemon"));

    nothing_is_told(&cluster);
}
