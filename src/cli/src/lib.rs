//! The command lines `nebula` (for people who deploy) and `nodectl` (for whoever looks after the machines).
//!
//! clap reads the flags, each command checks them and makes a request of them, `nebula-client` sends it, and the
//! answer is shown. What belongs to one group of commands is in one file.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod app;
mod connect;
mod contexts;
mod duration;
mod env_file;
mod error;
mod last_lines;
mod manifest;
mod nebula;
mod nodectl;
mod origin;
mod output;
mod pack;
mod process;
mod render;
mod site_rules;
mod spec;
mod toml_text;
mod wait;

use std::process::ExitCode;

/// The whole of the program `nebula`.
pub fn nebula() -> ExitCode {
    app::main(nebula::run)
}

/// The whole of the program `nodectl`.
pub fn nodectl() -> ExitCode {
    app::main(nodectl::run)
}
