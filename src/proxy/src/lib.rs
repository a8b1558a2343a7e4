//! The data plane: answers people's HTTP requests on this node, from the instances of all nodes.
//!
//! It sees the route table, this node's running instances and the mesh, and nothing of the registry
//! or of gossip, so it goes on with the last table whatever happens to those. It runs on its own
//! threads (`edge`): the control plane cannot slow a request, and requests cannot starve a heartbeat.
//!
//! The life of a request: `edge` accepts, `proxy_protocol` and `tls` see to what comes before HTTP, `client`
//! reads a head, `handler` finds the route, `guard` lets it in, `statics` or `cache` answers or `forward` finds an instance by
//! `choice`, to which `exchange` speaks over a pooled connection of `upstream`; `tunnel` is the other node's end of that.
//! HTTP/1.1 itself is `h1`: one task carries a client's connection with all its requests, and a request that goes through
//! costs no copy of its fields. `h2` and `h3` stand before it for clients of HTTP/2 and HTTP/3: each stream is such a connection
//! with one request (`streams`); `upstream` does the inverse for instances of HTTP/2, and `grpc` is what gRPC wants beyond that.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod access;
mod body;
mod bridge;
mod cache;
mod choice;
mod client;
mod config;
mod edge;
mod ejection;
mod error;
mod exchange;
mod finish;
mod forward;
#[cfg(test)]
mod fuzz;
mod grpc;
mod guard;
mod h1;
mod h2;
mod h3;
mod handler;
mod headers;
mod hedge;
mod listener;
mod metrics;
mod origin;
mod pages;
mod proxy_protocol;
mod seats;
mod sendfile;
mod service;
mod statics;
mod streams;
mod switch;
mod tls;
mod trials;
mod tunnel;
mod upstream;
mod visitor;

pub use bridge::{BridgeConfig, Bridges};
pub use config::{Config, Http3Config, Limits, TlsConfig};
pub use edge::{Bound, Proxy, ProxyHandle, Work};
pub use error::ProxyError;
pub use guard::SharedRates;
pub use trials::Trials;
