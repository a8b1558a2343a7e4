//! `nodectl dev`: start, show, wait for Ctrl-C, stop.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nebula_wire::api::Members;
use tokio::signal::unix::{SignalKind, signal};

use super::home::{Home, purge};
use super::nodes::Cluster;
use super::state::{CLUSTER_FILE, DevState, Report};
use super::{Up, down, example, ports};
use crate::error::{CliError, Outcome};
use crate::nodectl::daemon;
use crate::output::Output;
use crate::render;

const DEFAULT_NODES: u16 = 3;
/// How often the daemons are looked after while people try things out.
const WATCH: Duration = Duration::from_secs(1);

pub async fn run(args: Up, out: Output) -> Outcome {
    let home = Home::open(args.data_dir.as_deref(), args.detach)?;
    let certificates = certificates(&args)?;
    let mut plan = plan(&args, &home)?;
    plan.https |= certificates.is_some();
    let cluster = Cluster {
        dir: home.dir().to_owned(),
        program: daemon::program("nodectl")?,
        edge_threads: args.edge_threads,
        isolation: args.isolation.map(Into::into),
        certificates,
        state: RefCell::new(plan),
    };
    cluster.state.borrow().store(home.dir())?;
    let mut interrupt = Interrupt::new()?;
    let started = tokio::select! {
        started = start(&cluster, &args, out) => started,
        () = interrupt.wait() => Err(CliError::failed("interrupted before the cluster was ready", "run it again")),
    };
    let members = match started {
        Ok(members) => members,
        Err(error) => return Err(clean_up(&cluster, &args, error, out).await),
    };
    let report = Report::new(home.dir(), &cluster.state.borrow());
    if out.is_json() {
        out.json(&report);
    } else {
        out.line(&summary(&report, &members, &args, home.dir()));
    }
    if args.detach {
        return Ok(());
    }
    tokio::select! {
        () = interrupt.wait() => {}
        () = watch(&cluster, out) => {}
    }
    out.note("stopping");
    let state = cluster.state.borrow().clone();
    let down = down::stop(&state).await?;
    if !down.killed.is_empty() {
        out.warn(&format!(
            "{} did not stop in time and had to be killed",
            down.killed.join(", ")
        ));
    }
    out.note(&if home.is_temporary() {
        "stopped; nothing is left".to_owned()
    } else {
        format!(
            "stopped; 'nodectl dev --data-dir {}' goes on with it",
            home.dir().display()
        )
    });
    Ok(())
}

/// The folder of certificates that was named, as every node finds it.
fn certificates(args: &Up) -> Outcome<Option<PathBuf>> {
    let Some(dir) = &args.edge_certificates else {
        return Ok(None);
    };
    match dir.canonicalize() {
        Ok(path) if path.is_dir() => Ok(Some(path)),
        _ => Err(CliError::usage(
            format!("{} is not a folder", dir.display()),
            "name a folder that holds NAME.crt and NAME.key",
        )),
    }
}

/// The cluster that the folder holds, or a new one as the flags say.
fn plan(args: &Up, home: &Home) -> Outcome<DevState> {
    let Some(known) = DevState::load(home.dir())? else {
        home.check_unused()?;
        let nodes = args.nodes.unwrap_or(DEFAULT_NODES);
        let ports = ports::choose(
            nodes,
            args.base_port.map(std::num::NonZero::get),
            home.dir(),
        )?;
        return Ok(Cluster::plan(home.dir(), &ports));
    };
    let dir = home.dir().display();
    if let Some((node, process)) = known.running().next() {
        return Err(CliError::failed(
            format!(
                "the cluster in {dir} already runs ({}, pid {})",
                node.name, process.pid
            ),
            format!("stop it with 'nodectl dev down --data-dir {dir}'"),
        ));
    }
    if args
        .nodes
        .is_some_and(|n| usize::from(n) != known.nodes.len())
    {
        return Err(CliError::usage(
            format!("{dir} holds a cluster of {} nodes", known.nodes.len()),
            "leave --nodes out to go on with it, or choose another --data-dir",
        ));
    }
    if args.base_port.is_some() {
        return Err(CliError::usage(
            format!("{dir} holds a cluster that has its ports already"),
            "leave --base-port out to go on with it, or choose another --data-dir",
        ));
    }
    if args.edge_certificates.is_some() && known.nodes.iter().any(|node| node.edge_tls.is_none()) {
        return Err(CliError::usage(
            format!("{dir} holds a cluster without ports for TLS"),
            "leave --edge-certificates out to go on with it, or choose another --data-dir",
        ));
    }
    Ok(known)
}

async fn start(cluster: &Cluster, args: &Up, out: Output) -> Outcome<Members> {
    let steps = if args.no_example { 3 } else { 4 };
    let bar = out.steps_bar(steps);
    let members = cluster
        .start(|step| {
            bar.inc(1);
            bar.set_message(step.to_owned());
        })
        .await?;
    if !args.no_example {
        bar.set_position(steps);
        bar.set_message("deploying the example site");
        let state = cluster.state.borrow().clone();
        example::deploy(&cluster.client(), &state, out).await?;
    }
    bar.finish_and_clear();
    Ok(members)
}

