//! Messages written by hand, byte by byte, as a forger would.

use chitchat::{ChitchatId, Serializable};

use super::*;

#[path = "envelope_fuzz.rs"]
mod fuzz;

const CLUSTER: &str = "test";

fn reader() -> Reader<'static> {
    Reader {
        me: NodeId(1),
        generation: 10,
        cluster: CLUSTER,
    }
}

fn id(node: u64, generation: u64) -> ChitchatId {
    ChitchatId::new(node.to_string(), generation, address::of(NodeId(node)))
}

fn digest_v0(ids: &[ChitchatId]) -> Vec<u8> {
    let mut bytes = (ids.len() as u16).to_le_bytes().to_vec();
    for id in ids {
        id.serialize(&mut bytes);
        bytes.extend([0; 24]);
    }
    bytes
}

fn message(kind: u8, version: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend([version, kind]);
    bytes.extend(parts.concat());
    bytes
}

fn syn(ids: &[ChitchatId], cluster: &str) -> Vec<u8> {
    message(
        0,
        0,
        &[&digest_v0(ids), &cluster.to_owned().serialize_to_vec()],
    )
}

fn block(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend((bytes.len() as u16).to_le_bytes());
    out.extend(bytes);
    out
}

fn ack(operations: &[Vec<u8>]) -> Vec<u8> {
    message(2, 0, &[&block(2, &operations.concat()), &[0]])
}

fn about(id: &ChitchatId) -> Vec<u8> {
    let mut bytes = vec![0];
    id.serialize(&mut bytes);
    bytes.extend([0; 16]);
    bytes
}

fn put(key: &str, value: &str, version: u64) -> Vec<u8> {
    let mut bytes = vec![1];
    key.to_owned().serialize(&mut bytes);
    value.to_owned().serialize(&mut bytes);
    version.serialize(&mut bytes);
    bytes.push(0);
    bytes
}

fn up_to(version: u64) -> Vec<u8> {
    let mut bytes = vec![2];
    version.serialize(&mut bytes);
    bytes
}

fn verdict(bytes: &[u8]) -> Result<(), Refusal> {
    check(bytes, NodeId(2), &reader())
}

#[test]
fn honest_messages_pass() {
    assert_eq!(verdict(&syn(&[id(1, 10), id(2, 5)], CLUSTER)), Ok(()));
    // Others may remember this node's earlier lives.
    let earlier = ack(&[about(&id(1, 9)), put("facts", "{}", 4)]);
    assert_eq!(verdict(&earlier), Ok(()));
    let relayed = ack(&[about(&id(3, 1)), put("a", "", 1), put("b", "", 2)]);
    assert_eq!(verdict(&relayed), Ok(()));
    assert_eq!(verdict(&ack(&[about(&id(3, 1)), up_to(7)])), Ok(()));
}

#[test]
fn compressed_digests_are_read() {
    let mut entry = id(2, 5).serialize_to_vec();
    entry.extend([0; 24]);
    let packed = zstd::bulk::compress(&entry, 0).unwrap();
    let cluster = CLUSTER.to_owned().serialize_to_vec();
    let message = message(0, 1, &[&block(1, &packed), &[0], &cluster]);
    assert_eq!(verdict(&message), Ok(()));
    assert_eq!(
        check(&message, NodeId(3), &reader()),
        Err(Refusal::Forged),
        "not from 3"
    );
}

#[test]
fn what_a_sender_cannot_say_is_forged() {
    assert_eq!(
        verdict(&syn(&[id(3, 5)], CLUSTER)),
        Err(Refusal::Forged),
        "hides itself"
    );
    let elsewhere = ChitchatId::new("2", 5, "192.0.2.1:7600".parse().unwrap());
    assert_eq!(verdict(&syn(&[elsewhere], CLUSTER)), Err(Refusal::Forged));
    let swapped = ChitchatId::new("2", 5, address::of(NodeId(3)));
    assert_eq!(verdict(&syn(&[swapped], CLUSTER)), Err(Refusal::Forged));
    let spelled = ChitchatId::new("02", 5, address::of(NodeId(2)));
    assert_eq!(verdict(&syn(&[spelled], CLUSTER)), Err(Refusal::Forged));
    let about_us = ack(&[about(&id(1, 10)), put("facts", "{}", 1000)]);
    assert_eq!(verdict(&about_us), Err(Refusal::Forged));
}

#[test]
fn another_cluster_is_refused() {
    assert_eq!(
        verdict(&syn(&[id(2, 5)], "other")),
        Err(Refusal::WrongCluster)
    );
}

#[test]
fn rubbish_is_refused() {
    let good = syn(&[id(1, 10), id(2, 5)], CLUSTER);
    for length in 0..good.len() {
        assert!(verdict(&good[..length]).is_err(), "cut to {length}");
    }
    for kind in 0..=3 {
        let newer = message(kind, 2, &[&digest_v0(&[id(2, 5)]), &[0]]);
        assert!(verdict(&newer).is_err(), "of a version that is not known");
    }
    let mut long = good.clone();
    long.push(0);
    assert_eq!(verdict(&long), Err(Refusal::Undecodable));
    for orders in [
        ack(&[put("a", "", 1)]),
        ack(&[about(&id(3, 1)), about(&id(3, 1))]),
        ack(&[about(&id(3, 1)), put("a", "", 2), put("b", "", 2)]),
        // chitchat would panic on a lowered version.
        ack(&[about(&id(3, 1)), put("a", "", 2), up_to(1)]),
    ] {
        assert_eq!(verdict(&orders), Err(Refusal::Undecodable));
    }
}

#[test]
fn sizes_are_bounded() {
    assert_eq!(
        verdict(&vec![0; MAX_MESSAGE_BYTES + 1]),
        Err(Refusal::Oversize)
    );
    let big = "x".repeat(MAX_VALUE_BYTES + 1);
    let value = ack(&[about(&id(3, 1)), put("a", &big, 1)]);
    assert_eq!(verdict(&value), Err(Refusal::Oversize));
    // Blocks of a few bytes that unpack to 64 KiB each.
    let bomb = block(1, &zstd::bulk::compress(&vec![0; 65_535], 0).unwrap());
    let message = message(2, 0, &[&bomb.repeat(100), &[0]]);
    assert!(message.len() < MAX_MESSAGE_BYTES);
    assert!(verdict(&message).is_err());
}
