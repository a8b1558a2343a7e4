//! Four ports for each node, all free when they are handed out.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::path::Path;

use rand::Rng;

use super::claims::Claims;
use crate::error::{CliError, Outcome};

/// Below the range from which Linux takes ports for outgoing connections (32768 and up), so that nothing takes one
/// between this look and the daemon's start, or while a daemon is restarted. Above what well-known services use.
const RANGE: Range<u16> = 10_000..19_000;
/// Tries before giving up: with half of the range in use, one in eight tries still succeeds.
const TRIES: usize = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub quic: u16,
    pub api: u16,
    pub edge: u16,
    /// Used when there are certificates.
    pub edge_tls: u16,
}

/// Of each node.
const COUNT: u16 = 4;

impl Ports {
    fn from(first: u16) -> Ports {
        Ports {
            quic: first,
            api: first + 1,
            edge: first + 2,
            edge_tls: first + 3,
        }
    }

    /// The port of these that is taken, if one is.
    fn taken(self) -> Option<u16> {
        let tcp = |port| TcpListener::bind(local(port)).is_err();
        let udp = |port| UdpSocket::bind(local(port)).is_err();
        // HTTP/3 has the same number as TLS.
        if let Some(taken) = [self.quic, self.edge_tls]
            .into_iter()
            .find(|port| udp(*port))
        {
            return Some(taken);
        }
        [self.api, self.edge, self.edge_tls]
            .into_iter()
            .find(|port| tcp(*port))
    }
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Consecutive ports from `base` on, or four free ones for each node; no other cluster of this user is given them as
/// long as `home` is there.
pub fn choose(nodes: u16, base: Option<u16>, home: &Path) -> Outcome<Vec<Ports>> {
    let claims = Claims::of_this_user()?;
    let chosen = match base {
        Some(base) => from_base(nodes, base)?,
        None => free(nodes, &claims)?,
    };
    for ports in &chosen {
        claims.add(ports.quic, home)?;
    }
    Ok(chosen)
}

fn from_base(nodes: u16, base: u16) -> Outcome<Vec<Ports>> {
    if u32::from(base) + u32::from(COUNT) * u32::from(nodes) > 65_536 {
        return Err(CliError::usage(
            format!(
                "{nodes} nodes need {} ports, and from {base} on there are fewer",
                COUNT * nodes
            ),
            "choose a lower --base-port",
        ));
    }
    let all: Vec<_> = (0..nodes).map(|i| Ports::from(base + COUNT * i)).collect();
    match all.iter().find_map(|ports| ports.taken()) {
        None => Ok(all),
        Some(port) => Err(CliError::failed(
            format!(
                "port {port} of 127.0.0.1 cannot be used: another program has it, or it needs root"
            ),
            format!(
                "choose a --base-port from which {} ports are free, or leave it out",
                COUNT * nodes
            ),
        )),
    }
}

fn free(nodes: u16, claims: &Claims) -> Outcome<Vec<Ports>> {
    let mut found: Vec<Ports> = Vec::new();
    for _ in 0..TRIES {
        if found.len() == usize::from(nodes) {
            return Ok(found);
        }
        // In steps, so that no two nodes' ports overlap.
        let step = rand::rng().random_range(0..RANGE.len() / usize::from(COUNT));
        let ports = Ports::from(RANGE.start + COUNT * u16::try_from(step).unwrap_or_default());
        if !found.contains(&ports) && !claims.holds(ports.quic) && ports.taken().is_none() {
            found.push(ports);
        }
    }
    if found.len() == usize::from(nodes) {
        return Ok(found);
    }
    Err(CliError::failed(
        format!(
            "no free ports were found from {} to {}",
            RANGE.start, RANGE.end
        ),
        "choose some with --base-port",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_do_not_overlap() {
        let home = tempfile::tempdir().unwrap();
        let mut all: Vec<_> = choose(16, None, home.path())
            .unwrap()
            .iter()
            .flat_map(|p| [p.quic, p.api, p.edge, p.edge_tls])
            .collect();
        assert_eq!(all.len(), 64);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 64);
    }

    #[test]
    fn a_taken_port_is_named() {
        let home = tempfile::tempdir().unwrap();
        let choose = |nodes, base| choose(nodes, base, home.path());
        let free = choose(1, None).unwrap()[0];
        let held = TcpListener::bind(local(free.edge)).unwrap();
        let error = choose(1, Some(free.quic)).unwrap_err();
        assert!(
            error.to_string().contains(&free.edge.to_string()),
            "{error}"
        );
        drop(held);
        assert_eq!(choose(1, Some(free.quic)).unwrap(), [free]);
        assert_eq!(choose(3, Some(65_530)).unwrap_err().exit as u8, 2);
    }
}
