//! Stopping every instance of a data folder, with or without its daemon.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nebula_domain::ids::InstanceId;

use super::{ask_to_stop, shim_is_alive, start, sweep};
use crate::firewall;
use crate::record::{self, StateRecord};

/// After the grace a shim kills what is left and writes its record; it has this long for that.
const AFTER_GRACE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(25);

/// What [`stop_everything`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Down {
    /// Instances that ran and were asked to stop.
    pub stopped: usize,
    /// Of those, the ones whose shim did not answer and was killed.
    pub killed: usize,
}

/// Stops every instance in `instances_dir`: SIGTERM, and SIGKILL after `grace`. Blocks until all
/// are gone, at most `grace` and three seconds. The daemon must not be running, or it would start
/// them again. Also ends what shims that were killed have left behind, and takes the node's network rules away.
///
/// # Errors
/// The folder cannot be read, or an instance may not be signalled (it belongs to another user).
pub fn stop_everything(instances_dir: &Path, grace: Duration) -> io::Result<Down> {
    let deadline = Instant::now() + grace + AFTER_GRACE;
    let mut asked: BTreeMap<InstanceId, StateRecord> = BTreeMap::new();
    let mut down = Down::default();
    loop {
        let mut running = false;
        for (instance, dir) in record::instance_dirs(instances_dir)? {
            match readable(instance, &dir) {
                Some(state) if shim_is_alive(&state) => {
                    running = true;
                    if asked.get(&instance) != Some(&state) {
                        ask_to_stop(&dir, grace).map_err(io::Error::other)?;
                        down.stopped += usize::from(!asked.contains_key(&instance));
                        asked.insert(instance, state);
                    }
                }
                // A shim that has just been started is not yet in the record.
                _ => running |= record::try_lock(&dir).is_ok_and(|lock| lock.is_none()),
            }
        }
        if !running {
            break;
        }
        if Instant::now() >= deadline {
            for state in asked.values().filter(|state| shim_is_alive(state)) {
                start::kill(state);
                down.killed += 1;
            }
            break;
        }
        std::thread::sleep(POLL);
    }
    for (instance, dir) in record::instance_dirs(instances_dir)? {
        let state = readable(instance, &dir);
        let ended = state.map(|state| super::ended(&dir, &state, now(), sweep::Found::Later));
        if let Some(Err(error)) = ended {
            tracing::warn!(%instance, %error, "the end of a run was not found out");
        }
    }
    firewall::remove(instances_dir);
    Ok(down)
}

/// What runs there. A folder that cannot be read must not keep the others from being stopped.
fn readable(instance: InstanceId, dir: &Path) -> Option<StateRecord> {
    record::read(dir, record::STATE).unwrap_or_else(|error| {
        tracing::warn!(%instance, %error, "an instance's folder cannot be read");
        None
    })
}

fn now() -> nebula_domain::time::Millis {
    nebula_telemetry::Clock::system().now()
}
