//! Members and the tokens that let them in.

use super::deployments::drop_removed;
use super::volumes;
use crate::command::{Outcome, Rejection};
use crate::ids::{NodeId, TokenId};
use crate::limits::{JOIN_TOKENS, LABELS_PER_NODE, NODES};
use crate::names::{LabelKey, NodeName};
use crate::placement::{Labels, NODE_LABEL};
use crate::state::{Addresses, Cluster, INIT_TOKEN, JoinToken, Node, Role, State};
use crate::time::Millis;

/// Of the first node, until it has said its own.
const FIRST_LEVEL: u32 = 1;
/// The first node, which has to vote because nobody else is there to.
const FIRST_NODE: NodeId = NodeId(1);

pub(super) fn init(
    state: &mut State,
    cluster: &Cluster,
    name: &NodeName,
    addresses: &Addresses,
    api_token_sha256: &[u8; 32],
) -> Result<Outcome, Rejection> {
    if state.cluster.is_some() {
        return Err(Rejection::AlreadyInitialised);
    }
    state.cluster = Some(cluster.clone());
    state.next_node_id = FIRST_NODE.0 + 1;
    state.next_instance_id = 1;
    state
        .api_tokens
        .insert(*api_token_sha256, INIT_TOKEN.to_owned());
    state.nodes.insert(
        FIRST_NODE,
        Node {
            id: FIRST_NODE,
            name: name.clone(),
            role: Role::Voter,
            addresses: addresses.clone(),
            draining: false,
            leaving: false,
            awaited_since: None,
            labels: Labels::new(),
            level: FIRST_LEVEL,
        },
    );
    state.raise_level();
    Ok(Outcome::Joined {
        node: FIRST_NODE,
        role: Role::Voter,
    })
}

pub(super) fn join(
    state: &mut State,
    (token, secret_sha256): (&TokenId, &[u8; 32]),
    now: Millis,
    (name, addresses, level): (&NodeName, &Addresses, u32),
) -> Result<Outcome, Rejection> {
    // A wrong secret answers like a wrong id: whoever guesses learns nothing.
    let known = state
        .join_tokens
        .get(token)
        .filter(|known| known.secret_sha256 == *secret_sha256)
        .ok_or(Rejection::TokenUnknown)?;
    if now >= known.expires_at {
        return Err(Rejection::TokenExpired);
    }
    if known.used > 0 && !known.reusable {
        return Err(Rejection::TokenUsed);
    }
    check_level(state, level)?;
    // A machine that joined and never arrived gives way: it is most likely this one, trying again after its
    // first answer was lost.
    let superseded: Vec<NodeId> = state
        .nodes
        .values()
        .filter(|node| node.awaited_since.is_some())
        .filter(|node| node.name == *name || node.addresses.quic == addresses.quic)
        .map(|node| node.id)
        .collect();
    let is_taken = |by: &dyn Fn(&Node) -> bool| {
        let mut others = state.nodes.values();
        others.any(|node| by(node) && !superseded.contains(&node.id))
    };
    if is_taken(&|node| node.name == *name) {
        return Err(Rejection::NodeNameTaken(name.clone()));
    }
    if is_taken(&|node| node.addresses.quic == addresses.quic) {
        return Err(Rejection::AddressTaken(addresses.quic));
    }
    let count = state.nodes.len() - superseded.len() + 1;
    NODES.check("the number of nodes", count)?;

    let role = known.role;
    let used = JoinToken {
        used: known.used.saturating_add(1),
        ..known.clone()
    };
    for gone in superseded {
        drop_node(state, gone);
    }
    let id = NodeId(state.next_node_id);
    state.next_node_id += 1;
    state.join_tokens.insert(token.clone(), used);
    state.nodes.insert(
        id,
        Node {
            id,
            name: name.clone(),
            role,
            addresses: addresses.clone(),
            draining: false,
            leaving: false,
            awaited_since: Some(now),
            labels: Labels::new(),
            level,
        },
    );
    state.raise_level();
    Ok(Outcome::Joined { node: id, role })
}

pub(super) fn set_addresses(
    state: &mut State,
    id: NodeId,
    addresses: &Addresses,
) -> Result<Outcome, Rejection> {
    let node = state.nodes.get(&id).ok_or(Rejection::NodeUnknown(id))?;
    // The mesh address is how members tell each other apart on the network; API and edge may share a
    // load balancer.
    let mut others = state.nodes.values().filter(|other| other.id != id);
    if others.any(|other| other.addresses.quic == addresses.quic) {
        return Err(Rejection::AddressTaken(addresses.quic));
    }
    // Nodes say this at every start; a plan need not go stale for it.
    if node.addresses != *addresses || node.awaited_since.is_some() {
        let node = Node {
            addresses: addresses.clone(),
            awaited_since: None,
            ..node.clone()
        };
        state.nodes.insert(id, node);
    }
    Ok(Outcome::Done)
}

