//! The systemd unit of a node, where systemd runs the machine and the user may tell it what to run.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::{CliError, Outcome};

const UNIT: &str = "nebula.service";
const UNIT_FILE: &str = "/etc/systemd/system/nebula.service";

/// It answers at once or is on its own way out; every second of it is one that peers wait for a dead machine.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// sd_booted(3): the folder exists exactly when systemd is the init system.
fn is_init() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

pub fn is_here() -> bool {
    nix::unistd::geteuid().is_root() && is_init()
}

/// Whether the whole machine goes down. Without systemd nobody says so, and the answer is no.
pub async fn goes_down() -> bool {
    is_init() && is_stopping("systemctl".as_ref()).await
}

/// systemctl(1): `is-system-running` prints `stopping` from the beginning of a shutdown.
async fn is_stopping(systemctl: &Path) -> bool {
    let output = tokio::process::Command::new(systemctl)
        .arg("is-system-running")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let answer = tokio::time::timeout(ANSWERS_WITHIN, output).await;
    // One that cannot be asked has said nothing.
    matches!(answer, Ok(Ok(output)) if output.stdout.trim_ascii() == b"stopping")
}

/// The unit's text.
///
/// `KillMode=process`: instances outlive the daemon, so that restarting it restarts none of them.
/// `StartLimitIntervalSec=0`: a daemon that does not start because the disk is full is tried until it is not.
fn unit(program: &Path, data_dir: &Path) -> String {
    format!(
        "[Unit]
Description=Nebula node
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={} run --data-dir {}
Restart=on-failure
RestartSec=1
KillMode=process
LimitNOFILE=1048576
TimeoutStopSec=30

[Install]
WantedBy=multi-user.target
",
        quote(&program.to_string_lossy()),
        quote(&data_dir.to_string_lossy()),
    )
}

/// systemd.syntax(7) and systemd.service(5): quoted, with the characters escaped that mean something there.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '%' => out.push_str("%%"),
            '$' => out.push_str("$$"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Whether the installed unit runs a node in this folder.
pub fn owns(data_dir: &Path) -> bool {
    let wanted = format!(" run --data-dir {}", quote(&data_dir.to_string_lossy()));
    std::fs::read_to_string(UNIT_FILE)
        .is_ok_and(|text| text.lines().any(|line| line.ends_with(&wanted)))
}

/// Installs the unit, for now and for every boot, and starts it.
pub fn start(program: &Path, data_dir: &Path) -> Outcome {
    if Path::new(UNIT_FILE).exists() && !owns(data_dir) {
        return Err(CliError::failed(
            format!("{UNIT_FILE} already runs another node or was changed by hand"),
            format!(
                "run the daemon yourself with 'nodectl run --data-dir {}', or remove the unit",
                data_dir.display()
            ),
        ));
    }
    std::fs::write(UNIT_FILE, unit(program, data_dir))
        .map_err(|e| CliError::io(format!("cannot write {UNIT_FILE}"), &e))?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "--now", UNIT])
}

/// Stops the daemon, and its instances too when asked to; the unit does not start at the next boot.
pub fn stop(with_instances: bool) -> Outcome {
    if with_instances {
        // SIGINT makes the daemon stop what it runs; `stop` then waits for its end.
        systemctl(&["kill", "--kill-whom=main", "--signal=SIGINT", UNIT])?;
    }
    systemctl(&["disable", "--now", UNIT])
}

fn systemctl(args: &[&str]) -> Outcome {
    let line = format!("systemctl {}", args.join(" "));
    let output = Command::new("systemctl")
        .args(args)
        .output()
        .map_err(|e| CliError::io(format!("cannot run '{line}'"), &e))?;
    if output.status.success() {
        return Ok(());
    }
    Err(CliError::failed(
        format!(
            "'{line}' failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
        format!("see 'journalctl -u {UNIT}'"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_machine_goes_down_when_its_init_system_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("systemctl");
        for (script, goes_down) in [
            ("echo stopping; exit 1", true),
            ("echo running", false),
            ("echo degraded; exit 1", false),
            ("sleep 60", false),
        ] {
            let script = format!("#!/bin/sh\n[ \"$*\" = is-system-running ] || exit 2\n{script}\n");
            // By another process: what this one has open for writing a fork of another test may keep open (ETXTBSY).
            let write = "printf %s \"$0\" > \"$1\" && chmod 755 \"$1\"";
            let written = Command::new("sh")
                .args(["-c", write, &script])
                .arg(&program)
                .status();
            assert!(written.unwrap().success());
            assert_eq!(is_stopping(&program).await, goes_down, "{script}");
        }
        assert!(!is_stopping(&dir.path().join("none")).await);
    }

    #[test]
    fn the_unit_leaves_instances_alone_and_quotes_paths() {
        let text = unit(
            Path::new("/usr/bin/nodectl"),
            Path::new("/srv/a b/100%\"$x"),
        );
        assert!(
            text.contains(
                "ExecStart=\"/usr/bin/nodectl\" run --data-dir \"/srv/a b/100%%\\\"$$x\"\n"
            ),
            "{text}"
        );
        assert!(text.contains("KillMode=process"));
    }
}
