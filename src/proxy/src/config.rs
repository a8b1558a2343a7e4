//! Where the proxy listens, and its limits. Each limit has a reason.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use nebula_domain::NodeId;
use nebula_domain::http::Network;

#[derive(Debug, Clone)]
pub struct Config {
    /// This node, so that its own instances are dialled directly.
    pub me: NodeId,
    /// Where people's requests arrive (TCP; HTTP/1.1, and HTTP/2 with prior knowledge). Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The same over TLS.
    pub tls: Option<TlsConfig>,
    /// Whose connections begin with a PROXY header, on both addresses. From these it is required; from others it is
    /// never read.
    pub proxy_protocol_from: Vec<Network>,
    /// Whose word counts on where a request comes from (`X-Forwarded-For` and such).
    pub trusted_proxies: Vec<Network>,
    /// Edge threads; 0 for one per core.
    pub threads: usize,
    /// `<trees_dir>/<artifact>/` holds the files of an artifact, `<trees_dir>/<artifact>.manifest` their list.
    pub trees_dir: PathBuf,
    /// Where requests of deployments that want it are written down.
    pub access_log: PathBuf,
    pub limits: Limits,
}

impl Config {
    pub fn new(
        me: NodeId,
        listen: SocketAddr,
        threads: usize,
        trees_dir: PathBuf,
        access_log: PathBuf,
    ) -> Config {
        Config {
            me,
            listen,
            tls: None,
            proxy_protocol_from: Vec::new(),
            trusted_proxies: Vec::new(),
            threads,
            trees_dir,
            access_log,
            limits: Limits::default(),
        }
    }

    pub(crate) fn thread_count(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }
}

/// TLS towards clients.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Holds each certificate with its chain as `NAME.crt` and its key as `NAME.key`, both PEM. What changes in it is taken
    /// up while the proxy runs.
    pub certificates_dir: PathBuf,
    /// HTTP/3 on the same port (UDP).
    pub http3: Option<Http3Config>,
}

/// HTTP/3 towards clients.
#[derive(Debug, Clone, Default)]
pub struct Http3Config {
    /// The port that clients are told of in `Alt-Svc`, where another one is passed on to this. That on which it listens if none
    /// is said.
    pub public_port: Option<NonZeroU16>,
}

