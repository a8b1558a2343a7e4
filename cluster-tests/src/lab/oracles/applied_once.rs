//! Each request id is applied once: an acknowledged write that is sent again, after another one has followed it,
//! is acknowledged again and changes nothing.

use std::collections::BTreeMap;

use super::{Verdict, violated};
use crate::lab::Lab;
use crate::lab::api::Consistency;
use crate::lab::history::{Action, History, Op};
use crate::lab::wait::{ASK, DEADLINE, until};

const INVARIANT: &str = "each request id is applied once";
/// Requests that are sent again; the latest ones, since a cluster remembers a bounded number.
const SENT_AGAIN: usize = 200;

/// For when the load has ended and all is well again.
pub async fn check(lab: &dyn Lab, history: &History) -> Verdict {
    let mut last: BTreeMap<&str, &Op> = BTreeMap::new();
    let acknowledged = || history.ops.iter().filter(|o| o.is_acknowledged_write());
    for op in acknowledged() {
        let newest = last.entry(&op.key).or_insert(op);
        if op.invoked.order > newest.invoked.order {
            *newest = op;
        }
    }
    // Nothing else is sent again: of a write that was not acknowledged nobody knows whether it is the first time.
    let overtaken = |op: &&Op| last[op.key.as_str()].invoked.order > op.returned.order;
    let mut again: Vec<&Op> = acknowledged().filter(overtaken).collect();
    again.sort_by_key(|op| std::cmp::Reverse(op.returned.order));
    again.truncate(SENT_AGAIN);

    let before = settings(lab, 0).await;
    for (index, op) in again.iter().enumerate() {
        let Action::Write { value, request } = &op.action else {
            continue;
        };
        let mut api = lab.api(index % lab.nodes());
        let value = value.to_string();
        until(DEADLINE, "a repeated request is answered", async || {
            let sent = api.put(&op.key, &value, request, ASK);
            sent.await.map_err(|e| e.to_string())
        })
        .await;
    }
    let after = settings(lab, lab.nodes() - 1).await;
    for op in &again {
        let (was, is) = (before.get(&op.key), after.get(&op.key));
        if was != is {
            return violated(
                INVARIANT,
                format!("{was:?} became {is:?} when this was sent again: {op:?}"),
            );
        }
    }
    Ok(())
}

async fn settings(lab: &dyn Lab, node: usize) -> BTreeMap<String, String> {
    let mut api = lab.api(node);
    let read = until(DEADLINE, "all settings", async || {
        let asked = api.settings(Consistency::Linearizable, ASK).await;
        asked.map_err(|e| e.to_string())
    });
    read.await.values
}
