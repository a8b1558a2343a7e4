//! Ports for programs, from a range of the node's own.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;

/// Where a node begins to look. Several nodes may share a machine, and a port is only taken once its
/// program listens: apart from each other they do not hand out the same one at the same moment.
pub fn begin(range: &RangeInclusive<u16>, node: u64) -> u16 {
    let ports = u64::from(range.end() - range.start()) + 1;
    // A multiplier without a common factor with round range sizes spreads neighbours far apart; the
    // pid tells clusters on one machine apart.
    let offset = (node.wrapping_mul(3_331))
        .wrapping_add(u64::from(std::process::id()).wrapping_mul(7))
        % ports;
    range.start() + u16::try_from(offset).unwrap_or(0)
}

/// A port that nothing listens on: `preferred` if it is still free, else the next after `from`.
pub fn pick(
    range: &RangeInclusive<u16>,
    from: u16,
    preferred: Option<u16>,
    taken: &BTreeSet<u16>,
) -> Option<u16> {
    let after = (from..=*range.end()).chain(*range.start()..from);
    preferred
        .into_iter()
        .chain(after)
        .find(|port| !taken.contains(port) && is_free(*port))
}

/// Why a program that listens on this port and no other cannot be started now.
pub fn obstacle(port: u16, taken: &BTreeSet<u16>) -> Option<String> {
    if taken.contains(&port) {
        return Some(format!(
            "port {port} is still in use by another instance on this node"
        ));
    }
    (!is_free(port)).then(|| {
        format!("port {port} is in use by another program on this machine: end that one, or ask for another port")
    })
}

/// Whether a program could listen here now, on the loopback address and on all.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_port_unless_it_is_taken() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let used = listener.local_addr().unwrap().port();
        let range = used..=used;
        assert_eq!(pick(&range, used, Some(used), &BTreeSet::new()), None);
        let told = obstacle(used, &BTreeSet::new()).unwrap();
        assert!(told.contains("another program"), "{told}");
        drop(listener);
        assert_eq!(obstacle(used, &BTreeSet::new()), None);
        let told = obstacle(used, &BTreeSet::from([used])).unwrap();
        assert!(told.contains("another instance"), "{told}");
        assert_eq!(pick(&range, used, Some(used), &BTreeSet::new()), Some(used));
        assert_eq!(
            pick(&range, used, Some(used), &BTreeSet::from([used])),
            None
        );
    }
}
