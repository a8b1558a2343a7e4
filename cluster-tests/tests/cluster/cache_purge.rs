//! Promise: a purge lets go of what every node keeps of a deployment's answers, and has done so when it says so.

use std::net::SocketAddr;

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, eventually, http};

const HOST: &str = "api.example.test";

/// What the cache says of a request.
fn said(edge: SocketAddr) -> String {
    let answer = http::get(edge, HOST, "/").unwrap();
    answer.header("cache-status").unwrap_or_default().to_owned()
}

#[test]
fn a_purge_reaches_every_node_before_it_is_told_of() {
    let cluster = Cluster::start(3);
    let policy = cluster.scratch("http").join("http.toml");
    std::fs::write(&policy, "[cache]\non = true\ndefault_ttl = \"1h\"\n").unwrap();
    let (folder, policy) = (cluster.echo_folder(), policy.to_str().unwrap().to_owned());
    let folder = folder.to_str().unwrap();
    let create = ["deploy", "create", "api", "--path", folder];
    let program = ["--command", "./echo-service", "--http", &policy];
    let rest = ["--tld", "example.test", "--wait"];
    cluster
        .nebula(&[&create[..], &program, &rest].concat())
        .ok();
    let edges = cluster.edges();
    for _ in 0..3 {
        for edge in &edges {
            cluster.serves(*edge, HOST);
            eventually(DEADLINE, "it is kept", || {
                let said = said(*edge);
                holds(said.starts_with("Nebula; hit"), said)
            });
        }
        let purged = cluster.nebula(&["deploy", "cache", "purge", "api", "--json"]);
        assert_eq!(purged.ok().json()["nodes"], 3);
        for edge in &edges {
            let said = said(*edge);
            assert!(said.starts_with("Nebula; fwd=uri-miss"), "{said}");
        }
    }
    let told = cluster.nebula(&["deploy", "cache", "purge", "api"]).ok();
    assert!(told.stdout.contains("purged on 3 nodes"), "{}", told.stdout);

    let site = cluster.site_folder("site", "a page");
    let site = ["deploy", "create", "site", "--path", site.to_str().unwrap()];
    cluster.nebula(&[&site[..], &rest].concat()).ok();
    let purge = |name: &str| cluster.nebula(&["deploy", "cache", "purge", name]);
    purge("site").fails(1, "'site' is a static site");
    purge("ghost").fails(1, "no deployment named 'ghost'");
    purge("No Name").fails(2, "name");
}
