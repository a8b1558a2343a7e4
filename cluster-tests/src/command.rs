//! Runs `nebula` and `nodectl` as a person's shell would.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::binaries;

/// What a command left behind.
#[derive(Debug, Clone)]
pub struct Output {
    pub line: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The command succeeded.
    #[track_caller]
    pub fn ok(self) -> Output {
        assert!(self.code == 0, "{self}");
        self
    }

    /// The command failed with this exit code and said something that holds `words`.
    #[track_caller]
    pub fn fails(self, code: i32, words: &str) -> Output {
        assert!(self.code == code, "expected exit code {code}: {self}");
        assert!(self.stderr.contains(words), "expected '{words}': {self}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("standard output is not JSON ({e}): {self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "$ {} -> exit code {}", self.line, self.code)?;
        writeln!(
            f,
            "--- standard output\n{}--- standard error\n{}",
            self.stdout, self.stderr
        )
    }
}

/// A command with a clean environment: no context or cluster of whoever runs the tests.
pub fn prepare<S: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    for name in ["NEBULA_CLUSTER", "NEBULA_CONTEXT", "NEBULA_DATA_DIR"] {
        command.env_remove(name);
    }
    command
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .env("NO_COLOR", "1");
    command
}

pub fn run(mut command: Command) -> Output {
    let args: Vec<_> = command
        .get_args()
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let line = format!(
        "{} {}",
        command.get_program().to_string_lossy(),
        args.join(" ")
    );
    let done = command
        .output()
        .unwrap_or_else(|e| panic!("cannot run {line}: {e}"));
    Output {
        line,
        code: done.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
    }
}

pub fn nodectl<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    run(prepare(&binaries::path("nodectl"), args))
}

pub fn nebula<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    run(prepare(&binaries::path("nebula"), args))
}

/// A command for the node with this data folder, through its socket.
pub fn on_node<S: AsRef<OsStr>>(
    data_dir: &Path,
    program: &str,
    args: impl IntoIterator<Item = S>,
) -> Output {
    let mut command = prepare(&binaries::path(program), args);
    command.env("NEBULA_DATA_DIR", data_dir);
    run(command)
}
