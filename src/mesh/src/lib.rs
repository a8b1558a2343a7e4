//! How nodes talk: one QUIC endpoint per node with mutual TLS, and on it typed streams
//! ([`Mesh::call`], [`Mesh::open`]) and messages ([`Mesh::send`]).
//!
//! Who may connect is decided by certificate *and* directory; see [`Directory::admission`]. The first
//! byte of every stream and message is its [`Protocol`](nebula_wire::peer::Protocol). Every call has a
//! deadline, every queue a limit ([`Limits`]).
//!
//! A connection carries streams in one direction only, from the node that dialled it, so the two
//! directions never share fate or flow control. Each direction has two lanes: consensus and gossip
//! on one connection, user traffic and archives on another, so that no amount of the latter can hold
//! up a heartbeat.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod accept;
mod budget;
mod config;
mod counters;
mod directory;
mod error;
mod incoming;
mod lane;
mod link;
mod mesh;
mod messages;
mod monitor;
mod net;
mod service;
mod slot;
mod stream;
mod suspects;
mod transport;

pub use config::{Config, Limits};
pub use directory::{Admission, Directory, DirectoryEntry};
pub use error::{CallError, MeshError};
pub use link::Silence;
pub use mesh::Mesh;
pub use net::{Answer, Net};
pub use service::{Peer, Service};
pub use stream::{Stream, StreamReader, StreamWriter};
