//! The pure rules of Nebula: what the cluster wants, what it sees, and what follows from both.
//!
//! Nothing here may touch a clock, randomness, the network, the disk or an async runtime. Time
//! arrives as a value ([`time::Millis`]), identities arrive from the registry's counters, and every
//! decision leaves as data that an actor carries out.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod apply;
pub mod authority;
pub mod backoff;
pub mod command;
pub mod events;
pub mod excerpt;
pub mod http;
pub mod ids;
pub mod image;
pub mod isolation;
pub mod level;
pub mod limits;
mod listed;
pub mod loglevel;
pub mod names;
pub mod observed;
pub mod placement;
pub mod plan;
pub mod port;
pub mod probe;
pub mod recovery;
pub mod resources;
pub mod rollout;
pub mod routes;
pub mod runs;
pub mod secret;
pub mod settings;
pub mod site;
pub mod spec;
pub mod state;
pub mod status;
#[cfg(test)]
mod testing;
pub mod text;
pub mod time;
pub mod traffic;
pub mod volume;
pub mod voters;

pub use apply::apply;
pub use command::{Command, Outcome, Rejection, Request};
pub use ids::{ClusterId, Digest, InstanceId, NodeId, ReleaseNumber, RequestId, TokenId};
pub use names::{DeploymentName, DomainName, NodeName, SecretName, VolumeName};
pub use observed::View;
pub use state::State;
