//! What the mesh counts.

use nebula_telemetry::metrics::Label;
use nebula_telemetry::{Counter, Family, Metrics};

#[derive(Clone)]
pub(crate) struct Counters {
    refused: Family<Label, Counter>,
    dials: Family<Label, Counter>,
    dropped: Family<Label, Counter>,
    pub(crate) datagrams_sent: Counter,
    pub(crate) large_messages_sent: Counter,
    pub(crate) messages_received: Counter,
    pub(crate) streams_opened: Counter,
    pub(crate) streams_served: Counter,
    pub(crate) address_checks: Counter,
    pub(crate) lost: Counter,
    pub(crate) released: Counter,
    pub(crate) suspected: Counter,
}

impl Counters {
    pub(crate) fn new(metrics: &Metrics) -> Counters {
        let sent = metrics.counters::<Label>(
            "mesh_messages_sent",
            "Messages handed to a connection, by the way they went",
        );
        let by = |way: &str| sent.get_or_create(&[("by", way.to_owned())]).clone();
        Counters {
            datagrams_sent: by("datagram"),
            large_messages_sent: by("stream"),
            refused: metrics.counters(
                "mesh_refused",
                "Connections, streams and messages refused, by reason",
            ),
            dials: metrics.counters("mesh_dials", "Connections dialled, by outcome"),
            dropped: metrics.counters("mesh_messages_dropped", "Messages dropped, by reason"),
            messages_received: metrics.counter("mesh_messages_received", "Messages delivered"),
            streams_opened: metrics.counter("mesh_streams_opened", "Streams opened to others"),
            streams_served: metrics.counter("mesh_streams_served", "Streams answered for others"),
            lost: metrics.counter("mesh_connections_lost", "Connections lost and made again"),
            address_checks: metrics.counter(
                "mesh_address_checks",
                "Diallers asked to prove their address first",
            ),
            released: metrics.counter(
                "mesh_connections_released",
                "Connections let go because nobody used them",
            ),
            suspected: metrics.counter("mesh_suspected", "Times a peer fell silent"),
        }
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        count(&self.refused, "reason", reason);
    }

    /// The counter itself, for whoever counts elsewhere.
    pub(crate) fn refusals(&self, reason: &'static str) -> Counter {
        self.refused
            .get_or_create(&[("reason", reason.to_owned())])
            .clone()
    }

    pub(crate) fn dialled(&self, outcome: &'static str) {
        count(&self.dials, "outcome", outcome);
    }

    pub(crate) fn dropped(&self, reason: &'static str) {
        count(&self.dropped, "reason", reason);
    }
}

fn count(family: &Family<Label, Counter>, label: &'static str, value: &'static str) {
    family.get_or_create(&[(label, value.to_owned())]).inc();
}
