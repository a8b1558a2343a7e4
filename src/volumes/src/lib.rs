//! What deployments keep on this node: how large it is, for people on any node, and its deletion when they ask for it.
//!
//! Nothing is ever deleted because the registry does not know it: only what the registry says is to be deleted goes.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod keeper;
mod sizes;

pub use keeper::{Keeper, Records};
pub use sizes::{Measured, Sizes};
