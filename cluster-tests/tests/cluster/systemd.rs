//! Promise: where systemd runs the machine, `nodectl init` makes the node a service of it, and restarting that
//! service restarts no program.

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::systemd::{Machine, available};
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{binaries, eventually, process};

const UNIT: &str = "nebula.service";
const UNIT_FILE: &str = "/etc/systemd/system/nebula.service";

fn state(machine: &Machine) -> (String, String) {
    (
        machine.property(UNIT, "ActiveState"),
        machine.property(UNIT, "UnitFileState"),
    )
}

fn is(active: &str, enabled: &str) -> (String, String) {
    (active.to_owned(), enabled.to_owned())
}

/// The instances' programs, as pids out here.
fn programs(app: &str) -> Vec<u32> {
    let mut pids = process::mentioning(&format!("NEBULA_TEST_MARK={app}\0"));
    pids.sort_unstable();
    pids
}

fn ready(machine: &Machine) {
    eventually(DEADLINE, "two ready instances", || {
        let status = machine.nebula(&["deploy", "status", "api", "--json"]);
        holds(status.stdout.contains("\"ready\":2"), status.to_string())
    });
}

#[test]
fn the_node_is_a_service_that_leaves_programs_alone() {
    if !available() {
        return;
    }
    let machine = Machine::boot();
    let answer = machine.nodectl(&["init", "--json"]).ok().json();
    assert_eq!(answer["started_by"], "systemd", "{answer}");
    assert_eq!(answer["data_dir"], "/var/lib/nebula", "{answer}");
    assert_eq!(state(&machine), is("active", "enabled"));
    let main = machine.property(UNIT, "MainPID");
    assert_eq!(answer["pid"].to_string(), main);
    let verified = machine.run("systemd-analyze", &["verify", UNIT_FILE]).ok();
    assert_eq!(verified.stderr, "", "{verified}");

    let app = machine.scratch("app");
    std::fs::copy(binaries::path("echo-service"), app.join("echo-service")).unwrap();
    let app = app.to_str().unwrap();
    let mark = format!("NEBULA_TEST_MARK={app}");
    let create = [
        "deploy",
        "create",
        "api",
        "--path",
        app,
        "--command",
        "exec ./echo-service",
        "--instances",
        "2",
        "--tld",
        "example.test",
        "--env",
        &mark,
    ];
    machine.nebula(&create).ok();
    let before = programs(app);
    assert!(before.len() >= 2, "{before:?}");

    machine.run("systemctl", &["restart", UNIT]).ok();
    assert_ne!(machine.property(UNIT, "MainPID"), main);
    ready(&machine);
    assert_eq!(programs(app), before, "a restart restarts no program");

    // Killed, it is started again.
    let main = machine.property(UNIT, "MainPID");
    let kill = ["kill", "--kill-whom=main", "--signal=KILL", UNIT];
    machine.run("systemctl", &kill).ok();
    eventually(DEADLINE, "another daemon", || {
        let now = machine.property(UNIT, "MainPID");
        holds(now != "0" && now != main, now)
    });
    ready(&machine);
    assert_eq!(programs(app), before, "a crash restarts no program");

    // Stopped, it leaves its programs to the next one.
    machine.run("systemctl", &["stop", UNIT]).ok();
    assert_eq!(state(&machine), is("inactive", "enabled"));
    assert_eq!(programs(app), before);
    machine.run("systemctl", &["start", UNIT]).ok();
    ready(&machine);
    assert_eq!(programs(app), before);

    // Told to stop everything, it does, and stays stopped at the next boot.
    machine.nebula(&["scheduler", "stop"]).ok();
    assert_eq!(state(&machine), is("inactive", "disabled"));
    assert_eq!(programs(app), Vec::<u32>::new());
    machine.nebula(&["scheduler", "start"]).ok();
    assert_eq!(state(&machine), is("active", "enabled"));
    ready(&machine);
}
