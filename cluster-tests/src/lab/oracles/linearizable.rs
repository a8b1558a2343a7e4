//! Every key's history is linearizable. A search that does not end is a violation too.

use std::fmt::Write;
use std::time::Duration;

use super::{Verdict, violated};
use crate::lab::checker;
use crate::lab::history::{History, Op};

const INVARIANT: &str = "the history is linearizable";
/// For one key; a history of a few hundred operations takes milliseconds.
const SEARCH: Duration = Duration::from_secs(60);
/// Lines of a broken history that are shown.
const SHOWN: usize = 60;

pub fn check(history: &History) -> Verdict {
    for (key, ops) in history.by_key() {
        match checker::check(&checker::events(&ops), SEARCH) {
            checker::Verdict::Linearizable => {}
            checker::Verdict::Unknown => {
                return violated(INVARIANT, format!("{key}: no verdict within {SEARCH:?}"));
            }
            checker::Verdict::Violated => {
                return violated(INVARIANT, format!("{key}:\n{}", show(&ops)));
            }
        }
    }
    Ok(())
}

/// The operations around the first one without which the history up to it would be fine.
fn show(ops: &[&Op]) -> String {
    let mut ops = ops.to_vec();
    ops.sort_by_key(|o| o.returned.order);
    let broken = |n: &usize| {
        checker::check(&checker::events(&ops[..*n]), SEARCH) != checker::Verdict::Linearizable
    };
    let end = (1..=ops.len()).find(broken).unwrap_or(ops.len());
    let mut text = String::new();
    for op in &ops[end.saturating_sub(SHOWN)..end] {
        let _ = writeln!(
            text,
            "client {} node {} [{:.4} {:.4}] #{}-{} {:?} -> {:?} ({} tries)",
            op.client,
            op.node,
            op.invoked.at.as_secs_f64(),
            op.returned.at.as_secs_f64(),
            op.invoked.order,
            op.returned.order,
            op.action,
            op.outcome,
            op.tries
        );
    }
    text + "the last line is the first that cannot be explained"
}
