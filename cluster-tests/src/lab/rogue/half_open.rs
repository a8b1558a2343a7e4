//! Handshakes that begin well, prove their address when asked to, and are never finished.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout_at};

use super::Rogue;

/// Between two beginnings: slower than a loop, faster than a node gives them up.
const PAUSE: Duration = Duration::from_millis(4);
const MAX_DATAGRAM: usize = 2048;

/// The source connection id of an Initial packet, and whether it carries a token (RFC 9000 section 17.2.2).
fn initial(packet: &[u8]) -> Option<(Vec<u8>, bool)> {
    let (&first, rest) = packet.split_first()?;
    if first & 0xf0 != 0xc0 {
        return None;
    }
    let (&length, rest) = rest.get(4..)?.split_first()?;
    let (&length, rest) = rest.get(usize::from(length)..)?.split_first()?;
    let source = rest.get(..usize::from(length))?;
    let token = rest.get(usize::from(length))?;
    Some((source.to_vec(), *token != 0))
}

/// Begins handshakes with a node for so long, through a relay that lets one Initial without a token and one with a
/// token of each pass; how many were begun.
pub async fn flood(rogue: &Rogue, node: SocketAddr, lasts: Duration) -> anyhow::Result<u64> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (near, far) = (UdpSocket::bind(any).await?, UdpSocket::bind(any).await?);
    far.connect(node).await?;
    let address = near.local_addr()?;
    let until = Instant::now() + lasts;
    let relayed = async {
        let mut passed: HashMap<Vec<u8>, [bool; 2]> = HashMap::new();
        let mut dialler = None;
        let (mut up, mut down) = ([0; MAX_DATAGRAM], [0; MAX_DATAGRAM]);
        loop {
            tokio::select! {
                got = near.recv_from(&mut up) => {
                    let Ok((length, from)) = got else { continue };
                    dialler = Some(from);
                    let Some((source, token)) = initial(&up[..length]) else { continue };
                    let before = &mut passed.entry(source).or_default()[usize::from(token)];
                    if !std::mem::replace(before, true) {
                        let _ = far.send(&up[..length]).await;
                    }
                }
                got = far.recv(&mut down) => {
                    if let (Ok(length), Some(to)) = (got, dialler) {
                        let _ = near.send_to(&down[..length], to).await;
                    }
                }
            }
        }
    };
    let begun = async {
        // Given up only at the end: a dialler that gives up says so.
        let mut open = Vec::new();
        while Instant::now() < until {
            open.extend(rogue.begin(address));
            sleep(PAUSE).await;
        }
        open.len() as u64
    };
    let relayed = timeout_at(until, relayed);
    let (begun, _): (u64, Result<(), _>) = tokio::join!(begun, relayed);
    Ok(begun)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_initial_packets_are_recognised() {
        let with = |token: u8| [0xc3, 0, 0, 0, 1, 2, 9, 9, 3, 1, 2, 3, token, 0];
        assert_eq!(initial(&with(0)), Some((vec![1, 2, 3], false)));
        assert_eq!(initial(&with(5)), Some((vec![1, 2, 3], true)));
        // A handshake packet, a short header, nothing, and an id that is cut off.
        assert_eq!(initial(&[0xe3, 0, 0, 0, 1, 0, 0, 0]), None);
        assert_eq!(initial(&[0x43, 0, 0, 0, 1, 0, 0, 0]), None);
        assert_eq!(initial(&[]), None);
        assert_eq!(initial(&[0xc3, 0, 0, 0, 1, 2, 9, 9, 3, 1]), None);
    }
}
