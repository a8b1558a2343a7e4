//! Promise: an instance that is not ready is given no requests, one that is not live is started again, and people are told
//! which probe it was and why.

use std::path::PathBuf;

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, eventually, http};
use serde_json::Value;

fn instances(cluster: &Cluster) -> Vec<Value> {
    let status = cluster.status("api");
    status["instances"].as_array().unwrap().clone()
}

fn instance(cluster: &Cluster, id: &str) -> Value {
    let all = instances(cluster).into_iter();
    all.into_iter().find(|i| i["id"] == id).unwrap_or_default()
}

/// The instance's own folder, where its program looks for the codes to answer.
fn folder(cluster: &Cluster, instance: &Value) -> PathBuf {
    let member = cluster
        .members
        .iter()
        .find(|m| instance["node"] == m.name.as_str());
    let work = member.unwrap().data_dir.join("work");
    work.join(instance["id"].as_str().unwrap())
}

#[test]
fn an_instance_turns_unready_and_then_unlive() {
    let cluster = Cluster::start(2);
    let files = cluster.echo_folder();
    let create = [
        "deploy",
        "create",
        "api",
        "--path",
        files.to_str().unwrap(),
        "--command",
        "exec ./echo-service",
        "--instances",
        "2",
        "--startup-path",
        "/code/started",
        "--health-path",
        "/code/ready",
        "--liveness-path",
        "/code/live",
        "--tld",
        "example.test",
        "--wait",
        "--timeout",
        "60s",
    ];
    cluster.nebula(&create).ok();
    let ill = instances(&cluster).remove(0);
    let id = ill["id"].as_str().unwrap().to_owned();
    let folder = folder(&cluster, &ill);

    // Not ready: out of the choice of every edge, with its reason, and not started again.
    std::fs::write(folder.join("ready"), "503").unwrap();
    eventually(DEADLINE, "the reason is told", || {
        let told = instance(&cluster, &id);
        let reason = "readiness probe: GET /code/ready answered 503";
        holds(
            told["reason"] == reason && told["health"] == "unhealthy",
            told,
        )
    });
    for edge in cluster.edges() {
        eventually(DEADLINE, "only the other is chosen", || {
            let answers: Vec<_> = (0..10)
                .filter_map(|_| Some(http::get(edge, "api.example.test", "/").ok()?.text()))
                .collect();
            let own = format!("from {id}\n");
            holds(
                answers.len() == 10 && answers.iter().all(|text| !text.ends_with(&own)),
                &answers,
            )
        });
    }
    assert_eq!(instance(&cluster, &id)["restarts"], 0);
    std::fs::remove_file(folder.join("ready")).unwrap();
    eventually(DEADLINE, "it is ready again", || {
        let told = instance(&cluster, &id);
        holds(told["health"] == "healthy" && told["reason"] == "", told)
    });

    // Not live: ended and started again; any node tells of it.
    std::fs::write(folder.join("live"), "500").unwrap();
    let reason = "liveness probe failed: GET /code/live answered 500";
    eventually(DEADLINE, "it is started again", || {
        let told = instance(&cluster, &id);
        let again = told["restarts"].as_u64() >= Some(1);
        holds(again && told["reason"] == reason, told)
    });
    std::fs::remove_file(folder.join("live")).unwrap();
    eventually(DEADLINE, "it is ready again", || {
        let told = instance(&cluster, &id);
        holds(told["health"] == "healthy", told)
    });
    for member in &cluster.members {
        let asked = ["deploy", "health", "api", "--history", "--json"];
        let health = cluster.nebula_at(member, &asked).ok().json();
        let all = health["instances"].as_array().unwrap();
        assert_eq!((all.len(), health.get("silent")), (2, None), "{health}");
        let told = all.iter().find(|one| one["id"] == id.as_str()).unwrap();
        let probes = told["probes"].as_array().unwrap();
        assert_eq!(probes.len(), 3, "{told}");
        let history = told["history"].as_array().unwrap();
        for (probe, reason) in [
            ("readiness", "GET /code/ready answered 503"),
            ("liveness", "GET /code/live answered 500"),
        ] {
            let there = history.iter().any(|change| {
                change["probe"] == probe
                    && change["state"] == "failing"
                    && change["reason"] == reason
            });
            assert!(there, "{probe}: {told}");
        }
    }
    let logs = cluster
        .nebula(&["deploy", "logs", "api", "--tail", "1000"])
        .ok();
    assert!(logs.stdout.contains(reason), "{logs}");
    let table = cluster.nebula(&["deploy", "health", "api"]).ok();
    assert!(table.stdout.contains("GET /code/live"), "{table}");
    cluster
        .nebula(&["deploy", "health", "nobody"])
        .fails(1, "no deployment named 'nobody'");
}
