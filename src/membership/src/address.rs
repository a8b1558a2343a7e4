//! The addresses chitchat knows peers by. They are made up from node ids and never dialled: where a
//! node really is, the mesh's directory says.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use nebula_domain::NodeId;

/// RFC 4193 addresses with a global id of our own, so that one in a log is told from a real one.
const PREFIX: u64 = 0xfd4e_4542_554c_4100;
/// chitchat wants a port; nothing listens on it.
const PORT: u16 = 1;

pub(crate) fn of(node: NodeId) -> SocketAddr {
    let bits = (u128::from(PREFIX) << 64) | u128::from(node.0);
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from_bits(bits)), PORT)
}

pub(crate) fn node(address: SocketAddr) -> Option<NodeId> {
    let SocketAddr::V6(v6) = address else {
        return None;
    };
    let bits = v6.ip().to_bits();
    let ours = (bits >> 64) == u128::from(PREFIX) && v6.port() == PORT;
    // The low half is the id.
    ours.then_some(NodeId(bits as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_its_node() {
        for id in [1, 7, u64::MAX] {
            assert_eq!(node(of(NodeId(id))), Some(NodeId(id)));
            // chitchat carries it as bytes and may show it as text.
            assert_eq!(
                node(of(NodeId(id)).to_string().parse().unwrap()),
                Some(NodeId(id))
            );
        }
        assert_eq!(node("127.0.0.1:1".parse().unwrap()), None);
        assert_eq!(node("[::1]:1".parse().unwrap()), None);
    }
}
