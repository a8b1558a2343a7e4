//! The daemon: run it here, start it where it outlives this command, stop it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use nebula_client::Client;
use nebula_node::{API_SOCKET, RunError, write_private};
use nebula_wire::api::{ErrorCode, NodeStatus};
use rustix::process::Signal;

use super::flags::NodeFlags;
use super::systemd;
use crate::app::no_runtime;
use crate::error::{CliError, Exit, Outcome};
use crate::last_lines::last_lines;
use crate::output::Output;
use crate::pack::chain;
use crate::process::Process;

/// From the start of the process to a leader that this node knows. A restart after a crash replays its log first.
pub const READY_DEADLINE: Duration = Duration::from_secs(30);
/// Draining takes 5 s and instances have 10 s to end, unless their deployments say otherwise.
pub const STOP_DEADLINE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(25);
/// A node that is starting answers at once or not at all.
const ASK_DEADLINE: Duration = Duration::from_secs(1);
/// What people see of a daemon's log when it did not start.
const LOG_LINES: usize = 12;
/// What a background daemon writes, beside its data.
pub const LOG_FILE: &str = "nodectl.log";
const PID_FILE: &str = "nodectl.pid";
/// Settings that a prepared node has in its file; the shell of whoever starts it must not change them.
const NODE_VARIABLES: [&str; 13] = [
    "NEBULA_DATA_DIR",
    "NEBULA_NAME",
    "NEBULA_LISTEN",
    "NEBULA_API_ADDR",
    "NEBULA_EDGE_ADDR",
    "NEBULA_EDGE_TLS_ADDR",
    "NEBULA_EDGE_CERTIFICATES",
    "NEBULA_EDGE_PROXY_PROTOCOL_FROM",
    "NEBULA_EDGE_TRUSTED_PROXIES",
    "NEBULA_ADVERTISE",
    "NEBULA_CAPACITY",
    "NEBULA_EDGE_THREADS",
    "NEBULA_ISOLATION",
];

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodectl run
  nodectl run --data-dir /srv/nebula --log debug

SIGTERM stops the daemon and leaves its instances running, so that the next one takes them over. SIGINT (Ctrl-C) stops
the instances too.")]
pub struct Run {
    /// Settings, TOML [default: node.toml in the data folder]
    #[arg(long, value_name = "FILE", env = "NEBULA_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    node: NodeFlags,
    /// Leave the session of whoever started it
    #[arg(long, hide = true)]
    detached: bool,
}

pub fn run(args: Run, out: Output) -> Outcome {
    let config = args.node.config(args.config.as_deref())?;
    if args.detached {
        // Fails only for a process that leads a session or group of its own already, which is what is wanted.
        let _ = nix::unistd::setsid();
    }
    run_config(config, out)
}

/// Runs a prepared node in this process until it is told to stop.
pub fn run_config(config: nebula_node::Config, out: Output) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(control_threads())
        .enable_all()
        .build()
        .map_err(|e| no_runtime(&e))?;
    let ended = runtime.block_on(nebula_node::run(config, systemd::goes_down));
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended {
        Ok(()) => Ok(()),
        // A wish of the cluster's: an init system must not start the daemon again because of it.
        Err(error @ RunError::Removed) => {
            out.note(&error.to_string());
            Ok(())
        }
        Err(error) => {
            let hint = match &error {
                RunError::NotPrepared(_) => "see 'nodectl init --help' and 'nodectl join --help'",
                RunError::Lock(_) => "see 'nodectl status', or choose another --data-dir",
                _ => "correct the cause and start it again",
            };
            Err(CliError::failed(chain(&error), hint))
        }
    }
}

/// Half the cores, for the edge has threads of its own. What the control plane does comes in small pieces, and each
/// thread more wakes for what the one before could have done: on two cores one thread idles at three quarters of what two take, and
/// writes as fast (bench/README.md).
fn control_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

/// How a daemon was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    Systemd,
    Background,
}

/// A daemon that was started and answers.
#[derive(Debug, Clone)]
pub struct Started {
    pub by: By,
    pub pid: u32,
    pub status: NodeStatus,
}

/// Starts the daemon of a prepared folder where it outlives this command, and waits until it answers.
pub async fn start(program: &Path, data_dir: &Path) -> Outcome<Started> {
    if let Some(pid) = nebula_node::daemon_pid(data_dir) {
        return Err(CliError::new(
            Exit::Failed,
            ErrorCode::Conflict,
            format!(
                "a daemon (pid {pid}) already runs on {}",
                data_dir.display()
            ),
            "see 'nodectl status'",
        ));
    }
    if systemd::is_here() {
        systemd::start(program, data_dir)?;
        let status = ready(data_dir, || true).await.map_err(|e| {
            e.unwrap_or_else(|| {
                not_ready("see 'journalctl -u nebula.service'".to_owned(), Vec::new())
            })
        })?;
        return Ok(Started {
            by: By::Systemd,
            pid: status.pid,
            status,
        });
    }
    let process = spawn(program, data_dir)?;
    let written = serde_json::to_vec(&process).unwrap_or_default();
    write_private(&data_dir.join(PID_FILE), &written)
        .map_err(|e| CliError::io(format!("cannot write {PID_FILE}"), &e))?;
    let status = wait_ready(process, data_dir).await?;
    Ok(Started {
        by: By::Background,
        pid: process.pid,
        status,
    })
}

