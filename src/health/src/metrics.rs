//! What an operator may want to count of probes.

use nebula_domain::spec::ProbeRole;
use nebula_telemetry::Metrics;
use nebula_telemetry::metrics::{Counter, Family};

type Probe = [(&'static str, &'static str); 1];

pub(crate) struct Counters {
    failures: Family<Probe, Counter>,
    given_up: Family<Probe, Counter>,
}

impl Counters {
    pub(crate) fn new(metrics: &Metrics) -> Counters {
        Counters {
            failures: metrics.counters(
                "health_probe_failures",
                "Probes of this node's instances that failed, by probe",
            ),
            given_up: metrics.counters(
                "health_runs_given_up",
                "Programs that are ended and started again because of a probe, by probe",
            ),
        }
    }

    pub(crate) fn ended(&self, role: ProbeRole, ok: bool) {
        if !ok {
            self.failures.get_or_create(&label(role)).inc();
        }
    }

    pub(crate) fn given_up(&self, role: ProbeRole) {
        self.given_up.get_or_create(&label(role)).inc();
    }
}

fn label(role: ProbeRole) -> Probe {
    [("probe", role.as_str())]
}
