//! Is a history of one register linearizable? Asked of porcupine; [`exhaustive`] answers the same for small histories by
//! other means, and tests let the two disagree.
//!
//! Every write of a history has a value of its own. That allows what is done with unknown writes here: one whose value
//! nobody read may as well not have happened (nothing was seen between it and the next write), and one whose value was
//! read had happened by the end of the first read that saw it. Both are exact, and without them each unknown write would
//! stay a candidate for every later moment, which makes the search exponential in their number.

pub mod exhaustive;

use std::time::Duration;

use porcupine_rs::{CheckResult, Model, Operation, check_operations_timeout};

use super::api::Consistency;
use super::history::{Action, Op, Outcome};

/// An unset key.
pub const UNSET: u64 = 0;

/// One operation on one register, with its outcome known or open until `returned`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub write: bool,
    pub value: u64,
    pub invoked: u64,
    pub returned: u64,
}

/// When an operation that never returned has returned.
pub const NEVER: u64 = i64::MAX as u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    Violated,
    /// The search took too long; that is a failure too.
    Unknown,
}

/// The events of one key. Stale reads promise nothing here, failed operations have no effect.
pub fn events(ops: &[&Op]) -> Vec<Event> {
    let event = |op: &&Op| {
        let (write, value, returned) = match (&op.action, &op.outcome) {
            (Action::Write { value, .. }, Outcome::Written) => (true, *value, op.returned.order),
            (Action::Write { value, .. }, Outcome::Unknown(_)) => (true, *value, NEVER),
            (Action::Read(Consistency::Linearizable), Outcome::Read(value)) => {
                (false, value.unwrap_or(UNSET), op.returned.order)
            }
            _ => return None,
        };
        Some(Event {
            write,
            value,
            invoked: op.invoked.order,
            returned,
        })
    };
    ops.iter().filter_map(event).collect()
}

/// Leaves out unknown writes that nobody saw, and ends the others where they were first seen.
pub fn settle(events: &[Event]) -> Vec<Event> {
    let first_seen = |value: u64| {
        let reads = events.iter().filter(|e| !e.write && e.value == value);
        reads.map(|e| e.returned).min()
    };
    let settled = |event: &Event| {
        if !event.write || event.returned != NEVER {
            return Some(*event);
        }
        let returned = first_seen(event.value)?;
        Some(Event { returned, ..*event })
    };
    events.iter().filter_map(settled).collect()
}

/// Porcupine's verdict.
pub fn check(events: &[Event], deadline: Duration) -> Verdict {
    let settled = settle(events);
    // A read that ended before the only write of its value began has no place at all.
    if settled.iter().any(|e| e.returned < e.invoked) {
        return Verdict::Violated;
    }
    let time = |order: u64| i64::try_from(order).unwrap_or(i64::MAX);
    let operations: Vec<Operation<Register>> = settled
        .iter()
        .map(|e| Operation {
            client_id: None,
            call_time: time(e.invoked),
            return_time: time(e.returned),
            op: *e,
            metadata: None,
        })
        .collect();
    match check_operations_timeout(&operations, deadline) {
        CheckResult::Ok => Verdict::Linearizable,
        CheckResult::Illegal => Verdict::Violated,
        CheckResult::Unknown => Verdict::Unknown,
    }
}

#[derive(Clone)]
struct Register;

impl Model for Register {
    type State = u64;
    type Op = Event;
    type Metadata = ();

    fn init() -> u64 {
        UNSET
    }

    fn step(state: &u64, event: &Event) -> (bool, u64) {
        (event.write || event.value == *state, event.value)
    }
}