/// Starts a daemon in a session of its own, with its output in the data folder.
pub fn spawn(program: &Path, data_dir: &Path) -> Outcome<Process> {
    let log = open_log(data_dir)?;
    let failed =
        |e: &std::io::Error| CliError::io(format!("cannot start {}", program.display()), e);
    let mut command = Command::new(program);
    for variable in NODE_VARIABLES {
        command.env_remove(variable);
    }
    let child = command
        .args(["run", "--detached", "--data-dir"])
        .arg(data_dir)
        .stdin(Stdio::null())
        .stderr(log.try_clone().map_err(|e| failed(&e))?)
        .stdout(log)
        .current_dir("/")
        .spawn()
        .map_err(|e| failed(&e))?;
    // Gone already: then waiting for it tells why.
    Ok(Process::running(child.id()).unwrap_or(Process {
        pid: child.id(),
        start_ticks: 0,
    }))
}

fn open_log(data_dir: &Path) -> Outcome<File> {
    let path = data_dir.join(LOG_FILE);
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| CliError::io(format!("cannot write {}", path.display()), &e))
}

/// Waits until a spawned daemon answers and knows a leader; says with its own words why not.
pub async fn wait_ready(process: Process, data_dir: &Path) -> Outcome<NodeStatus> {
    ready(data_dir, || process.is_running())
        .await
        .map_err(|error| {
            error.unwrap_or_else(|| {
                let log = data_dir.join(LOG_FILE);
                not_ready(
                    format!("see {}", log.display()),
                    last_lines(&log, LOG_LINES),
                )
            })
        })
}

/// `Err(None)` when the daemon ended or time is over.
async fn ready(
    data_dir: &Path,
    running: impl Fn() -> bool,
) -> Result<NodeStatus, Option<CliError>> {
    let client = Client::unix(data_dir.join(API_SOCKET)).with_deadline(ASK_DEADLINE);
    let until = Instant::now() + READY_DEADLINE;
    while Instant::now() < until && running() {
        match client.status().await {
            Ok(status) if status.leader.is_some() => return Ok(status),
            Ok(_) => {}
            Err(error) if error.is_temporary() => {}
            Err(error) => return Err(Some(error.into())),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(None)
}

fn not_ready(hint: String, details: Vec<String>) -> CliError {
    CliError::failed(
        "the daemon was started but did not become ready",
        format!("{hint}; correct the cause, then start it with 'nodectl run' or 'nebula scheduler start'"),
    )
    .with_details(details)
}

/// Stops the daemon of a data folder and, if asked to, its instances; says whether one was running.
pub async fn stop(data_dir: &Path, with_instances: bool) -> Outcome<bool> {
    let Some(process) = nebula_node::daemon_pid(data_dir).and_then(Process::running) else {
        return Ok(false);
    };
    if systemd::is_here() && systemd::owns(data_dir) {
        systemd::stop(with_instances)?;
    } else {
        process.signal(if with_instances {
            Signal::INT
        } else {
            Signal::TERM
        });
    }
    if !process.ended(STOP_DEADLINE).await {
        return Err(CliError::timed_out(
            format!(
                "the daemon (pid {}) is still stopping after {} s",
                process.pid,
                STOP_DEADLINE.as_secs()
            ),
            "see its log; 'kill -9' it if it does not end",
        ));
    }
    match std::fs::remove_file(data_dir.join(PID_FILE)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(CliError::io(format!("cannot remove {PID_FILE}"), &e))
        }
        _ => Ok(true),
    }
}

/// Where a file of that name in this program's folder is, or would be.
pub fn beside(name: &str) -> Outcome<PathBuf> {
    let me =
        std::env::current_exe().map_err(|e| CliError::io("cannot find this program's file", &e))?;
    Ok(me.with_file_name(name))
}

/// This program's file, or its sibling of that name: both are installed together.
pub fn program(name: &str) -> Outcome<PathBuf> {
    let path = beside(name)?;
    if path.is_file() {
        return Ok(path);
    }
    Err(CliError::failed(
        format!("{} is missing", path.display()),
        "install 'nebula' and 'nodectl' in one folder",
    ))
}
