//! Floods, each bounded in time and rate. Those from outside need no certificate, the others that of a member.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::{Connected, Rogue};

/// Packets to each node: some ten times what three busy nodes send each other.
pub const PACKETS_PER_SECOND: u64 = 4000;
/// They are sent in bursts.
const BURST_EVERY: Duration = Duration::from_millis(10);
const BURST: u64 = PACKETS_PER_SECOND / 100;
const SOURCE_PORTS: usize = 64;
/// Of a kind that a real client sent; each opens a connection of its own.
const HONEST_INITIALS: usize = 512;
/// A full stream table answers no sooner.
const STREAM_PATIENCE: Duration = Duration::from_millis(500);
/// More than a peer may open.
const STREAMS: usize = 1200;
/// Unfinished frames on one connection, and their sizes by what protocols allow.
const FRAMES: usize = 96;
const REGISTRY_FRAME: u32 = 1024 * 1024;
const RAFT_FRAME: u32 = 8 * 1024 * 1024;

fn any() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn noise(rng: &mut StdRng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rng.fill(&mut bytes[..]);
    bytes
}

/// First packets of real clients, who will never hear the answers.
async fn honest_initials(rogue: &Rogue) -> anyhow::Result<Vec<Vec<u8>>> {
    let sink = UdpSocket::bind(any()).await?;
    let address = sink.local_addr()?;
    let mut packets = Vec::new();
    let mut packet = [0; 2048];
    while packets.len() < HONEST_INITIALS {
        let connecting = rogue.begin(address)?;
        let length = timeout(STREAM_PATIENCE, sink.recv(&mut packet)).await??;
        drop(connecting);
        packets.push(packet[..length].to_vec());
        // What it says when it is given up.
        while sink.try_recv(&mut packet).is_ok() {}
    }
    Ok(packets)
}

/// A first packet: a real one, one that was damaged, one of a version that does not exist, or noise.
fn first_packet(rng: &mut StdRng, honest: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = honest[rng.random_range(0..honest.len())].clone();
    match rng.random_range(0..6) {
        0 => {
            let length = rng.random_range(1..1400);
            return noise(rng, length);
        }
        1 => {
            let at = rng.random_range(0..packet.len());
            packet[at] ^= 1 << rng.random_range(0..8);
        }
        2 => packet.truncate(rng.random_range(1..packet.len())),
        3 => rng.fill(&mut packet[1..5]),
        // Another connection by its id, which its encryption does not fit.
        4 => rng.fill(&mut packet[6..14]),
        _ => {}
    }
    packet
}

/// First packets from many ports to every node.
pub async fn initials(
    rogue: &Rogue,
    nodes: &[SocketAddr],
    lasts: Duration,
    rng: &mut StdRng,
) -> anyhow::Result<u64> {
    let honest = honest_initials(rogue).await?;
    let mut sockets = Vec::new();
    for _ in 0..SOURCE_PORTS {
        sockets.push(UdpSocket::bind(any()).await?);
    }
    let mut sent = 0;
    paced(lasts, || {
        for node in nodes {
            let socket = &sockets[rng.random_range(0..sockets.len())];
            // A full queue of the kernel is a flood, too.
            let done = socket.try_send_to(&first_packet(rng, &honest), *node);
            sent += u64::from(done.is_ok());
        }
    })
    .await;
    Ok(sent)
}

/// Calls `send` as often as [`PACKETS_PER_SECOND`] says, or as this machine can.
async fn paced(lasts: Duration, mut send: impl FnMut()) {
    let mut ticks = interval(BURST_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        ticks.tick().await;
        for _ in 0..BURST {
            send();
        }
    }
}

/// As many streams as the node lets one open, half of them without a first byte, and nothing on them.
pub async fn silent_streams(peer: &Connected, until: Instant) -> anyhow::Result<u64> {
    let mut open = Vec::new();
    for number in 0..STREAMS {
        let Ok(stream) = timeout(STREAM_PATIENCE, peer.0.open_bi()).await else {
            break;
        };
        let (mut send, recv) = stream?;
        if number % 2 == 0 {
            send.write_all(&[1 + (number / 2 % 7) as u8]).await?;
        }
        open.push((send, recv));
    }
    sleep_until(until).await;
    Ok(open.len() as u64)
}

