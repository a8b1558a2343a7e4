//! Frames from peers that mean no good: whatever is decoded, and encoded again, says the same.

use nebula_testkit::fuzz::Target;

use crate::codec;
use crate::messages::messages;

#[test]
fn fuzz_peer_frames() {
    let (corpus, kinds): (Vec<_>, Vec<_>) =
        messages().into_iter().map(|m| (m.bytes, m.kind)).unzip();
    let target = Target {
        name: "wire: peer frames",
        corpus,
        words: &[],
        max_bytes: 16 * 1024,
        // Many values are a byte on the wire and a struct in memory.
        allocated_per_byte: 256,
        // A length may claim as much as the codec allows before it is found out.
        allocated_bytes: codec::MAX_BYTES as u64 + 64 * 1024,
        understood_percent: 5,
    };
    target.run_kinds(&kinds);
}
