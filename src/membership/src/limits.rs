//! What membership allows, and how fast it goes.

use std::time::Duration;

/// A node tells its peers this often, and this is also how often liveness is judged. Gossip is most of
/// what an idle node does: at 300 ms it goes past 1 % of a core.
pub(crate) const GOSSIP_INTERVAL: Duration = Duration::from_millis(500);

// chitchat calls a node dead when `elapsed / mean > PHI`, with
// `mean = (sum of the window + 5 * PRIOR) / (window length + 5)`. Arrivals come every few
// milliseconds in a small cluster (each message that a peer handles counts as a heartbeat) and
// every few hundred in a large one, so a long window would make the deadline depend on the size of
// the cluster. A window of one lets the prior dominate: the deadline is
// `8 * (5 * 0.25 + x) / 6` for a last interval of x, that is 1.67 s for 0 and 2.47 s for MAX_INTERVAL,
// plus at most one GOSSIP_INTERVAL until it is noticed.
pub(crate) const PHI: f64 = 8.0;
pub(crate) const WINDOW: usize = 1;
pub(crate) const PRIOR: Duration = Duration::from_millis(250);
pub(crate) const MAX_INTERVAL: Duration = Duration::from_millis(600);

/// A peer that the mesh suspects and that is silent this long is dead already.
pub(crate) const SUSPECT_SILENCE: Duration = Duration::from_millis(1500);
/// A member that was never heard of counts as alive this long, so that a node that has just
/// started, or has just learned of a member, replaces nothing.
pub(crate) const START_GRACE: Duration = Duration::from_secs(5);
/// Of a member that has spoken but too little for chitchat to judge it.
pub(crate) const UNSETTLED_SILENCE: Duration = Duration::from_secs(2);
/// One that said that it restarts is waited for so long after its last word, and then dead like any other: a daemon is
/// replaced and started within that, and who never comes back is not missed for longer.
pub(crate) const RETURN_WITHIN: Duration = Duration::from_secs(30);
/// How long a node that restarts still gossips after it has said so: an exchange with its peers, of which nobody learns
/// the outcome. Who did not hear takes it for dead, as without a word.
pub(crate) const FAREWELL: Duration = Duration::from_millis(300);
/// When this node itself stood still for longer than `STALL`, its peers are given `STALL_GRACE`
/// to be heard before their silence counts.
pub(crate) const STALL: Duration = Duration::from_millis(1200);
pub(crate) const STALL_GRACE: Duration = Duration::from_secs(1);

/// Dead nodes' last words are kept this long, for `status`; then chitchat forgets them.
pub(crate) const DEAD_KEPT: Duration = Duration::from_secs(600);
/// Peers silent for longer than this are sent the whole state instead of a deletion.
pub(crate) const DELETED_KEPT: Duration = Duration::from_secs(300);

/// chitchat's own bound on a message: one UDP datagram.
pub(crate) const MAX_MESSAGE_BYTES: usize = 65_507;
/// A message's blocks unpacked; honest ones hold at most a few times `MAX_MESSAGE_BYTES`.
pub(crate) const MAX_UNPACKED_BYTES: usize = 1024 * 1024;
/// Nodes named in one message: every member with one earlier life each, and some more.
pub(crate) const MAX_NODES_NAMED: usize = 2 * nebula_domain::limits::NODES.max as usize + 64;
/// `facts`, or `i/`, `r/` or `c/` and a 64-bit number.
pub(crate) const MAX_KEY_BYTES: usize = 32;
/// The JSON of an instance's facts, its reason included, or of a node's; what is asked of a rate limit; or what was counted of a
/// rollout.
pub(crate) const MAX_VALUE_BYTES: usize = 1024;
/// Why an instance is not well, as gossip carries it; the log has the rest.
pub(crate) const MAX_REASON_BYTES: usize = 300;
/// Instances one node speaks of. More would not fit a few messages.
pub(crate) const MAX_INSTANCES: usize = 1000;

/// Messages from the mesh that wait to be read. Gossip repeats itself, so what does not fit is dropped.
pub(crate) const INBOX: usize = 256;

/// Numbers that change all the time are told at most this often.
pub(crate) const LAZY_INTERVAL: Duration = Duration::from_secs(1);
/// Resident memory is told in steps, so that it does not make news by itself.
pub(crate) const RSS_STEP_BYTES: u64 = 4 * 1024 * 1024;
/// Changes of phase or health are told at once, but not in more bursts than this.
pub(crate) const PUSH_SPACING: Duration = Duration::from_millis(20);
/// Peers told at once; they tell the others.
pub(crate) const PUSH_PEERS: usize = 8;
/// How often members that are not heard of are greeted, and how many at a time.
pub(crate) const GREET_INTERVAL: Duration = Duration::from_millis(500);
pub(crate) const GREET_PEERS: usize = 3;
