//! Reads a chitchat message before chitchat does, to refuse what its sender has no business to say.
//!
//! chitchat (0.13) decodes whatever arrives, believes it, and keeps the fields to itself. The mesh has
//! authenticated the sender; here the message is held against that. What cannot be checked is what
//! one member relays of another: gossip is hearsay, so members are trusted not to lie about others,
//! and nothing that matters for safety is decided by gossip.
//!
//! Layout (chitchat `message_serialize.rs`, `digest.rs`, `delta.rs`): magic, version, type, then a digest
//! (what the sender knows, by version) and a delta (what it tells), strings with a 16-bit length,
//! numbers little-endian, deltas and V1 digests in zstd blocks.

use std::collections::BTreeSet;

use nebula_domain::NodeId;

use crate::address;
use crate::limits::{
    MAX_KEY_BYTES, MAX_MESSAGE_BYTES, MAX_NODES_NAMED, MAX_UNPACKED_BYTES, MAX_VALUE_BYTES,
};

const MAGIC: [u8; 2] = 45_139u16.to_le_bytes();

/// Why a message was dropped; the label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    UnknownSender,
    Oversize,
    Undecodable,
    WrongCluster,
    /// It names nodes by addresses that are not theirs, hides the sender, or speaks for this node.
    Forged,
    /// This node does not keep up.
    Busy,
}

impl Refusal {
    pub fn label(self) -> &'static str {
        match self {
            Refusal::UnknownSender => "unknown_sender",
            Refusal::Oversize => "oversize",
            Refusal::Undecodable => "undecodable",
            Refusal::WrongCluster => "wrong_cluster",
            Refusal::Forged => "forged",
            Refusal::Busy => "busy",
        }
    }
}

/// Who is reading.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    pub me: NodeId,
    /// This node's present life: nobody else can know more of it.
    pub generation: u64,
    pub cluster: &'a str,
}

/// Checks a whole message from `sender`.
pub(crate) fn check(bytes: &[u8], sender: NodeId, reader: &Reader<'_>) -> Result<(), Refusal> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(Refusal::Oversize);
    }
    let mut input = Input(bytes);
    if input.take(2)? != MAGIC {
        return Err(Refusal::Undecodable);
    }
    let version = input.u8()?;
    // chitchat reads none of a version that it does not know, and would be waited for.
    if version > 1 {
        return Err(Refusal::Undecodable);
    }
    let mut budget = MAX_UNPACKED_BYTES;
    match input.u8()? {
        0 => {
            digest(&mut input, version, sender, &mut budget)?;
            if input.string()? != reader.cluster {
                return Err(Refusal::WrongCluster);
            }
        }
        1 => {
            digest(&mut input, version, sender, &mut budget)?;
            delta(&mut input, reader, &mut budget)?;
        }
        2 => delta(&mut input, reader, &mut budget)?,
        3 => return Err(Refusal::WrongCluster),
        _ => return Err(Refusal::Undecodable),
    }
    input.end()
}

/// The sender always knows itself; everyone is named by the address made from their id.
fn digest(
    input: &mut Input<'_>,
    version: u8,
    sender: NodeId,
    budget: &mut usize,
) -> Result<(), Refusal> {
    let mut named = 0;
    let mut names_sender = false;
    let mut entry = |input: &mut Input<'_>| {
        let (node, _) = input.id()?;
        input.take(3 * 8)?;
        named += 1;
        names_sender |= node == sender;
        if named > MAX_NODES_NAMED {
            return Err(Refusal::Oversize);
        }
        Ok(())
    };
    match version {
        0 => {
            for _ in 0..input.u16()? {
                entry(input)?;
            }
        }
        1 => {
            let unpacked = input.blocks(budget)?;
            let mut inner = Input(&unpacked);
            while !inner.0.is_empty() {
                entry(&mut inner)?;
            }
        }
        _ => return Err(Refusal::Undecodable),
    }
    if names_sender {
        Ok(())
    } else {
        Err(Refusal::Forged)
    }
}