/// Bounds of one node's proxy.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From the moment a connection may send a request until the request's head is complete; so it is
    /// also how long a kept-alive connection may sit idle. A client
    /// that drips its headers costs no more than one that says nothing.
    pub header_read_timeout: Duration,
    /// Header fields of one request. More than any browser or program sends; at most 128.
    pub max_headers: usize,
    /// Request line and headers together, before it is known whose they are: the most that a deployment's policy may allow
    /// (`limits.head`), which is 32 KiB by default.
    pub max_header_bytes: usize,
    /// Path and query of a request, in the same way (`limits.uri`); a policy allows 8 KiB by default.
    pub max_target_bytes: usize,
    /// How long a client may take less than `client_rate` of what waits for it, or send less of what is waited for. As patient as other
    /// proxies are.
    pub client_stall: Duration,
    /// Bytes a second that a client moves at least, while it is waited for: a tenth of what the slowest mobile links do, and so much that
    /// nobody holds a place for hours with a byte now and then.
    pub client_rate: u64,
    /// How long a connection is read on after its last answer, when the client still sends: long enough for the answer to arrive.
    pub linger: Duration,
    /// How long a connection that has changed its protocol (WebSocket) may carry nothing. Programs that keep such connections for
    /// long send pings every minute or so; one that was silent for an hour has lost its other end.
    pub upgraded_idle: Duration,
    /// Open client connections of one edge thread; further ones wait in the kernel's queue. At some
    /// 10 KiB each they stay within 100 MB a thread; idle ones of HTTP/2 take 30 KiB.
    pub connections_per_thread: usize,
    /// Of one client's address (of IPv6 a /64), at all threads together; further ones are closed. More than an office or most
    /// carriers' shared addresses have, and not so many that one machine could take all.
    pub connections_per_address: usize,
    /// From a TLS connection's beginning until it can carry requests, the wait for its turn included. As long as a client on a
    /// bad mobile link needs for three round trips with losses.
    pub tls_handshake: Duration,
    /// TLS handshakes under way on one edge thread; further ones wait. At some 20 KiB each they stay within 20 MB a thread.
    pub tls_handshakes_per_thread: usize,
    /// How often the folder of certificates is looked at. A change is taken up when it was seen twice, so within two of these.
    pub certificates_look: Duration,
    /// Certificates of a node. Each takes some 10 KiB.
    pub certificates: usize,
    /// A file of a certificate with its chain, or of a key. Long chains of large keys have 20 KiB.
    pub certificate_file_bytes: usize,
    /// How long a PROXY header may take: it is sent by a machine near by, with the connection's first packet.
    pub proxy_header_wait: Duration,
    /// Bytes of a PROXY header; a load balancer adds some hundred for what it knows of the client's TLS.
    pub proxy_header_bytes: usize,
    /// Streams that a client of HTTP/2 or HTTP/3 may have open at once. More than a browser opens, and what RFC 9113 section 6.5.2 asks
    /// for at least is 100; a client can keep so many requests under way at the price of one connection.
    pub http2_streams: u32,
    /// Of one stream's content, what its client may send before it is taken: a fast upload over 50 ms needs as much.
    pub http2_stream_window: u32,
    /// The same for all streams of a connection together, which bounds the memory of one connection.
    pub http2_connection_window: u32,
    /// Of one stream's answer, what is held until the client's connection takes it: one read of an instance's answer.
    pub http2_send_buffer: usize,
    /// Streams that a client may cancel before they are answered, and requests that are none, in a burst. A browser that leaves
    /// a page cancels what it asked for, some 100; answers earn more. Beyond that requests are made to be thrown away.
    pub http2_resets: u32,
    /// Frames that carry nothing (settings, pings, window updates and so on), in a burst. Answers earn more, so that a client
    /// which takes much may say much.
    pub http2_idle_frames: u32,
    /// Open connections of HTTP/3; further ones are refused, as there is no queue in front of them. One that is idle takes some
    /// 45 KiB. Streams, windows, resets and idle frames are bounded as those of HTTP/2.
    pub http3_connections: usize,
    /// Of one client's address (of IPv6 a /64): an office behind one address has fewer. Without it one machine could take all.
    pub http3_connections_per_address: usize,
    /// Handshakes under way with clients that have not shown that their address is theirs. From then on a client has to show it
    /// before anything is done for it, which costs it a round trip.
    pub http3_unvalidated_handshakes: usize,
    /// Of all answers of a connection, what is held until the client has it: what a fast client has under way over 50 ms.
    pub http3_send_window: u64,
    /// How long nothing may be heard of a client, which is asked for a sign of life more often than that. As long as NATs keep
    /// what they know of a UDP flow.
    pub http3_silence: Duration,
    /// Connecting to an instance on this machine. It takes microseconds unless the program's own queue is
    /// full; then another instance should answer.
    pub connect_timeout: Duration,
    /// Opening a tunnel, until the other node says whether the instance took it. Together with one
    /// retry it keeps a request to a dead machine under a second.
    pub tunnel_timeout: Duration,
    /// A request that cannot be repeated is given up when the node that has it, already suspect, is not
    /// heard for this long more: some 1.2 s after it died, so that its sender can look what became of
    /// it. Three more of the mesh's pings go unanswered in that time; a node that is only slow answers
    /// them and is waited for.
    pub lost_after: Duration,
    /// How long a request waits for an instance to become ready when none is. Health spreads by gossip, so that an edge may hear
    /// a little later than others that a deployment is up; a client that was just told so is not to find it down.
    pub ready_wait: Duration,
    /// A body of this size, at most, is read before an instance is asked, of a request that may be repeated: so all of it can
    /// be. It is kept until the answer has ended. Forms and most JSON are smaller, and it is what a connection holds anyway when its client is fast. Longer ones are passed
    /// on as they come, and only once.
    pub kept_body_bytes: usize,
    /// How long an unused connection to an instance is kept. Under the 5 s after which common
    /// servers close theirs, so that a request seldom meets a connection that is just being closed.
    pub upstream_idle: Duration,
    /// As `upstream_idle`, for requests that cannot be repeated if it happens all the same.
    pub upstream_idle_unrepeatable: Duration,
    /// Unused connections that one edge thread keeps to one instance: what a busy one has under way there, for between two
    /// bursts nearly all are unused. A few dozen clients of HTTP/2 have hundreds.
    pub upstream_idle_per_instance: usize,
    /// Unused connections that one edge thread keeps in all: file descriptors here, streams of a peer's
    /// mesh for remote instances.
    pub upstream_idle_per_thread: usize,
    /// Requests under way on one connection of HTTP/2 to an instance; fewer if the instance says so. As many as common servers
    /// take.
    pub h2c_streams: usize,
    /// Connections of HTTP/2 that one edge thread has to one instance. Some servers take only a hundred requests on each; so
    /// many carry more than `capacity.per_instance` allows by default.
    pub h2c_connections_per_instance: usize,
    /// Of one answer over HTTP/2, what the instance may send before it is taken; a connection may hold `h2c_streams` times as
    /// much, so that a client that takes nothing holds up no other.
    pub h2c_stream_window: u32,
    /// Of one request over HTTP/2, what is held until the connection to the instance takes it: one read of a client's upload.
    pub h2c_send_buffer: usize,
    /// How long an instance or a node that could not be reached is avoided while there is another. Gossip says
    /// better after about as long.
    pub ejection: Duration,
    /// Tunnels that other nodes may have open to this node's instances at once.
    pub tunnels: usize,
    /// How long a drain waits for other nodes' tunnels: their pools let idle ones go after `upstream_idle`.
    pub tunnel_drain: Duration,
    /// Lists of static sites' files kept in memory, some 150 bytes for each file: those of ten sites
    /// with 20,000 files each, or of hundreds of usual ones.
    pub manifest_cache_bytes: usize,
    /// Static files up to this size are kept in memory, others read in pieces.
    pub cached_file_bytes: u64,
    /// All static files and their compressed forms in memory.
    pub file_cache_bytes: usize,
    /// Answers that are kept for deployments with a cache, their fields included: the pages and images of some sites. The least
    /// recently used of the deployment that has most goes first.
    pub cache_bytes: usize,
    /// On top of these, answers that come in, and those that were pushed out while clients still take them. Beyond it answers are
    /// passed on without being kept.
    pub cache_spare_bytes: usize,
    /// Fetches under way of answers to be kept, of which one deployment has a quarter at most; beyond these, requests do without the
    /// cache. A fetch goes on when its client leaves, if others wait for it or its answer has begun.
    pub cache_fetches: usize,
    /// How long after its beginning a fetch is waited for by those who did not make it; then they ask an instance themselves.
    /// Longer than answers take that people wait for.
    pub cache_wait: Duration,
    /// For how long nobody waits for an answer that was found not to be kept: as long as a burst of requests lasts.
    pub cache_pass: Duration,
    /// Such answers that are remembered for one deployment, some 100 bytes each.
    pub cache_passes: usize,
    /// A deployment that nobody has asked for so long gives way to any other.
    pub cache_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header_read_timeout: Duration::from_secs(30),
            max_headers: 100,
            max_header_bytes: 64 * 1024,
            max_target_bytes: 64 * 1024,
            client_stall: Duration::from_secs(60),
            client_rate: 240,
            linger: Duration::from_secs(2),
            upgraded_idle: Duration::from_secs(3600),
            connections_per_thread: 10_000,
            connections_per_address: 4_000,
            tls_handshake: Duration::from_secs(10),
            tls_handshakes_per_thread: 1_000,
            certificates_look: Duration::from_secs(2),
            certificates: 1_000,
            certificate_file_bytes: 128 * 1024,
            proxy_header_wait: Duration::from_secs(5),
            proxy_header_bytes: 4 * 1024,
            http2_streams: 128,
            http2_stream_window: 256 * 1024,
            http2_connection_window: 512 * 1024,
            http2_send_buffer: 64 * 1024,
            http2_resets: 200,
            http2_idle_frames: 1000,
            http3_connections: 10_000,
            http3_connections_per_address: 1_000,
            http3_unvalidated_handshakes: 100,
            http3_send_window: 1024 * 1024,
            http3_silence: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(1),
            tunnel_timeout: Duration::from_millis(600),
            lost_after: Duration::from_millis(500),
            ready_wait: Duration::from_millis(500),
            kept_body_bytes: 16 * 1024,
            upstream_idle: Duration::from_secs(4),
            upstream_idle_unrepeatable: Duration::from_secs(1),
            upstream_idle_per_instance: 512,
            upstream_idle_per_thread: 1024,
            h2c_streams: 100,
            h2c_connections_per_instance: 16,
            h2c_stream_window: 128 * 1024,
            h2c_send_buffer: 64 * 1024,
            ejection: Duration::from_secs(1),
            tunnels: 4096,
            tunnel_drain: Duration::from_secs(5),
            manifest_cache_bytes: 32 * 1024 * 1024,
            cached_file_bytes: 512 * 1024,
            file_cache_bytes: 32 * 1024 * 1024,
            cache_bytes: 64 * 1024 * 1024,
            cache_spare_bytes: 32 * 1024 * 1024,
            cache_fetches: 1024,
            cache_wait: Duration::from_secs(5),
            cache_pass: Duration::from_secs(10),
            cache_passes: 1024,
            cache_idle: Duration::from_secs(600),
        }
    }
}
