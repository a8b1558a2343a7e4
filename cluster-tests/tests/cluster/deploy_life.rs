//! Promise: a deployment is created, served by every node, scaled, updated, restarted and removed, from
//! any node, and its output can be read from any node.

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, eventually, http};

#[test]
fn a_service_lives_its_whole_life() {
    let cluster = Cluster::start(3);
    cluster.deploy_echo("api", 3);
    let status = cluster.status("api");
    assert_eq!(
        (status["desired"].as_u64(), status["ready"].as_u64()),
        (Some(3), Some(3)),
        "{status}"
    );
    assert_eq!(status["phase"], "ready", "{status}");

    // Three-way balance: one instance on each node, and each edge reaches all of them.
    let nodes: std::collections::BTreeSet<_> = status["instances"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["node"].to_string())
        .collect();
    assert_eq!(nodes.len(), 3, "{status}");
    for edge in cluster.edges() {
        eventually(DEADLINE, "three instances behind one edge", || {
            let bodies: std::collections::BTreeSet<_> = (0..9)
                .filter_map(|_| Some(http::get(edge, "api.example.test", "/").ok()?.text()))
                .collect();
            holds(bodies.len() == 3, &bodies)
        });
    }

    // Output is kept, and any node shows all of it.
    for member in &cluster.members {
        let logs = cluster.nebula_at(member, &["deploy", "logs", "api"]).ok();
        assert_eq!(logs.stdout.matches("listening on").count(), 3, "{logs}");
    }

    cluster
        .nebula_at(
            &cluster.members[1],
            &["deploy", "scale", "api", "--instances", "5", "--wait"],
        )
        .ok();
    assert_eq!(cluster.status("api")["ready"], 5);
    cluster
        .nebula_at(
            &cluster.members[2],
            &["deploy", "scale", "api", "--instances", "2", "--wait"],
        )
        .ok();
    assert_eq!(
        cluster.status("api")["instances"].as_array().unwrap().len(),
        2
    );

    // A restart replaces every instance.
    let before = cluster.status("api");
    cluster.nebula(&["deploy", "restart", "api", "--wait"]).ok();
    let after = cluster.status("api");
    for instance in before["instances"].as_array().unwrap() {
        assert!(
            !after
                .to_string()
                .contains(&format!("\"{}\"", instance["id"].as_str().unwrap())),
            "{before} {after}"
        );
    }
    assert_eq!(after["release"], 1);

    // An update is a new release.
    let folder = cluster.echo_folder();
    std::fs::write(folder.join("version"), "2").unwrap();
    cluster
        .nebula(&[
            "deploy",
            "update",
            "api",
            "--path",
            folder.to_str().unwrap(),
            "--wait",
        ])
        .ok();
    assert_eq!(cluster.status("api")["release"], 2);

    cluster.nebula(&["deploy", "remove", "api", "--wait"]).ok();
    cluster
        .nebula(&["deploy", "status", "api"])
        .fails(1, "no deployment named 'api'");
    for edge in cluster.edges() {
        eventually(DEADLINE, "the name is gone", || {
            let response = http::get(edge, "api.example.test", "/").map_err(|e| e.to_string())?;
            holds(response.status == 404, response.status)
        });
    }
    eventually(DEADLINE, "no program is left", || {
        let left = cluster.programs("api");
        holds(left.is_empty(), left)
    });
}

#[test]
fn a_site_is_served_by_every_node_and_updated_everywhere() {
    let cluster = Cluster::start(3);
    let first = cluster.site_folder("one", "<h1>one</h1>");
    let second = cluster.site_folder("two", "<h1>two</h1>");
    let create = [
        "deploy",
        "create",
        "site",
        "--path",
        first.to_str().unwrap(),
        "--tld",
        "example.test",
        "--wait",
    ];
    let created = cluster.nebula(&create).ok();
    assert_eq!(created.stderr, "", "bars are for terminals");
    for edge in cluster.edges() {
        let response = cluster.serves(edge, "site.example.test");
        assert_eq!(response.text(), "<h1>one</h1>");
        assert!(response.header("etag").is_some(), "{}", response.head);
    }
    cluster
        .nebula(&[
            "deploy",
            "update",
            "site",
            "--path",
            second.to_str().unwrap(),
            "--wait",
        ])
        .ok();
    for edge in cluster.edges() {
        eventually(DEADLINE, "the second release", || {
            let text = cluster.serves(edge, "site.example.test").text();
            holds(text == "<h1>two</h1>", text)
        });
    }
    cluster.nebula(&["deploy", "remove", "site", "--wait"]).ok();
}

