//! Nodes that have applied the same requests hold the same state, and no node goes back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use nebula_domain::{NodeId, State};
use nebula_wire::codec;

use crate::sim::node::Life;
use crate::sim::trace::Trace;

#[derive(Clone)]
pub struct Agreement {
    trace: Trace,
    /// The state at each revision, as a hash, and the first node that had it.
    seen: Arc<Mutex<BTreeMap<u64, ([u8; 32], NodeId)>>>,
}

impl Agreement {
    pub fn new(trace: Trace) -> Agreement {
        Agreement {
            trace,
            seen: Arc::default(),
        }
    }

    /// Looks at every state that the daemon publishes.
    pub fn follow(&self, life: &Life) {
        let (this, node) = (self.clone(), life.node);
        let mut states = life.registry.watch();
        life.beside(async move {
            let mut last = 0;
            loop {
                let state = states.borrow_and_update().clone();
                if state.revision < last {
                    this.trace.violate(
                        "agreement",
                        format_args!("{node} went back from {last} to {}", state.revision),
                    );
                }
                last = state.revision;
                this.look(node, &state);
                if states.changed().await.is_err() {
                    return;
                }
            }
        });
        let (trace, mut status) = (self.trace.clone(), life.registry.status());
        life.beside(async move {
            loop {
                let now = status.borrow_and_update().clone();
                if now.is_leader {
                    trace.note(format_args!("{node} leads in term {}", now.term));
                }
                let is_leader = now.is_leader;
                let turned = status.wait_for(|s| s.is_leader != is_leader);
                if turned.await.is_err() {
                    return;
                }
            }
        });
    }

    fn look(&self, node: NodeId, state: &State) {
        let hash = fingerprint(state);
        self.trace
            .tick(format_args!("{node} at revision {}", state.revision));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, by) = *seen.entry(state.revision).or_insert((hash, node));
        if first != hash {
            self.trace.violate(
                "agreement",
                format_args!(
                    "at revision {} {node} holds another state than {by} did",
                    state.revision
                ),
            );
        }
    }
}

/// Of all but the remembered answers, which refusals add to without a new revision; those are compared
/// in the end.
fn fingerprint(state: &State) -> [u8; 32] {
    let parts = (
        (state.revision, state.plan_revision, &state.cluster),
        (state.next_node_id, state.next_instance_id),
        (
            Vec::from_iter(&state.nodes),
            Vec::from_iter(&state.join_tokens),
        ),
        (
            Vec::from_iter(&state.deployments),
            Vec::from_iter(&state.instances),
        ),
        (
            Vec::from_iter(&state.settings),
            Vec::from_iter(&state.cache_purges),
        ),
        (
            Vec::from_iter(&state.volumes),
            Vec::from_iter(&state.secrets),
        ),
        (Vec::from_iter(&state.work), Vec::from_iter(&state.moving)),
        Vec::from_iter(state.events.after(0)),
    );
    match codec::encode(&parts) {
        Ok(bytes) => *blake3::hash(&bytes).as_bytes(),
        Err(_) => [0; 32],
    }
}
