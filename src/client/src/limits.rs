//! The client's bounds, each with its reason.

use std::time::Duration;

/// One call in all. A cluster that has lost its leader elects another within a few seconds; what takes longer
/// than this is worth telling the person who waits.
pub const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// One try at one address while others are left: longer than an election, shorter than patience.
pub const ATTEMPT_DEADLINE: Duration = Duration::from_secs(10);
/// Connecting and the TLS handshake: several round trips around the world, with one lost packet.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// An upload or a followed log may take as long as it likes as long as it moves. After the last byte of an
/// upload the node still writes, verifies and copies it to another node.
pub const UPLOAD_STALL: Duration = Duration::from_secs(120);
/// Idle connections are closed before a server or a firewall would do so under a request.
pub const IDLE_CONNECTION: Duration = Duration::from_secs(20);
/// An answer that is read whole: the listing of tens of thousands of instances fits.
pub const ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// One line of a log stream; the platform cuts output lines long before.
pub const LOG_LINE_BYTES: usize = 1024 * 1024;
/// A stream of events has a blank line every ten seconds: after this its node is not heard any more.
pub const EVENTS_SILENCE: Duration = Duration::from_secs(25);
/// API addresses of one cluster that are worth trying.
pub const ADDRESSES: usize = 64;