/// After a start that failed: nothing runs, and a folder that never held a whole cluster is empty again.
async fn clean_up(cluster: &Cluster, args: &Up, mut error: CliError, out: Output) -> CliError {
    let state = cluster.state.borrow().clone();
    if let Err(left) = down::stop(&state).await {
        out.warn(&left.to_string());
    }
    if state.complete {
        let logs: Vec<_> = state
            .nodes
            .iter()
            .map(|n| n.data_dir.join(daemon::LOG_FILE).display().to_string())
            .collect();
        error
            .details
            .push(format!("the nodes' logs: {}", logs.join(", ")));
    } else if (args.data_dir.is_some() || args.detach)
        && let Err(left) = purge(&cluster.dir, &state)
    {
        out.warn(&left.to_string());
    }
    error
}

/// Says so when a daemon ends that nobody stopped; ends when none is left.
async fn watch(cluster: &Cluster, out: Output) {
    let mut running = cluster.size();
    loop {
        tokio::time::sleep(WATCH).await;
        let now = cluster.state.borrow().running().count();
        if now == 0 {
            out.warn("all daemons have ended");
            return;
        }
        if now < running {
            out.warn(&format!("{now} of {} daemons are left", cluster.size()));
        }
        running = now;
    }
}

fn summary(report: &Report, members: &Members, args: &Up, dir: &Path) -> String {
    let nebula = sibling("nebula");
    let nodectl = sibling("nodectl");
    let build = if is_installed("nebula") {
        ""
    } else if cfg!(debug_assertions) {
        "  cargo build --bin nebula\n"
    } else {
        "  cargo build --release --bin nebula\n"
    };
    let mut text = format!("{}\n", render::members(members));
    if !args.no_example {
        text.push_str("\nThe example site is served by every node:\n");
        for node in &report.nodes {
            text.push_str(&format!(
                "  curl -H 'Host: {}' {}/\n",
                example::host(),
                node.edge
            ));
        }
    }
    let secure: Vec<&str> = report
        .nodes
        .iter()
        .flat_map(|n| n.edge_tls.as_deref())
        .collect();
    if !secure.is_empty() {
        text.push_str(&format!("\nOver TLS: {}\n", secure.join(", ")));
    }
    text.push_str(&format!(
        "\nTry next:
  export NEBULA_CLUSTER={}
{build}  {nebula} deploy list
  {nebula} deploy create site --path ./dist --tld example.test
  {nebula} deploy create api --path ./app --command 'python3 app.py' --instances 3 --tld example.test
  {nodectl} members
",
        quoted(&dir.join(CLUSTER_FILE)),
    ));
    text.push_str(&if args.detach {
        format!(
            "\nIt goes on until: {nodectl} dev down --data-dir {}\n",
            quoted(dir)
        )
    } else {
        "\nCtrl-C stops everything.\n".to_owned()
    });
    text
}

/// The name alone when the shell would find it, its path otherwise.
fn sibling(name: &str) -> String {
    match daemon::beside(name) {
        Ok(path) if !is_in_path(name) => quoted(&path),
        _ => name.to_owned(),
    }
}

/// False after `cargo run --bin nodectl` in a fresh folder: that builds nothing else.
fn is_installed(name: &str) -> bool {
    is_in_path(name) || daemon::program(name).is_ok()
}

fn is_in_path(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
}

/// For a POSIX shell.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'-' | b'_' | b'+' | b'~');
    if text.bytes().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// What ends a foreground cluster: Ctrl-C, a polite kill, a terminal that goes away.
struct Interrupt {
    signals: Vec<tokio::signal::unix::Signal>,
}

impl Interrupt {
    fn new() -> Outcome<Interrupt> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let signals = kinds
            .into_iter()
            .map(signal)
            .collect::<Result<_, _>>()
            .map_err(|e| CliError::io("cannot listen for signals", &e))?;
        Ok(Interrupt { signals })
    }

    async fn wait(&mut self) {
        let any = self.signals.iter_mut().map(|s| Box::pin(s.recv()));
        futures::future::select_all(any).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Up {
        Up {
            nodes: None,
            data_dir: None,
            base_port: None,
            edge_threads: None,
            edge_certificates: None,
            isolation: None,
            detach: false,
            no_example: false,
        }
    }

    #[test]
    fn a_folder_with_a_cluster_is_gone_on_with_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path()), false).unwrap();
        let fresh = plan(
            &Up {
                nodes: Some(2),
                ..args()
            },
            &home,
        )
        .unwrap();
        assert_eq!(fresh.nodes.len(), 2);
        fresh.store(home.dir()).unwrap();
        assert_eq!(plan(&args(), &home).unwrap(), fresh);
        assert_eq!(
            plan(
                &Up {
                    nodes: Some(2),
                    ..args()
                },
                &home
            )
            .unwrap(),
            fresh
        );
        let other = plan(
            &Up {
                nodes: Some(3),
                ..args()
            },
            &home,
        )
        .unwrap_err();
        assert_eq!(other.exit as u8, 2);
        let ports = plan(
            &Up {
                base_port: std::num::NonZero::new(9000),
                ..args()
            },
            &home,
        );
        assert_eq!(ports.unwrap_err().exit as u8, 2);
        let mut running = fresh;
        running.nodes[0].daemon = crate::process::Process::running(std::process::id());
        running.store(home.dir()).unwrap();
        assert!(
            plan(&args(), &home)
                .unwrap_err()
                .to_string()
                .contains("already runs")
        );
    }

    #[test]
    fn paths_can_be_pasted() {
        assert_eq!(quoted(Path::new("/a/b-c.json")), "/a/b-c.json");
        assert_eq!(quoted(Path::new("/a b/c'd")), "'/a b/c'\\''d'");
    }
}
