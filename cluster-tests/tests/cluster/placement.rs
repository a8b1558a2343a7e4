//! Promise: instances are where their deployments' wishes and the room of nodes let them be, and otherwise say why they are
//! not; a node under load is drained without a failed request, and given work again afterwards.

use std::time::Duration;

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::traffic::Users;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, Output, eventually};
use serde_json::Value;

const HOST: &str = "api.example.test";
const INSTANCES: usize = 20;

fn create(cluster: &Cluster, name: &str, flags: &[&str]) -> Output {
    let folder = cluster.echo_folder();
    let args = ["deploy", "create", name, "--path", folder.to_str().unwrap()];
    let rest = ["--command", "./echo-service", "--tld", "example.test"];
    cluster.nebula(&[&args[..], &rest, flags].concat())
}

/// How many instances of a deployment that run are on a node.
fn running_on(status: &Value, node: &str) -> usize {
    let instances = status["instances"].as_array().unwrap();
    let there = instances
        .iter()
        .filter(|i| i["node"] == node && i["phase"] == "running");
    there.count()
}

fn member<'l>(list: &'l Value, name: &str) -> &'l Value {
    let members = list["members"].as_array().unwrap();
    members.iter().find(|m| m["name"] == name).unwrap()
}

#[test]
fn wishes_are_kept_and_what_has_no_place_says_why() {
    let cluster = Cluster::start(3);
    let last = cluster.members[2].name.clone();
    cluster
        .nodectl(&["label", &last, "disk=ssd", "zone=eu-1"])
        .ok();
    cluster.nodectl(&["label", &last, "zone-"]).ok();
    let list = eventually(DEADLINE, "the labels show", || {
        let list = cluster.member_list();
        let labels = serde_json::json!({ "disk": "ssd" });
        holds(member(&list, &last)["labels"] == labels, &list).map(|()| list)
    });
    assert!(member(&list, &last)["room"]["memory_bytes"].as_u64() > Some(1 << 28));
    cluster
        .nodectl(&["label", &last, "node=x"])
        .fails(2, "cannot be changed");

    let wish = ["--instances", "3", "--require", "disk=ssd"];
    create(&cluster, "api", &wish).ok();
    assert_eq!(running_on(&cluster.status("api"), &last), 3);

    // Nobody has so much.
    create(&cluster, "large", &["--memory", "60Ti", "--timeout", "2s"])
        .fails(5, "cannot be placed: no node has 60Ti of memory free");
    let status = cluster.status("large");
    assert!(
        status["problems"][0]
            .as_str()
            .unwrap()
            .contains("no node has 60Ti of memory free: node"),
        "{status}"
    );
    create(&cluster, "gpu", &["--require", "gpu", "--timeout", "2s"]).fails(5, "is not gpu");
    create(&cluster, "bad", &["--require", "disk==ssd"]).fails(2, "is not a rule on labels");
    let manifest = cluster.scratch("placed");
    let text = "name = \"placed\"\ncommand = \"true\"\n[placement]\nspread = \"Zone\"\n";
    std::fs::write(manifest.join("nebula.toml"), text).unwrap();
    let file = manifest.join("nebula.toml");
    cluster
        .nebula(&["deploy", "plan", "-f", file.to_str().unwrap()])
        .fails(2, "line 4");

    // It has to be there and cannot be elsewhere: it stays, and serves.
    cluster
        .nodectl(&["drain", &last, "--deadline", "2s"])
        .fails(5, "is not disk=ssd");
    cluster.edges().iter().for_each(|edge| {
        cluster.serves(*edge, HOST);
    });
    cluster.nodectl(&["undrain", &last]).ok();
}

#[test]
fn a_node_is_drained_without_a_failed_request_and_given_work_again() {
    let cluster = Cluster::start(3);
    let last = cluster.members[2].name.clone();
    let (count, wish) = (INSTANCES.to_string(), format!("node={last}"));
    let flags = ["--instances", &count, "--prefer", &wish];
    create(&cluster, "api", &flags).ok();
    assert_eq!(running_on(&cluster.status("api"), &last), INSTANCES);
    cluster.edges().iter().for_each(|edge| {
        cluster.serves(*edge, HOST);
    });
    let socket_time = Some(Duration::from_secs(2));
    let users = Users::arrive(&cluster.edges(), HOST, 4, 150, socket_time);
    let drained = cluster.nodectl(&["drain", &last, "--deadline", "3m", "--json"]);
    let report = users.leave();
    println!(
        "{} of {} requests failed, {} of {} sockets were cut",
        report.failed, report.requests, report.sockets_cut, report.sockets
    );
    assert_eq!(drained.ok().json()["left"], 0);
    assert_eq!(
        (report.failed, report.sockets_cut),
        (0, 0),
        "{:#?}",
        report.told
    );
    assert!(report.requests > 0 && report.sockets > 0);
    let status = cluster.status("api");
    assert_eq!(status["ready"], INSTANCES, "{status}");
    let instances = status["instances"].as_array().unwrap();
    assert!(instances.iter().all(|i| i["node"] != last.as_str()));

    cluster.nodectl(&["undrain", &last]).ok();
    eventually(2 * DEADLINE, "instances come back", || {
        let status = cluster.status("api");
        assert!(
            status["ready"].as_u64() >= Some(INSTANCES as u64),
            "{status}"
        );
        holds(running_on(&status, &last) >= 2, status)
    });
}