/// Nobody tells this node about its own present life. Orders that chitchat would fail on are refused.
fn delta(input: &mut Input<'_>, reader: &Reader<'_>, budget: &mut usize) -> Result<(), Refusal> {
    let unpacked = input.blocks(budget)?;
    let mut input = Input(&unpacked);
    let mut seen = BTreeSet::new();
    // Of the node that the next operations are about: the highest version, and if it is final.
    let mut current: Option<(u64, bool)> = None;
    while !input.0.is_empty() {
        match input.u8()? {
            0 => {
                let id = input.id()?;
                if id == (reader.me, reader.generation) {
                    return Err(Refusal::Forged);
                }
                if !seen.insert(id) {
                    return Err(Refusal::Undecodable);
                }
                if seen.len() > MAX_NODES_NAMED {
                    return Err(Refusal::Oversize);
                }
                input.take(2 * 8)?;
                current = Some((0, false));
            }
            1 => {
                let key = input.string()?;
                let value = input.string()?;
                let version = input.u64()?;
                let status = input.u8()?;
                if key.len() > MAX_KEY_BYTES || value.len() > MAX_VALUE_BYTES {
                    return Err(Refusal::Oversize);
                }
                match &mut current {
                    Some((highest, false)) if version > *highest && status <= 2 => {
                        *highest = version;
                    }
                    _ => return Err(Refusal::Undecodable),
                }
            }
            2 => {
                let version = input.u64()?;
                match &mut current {
                    Some(state @ (0, false)) => *state = (version, true),
                    _ => return Err(Refusal::Undecodable),
                }
            }
            _ => return Err(Refusal::Undecodable),
        }
    }
    Ok(())
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Refusal::Undecodable)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        self.take(N)?.try_into().map_err(|_| Refusal::Undecodable)
    }

    fn u8(&mut self) -> Result<u8, Refusal> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, Refusal> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Refusal> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn string(&mut self) -> Result<&'a str, Refusal> {
        let length = self.u16()?;
        std::str::from_utf8(self.take(length.into())?).map_err(|_| Refusal::Undecodable)
    }

    /// A chitchat id: node id and generation, whose address must be the node's.
    fn id(&mut self) -> Result<(NodeId, u64), Refusal> {
        let text = self.string()?;
        let generation = self.u64()?;
        let ip: std::net::IpAddr = match self.u8()? {
            4 => std::net::IpAddr::from(self.array::<4>()?),
            6 => std::net::IpAddr::from(self.array::<16>()?),
            _ => return Err(Refusal::Undecodable),
        };
        let port = self.u16()?;
        let node: NodeId = text.parse().map_err(|_| Refusal::Forged)?;
        let named = node.to_string() == text
            && address::node(std::net::SocketAddr::new(ip, port)) == Some(node);
        if named {
            Ok((node, generation))
        } else {
            Err(Refusal::Forged)
        }
    }

    /// Blocks of at most 64 KiB each, unpacked within the budget for the whole message.
    fn blocks(&mut self, budget: &mut usize) -> Result<Vec<u8>, Refusal> {
        let mut unpacked = Vec::new();
        loop {
            let kind = self.u8()?;
            if kind == 0 {
                return Ok(unpacked);
            }
            let length = self.u16()?;
            let block = self.take(length.into())?;
            let before = unpacked.len();
            match kind {
                1 => {
                    let room = (*budget).min(usize::from(u16::MAX));
                    let bytes =
                        zstd::bulk::decompress(block, room).map_err(|_| Refusal::Undecodable)?;
                    unpacked.extend_from_slice(&bytes);
                }
                2 => unpacked.extend_from_slice(block),
                _ => return Err(Refusal::Undecodable),
            }
            *budget = budget
                .checked_sub(unpacked.len() - before)
                .ok_or(Refusal::Oversize)?;
        }
    }

    fn end(&self) -> Result<(), Refusal> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Undecodable)
        }
    }
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
