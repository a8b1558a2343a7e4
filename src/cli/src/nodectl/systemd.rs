//! The systemd unit of a node, where systemd runs the machine and the user may tell it what to run.

use std::path::Path;
use std::process::Command;

use crate::error::{CliError, Outcome};

const UNIT: &str = "nebula.service";
const UNIT_FILE: &str = "/etc/systemd/system/nebula.service";

/// sd_booted(3): the folder exists exactly when systemd is the init system.
pub fn is_here() -> bool {
    nix::unistd::geteuid().is_root() && Path::new("/run/systemd/system").is_dir()
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
