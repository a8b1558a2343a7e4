//! What must hold of a simulated cluster, one promise in each file.

mod agreement;
mod exclusive;
mod linearizable;
mod once;
mod settled;

pub use agreement::Agreement;
pub use exclusive::Exclusive;
pub use linearizable::{Outcome, Registers, is_linearizable};
pub use once::Once;
pub use settled::unsettled;
