//! A stale read may be old, and must have been true: somebody had begun to write that value when it was read.

use std::collections::HashMap;

use super::{Verdict, violated};
use crate::lab::Consistency;
use crate::lab::history::{Action, History, Outcome};

const INVARIANT: &str = "a stale read returns what was once written";

pub fn check(history: &History) -> Verdict {
    let mut begun = HashMap::new();
    for op in &history.ops {
        if let Action::Write { value, .. } = op.action {
            begun.insert((op.key.as_str(), value), op.invoked.order);
        }
    }
    for op in &history.ops {
        let (Action::Read(Consistency::Stale), Outcome::Read(Some(value))) =
            (&op.action, &op.outcome)
        else {
            continue;
        };
        let written = begun.get(&(op.key.as_str(), *value));
        if written.is_none_or(|order| *order > op.returned.order) {
            return violated(INVARIANT, format!("{op:?}"));
        }
    }
    Ok(())
}
