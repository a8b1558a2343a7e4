//! Which connection a protocol travels on.

use nebula_wire::peer::Protocol;

/// Streams of one connection share its flow control, its congestion window and its task; the
/// cluster's own affairs must not share them with what users send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lane {
    Control,
    Bulk,
}

impl Lane {
    pub(crate) fn of(protocol: Protocol) -> Lane {
        match protocol {
            Protocol::Raft | Protocol::Gossip | Protocol::Registry | Protocol::Identity => {
                Lane::Control
            }
            Protocol::Artifact
            | Protocol::Tunnel
            | Protocol::Logs
            | Protocol::LogSearch
            | Protocol::LogCopy
            | Protocol::Health
            | Protocol::Volumes
            | Protocol::Secrets => Lane::Bulk,
        }
    }
}
