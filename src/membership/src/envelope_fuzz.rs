//! Gossip from a member that means no good: what the check lets pass, chitchat understands.

use nebula_testkit::fuzz::Target;

use super::*;
use crate::loopback::{Codec, Coder};

#[test]
fn fuzz_gossip_messages() {
    let mut entry = id(2, 5).serialize_to_vec();
    entry.extend([0; 24]);
    let packed = zstd::bulk::compress(&entry, 0).unwrap();
    let told = [
        about(&id(3, 1)),
        put("facts", "{\"version\":\"0.1.0\"}", 1),
        put("i/7", "{}", 2),
        about(&id(2, 5)),
        up_to(9),
    ];
    let squeezed = zstd::bulk::compress(&told.concat(), 0).unwrap();
    let digest = digest_v0(&[id(1, 10), id(2, 5)]);
    let corpus = vec![
        syn(&[id(1, 10), id(2, 5), id(3, 1)], CLUSTER),
        ack(&told),
        message(2, 0, &[&block(1, &squeezed), &[0]]),
        message(1, 0, &[&digest, &block(2, &told.concat()), &[0]]),
        message(
            0,
            1,
            &[
                &block(1, &packed),
                &[0],
                &CLUSTER.to_owned().serialize_to_vec(),
            ],
        ),
    ];
    let target = Target {
        name: "membership: gossip messages",
        corpus,
        words: &[],
        max_bytes: MAX_MESSAGE_BYTES,
        allocated_per_byte: 64,
        // What blocks unpack to, in a vector that grows by doubling.
        allocated_bytes: 4 * MAX_UNPACKED_BYTES as u64,
        understood_percent: 3,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut coder = Coder::new(&Codec::Sockets);
    target.run(|input| {
        if verdict(input).is_err() {
            return false;
        }
        let decoded = runtime.block_on(coder.decode(input));
        decoded.expect("chitchat takes what was let pass");
        true
    });
}
