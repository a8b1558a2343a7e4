//! What only the leader does: [`Scheduler`] plans placements, [`Rollouts`] takes releases from stage to stage, [`Runs`]
//! takes runs from attempt to attempt, [`Caretaker`] ends what was begun with members and not finished, and [`Recorder`] writes down what is seen. They run on every node and act only on the leader.
//!
//! Where instances go is `domain::plan`'s decision alone. The scheduler asks for a plan when something
//! changed, proposes it, and waits until it sees its own proposal applied before it plans again.
//!
//! There is no grace after an election, so that a lost leader's instances are replaced at once, unless
//! a majority had been lost before ([`LOST_FOR`]): then its machines are about to return. A
//! leader that has just started has a fresh view: nodes not heard of yet count as alive there and
//! say nothing, and a plan moves nothing away from a node that is alive. Until the view lists every
//! member there is no plan at all.
//!
//! A plan costs what has changed, as the planner remembers what it has seen. When there is nothing else to do and the nodes
//! have been the same for a while ([`EVEN_OUT_AFTER`]), instances move to nodes that are less full.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod calm;
mod caretaker;
mod evidence;
mod metrics;
mod recorder;
mod registrar;
mod rollouts;
mod runs;
mod scheduler;
mod stages;

pub use calm::{EVEN_OUT_AFTER, EVEN_OUT_PERIOD};
pub use caretaker::{Caretaker, JOINING_LASTS, LEAVING_LASTS};
pub use evidence::Evidence;
pub use metrics::UNPLACED_SERIES;
pub use recorder::Recorder;
pub use registrar::Registrar;
pub use rollouts::Rollouts;
pub use runs::Runs;
pub use scheduler::{
    LOST_FOR, MIN_GAP, PERIOD, PLANS_PER_PASS, RETURN_GRACE, Scheduler, SchedulerError,
};
