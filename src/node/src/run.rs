//! The life of a daemon: lock, load, wire, serve, wait for a signal, stop in order.

use std::path::PathBuf;
use std::time::Duration;

use nebula_telemetry::logging;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Config, LogFormat};
use crate::lock::{self, LockError};
use crate::setup;
use crate::wiring::{Node, StartError};

/// Requests under way are given this long at the end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// Why a daemon did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the data folder {} has not been prepared: run 'nodectl init' or 'nodectl join' first", .0.display())]
    NotPrepared(PathBuf),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Log(#[from] logging::LogError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    #[error(
        "this node was removed from the cluster: its instances have been stopped; join it again in an empty data folder"
    )]
    Removed,
}

/// What ended the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// SIGTERM: a restart or an upgrade. Instances go on without the daemon.
    Leave,
    /// SIGINT: a person at the terminal, or `dev`. Instances are stopped as well.
    StopAll,
    Removed,
}

/// Runs a prepared node until a signal: SIGTERM leaves the instances running (they are adopted by
/// the next daemon), SIGINT stops them too. `machine_goes_down`: what the init system says then; peers wait for a daemon
/// that is replaced, and not for a machine.
pub async fn run(
    config: Config,
    machine_goes_down: impl AsyncFnOnce() -> bool,
) -> Result<(), RunError> {
    if !setup::is_prepared(&config.data_dir) {
        return Err(RunError::NotPrepared(config.data_dir));
    }
    let _lock = lock::take(&config.data_dir)?;
    let format = match config.log.format {
        LogFormat::Text => logging::LogFormat::Text,
        LogFormat::Json => logging::LogFormat::Json,
    };
    logging::init(&logging::LogConfig {
        format,
        filter: config.log.filter.clone(),
    })?;

    let mut signals = Signals::new().map_err(RunError::Signals)?;
    let node = Node::start(config).await?;
    tracing::info!(node = %node.me, quic = %node.quic, api = %node.api, edge = %node.edge, edge_tls = node.edge_tls.map(tracing::field::display), "this node is up");

    let end = tokio::select! {
        end = signals.next() => end,
        () = node.removed() => End::Removed,
    };
    tracing::info!(?end, "stopping");
    if end == End::Leave {
        node.say_restarting(machine_goes_down().await).await;
    }
    node.stop(end != End::Leave, DRAIN_DEADLINE).await;
    match end {
        End::Removed => Err(RunError::Removed),
        End::Leave | End::StopAll => Ok(()),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> End {
        tokio::select! {
            _ = self.terminate.recv() => End::Leave,
            _ = self.interrupt.recv() => End::StopAll,
        }
    }
}
