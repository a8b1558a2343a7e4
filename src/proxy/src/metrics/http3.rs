//! What is counted of connections of HTTP/3.

use nebula_telemetry::metrics::{Counter, Label, Metrics};

use super::Abuse;

/// What became of a client's wish for a connection of HTTP/3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    Accepted,
    Failed,
    TimedOut,
    /// It has to show that its address is its own.
    Retried,
    /// As many are open as may be.
    Full,
    /// As many are open of its address.
    Crowded,
    /// Its sender would have to say in a PROXY header whom it speaks for.
    Unnamed,
}

impl Attempt {
    const ALL: [Attempt; 7] = [
        Attempt::Accepted,
        Attempt::Failed,
        Attempt::TimedOut,
        Attempt::Retried,
        Attempt::Full,
        Attempt::Crowded,
        Attempt::Unnamed,
    ];

    fn label(self) -> &'static str {
        match self {
            Attempt::Accepted => "accepted",
            Attempt::Failed => "failed",
            Attempt::TimedOut => "timed_out",
            Attempt::Retried => "retried",
            Attempt::Full => "full",
            Attempt::Crowded => "crowded",
            Attempt::Unnamed => "unnamed",
        }
    }
}

#[derive(Clone)]
pub(crate) struct Http3Metrics {
    resets: Counter,
    frames: Counter,
    attempts: [Counter; 7],
}

impl Http3Metrics {
    pub(super) fn new(metrics: &Metrics) -> Http3Metrics {
        let abuses = metrics.counters::<Label>(
            "http3_abuses",
            "Client connections of HTTP/3 that were ended because of what they sent, by what it was",
        );
        let abuse =
            |abuse: Abuse| abuses.get_or_create_owned(&[("reason", abuse.label().to_owned())]);
        let attempts = metrics.counters::<Label>(
            "edge_http3_attempts",
            "Connections of HTTP/3 that clients asked for, by what became of it",
        );
        let attempt = |attempt: Attempt| {
            attempts.get_or_create_owned(&[("result", attempt.label().to_owned())])
        };
        Http3Metrics {
            resets: abuse(Abuse::Resets),
            frames: abuse(Abuse::Frames),
            attempts: Attempt::ALL.map(attempt),
        }
    }

    /// A connection is ended for what it sent.
    pub(crate) fn abused(&self, abuse: Abuse) {
        match abuse {
            Abuse::Resets => self.resets.inc(),
            Abuse::Frames => self.frames.inc(),
            // There is no library that would find it.
            Abuse::Protocol => 0,
        };
    }

    pub(crate) fn attempt(&self, attempt: Attempt) {
        self.attempts[attempt as usize].inc();
    }
}
