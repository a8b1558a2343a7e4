//! The HTTP API of a node: authenticate, authorise, translate, propose. It reads the registry and the
//! view and proposes to the registry; it never reaches into the scheduler, the supervisor or drivers.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod access;
mod app;
mod artifacts;
mod deployments;
mod detail;
mod error;
mod events;
#[cfg(test)]
mod fuzz;
mod health;
mod join;
mod logs;
mod members;
mod node;
mod placement;
mod purge;
mod releases;
mod router;
mod runs;
mod secrets;
mod server;
mod settings;
mod tokens;
mod volumes;

pub use app::{App, NodeInfo};
pub use router::openapi;
pub use server::{Api, ApiHandle, ApiStartError, Config};
