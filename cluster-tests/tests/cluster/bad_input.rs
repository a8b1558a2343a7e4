//! Promise: bad input gets one clear sentence, the right exit code, and changes nothing.

use std::os::unix::fs::symlink;

use nebula_cluster_tests::cluster::free_ports;
use nebula_cluster_tests::command::on_node;
use nebula_cluster_tests::{Cluster, nebula, nodectl};

#[test]
fn every_bad_input_is_refused_and_changes_nothing() {
    let cluster = Cluster::start(1);
    let site = cluster.site_folder("site", "hello");
    let tld = ["--tld", "example.test"];
    let deploy = |name: &str, path: &std::path::Path, more: &[&str]| {
        let args = ["deploy", "create", name, "--path", path.to_str().unwrap()];
        cluster.nebula(&[&args[..], more].concat())
    };
    let create = |name: &str, more: &[&str]| deploy(name, &site, &[&tld[..], more].concat());

    for name in ["", "Api", "a_b", "a-", "a.b", &"a".repeat(64)] {
        create(name, &[]).fails(2, "deployment name");
    }
    create("a", &["--instances", "-1"]).fails(2, "-1");
    create("a", &["--instances", "501", "--command", "run"]).fails(2, "501");
    create("a", &["--env", "1X=2", "--command", "run"]).fails(2, "1X");
    create("a", &["--env", "PORT=2", "--command", "run"]).fails(2, "PORT");
    create("a", &["--env", "novalue", "--command", "run"]).fails(2, "novalue");
    create("a", &["--command", " "]).fails(2, "command");
    create("a", &["--no-such-flag"]).fails(2, "--no-such-flag");
    deploy("a", &site, &["--tld", "No Domain"]).fails(2, "domain");
    deploy("a", &site, &[]).fails(2, "no domain");

    let empty = cluster.scratch("empty");
    let escape = cluster.site_folder("escape", "x");
    symlink("../../../etc/passwd", escape.join("leak")).unwrap();
    let clash = cluster.site_folder("clash", "x");
    std::fs::write(clash.join("INDEX.html"), "y").unwrap();
    let missing = "/no/such/folder".into();
    for (folder, words) in [
        (&missing, "/no/such/folder"),
        (&empty, "empty"),
        (&escape, "leak"),
        (&clash, "case"),
    ] {
        deploy("a", folder, &tld).fails(2, words);
    }

    for verb in [
        &["status"][..],
        &["remove"],
        &["restart"],
        &["logs"],
        &["update", "--env", "A=1"],
        &["scale", "--instances", "2"],
    ] {
        let args = [&["deploy", verb[0], "ghost"], &verb[1..]].concat();
        cluster
            .nebula(&args)
            .fails(1, "no deployment named 'ghost'");
    }
    cluster.nodectl(&["remove", "ghost"]).fails(1, "ghost");
    cluster
        .nebula(&["config", "set", "no.such.key", "1"])
        .fails(2, "no.such.key");
    cluster
        .nebula(&["config", "set", "scheduler.default_tld", "Not A Domain"])
        .fails(2, "domain");
    cluster
        .nebula(&["config", "get", "user.unset"])
        .fails(1, "user.unset");
    cluster
        .nodectl(&["token", "create", "--role", "king"])
        .fails(2, "king");
    cluster
        .nodectl(&["token", "revoke", "abcdef"])
        .fails(1, "abcdef");

    let list = cluster.nebula(&["deploy", "list", "--json"]).ok().json();
    assert_eq!(list["deployments"].as_array().unwrap().len(), 0, "{list}");

    create("site", &["--wait"]).ok();
    create("site", &[]).fails(1, "already exists");
    cluster
        .nebula(&["deploy", "scale", "site", "--instances", "2"])
        .fails(1, "static");
    let update = |more: &[&str]| cluster.nebula(&[&["deploy", "update", "site"], more].concat());
    update(&[]).fails(2, "nothing is to be updated");
    update(&["--env", "A=1"]).fails(2, "--env");
    update(&["--unset-env", "A"]).fails(2, "--unset-env");
    assert_eq!(cluster.status("site")["generation"], 1);
}

#[test]
fn a_taken_port_leaves_nothing_behind() {
    let cluster = Cluster::start(1);
    let taken = cluster.members[0].api.trim_start_matches("https://");
    let folder = cluster.scratch("taken").join("data");
    let [quic, api, edge] = free_ports().map(|port| format!("127.0.0.1:{port}"));
    let init = |api: &str| {
        let args = ["init", "--name", "n1", "--listen", &quic];
        let more = ["--api-addr", api, "--edge-addr", &edge];
        on_node(&folder, "nodectl", [&args[..], &more[..]].concat())
    };
    init(taken).fails(1, taken);
    assert!(!folder.exists());
    // So the same line with another port works.
    init(&api).ok();
    on_node(&folder, "nebula", ["scheduler", "stop"]).ok();
}

#[test]
fn a_cluster_that_is_not_there_is_exit_code_3() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.json");
    nebula(["--cluster", missing.to_str().unwrap(), "deploy", "list"]).fails(2, "none.json");
    let cluster = Cluster::start(1);
    let file = cluster.scratch("copy").join("cluster.json");
    std::fs::copy(&cluster.cluster_file, &file).unwrap();
    let copy = dir.path().join("cluster.json");
    std::fs::rename(&file, &copy).unwrap();
    drop(cluster);
    nebula(["--cluster", copy.to_str().unwrap(), "deploy", "list"]).fails(3, "");
    nodectl(["--cluster", copy.to_str().unwrap(), "members"]).fails(3, "");
}

#[test]
fn a_minority_refuses_changes_with_exit_code_3() {
    let cluster = Cluster::start(3);
    cluster.kill_machine(1);
    cluster.kill_machine(2);
    let refused = cluster.nebula_at(&cluster.members[0], &["config", "set", "user.a", "1"]);
    assert_eq!(refused.code, 3, "{refused}");
    let list = cluster.nebula_at(&cluster.members[0], &["deploy", "list", "--json"]);
    assert_eq!(list.code, 0, "a stale read needs no quorum: {list}");
}
