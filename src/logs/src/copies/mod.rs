//! A node's output on a second node.
//!
//! Every node sends what its instances write to one other live node ([`holder`]), a few seconds behind
//! ([`Copier`]); that one keeps it as it is ([`Keep`]), in the same segments. Where to go on is asked of the
//! holder each time, so that neither a restart nor another holder needs anything remembered.

mod copier;
mod holder;
mod keep;

pub use copier::{COPY_EVERY, COPY_RATE_BYTES, Copier};
pub(crate) use holder::holder;
pub(crate) use keep::Keep;
