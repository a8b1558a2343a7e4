//! Promise: a program that listens on one port whatever it is told runs once on each node, is updated there, and says why
//! there cannot be more of it. Machines are network namespaces, because the port is the machine's.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use nebula_cluster_tests::lab::run::block_on;
use nebula_cluster_tests::lab::{Lab as _, Namespaced};
use nebula_cluster_tests::namespaces::available;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Output, binaries, eventually};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);
const PYTHON: &str = "/usr/bin/python3";
const COMMAND: &str = "exec /usr/bin/python3 -u -m http.server 8080";

fn site(folder: &Path, text: &str) -> String {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("index.html"), text).unwrap();
    folder.to_str().unwrap().to_owned()
}

fn deploy(lab: &Namespaced, args: &[&str]) -> Output {
    lab.cli(0, "nebula", &[&["deploy"], args].concat())
}

fn status(lab: &Namespaced) -> Value {
    deploy(lab, &["status", "py", "--json"]).ok().json()
}

fn all_say(lab: &Namespaced, text: &str) {
    for node in 0..3 {
        eventually(DEADLINE, "every edge has the page", || {
            let page = block_on(lab.fetch(node, "py"))?;
            holds(page == text, page)
        });
    }
}

#[test]
fn a_fixed_port_is_one_instance_for_each_node() {
    let missing = !binaries::works(PYTHON, &["--version"]);
    let missing = missing.then_some("/usr/bin/python3 is not installed");
    if !available() || !binaries::unless_missing(missing) {
        return;
    }
    let lab = Namespaced::start(3);
    let folder = tempfile::tempdir().unwrap();
    let first = site(&folder.path().join("1"), "first");
    let second = site(&folder.path().join("2"), "second");
    let create = |port: &str| {
        let what = ["create", "py", "--path", &first, "--command", COMMAND];
        let how = ["--tld", "example.test", "--instances", "3", "--port", port];
        deploy(&lab, &[&what[..], &how, &["--timeout", "60s"]].concat())
    };
    create("7601").fails(2, "itself listens on it");
    create("20000").fails(2, "to programs by themselves");
    create("8080").ok();
    let told = status(&lab);
    let instances = told["instances"].as_array().unwrap();
    let nodes: BTreeSet<_> = instances.iter().map(|i| i["node"].as_str()).collect();
    assert_eq!(
        (nodes.len(), &told["spec"]["port"]),
        (3, &8080.into()),
        "{told}"
    );
    all_say(&lab, "first");

    // No node has the port to spare: one after the other.
    deploy(
        &lab,
        &["update", "py", "--path", &second, "--timeout", "2m"],
    )
    .ok();
    all_say(&lab, "second");
    assert_eq!(status(&lab)["ready"], 3);

    let why = "has port 8080 in use by an instance of py";
    deploy(
        &lab,
        &["scale", "py", "--instances", "4", "--timeout", "3s"],
    )
    .fails(5, why);
    let problem = status(&lab)["problems"][0].as_str().unwrap().to_owned();
    assert!(
        problem.contains("1 of 4 instances cannot be placed"),
        "{problem}"
    );
    deploy(
        &lab,
        &["scale", "py", "--instances", "2", "--timeout", "60s"],
    )
    .ok();
    all_say(&lab, "second");
}
