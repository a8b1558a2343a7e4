//! Peers that nobody should listen to: certificates of the wrong kind, requests of the wrong role, and floods. All of
//! it is sent with quinn itself, so that the mesh's own rules are kept on one side only.

pub mod certificates;
pub mod floods;
pub mod half_open;
pub mod peer;
pub mod raft;
pub mod siege;

pub use certificates::{Credentials, Forge};
pub use peer::{Connected, Rogue};
pub use siege::Siege;
