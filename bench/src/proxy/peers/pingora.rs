//! The minimal proxy of `bench/pingora`, one thread.

use std::path::PathBuf;

use anyhow::Context;

use super::{Keep, Peer, Running};
use crate::proxy::proc::{self, Program};
use crate::proxy::stage::{Stage, free_address};

/// The path of the program, where it was built elsewhere than `just bench-proxy-peers` builds it.
const VARIABLE: &str = "NEBULA_BENCH_PINGORA";
/// Below cargo's target folder.
const BUILT: &str = "pingora/release/minimal-pingora";

pub fn program() -> Option<PathBuf> {
    let given = std::env::var_os(VARIABLE).map(PathBuf::from);
    // This program lies in target/<profile>.
    let built = || {
        Some(
            std::env::current_exe()
                .ok()?
                .ancestors()
                .nth(2)?
                .join(BUILT),
        )
    };
    given.or_else(built).filter(|path| path.is_file())
}

pub fn start(stage: &Stage) -> anyhow::Result<Running> {
    let (http, https) = (free_address()?, free_address()?);
    let folder = stage.folder("pingora")?;
    let mut command = proc::command(program().context("the pingora proxy is here")?);
    command
        .args([http, https, stage.upstream].map(|address| address.to_string()))
        .args([&stage.certificate.chain, &stage.certificate.key])
        .current_dir(&folder);
    Ok(Running {
        peer: Peer::Pingora,
        http,
        https,
        keep: Keep::Programs(vec![Program::start(&mut command, &folder)?]),
    })
}