pub(super) fn set_level(state: &mut State, id: NodeId, level: u32) -> Result<Outcome, Rejection> {
    let node = state.nodes.get(&id).ok_or(Rejection::NodeUnknown(id))?;
    check_level(state, level)?;
    if node.level != level {
        let node = Node {
            level,
            ..node.clone()
        };
        state.nodes.insert(id, node);
        state.raise_level();
    }
    Ok(Outcome::Done)
}

/// What the cluster uses is in the log: a program that does not understand it cannot follow.
fn check_level(state: &State, level: u32) -> Result<(), Rejection> {
    let needed = state.level();
    match level < needed {
        true => Err(Rejection::LevelTooLow { level, needed }),
        false => Ok(()),
    }
}

pub(super) fn set_leaving(
    state: &mut State,
    id: NodeId,
    leaving: bool,
) -> Result<Outcome, Rejection> {
    let node = state.nodes.get(&id).ok_or(Rejection::NodeUnknown(id))?;
    if leaving {
        check_not_last(state, node)?;
    }
    let node = Node {
        leaving,
        ..node.clone()
    };
    state.nodes.insert(id, node);
    Ok(Outcome::Done)
}

pub(super) fn set_draining(
    state: &mut State,
    id: NodeId,
    draining: bool,
) -> Result<Outcome, Rejection> {
    let node = state.nodes.get(&id).ok_or(Rejection::NodeUnknown(id))?;
    if node.draining != draining {
        let node = Node {
            draining,
            ..node.clone()
        };
        state.nodes.insert(id, node);
    }
    Ok(Outcome::Done)
}

pub(super) fn set_labels(
    state: &mut State,
    id: NodeId,
    set: &Labels,
    remove: &[LabelKey],
) -> Result<Outcome, Rejection> {
    let node = state.nodes.get(&id).ok_or(Rejection::NodeUnknown(id))?;
    let mut named = set.keys().chain(remove);
    if let Some(key) = named.find(|key| key.as_str() == NODE_LABEL) {
        return Err(Rejection::LabelReserved(key.clone()));
    }
    let mut labels = node.labels.clone();
    labels.extend(set.clone());
    labels.retain(|key, _| !remove.contains(key));
    LABELS_PER_NODE.check("the number of labels of a node", labels.len())?;
    if labels != node.labels {
        let node = Node {
            labels,
            ..node.clone()
        };
        state.nodes.insert(id, node);
    }
    Ok(Outcome::Done)
}

/// A cluster keeps a member that can vote. One that is leaving hands its vote over, perhaps to this very node;
/// one that never arrived cannot vote.
fn check_not_last(state: &State, node: &Node) -> Result<(), Rejection> {
    let stays = |other: &Node| {
        other.id != node.id
            && other.role == Role::Voter
            && !other.leaving
            && other.awaited_since.is_none()
    };
    if node.role == Role::Voter && !state.nodes.values().any(stays) {
        return Err(Rejection::LastVoter(node.id));
    }
    Ok(())
}

/// Drops the node and its instances; the next plan replaces them elsewhere.
pub(super) fn remove(state: &mut State, id: NodeId) -> Result<Outcome, Rejection> {
    // Ids are never used again: whoever asks a second time wants what is already so.
    if state.was_removed(id) {
        return Ok(Outcome::Done);
    }
    let node = state.nodes.get(&id).ok_or(Rejection::NodeUnknown(id))?;
    check_not_last(state, node)?;
    drop_node(state, id);
    state.raise_level();
    Ok(Outcome::Done)
}

/// Drops a member that never arrived.
pub(super) fn forget_joiner(state: &mut State, id: NodeId) -> Result<Outcome, Rejection> {
    let node = state.nodes.get(&id).ok_or(Rejection::NodeUnknown(id))?;
    if node.awaited_since.is_none() {
        return Err(Rejection::NodeArrived(id));
    }
    drop_node(state, id);
    state.raise_level();
    Ok(Outcome::Done)
}

/// Ends a membership; the next plan replaces what ran there elsewhere.
pub(crate) fn drop_node(state: &mut State, id: NodeId) {
    state.nodes.remove(&id);
    let lost: Vec<_> = state.instances_on(id).cloned().collect();
    for instance in &lost {
        state.instances.remove(&instance.id);
        volumes::let_go(state, instance);
        state.stays(instance.id);
    }
    volumes::node_dropped(state, id);
    drop_removed(state, lost.into_iter().map(|instance| instance.deployment));
}

pub(super) fn create_token(
    state: &mut State,
    token: &JoinToken,
    now: Millis,
) -> Result<Outcome, Rejection> {
    let expired: Vec<TokenId> = state
        .join_tokens
        .values()
        .filter(|known| now >= known.expires_at)
        .map(|known| known.id.clone())
        .collect();
    let kept = state.join_tokens.len() - expired.len();
    JOIN_TOKENS.check("the number of join tokens", kept + 1)?;
    for id in expired {
        state.join_tokens.remove(&id);
    }
    state.join_tokens.insert(token.id.clone(), token.clone());
    Ok(Outcome::Done)
}
