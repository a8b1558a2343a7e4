//! Which node keeps the copy of another's output.

use nebula_domain::NodeId;

/// By rendezvous hashing (Thaler and Ravishankar, 1998): everybody who sees the same candidates comes to the
/// same one, and when one goes or comes only those change that it had or gets. Never the owner itself.
pub(crate) fn holder(
    owner: NodeId,
    candidates: impl IntoIterator<Item = NodeId>,
) -> Option<NodeId> {
    let weight = |candidate: &NodeId| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&owner.0.to_le_bytes());
        hasher.update(&candidate.0.to_le_bytes());
        *hasher.finalize().as_bytes()
    };
    let others = candidates.into_iter().filter(|node| *node != owner);
    others.max_by_key(|node| (weight(node), *node))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_node_that_goes_changes_only_what_it_had() {
        let nodes: Vec<NodeId> = (1..=20).map(NodeId).collect();
        let all: BTreeMap<_, _> = nodes
            .iter()
            .map(|owner| (*owner, holder(*owner, nodes.clone()).unwrap()))
            .collect();
        for lost in &nodes {
            for (owner, held_by) in &all {
                let left = nodes.iter().copied().filter(|node| node != lost);
                let now = holder(*owner, left).unwrap();
                assert_ne!(now, *owner);
                assert!(now == *held_by || held_by == lost);
            }
        }
        assert_eq!(holder(NodeId(1), [NodeId(1)]), None);
        let mut held: BTreeMap<NodeId, usize> = BTreeMap::new();
        all.values()
            .for_each(|node| *held.entry(*node).or_default() += 1);
        assert!(held.values().all(|count| *count <= 6), "{held:?}");
    }
}
