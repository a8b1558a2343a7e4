//! One instance under probes: where they stand, and when to ask next.

use std::time::Duration;

use nebula_domain::observed::{Health, LocalInstance};
use nebula_domain::probe::{Event, Trio, Verdict};
use nebula_domain::spec::{ProbeRole, ProbeSpec};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::book::Note;
use crate::dial;

pub(crate) struct Target {
    pub(crate) local: LocalInstance,
    trio: Trio,
    probes: Vec<Probe>,
}

/// One of its probes.
pub(crate) struct Probe {
    pub(crate) role: ProbeRole,
    pub(crate) spec: ProbeSpec,
    asks: String,
    /// When to ask next; not looked at while a probe is under way.
    due: Instant,
    pub(crate) under_way: Option<AbortHandle>,
    /// What it failed with last.
    failed: String,
}

impl Target {
    /// `age`: how long the run has gone on already.
    pub(crate) fn new(local: LocalInstance, age: Duration, now: Instant) -> Target {
        let probes = ProbeRole::ALL.into_iter().filter_map(|role| {
            let spec = local.probes.get(role)?.clone();
            Some(Probe {
                role,
                asks: dial::describe(&spec.kind),
                due: now + spec.delay.saturating_sub(age),
                under_way: None,
                failed: String::new(),
                spec,
            })
        });
        Target {
            trio: Trio::new(&local.probes),
            probes: probes.collect(),
            local,
        }
    }

    pub(crate) fn health(&self) -> Health {
        self.trio.health()
    }

    /// Why it is not ready, if there is anything to say.
    pub(crate) fn complaint(&self) -> Option<String> {
        let role = self.trio.complains()?;
        let probe = self.probes.iter().find(|probe| probe.role == role)?;
        let failed = &probe.failed;
        Some(match role {
            ProbeRole::Liveness => format!("liveness probe failed: {failed}"),
            ProbeRole::Startup | ProbeRole::Readiness => format!("{role} probe: {failed}"),
        })
    }

    /// The probes that may be asked, and when.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (Instant, ProbeRole)> {
        let waiting = self.probes.iter().filter(|probe| {
            probe.under_way.is_none() && self.trio.asks(&self.local.probes, probe.role)
        });
        waiting.map(|probe| (probe.due, probe.role))
    }

    pub(crate) fn probe(&mut self, role: ProbeRole) -> Option<&mut Probe> {
        self.probes.iter_mut().find(|probe| probe.role == role)
    }

    /// Takes in one probe's result; the new verdict, if it changed.
    pub(crate) fn ended(
        &mut self,
        role: ProbeRole,
        event: Event,
        result: Result<(), &str>,
        now: Instant,
    ) -> Option<Verdict> {
        let verdict = self.trio.take(&self.local.probes, role, event);
        let probe = self.probes.iter_mut().find(|probe| probe.role == role)?;
        probe.under_way = None;
        probe.due = now + self.trio.next_delay(role, &probe.spec);
        if let Err(reason) = result {
            reason.clone_into(&mut probe.failed);
        }
        verdict
    }

    /// How all of them stand; `met` is what one was just answered.
    pub(crate) fn notes<'a>(
        &'a self,
        met: Option<(ProbeRole, Result<(), &'a str>)>,
    ) -> impl Iterator<Item = Note<'a>> {
        self.probes.iter().map(move |probe| Note {
            role: probe.role,
            asks: &probe.asks,
            standing: self.trio.standing(probe.role),
            streak: self.trio.tally(probe.role).streak,
            met: met
                .filter(|(role, _)| *role == probe.role)
                .map(|(_, result)| result),
        })
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        for under_way in self.probes.iter().filter_map(|p| p.under_way.as_ref()) {
            under_way.abort();
        }
    }
}
