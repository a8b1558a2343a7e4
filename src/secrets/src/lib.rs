//! Secrets: sealing them for the registry, and opening them for the programs that are given them.
//!
//! The key is made of the CA's, so that every voter has it, no registry holds it, and nothing more has to be handed
//! over. Any other node asks a voter for the secrets of an instance that it was assigned, over the mesh, and gets those
//! and no others. What was opened for an instance is kept in memory for as long as that is assigned here: its program
//! starts again also when no voter answers. It is never written down.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod seal;
mod vault;

pub use seal::SealError;
pub use vault::{KeySource, Vault, VaultError};

/// What the key is derived for; a change makes all that was sealed unreadable.
pub const KEY_PURPOSE: &str = "nebula 2026 secrets of deployments";
