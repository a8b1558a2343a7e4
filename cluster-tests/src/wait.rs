//! Waiting for a condition, never for luck.

use std::time::{Duration, Instant};

/// Between two looks. A look costs a process or a request, so not much shorter.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks until `look` gives something, and returns it.
///
/// # Panics
/// When the deadline passes, with what was waited for and what the last look saw.
#[track_caller]
pub fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(last) if Instant::now() >= end => {
                panic!("within {deadline:?} not: {what}; last: {last}")
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// For conditions: `Ok` when it holds, else what was seen.
pub fn holds(condition: bool, seen: impl std::fmt::Debug) -> Result<(), String> {
    if condition {
        Ok(())
    } else {
        Err(format!("{seen:?}"))
    }
}
