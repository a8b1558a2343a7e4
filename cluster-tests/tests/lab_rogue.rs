//! Promise: who is no member is refused, who is one does no more than its role allows, and floods of either change
//! neither the leader nor what was acknowledged, nor take more than a bounded amount of memory.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use nebula_cluster_tests::cluster::free_ports;
use nebula_cluster_tests::lab::run::block_on;
use nebula_cluster_tests::lab::scenarios::rogue::{self, Stolen};
use nebula_cluster_tests::lab::{Processes, Run};
use nebula_cluster_tests::{Cluster, nodectl};

/// A machine that joins and never starts its daemon: its data folder and its id.
fn join(cluster: &Cluster, name: &str) -> (PathBuf, u64) {
    let token = cluster.nodectl(&["token", "create", "--role", "worker", "--json"]);
    let token = token.ok().json()["token"].as_str().unwrap().to_owned();
    let data_dir = cluster.scratch(name).join("data");
    let api = cluster.members[0].api.trim_start_matches("https://");
    let [quic, own_api, edge] = free_ports().map(|port| format!("127.0.0.1:{port}"));
    let joined = nodectl([
        "join",
        api,
        "--token",
        &token,
        "--data-dir",
        data_dir.to_str().unwrap(),
        "--name",
        name,
        "--quic-addr",
        &quic,
        "--api-addr",
        &own_api,
        "--edge-addr",
        &edge,
        "--no-start",
        "--json",
    ]);
    let id = joined.ok().json()["id"].as_u64().unwrap();
    (data_dir, id)
}

#[test]
fn rogue_peers_are_refused_and_floods_withstood() {
    let mut run = Run::new("lab_rogue rogue_peers_are_refused_and_floods_withstood");
    let lasts = Duration::from_secs(run.count("FLOOD_SECONDS", 3));
    let lab = Processes::start(3);
    let (worker, worker_id) = join(lab.cluster(), "worker");
    let (removed, id) = join(lab.cluster(), "removed");
    lab.cluster().nodectl(&["remove", &id.to_string()]).ok();
    let stolen = Stolen {
        worker,
        worker_id,
        removed,
    };
    block_on(rogue::all(&lab, &mut run, &stolen, lasts));
}
