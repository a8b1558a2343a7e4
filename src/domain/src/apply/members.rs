//! Members and the tokens that let them in.

use super::deployments::drop_removed;
use crate::command::{Outcome, Rejection};
use crate::ids::{NodeId, TokenId};
use crate::limits::{JOIN_TOKENS, NODES};
use crate::names::NodeName;
use crate::state::{Addresses, Cluster, JoinToken, Node, Role, State};
use crate::time::Millis;

/// The first node, which has to vote because nobody else is there to.
const FIRST_NODE: NodeId = NodeId(1);

/// The name of the API token that `nodectl init` makes.
const INIT_TOKEN: &str = "init";

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
        },
    );
    Ok(Outcome::Joined {
        node: FIRST_NODE,
        role: Role::Voter,
    })
}

pub(super) fn join(
    state: &mut State,
    token: &TokenId,
    secret_sha256: &[u8; 32],
    now: Millis,
    name: &NodeName,
    addresses: &Addresses,
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
    if state.nodes.values().any(|node| node.name == *name) {
        return Err(Rejection::NodeNameTaken(name.clone()));
    }
    check_address(state, None, addresses)?;
    NODES.check("the number of nodes", state.nodes.len() + 1)?;

    let role = known.role;
    let used = JoinToken {
        used: known.used.saturating_add(1),
        ..known.clone()
    };
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
        },
    );
    Ok(Outcome::Joined { node: id, role })
}

/// The mesh address is how members tell each other apart on the network; API and edge may share a
/// load balancer.
fn check_address(
    state: &State,
    own: Option<NodeId>,
    addresses: &Addresses,
) -> Result<(), Rejection> {
    let taken = state
        .nodes
        .values()
        .any(|node| Some(node.id) != own && node.addresses.quic == addresses.quic);
    if taken {
        return Err(Rejection::AddressTaken(addresses.quic));
    }
    Ok(())
}

pub(super) fn set_addresses(
    state: &mut State,
    id: NodeId,
    addresses: &Addresses,
) -> Result<Outcome, Rejection> {
    let node = state.nodes.get(&id).ok_or(Rejection::NodeUnknown(id))?;
    check_address(state, Some(id), addresses)?;
    // Nodes say this at every start; a plan need not go stale for it.
    if node.addresses != *addresses {
        let node = Node {
            addresses: addresses.clone(),
            ..node.clone()
        };
        state.nodes.insert(id, node);
    }
    Ok(Outcome::Done)
}

pub(super) fn set_leaving(
    state: &mut State,
    id: NodeId,
    leaving: bool,
) -> Result<Outcome, Rejection> {
    let node = state.nodes.get(&id).ok_or(Rejection::NodeUnknown(id))?;
    let stays = |other: &Node| other.id != id && other.role == Role::Voter && !other.leaving;
    if leaving && node.role == Role::Voter && !state.nodes.values().any(stays) {
        return Err(Rejection::LastVoter(id));
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

/// Drops the node and its instances; the next plan replaces them elsewhere.
pub(super) fn remove(state: &mut State, id: NodeId) -> Result<Outcome, Rejection> {
    let node = state.nodes.get(&id).ok_or(Rejection::NodeUnknown(id))?;
    // One that is leaving hands its vote over, perhaps to this very node.
    let another_voter = state
        .nodes
        .values()
        .any(|other| other.id != id && other.role == Role::Voter && !other.leaving);
    if node.role == Role::Voter && !another_voter {
        return Err(Rejection::LastVoter(id));
    }
    state.nodes.remove(&id);
    let lost: Vec<_> = state
        .instances_on(id)
        .map(|instance| (instance.id, instance.deployment.clone()))
        .collect();
    for (instance, _) in &lost {
        state.instances.remove(instance);
    }
    drop_removed(state, lost.into_iter().map(|(_, deployment)| deployment));
    Ok(Outcome::Done)
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
