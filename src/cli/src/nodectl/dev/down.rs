//! The end of a `dev` cluster: daemons by their pid and start time, then whatever they ran.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use nebula_node::{API_SOCKET, INSTANCES_DIR};
use rustix::process::Signal;
use serde::Serialize;

use super::home::purge;
use super::state::DevState;
use crate::error::{CliError, Outcome};
use crate::nodectl::daemon::STOP_DEADLINE;
use crate::output::Output;
use crate::pack::chain;

/// What is still there after its daemon had time to stop it gets no more than this.
const LEFT_OVER_GRACE: Duration = Duration::from_secs(2);

/// What was stopped.
#[derive(Debug, Serialize)]
pub struct Down {
    /// Daemons that were running.
    pub stopped: Vec<String>,
    /// Those of them that had to be killed.
    pub killed: Vec<String>,
    pub purged: bool,
}

pub async fn run(dir: &Path, remove: bool, out: Output) -> Outcome {
    let dir = dir.canonicalize().map_err(|e| {
        CliError::usage(
            format!("cannot use --data-dir {}: {e}", dir.display()),
            "give the folder of a 'nodectl dev' cluster",
        )
    })?;
    let state = DevState::load(&dir)?.ok_or_else(|| {
        CliError::usage(
            format!("there is no 'nodectl dev' cluster in {}", dir.display()),
            "give the --data-dir that it was started with",
        )
    })?;
    let mut down = stop(&state).await?;
    if remove {
        purge(&dir, &state)?;
        down.purged = true;
    }
    out.result(&down, |d| {
        let mut text = match d.stopped.as_slice() {
            [] => "nothing was running".to_owned(),
            stopped => format!("stopped {}", stopped.join(", ")),
        };
        if !d.killed.is_empty() {
            text.push_str(&format!(
                "; {} did not stop in time and had to be killed",
                d.killed.join(", ")
            ));
        }
        text
    });
    Ok(())
}

/// Stops daemons and instances. SIGINT tells a daemon to stop what it runs, too.
pub async fn stop(state: &DevState) -> Outcome<Down> {
    let running: Vec<_> = state
        .running()
        .map(|(node, process)| (node.name.clone(), process))
        .collect();
    let ends = join_all(
        running
            .iter()
            .map(|(_, process)| process.stop(Signal::INT, STOP_DEADLINE)),
    )
    .await;
    let killed = running
        .iter()
        .zip(&ends)
        .filter(|(_, by_itself)| !**by_itself)
        .map(|((name, _), _)| name.clone())
        .collect();
    for node in &state.nodes {
        let instances = node.data_dir.join(INSTANCES_DIR);
        if instances.is_dir() {
            stop_instances(instances).await.map_err(|reason| {
                CliError::failed(
                    format!("instances of {} may still run: {reason}", node.name),
                    "run 'nodectl dev down' again",
                )
            })?;
        }
        // A daemon that was killed leaves its socket.
        let _ = std::fs::remove_file(node.data_dir.join(API_SOCKET));
    }
    Ok(Down {
        stopped: running.into_iter().map(|(name, _)| name).collect(),
        killed,
        purged: false,
    })
}

/// Whatever outlived the daemon of this folder.
async fn stop_instances(dir: PathBuf) -> Result<(), String> {
    let stopped = tokio::task::spawn_blocking(move || {
        nebula_drivers::process::stop_everything(&dir, LEFT_OVER_GRACE)
    })
    .await;
    match stopped {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_without_a_cluster_is_a_usage_error() {
        let dir = tempfile::tempdir().unwrap();
        let out = Output::new(true);
        assert_eq!(run(dir.path(), false, out).await.unwrap_err().exit as u8, 2);
        assert_eq!(
            run(&dir.path().join("none"), false, out)
                .await
                .unwrap_err()
                .exit as u8,
            2
        );
    }

    #[tokio::test]
    async fn nothing_that_runs_is_nothing_to_stop() {
        let dir = tempfile::tempdir().unwrap();
        DevState::default().store(dir.path()).unwrap();
        run(dir.path(), true, Output::new(true)).await.unwrap();
        assert!(!dir.path().exists());
    }
}
