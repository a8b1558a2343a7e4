//! All nodes come to hold the same state: what one applied from the log is what the others did.

use std::time::Duration;

use super::{Verdict, violated};
use crate::lab::Lab;
use crate::lab::api::{Consistency, Settings};
use crate::lab::wait::{ASK, DEADLINE, until};

const INVARIANT: &str = "all nodes hold the same state";

/// For when the load has ended: waits until all nodes say the same revision, then compares what they hold.
pub async fn check(lab: &dyn Lab) -> Verdict {
    let mut apis: Vec<_> = (0..lab.nodes()).map(|node| lab.api(node)).collect();
    let states = until(DEADLINE, "all nodes are at one revision", async || {
        let mut states: Vec<Settings> = Vec::new();
        for api in &mut apis {
            let asked = api.settings(Consistency::Stale, ASK.max(Duration::from_secs(1)));
            states.push(asked.await.map_err(|e| e.to_string())?);
        }
        let revisions: Vec<u64> = states.iter().map(|s| s.revision).collect();
        let same = revisions.iter().all(|r| *r == revisions[0]);
        if same {
            Ok(states)
        } else {
            Err(format!("{revisions:?}"))
        }
    })
    .await;
    for (node, state) in states.iter().enumerate() {
        for (key, value) in &states[0].values {
            if state.values.get(key) != Some(value) {
                let other = state.values.get(key);
                let at = state.revision;
                return violated(
                    INVARIANT,
                    format!(
                        "{key} at revision {at} is {value} at node 0 and {other:?} at node {node}"
                    ),
                );
            }
        }
        if state.values.len() != states[0].values.len() {
            return violated(
                INVARIANT,
                format!("node {node} has more settings than node 0"),
            );
        }
    }
    Ok(())
}
