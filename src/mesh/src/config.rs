//! Where the mesh listens, and its limits. Each limit has a reason.

use std::net::SocketAddr;
use std::time::Duration;

/// What a mesh is bound with.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub limits: Limits,
}

/// Bounds of one node's mesh. The defaults suit clusters of up to about a thousand nodes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Streams that one peer may have open here on each lane. The proxy keeps one per pooled
    /// connection to an instance; beyond this its opens wait until their deadline.
    pub bidi_streams: u32,
    /// Messages too large for a datagram that one peer may have under way.
    pub uni_streams: u32,
    /// Unread bytes held for one stream. 256 KiB fills a gigabit at 2 ms, and 100 Mbit/s at 20 ms.
    pub stream_receive_window_bytes: u32,
    /// Unread bytes held for one connection: `bidi_streams` times the stream window, so that readers
    /// that are slow (a phone downloading through the edge) never hold up the others. It is a
    /// ceiling, not an allocation.
    pub receive_window_bytes: u32,
    /// Sent bytes that one connection keeps until they are acknowledged.
    pub send_window_bytes: u64,
    /// Connection attempts that wait to be looked at; further ones are refused at once.
    pub max_incoming: usize,
    /// Handshakes under way from which on a dialler must first prove its address (QUIC retry), so
    /// that forged source addresses cost no cryptography.
    pub retry_above_handshakes: usize,
    /// Handshakes under way from which on attempts are refused: an attempt may cost a signature.
    pub max_handshakes: usize,
    /// Accepted connections. A thousand peers with two lanes and as many again during renewals.
    pub max_connections: usize,
    /// Accepted connections of one peer: two lanes, twice while an identity is replaced, and twice
    /// again after it restarted and its old ones have not timed out yet. The oldest gives way.
    pub max_connections_per_peer: usize,
    /// From the first packet to the peer's certificate, on both ends; also how long the first byte of
    /// a stream may take.
    pub handshake_deadline: Duration,
    /// An idle connection says that it is there this often; must be well under `idle_timeout`.
    pub keep_alive: Duration,
    /// A connection from which nothing was heard for this long is dead.
    pub idle_timeout: Duration,
    /// A connection that nobody has used for this long is let go; the next use dials again.
    pub unused_timeout: Duration,
    /// How long the request of a call may take to come in, and how long its answer to be taken: whoever sends half a
    /// request, or reads no answer, does not keep its place. The largest request, a snapshot's chunk, is given up by
    /// its sender after this; who waits longer (up to 30 s for a proposal that was handed on) waits for the work.
    pub exchange_deadline: Duration,
    /// Largest frame, and so the largest request and answer of [`Mesh::call`](crate::Mesh::call): the
    /// codec's own limit.
    pub frame_bytes: usize,
    /// Frames of one accepted connection that are being read or worked on, by the bytes they claim; further ones
    /// are refused. Honest peers stay under 4 MiB (one append, two batches of proposals), and the largest frame
    /// fits. All connections of one peer together cost at most `max_connections_per_peer` times this.
    pub frame_bytes_under_way: usize,
    /// Largest message of [`Mesh::send`](crate::Mesh::send): gossip stays under 64 KiB, and nothing else is that
    /// large. What waits to be read is a multiple of it.
    pub message_bytes: usize,
    /// Messages that wait for a connection that is being made; older news is of no use later.
    pub queued_messages: usize,
    /// How long a peer with work in flight may be silent before it counts as suspect. The proxy stops
    /// choosing it then, so this is part of how long a request may hang on a dead machine.
    pub suspect_after: Duration,
    /// Pause after the first failed dial; doubles up to `redial_max`.
    pub redial_min: Duration,
    /// A node that returns is noticed after this long at most.
    pub redial_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            bidi_streams: 1024,
            uni_streams: 64,
            stream_receive_window_bytes: 256 * 1024,
            receive_window_bytes: 256 * 1024 * 1024,
            send_window_bytes: 8 * 1024 * 1024,
            max_incoming: 256,
            retry_above_handshakes: 32,
            max_handshakes: 256,
            max_connections: 4096,
            max_connections_per_peer: 6,
            handshake_deadline: Duration::from_secs(3),
            keep_alive: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(5),
            unused_timeout: Duration::from_secs(60),
            exchange_deadline: Duration::from_secs(20),
            frame_bytes: nebula_wire::codec::MAX_BYTES,
            frame_bytes_under_way: 12 * 1024 * 1024,
            message_bytes: 64 * 1024,
            queued_messages: 16,
            suspect_after: Duration::from_millis(600),
            redial_min: Duration::from_millis(100),
            redial_max: Duration::from_secs(1),
        }
    }
}
