//! The data plane: answers people's HTTP requests on this node, from the instances of all nodes.
//!
//! It sees the route table, this node's running instances and the mesh, and nothing of the registry
//! or of gossip, so it goes on with the last table whatever happens to those. It runs on its own
//! threads (`edge`): the control plane cannot slow a request, and requests cannot starve a heartbeat.
//!
//! The life of a request: `edge` accepts, `handler` finds the route, `statics` answers or
//! `forward` finds an instance, over a pooled connection of `upstream`; `tunnel` is the other
//! node's end of that.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod body;
mod config;
mod edge;
mod ejection;
mod error;
mod forward;
#[cfg(test)]
mod fuzz;
mod handler;
mod headers;
mod listener;
mod metrics;
mod pages;
mod statics;
mod tunnel;
mod upstream;

pub use config::{Config, Limits};
pub use edge::{Bound, Proxy, ProxyHandle};
pub use error::ProxyError;
