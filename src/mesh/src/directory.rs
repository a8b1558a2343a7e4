//! Who belongs to the cluster, as far as this node's registry knows, and what follows for a peer.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use nebula_domain::NodeId;
use nebula_domain::state::Role;
use nebula_wire::peer::Protocol;

/// The members. Published by whoever follows the registry; the mesh only reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    pub me: NodeId,
    pub nodes: BTreeMap<NodeId, DirectoryEntry>,
    /// Ids at or above this one may belong to nodes that joined after this directory was current.
    pub next_node_id: u64,
}

/// One member: where it is reached, and its role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    pub quic: SocketAddr,
    pub role: Role,
}

/// What a node with a valid certificate may do here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Member(Role),
    /// Joined after our registry's latest entry: it may speak [`Protocol::Raft`], so that we catch up.
    Newer,
    /// Its certificate has ended: it may ask for a new one over [`Protocol::Identity`].
    Expired,
    /// Was removed for good; its id is not used again.
    Removed,
}

impl Admission {
    pub fn permits(self, protocol: Protocol) -> bool {
        match self {
            Admission::Member(_) => true,
            Admission::Newer => protocol == Protocol::Raft,
            Admission::Expired => protocol == Protocol::Identity,
            Admission::Removed => false,
        }
    }

    pub(crate) fn role(self) -> Option<Role> {
        match self {
            Admission::Member(role) => Some(role),
            Admission::Newer | Admission::Expired | Admission::Removed => None,
        }
    }
}

impl Directory {
    pub fn admission(&self, node: NodeId) -> Admission {
        match self.nodes.get(&node) {
            Some(entry) => Admission::Member(entry.role),
            None if node.0 >= self.next_node_id => Admission::Newer,
            None => Admission::Removed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_what_an_unknown_node_may_do() {
        let entry = DirectoryEntry {
            quic: "127.0.0.1:1".parse().unwrap(),
            role: Role::Voter,
        };
        let directory = Directory {
            me: NodeId(1),
            nodes: BTreeMap::from([(NodeId(1), entry.clone()), (NodeId(3), entry)]),
            next_node_id: 4,
        };
        assert_eq!(
            directory.admission(NodeId(3)),
            Admission::Member(Role::Voter)
        );
        assert_eq!(directory.admission(NodeId(2)), Admission::Removed);
        assert_eq!(directory.admission(NodeId(4)), Admission::Newer);
        assert!(Admission::Newer.permits(Protocol::Raft));
        assert!(!Admission::Newer.permits(Protocol::Gossip));
        assert!(!Admission::Removed.permits(Protocol::Raft));
        assert!(Admission::Expired.permits(Protocol::Identity));
        assert!(!Admission::Expired.permits(Protocol::Raft));
    }
}
