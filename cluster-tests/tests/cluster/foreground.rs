//! Promise: `nodectl init --foreground` is the daemon itself: it serves until it is told to stop, and
//! Ctrl-C stops what it runs as well.

use std::process::{Child, Stdio};

use nebula_cluster_tests::cluster::{DEADLINE, free_ports};
use nebula_cluster_tests::command::{on_node, prepare};
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{binaries, eventually, process};
use nix::sys::signal::Signal;

/// Ended with the test, also when that fails.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            process::end(&mut self.0);
        }
    }
}

#[test]
fn a_node_in_the_foreground_runs_until_it_is_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let [quic, api, edge] = free_ports().map(|port| format!("127.0.0.1:{port}"));
    let dir = data_dir.to_str().unwrap();
    let args = [
        "init",
        "--foreground",
        "--name",
        "n1",
        "--data-dir",
        dir,
        "--listen",
        &quic,
        "--api-addr",
        &api,
        "--edge-addr",
        &edge,
    ];
    let mut command = prepare(&binaries::path("nodectl"), args);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut daemon = Daemon(command.spawn().unwrap());
    eventually(DEADLINE, "it serves", || {
        let status = on_node(&data_dir, "nodectl", ["status", "--json"]);
        let pid = format!("\"pid\":{}", daemon.0.id());
        holds(status.stdout.contains(&pid), status.to_string())
    });
    let app = folder.path().join("app");
    std::fs::create_dir(&app).unwrap();
    let program = app.join("echo-service");
    std::fs::copy(binaries::path("echo-service"), program).unwrap();
    let create = [
        "deploy",
        "create",
        "api",
        "--path",
        app.to_str().unwrap(),
        "--command",
        "./echo-service",
        "--tld",
        "example.test",
    ];
    on_node(&data_dir, "nebula", create).ok();
    assert!(daemon.0.try_wait().unwrap().is_none(), "it still runs");

    process::signal(daemon.0.id(), Signal::SIGINT);
    assert!(daemon.0.wait().unwrap().success());
    eventually(DEADLINE, "its instances have ended", || {
        let left = process::mentioning(dir);
        holds(left.is_empty(), left)
    });
}