/// Frames of which all but the last byte is sent.
pub async fn unfinished_frames(peer: &Connected, until: Instant) -> anyhow::Result<u64> {
    let mut open = Vec::new();
    for number in 0..FRAMES {
        let (protocol, length) = match number % 3 {
            0 => (1, RAFT_FRAME),
            1 => (3, REGISTRY_FRAME),
            _ => (7, 64 * 1024),
        };
        let (mut send, recv) = peer.stream(protocol).await?;
        let sent = async {
            send.write_all(&length.to_be_bytes()).await?;
            send.write_all(&vec![1; length as usize - 1]).await
        };
        // A refusal, or a window that is full.
        let _ = timeout(STREAM_PATIENCE, sent).await;
        open.push((send, recv));
    }
    sleep_until(until).await;
    Ok(open.len() as u64)
}

/// Lengths that no frame may have, frames that end before their length, on every protocol; how many.
pub async fn broken_frames(peer: &Connected, rng: &mut StdRng) -> anyhow::Result<u64> {
    let mut sent = 0;
    for protocol in 1..=7 {
        for length in [
            u32::MAX,
            RAFT_FRAME + 1,
            RAFT_FRAME,
            REGISTRY_FRAME + 1,
            5000,
            1,
            0,
        ] {
            let (mut send, _recv) = peer.stream(protocol).await?;
            // The node may have stopped to listen.
            let _ = send.write_all(&length.to_be_bytes()).await;
            let part = rng.random_range(0..=length.min(100_000) as usize);
            let _ = timeout(STREAM_PATIENCE, send.write_all(&noise(rng, part))).await;
            let _ = send.finish();
            sent += 1;
        }
    }
    Ok(sent)
}

/// Noise under every number a protocol could have, in every way that it can be sent.
pub async fn garbage(peer: &Connected, rng: &mut StdRng) -> anyhow::Result<u64> {
    for number in 0..=255 {
        let length = rng.random_range(0..3000);
        let bytes = noise(rng, length);
        let (mut send, _recv) = peer.stream(number).await?;
        // As a frame, so that it is read to its end, and as it is.
        if rng.random() {
            let _ = send.write_all(&(length as u32).to_be_bytes()).await;
        }
        let _ = send.write_all(&bytes).await;
        let _ = send.finish();
        peer.message(number, &bytes).await?;
        peer.datagram(number, &bytes[..length.min(1000)])?;
    }
    Ok(3 * 256)
}

/// A gossip message whose blocks of a few bytes unpack to 64 KiB each (RFC 8878: one block of one repeated byte).
pub fn gossip_bomb(blocks: usize) -> Vec<u8> {
    let frame = [
        0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xff, 0xfe, 0xfb, 0xff, 0x07, 0,
    ];
    let mut bytes = 45_139u16.to_le_bytes().to_vec();
    bytes.extend([0, 2]);
    for _ in 0..blocks {
        bytes.push(1);
        bytes.extend((frame.len() as u16).to_le_bytes());
        bytes.extend(frame);
    }
    bytes.push(0);
    bytes
}

/// Gossip messages from empty to far over the limit; how many.
pub async fn gossip(peer: &Connected, until: Instant, rng: &mut StdRng) -> anyhow::Result<u64> {
    let mut sent = 0;
    while Instant::now() < until {
        let message = match sent % 4 {
            0 => noise(rng, 60_000),
            1 => gossip_bomb(4000),
            2 => noise(rng, 1_000_000),
            _ => gossip_bomb(rng.random_range(0..20)),
        };
        // One that the node stops reading is refused.
        let _ = peer.message(2, &message).await;
        sent += 1;
    }
    Ok(sent)
}

/// Datagrams under every protocol's number, with what `signs` says among them.
pub async fn datagrams(peers: &[Connected], lasts: Duration, sign: &[u8], rng: &mut StdRng) -> u64 {
    let mut sent = 0;
    let bomb = gossip_bomb(70);
    paced(lasts, || {
        for peer in peers {
            let length = rng.random_range(0..1000);
            let bytes = match rng.random_range(0..3) {
                0 => sign.to_vec(),
                1 => bomb.clone(),
                _ => noise(rng, length),
            };
            let protocol = if rng.random() {
                1 + rng.random_range(0..2)
            } else {
                rng.random_range(0..9)
            };
            sent += u64::from(peer.datagram(protocol, &bytes).is_ok());
        }
    })
    .await;
    sent
}
