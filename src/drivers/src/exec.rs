//! Running a command beside an instance's program, for probes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nebula_domain::ids::InstanceId;
use nebula_domain::observed::Surroundings;

use crate::driver::DriverError;

/// Of what a command says, its first line up to this is kept: a reason, not a log.
pub const SAID_BYTES: usize = 300;

/// What every driver can do besides running programs.
#[async_trait]
pub trait Exec: Send + Sync + 'static {
    /// Runs a command as the instance's program is run: its user, folder and environment. `Ok` means that it ended with
    /// code 0. Whatever it started is killed with it: at its end, at the time limit, and when the future is dropped.
    ///
    /// # Errors
    /// [`DriverError::Command`] with the first line that it said, or how it ended; [`DriverError::CommandTimeout`];
    /// [`DriverError::NotRunning`] when there is no program to be beside.
    async fn exec(&self, spec: ExecSpec) -> Result<(), DriverError>;
}

#[derive(Clone)]
pub struct ExecSpec {
    pub instance: InstanceId,
    /// Handed to `/bin/sh -c`.
    pub command: String,
    pub surroundings: Arc<Surroundings>,
    pub timeout: Duration,
}

/// A command may hold secrets.
impl fmt::Debug for ExecSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSpec")
            .field("instance", &self.instance)
            .field("surroundings", &self.surroundings)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
