//! Messages between nodes, one module per protocol of the mesh.

pub mod artifact;
pub mod health;
pub mod identity;
pub mod log_copy;
pub mod log_search;
pub mod logs;
pub mod registry;
pub mod secrets;
pub mod tunnel;
pub mod volumes;

/// What a stream or message between two nodes is about; the first byte of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// Append, vote and snapshot of the registry.
    Raft = 1,
    /// chitchat envelopes.
    Gossip = 2,
    /// Proposals and read indexes forwarded to the leader.
    Registry = 3,
    /// Artifact archives.
    Artifact = 4,
    /// Proxied requests to an instance of the other node.
    Tunnel = 5,
    /// Output of instances, without filters: how nodes of an older version ask and are asked.
    Logs = 6,
    /// Joining, renewing certificates, the sealed CA key.
    Identity = 7,
    /// What probes say of instances.
    Health = 10,
    /// Output of instances, searched where it lies.
    LogSearch = 8,
    /// Output of instances, to be kept on a second node.
    LogCopy = 9,
    /// How large volumes are.
    Volumes = 14,
    /// The secrets of an instance, from a node that can open them.
    Secrets = 15,
}

impl TryFrom<u8> for Protocol {
    type Error = u8;
    fn try_from(byte: u8) -> Result<Self, u8> {
        Ok(match byte {
            1 => Protocol::Raft,
            2 => Protocol::Gossip,
            3 => Protocol::Registry,
            4 => Protocol::Artifact,
            5 => Protocol::Tunnel,
            6 => Protocol::Logs,
            7 => Protocol::Identity,
            10 => Protocol::Health,
            8 => Protocol::LogSearch,
            9 => Protocol::LogCopy,
            14 => Protocol::Volumes,
            15 => Protocol::Secrets,
            other => return Err(other),
        })
    }
}