#[test]
fn a_program_that_cannot_start_fails_with_its_reason() {
    let cluster = Cluster::start(1);
    let folder = cluster.echo_folder();
    let path = folder.to_str().unwrap();
    let args = [
        "deploy",
        "create",
        "broken",
        "--path",
        path,
        "--command",
        "./no-such-program",
    ];
    let rest = ["--tld", "example.test", "--wait", "--timeout", "60s"];
    let failed = cluster.nebula(&[&args[..], &rest[..]].concat());
    assert_eq!(failed.code, 1, "{failed}");
    assert!(
        failed.stderr.contains("127") || failed.stderr.contains("not found"),
        "{failed}"
    );
    assert_eq!(cluster.status("broken")["phase"], "failed");
    cluster
        .nebula(&["deploy", "remove", "broken", "--wait"])
        .ok();
}

#[test]
fn the_environment_reaches_the_program() {
    let cluster = Cluster::start(1);
    let folder = cluster.echo_folder();
    let env_file = cluster.scratch("env").join("production.env");
    std::fs::write(
        &env_file,
        "# comment\nFROM_FILE=\"a b\"\nexport BOTH=file\n",
    )
    .unwrap();
    let (path, env_file) = (folder.to_str().unwrap(), env_file.to_str().unwrap());
    let args = [
        "deploy",
        "create",
        "api",
        "--path",
        path,
        "--command",
        "./echo-service",
        "--tld",
        "example.test",
    ];
    let rest = [
        "--env",
        "FROM_FLAG=1",
        "--env",
        "BOTH=flag",
        "--env-file",
        env_file,
        "--wait",
    ];
    cluster.nebula(&[&args[..], &rest[..]].concat()).ok();
    let edge = cluster.edges()[0];
    let variable = |name: &str| {
        let path = format!("/env/{name}");
        http::get(edge, "api.example.test", &path).unwrap().text()
    };
    for (name, value) in [("FROM_FILE", "a b"), ("FROM_FLAG", "1"), ("BOTH", "flag")] {
        assert_eq!(variable(name), value, "{name}");
    }

    // An update changes what it names and keeps the rest: the files, the command and the other variables.
    let update = |more: &[&str]| cluster.nebula(&[&["deploy", "update", "api"], more].concat());
    update(&["--env", "BOTH=new", "--unset-env", "FROM_FLAG"]).ok();
    for (name, value) in [
        ("FROM_FILE", "a b"),
        ("FROM_FLAG", "(unset)"),
        ("BOTH", "new"),
    ] {
        assert_eq!(variable(name), value, "{name}");
    }
    update(&["--stop-grace", "3s"]).ok();
    let status = cluster.status("api");
    let spec = &status["spec"];
    assert_eq!(spec["command"], "./echo-service", "{status}");
    assert_eq!(spec["stop_grace_ms"], 3000, "{status}");
    assert_eq!(spec["env"].as_object().unwrap().len(), 2, "{status}");
    update(&["--unset-env", "FROM_FLAG"]).fails(1, "'FROM_FLAG' is not set");
    let list = cluster.nebula(&["deploy", "list", "--json"]).ok();
    assert!(
        !list.stdout.contains("a b"),
        "a list tells no values: {list}"
    );
}

#[test]
fn of_two_updates_at_once_none_is_lost() {
    let cluster = Cluster::start(1);
    cluster.deploy_echo("api", 1);
    let names: Vec<_> = (0..6).map(|i| format!("V{i}")).collect();
    let outputs: Vec<_> = std::thread::scope(|scope| {
        let started: Vec<_> = names
            .iter()
            .map(|name| {
                let cluster = &cluster;
                scope.spawn(move || {
                    let value = format!("{name}=1");
                    cluster.nebula(&["deploy", "update", "api", "--env", &value, "--no-wait"])
                })
            })
            .collect();
        started.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let status = cluster.status("api");
    for (name, output) in names.iter().zip(outputs) {
        // Either it is there, or whoever asked for it was told that it is not.
        if output.code != 0 {
            output.clone().fails(1, "was changed meanwhile");
        }
        let there = status["spec"]["env"].get(name).is_some();
        assert_eq!(there, output.code == 0, "{name}: {output}{status}");
    }
    let wait = ["deploy", "restart", "api", "--wait"];
    cluster.nebula(&wait).ok();
}
