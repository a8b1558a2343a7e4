//! Makes this node run what the registry assigned to it, and nothing else.
//!
//! The rules are in [`slot`], pure; [`Supervisor`] is the reconciler that feeds them with what the
//! registry wants and the driver sees, and carries out what they decide. What runs is the driver's to
//! know: a supervisor that is made anew takes everything over as it is.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod brought;
mod contact;
mod files;
mod handle;
mod ports;
mod registrar;
mod slot;
mod supervisor;
mod supplies;
mod workdir;

pub use brought::{Brought, BroughtImage};
pub use files::Files;
pub use handle::{Handle, SupervisorConfig, VOLUMES_DIR};
pub use registrar::Registrar;
pub use supervisor::Supervisor;
pub use supplies::Supplies;
