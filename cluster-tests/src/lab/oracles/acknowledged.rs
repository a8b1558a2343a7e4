//! Every acknowledged write is read back after recovery, at every node.
//!
//! What is read back need not be the last acknowledged write: an unknown one may have come later. It must not be one
//! that an acknowledged write had certainly followed.

use std::collections::BTreeMap;

use super::{Verdict, violated};
use crate::lab::Lab;
use crate::lab::api::{Consistency, Settings};
use crate::lab::history::{Action, Clock, History, Op, Outcome};
use crate::lab::load::number;
use crate::lab::wait::{ASK, DEADLINE, until};

const INVARIANT: &str = "every acknowledged write is read back after recovery";

/// Reads all settings at every node, adds that to the history as reads of every key, and checks them.
pub async fn check(lab: &dyn Lab, clock: &Clock, history: &mut History) -> Verdict {
    for node in 0..lab.nodes() {
        let mut api = lab.api(node);
        let (invoked, settings) = until(DEADLINE, "all settings are read back", async || {
            let invoked = clock.now();
            let asked = api.settings(Consistency::Linearizable, ASK).await;
            asked.map(|s| (invoked, s)).map_err(|e| e.to_string())
        })
        .await;
        let returned = clock.now();
        read_back(history, node, &settings)?;
        let keys: Vec<String> = history.by_key().keys().map(|k| (*k).to_owned()).collect();
        history.ops.extend(keys.into_iter().map(|key| Op {
            client: usize::MAX - node,
            node,
            action: Action::Read(Consistency::Linearizable),
            invoked,
            returned,
            outcome: Outcome::Read(settings.values.get(&key).map(|text| number(text))),
            tries: 1,
            key,
        }));
    }
    Ok(())
}

/// The same for settings that were read after the history's end.
pub fn read_back(history: &History, node: usize, settings: &Settings) -> Verdict {
    for (key, ops) in history.by_key() {
        let mut writes: BTreeMap<u64, &Op> = BTreeMap::new();
        for op in ops {
            if let Action::Write { value, .. } = op.action {
                writes.insert(value, op);
            }
        }
        let read = settings.values.get(key).map(|text| number(text));
        let found = read.and_then(|value| writes.get(&value));
        let detail = |why: &str| format!("{key} is {read:?} at node {node}: {why}");
        let last = writes.values().filter(|o| o.is_acknowledged_write());
        let last = last.max_by_key(|o| o.invoked.order);
        match (read, found) {
            (Some(_), None) => return violated(INVARIANT, detail("nobody wrote that")),
            (Some(_), Some(op)) if matches!(op.outcome, Outcome::Failed(_)) => {
                return violated(INVARIANT, detail("that write was refused"));
            }
            (None, _) if last.is_some() => {
                return violated(INVARIANT, detail(&format!("lost {last:?}")));
            }
            (Some(_), Some(op)) if op.is_acknowledged_write() => {
                let lost = last.filter(|last| last.invoked.order > op.returned.order);
                if lost.is_some() {
                    return violated(INVARIANT, detail(&format!("lost {lost:?}")));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::history::Moment;

    fn write(value: u64, order: u64, outcome: Outcome) -> Op {
        let moment = |order| Moment {
            order,
            at: std::time::Duration::ZERO,
        };
        Op {
            client: 0,
            node: 0,
            key: "user.a".into(),
            action: Action::Write {
                value,
                request: String::new(),
            },
            invoked: moment(order),
            returned: moment(order + 1),
            outcome,
            tries: 1,
        }
    }

    fn verdict(ops: &[Op], read: Option<&str>) -> bool {
        let values = read.map(|text| ("user.a".to_owned(), text.to_owned()));
        let settings = Settings {
            revision: 1,
            values: values.into_iter().collect(),
        };
        let history = History { ops: ops.to_vec() };
        read_back(&history, 0, &settings).is_ok()
    }

    #[test]
    fn a_lost_write_is_found_and_an_unknown_one_may_win() {
        let unknown = || Outcome::Unknown("timeout".into());
        let ops = [
            write(1, 10, Outcome::Written),
            write(2, 20, Outcome::Written),
            write(3, 15, unknown()),
            write(4, 30, Outcome::Failed("refused".into())),
        ];
        assert!(verdict(&ops, Some("2")));
        assert!(verdict(&ops, Some("3")));
        assert!(!verdict(&ops, Some("1")), "a later one was acknowledged");
        assert!(!verdict(&ops, Some("4")), "it was refused");
        assert!(!verdict(&ops, Some("5")), "nobody wrote it");
        assert!(!verdict(&ops, Some("torn")), "no number");
        assert!(!verdict(&ops, None), "all is lost");
        assert!(verdict(&[write(3, 15, unknown())], None));
    }
}
