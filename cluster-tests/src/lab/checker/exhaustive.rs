//! The same question answered by trying all orders, for small histories: short enough to be seen to be right.

use std::collections::HashSet;

use super::{Event, NEVER, UNSET};

/// More operations than this would not end.
pub const MAX_EVENTS: usize = 20;

/// Whether some order of the events, with any of the open ones left out, keeps real time and explains every read.
///
/// # Panics
/// With more than [`MAX_EVENTS`] events.
pub fn is_linearizable(events: &[Event]) -> bool {
    assert!(events.len() <= MAX_EVENTS, "{} events", events.len());
    search(events, 0, UNSET, &mut HashSet::new())
}

/// `done`: a bit for each event that has its place.
fn search(events: &[Event], done: u32, state: u64, seen: &mut HashSet<(u32, u64)>) -> bool {
    let open = |i: &usize| done & (1 << i) == 0;
    let left: Vec<usize> = (0..events.len()).filter(open).collect();
    if left.iter().all(|i| events[*i].returned == NEVER) {
        return true;
    }
    if !seen.insert((done, state)) {
        return false;
    }
    left.iter().any(|i| {
        let event = events[*i];
        // Nothing that is left may have ended before this one began.
        let first = left.iter().all(|j| events[*j].returned >= event.invoked);
        let explained = event.write || event.value == state;
        first && explained && search(events, done | (1 << i), event.value, seen)
    })
}
