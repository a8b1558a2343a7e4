//! Watches one connection: notices within `suspect_after` that a peer with work in flight fell
//! silent, and lets go of the connection when it is no longer needed. Asleep while nothing is owed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until};

use crate::link::Link;
use crate::mesh::Inner;
use crate::messages::PING;
use crate::slot::Slot;

/// Looks without anything received before a peer is suspect. A look counts once, however long it was
/// in coming: after this process was stopped for a while, the peers have as long to be heard as ever.
const LOOKS: u32 = 4;

/// A retired connection stays so long after its last user, for acknowledgements still to come.
const LINGER: Duration = Duration::from_secs(5);

pub(crate) async fn run(inner: Arc<Inner>, slot: Arc<Slot>, link: Arc<Link>) {
    let pause = inner.limits.suspect_after / LOOKS;
    let unused = inner.limits.unused_timeout;
    let mut heard = link.datagrams_received();
    let mut quiet = 0;
    loop {
        if link.is_retired() && !link.in_use() {
            tokio::select! {
                _ = link.connection.closed() => {}
                () = sleep(LINGER) => {}
            }
            return;
        }
        if Instant::now() >= link.expires && !link.is_retired() {
            slot.retire();
            inner.suspects.clear(link.node, link.lane);
            continue;
        }
        if quiet == 0 && !link.owed() {
            let wake = (link.last_used() + unused).min(link.expires);
            tokio::select! {
                error = link.connection.closed() => return inner.lost(&slot, &link, &error),
                () = link.stirred.notified() => heard = link.datagrams_received(),
                () = sleep_until(wake) => {
                    if slot.release_unused(&link, unused) {
                        inner.counters.released.inc();
                    }
                }
            }
            continue;
        }
        tokio::select! {
            error = link.connection.closed() => return inner.lost(&slot, &link, &error),
            () = sleep(pause) => {}
        }
        let now = link.datagrams_received();
        if now != heard {
            heard = now;
            link.heard();
            if quiet >= LOOKS && !link.is_retired() {
                inner.suspects.clear(link.node, link.lane);
            }
            link.silent.send_if_modified(std::mem::take);
            quiet = 0;
            continue;
        }
        quiet = (quiet + 1).min(LOOKS);
        if quiet == LOOKS {
            link.silent
                .send_if_modified(|silent| !std::mem::replace(silent, true));
            if !link.is_retired() {
                inner.suspect(link.node, link.lane);
                if started_again(&inner, &link) {
                    slot.retire();
                    // Suspect until this succeeds.
                    let _ = inner.demand(&slot, None);
                }
            }
        }
        // The acknowledgement is the answer. A full buffer means that there is something to answer already.
        let _ = link.connection.send_datagram(Bytes::from_static(&[PING]));
    }
}

/// Whether a silent peer has lately made a connection of its own that is newer than this one. It lives then, and most
/// likely knows nothing of this one, because it was started again: a killed process says no goodbye, and without this
/// its successor would stay out of reach until the old connection times out.
fn started_again(inner: &Inner, link: &Link) -> bool {
    let newest = inner.incoming.newest(link.node);
    newest.is_some_and(|at| at > link.born && at.elapsed() < inner.limits.idle_timeout)
}
