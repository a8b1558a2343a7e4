//! Running a command beside an instance's program, for probes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nebula_domain::ids::InstanceId;
use nebula_domain::observed::Surroundings;

use crate::driver::DriverError;

/// Of what a command says, its last lines up to this are kept: a reason, not a log.
pub const SAID_BYTES: usize = 300;
/// What went wrong is said last; what the lines before it say helps at times.
pub const SAID_LINES: usize = 3;
/// Between lines that are told as one.
const BETWEEN: &str = " | ";

/// What every driver can do besides running programs.
#[async_trait]
pub trait Exec: Send + Sync + 'static {
    /// Runs a command as the instance's program is run: its limits, its isolation, its user, folder and environment. `Ok`
    /// means that it ended with code 0. Whatever it started is killed with it: at its end, at the time limit, and when the future is dropped.
    ///
    /// # Errors
    /// [`DriverError::Command`] with the last lines that it said, or how it ended; [`DriverError::CommandTimeout`];
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

/// The last that a command said.
#[derive(Debug, Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
        // Room for as much again: most of the time nothing is moved.
        if self.0.len() > 2 * Tail::KEPT_BYTES {
            self.0.drain(..self.0.len() - Tail::KEPT_BYTES);
        }
    }

    /// Blank lines take room too.
    const KEPT_BYTES: usize = 4 * SAID_BYTES;

    /// Its last lines as one.
    pub(crate) fn text(&self) -> String {
        let said = String::from_utf8_lossy(&self.0);
        let lines: Vec<&str> = said
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let last = &lines[lines.len().saturating_sub(SAID_LINES)..];
        let text = last.join(BETWEEN).replace(char::is_control, " ");
        let mut from = text.len().saturating_sub(SAID_BYTES);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        text[from..].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pieces: &[&str]) -> String {
        let mut tail = Tail::default();
        for piece in pieces {
            tail.push(piece.as_bytes());
        }
        tail.text()
    }

    #[test]
    fn the_last_lines_are_told_as_one() {
        assert_eq!(told(&[]), "");
        assert_eq!(told(&["\n \n"]), "");
        assert_eq!(told(&["a", "b\n\n"]), "ab");
        assert_eq!(told(&["1\n2\n", "3\n\n4\tx\r\n"]), "2 | 3 | 4 x");
    }

    #[test]
    fn no_more_is_kept_than_is_told() {
        let long = "é".repeat(SAID_BYTES);
        let text = told(&[&long, "!"]);
        assert!(text.len() <= SAID_BYTES && text.ends_with("é!"), "{text}");
        let mut tail = Tail::default();
        for _ in 0..10_000 {
            tail.push(b"line after line\n");
        }
        assert!(tail.0.len() <= 2 * Tail::KEPT_BYTES + 16);
        assert!(tail.text().ends_with("line after line | line after line"));
    }
}
