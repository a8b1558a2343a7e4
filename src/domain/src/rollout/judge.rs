//! What a release's requests say against it, beside those of the release before.
//!
//! Few requests differ by chance. So two things have to hold before a release is withdrawn: what was seen is worse by
//! more than its strategy allows, and it is not to be explained by chance. For the second: Wilson's interval around each
//! share ("Probable inference", 1927) and Newcombe's around the difference of two ("Interval estimation for the
//! difference between independent proportions", 1998, method 10), which hold for small numbers and shares near 0 too, where
//! the textbook's test does not.
//!
//! That takes requests to be slow each for itself, and they are not: a machine that stands still for a second makes all slow that
//! came in it. So a release that was found slow has to be slow once more, in requests of a later time ([`Suspicions`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::figures::{Figures, Pair, Times};
use crate::ids::ReleaseNumber;
use crate::names::DeploymentName;
use crate::spec::Judge;
use crate::state::Deployment;

/// Standard deviations that chance is allowed: one-sided 99.99 %. That much, because the question is asked each second while the
/// figures grow, and each time is another chance to be wrong: over 150 looks at two equal releases 99.9 % was wrong in up to 2 of 100
/// rollouts, this in less than 1.
const Z: f64 = 3.72;

/// What has to be between two 95th percentiles besides their ratio: 2 ms after 1 ms is nothing that anybody notices.
pub const SLOWER_BY_MIN: Duration = Duration::from_millis(20);

/// The part of the requests that is slower than the 95th percentile, by its name.
const SLOW_PART: f64 = 0.05;

/// How long everything may stand still without that saying anything of a release: a busy machine, a first request that
/// loads what the others need. What is slow for longer is no pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Nodes tell each second what they have counted, and gossip takes another or two: what a node counted in a pause is known after that.
const TOLD_WITHIN: Duration = Duration::from_secs(3);

/// After so long a release that was found slow is looked at anew.
pub const LOOKS_AGAIN_AFTER: Duration = PAUSE_MAX.saturating_add(TOLD_WITHIN);

/// And for no less than this: what comes within a moment is one thing and not fifty.
pub const LOOKS_FOR: Duration = Duration::from_secs(1);

/// With few requests a second look takes long. A release waits for it no longer than this, and is then as good as it was without.
pub const HELD_MAX: Duration = Duration::from_secs(20);

/// What was found, one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    Errors(String),
    Slow(String),
}

/// Releases that were found slow and are looked at once more. The leader's own; the next one begins anew.
#[derive(Debug, Default)]
pub struct Suspicions(BTreeMap<DeploymentName, Suspicion>);

#[derive(Debug)]
struct Suspicion {
    /// [`Rollout::since_revision`](super::Rollout::since_revision) tells one rollout from the next.
    rollout: u64,
    first: Duration,
    /// The latest time that it was found and had to be looked at once more.
    found: Duration,
    /// Since when it is, and what had been counted by then.
    again: Option<(Duration, Pair)>,
}

impl Suspicions {
    /// What speaks against the release that is on its way, one sentence. `figures` are those of all nodes since the rollout
    /// began, `now` is the time since any fixed moment.
    pub fn verdict(
        &mut self,
        deployment: &Deployment,
        figures: &BTreeMap<ReleaseNumber, Figures>,
        now: Duration,
    ) -> Option<String> {
        let rollout = deployment.rollout.as_ref();
        let judged = rollout.and_then(|rollout| Some((rollout.since_revision, rollout.from?)));
        let limits = deployment.current().spec.strategy.judge;
        let (Some((rollout, from)), Some(limits)) = (judged, limits) else {
            self.0.remove(&deployment.name);
            return None;
        };
        let nothing = Figures::default();
        let of = |release| figures.get(&release).unwrap_or(&nothing);
        let (old, new) = (of(from), of(deployment.target));
        match judge(&limits, old, new) {
            None => {
                self.0.remove(&deployment.name);
                None
            }
            Some(Finding::Errors(why)) => Some(why),
            Some(Finding::Slow(why)) => match self.0.get_mut(&deployment.name) {
                Some(before) if before.rollout == rollout => {
                    before.is_confirmed(&limits, old, new, now).then_some(why)
                }
                _ => {
                    let suspicion = Suspicion {
                        rollout,
                        first: now,
                        found: now,
                        again: None,
                    };
                    self.0.insert(deployment.name.clone(), suspicion);
                    None
                }
            },
        }
    }

    /// Whether the release is to wait for a second look.
    pub fn holds(&self, name: &DeploymentName, now: Duration) -> bool {
        let suspicion = self.0.get(name);
        suspicion.is_some_and(|it| now.saturating_sub(it.first) < HELD_MAX)
    }

    /// Forgets all others.
    pub fn retain(&mut self, names: &BTreeSet<&DeploymentName>) {
        self.0.retain(|name, _| names.contains(name));
    }
}

impl Suspicion {
    /// Whether what came later is slow as well. If it is not, or less has been counted than before because a node is gone, it begins
    /// anew.
    fn is_confirmed(
        &mut self,
        limits: &Judge,
        old: &Figures,
        new: &Figures,
        now: Duration,
    ) -> bool {
        if now.saturating_sub(self.found) < LOOKS_AGAIN_AFTER {
            return false;
        }
        let (since, counted) = self.again.get_or_insert_with(|| {
            let (old, new) = (old.clone(), new.clone());
            (now, Pair { old, new })
        });
        let more = new.since(&counted.new);
        // What slows both speaks against neither. When the release before has few requests left, all that it had count.
        let enough = |old: &Figures| old.times.count() >= u64::from(limits.requests);
        let beside = old.since(&counted.old).filter(enough);
        let is_little = more.as_ref().is_some_and(|more| {
            let few = more.times.count() < u64::from(limits.requests);
            few || now.saturating_sub(*since) < LOOKS_FOR
        });
        if is_little {
            return false;
        }
        (self.found, self.again) = (now, None);
        let old = beside.as_ref().unwrap_or(old);
        more.is_some_and(|more| too_slow(limits, old, &more).is_some())
    }
}

/// What speaks against `new`. Both were counted from the same moment, so that also a release that gets no
/// more requests is compared with; when it never had one, errors are held against the limit alone.
pub fn judge(limits: &Judge, old: &Figures, new: &Figures) -> Option<Finding> {
    if new.requests < u64::from(limits.requests) {
        return None;
    }
    let errors = too_many_errors(limits, old, new).map(Finding::Errors);
    errors.or_else(|| too_slow(limits, old, new).map(Finding::Slow))
}

fn too_many_errors(limits: &Judge, old: &Figures, new: &Figures) -> Option<String> {
    let allowed = f64::from(limits.errors_percent) / 100.0;
    let failed = Share::new(new.failed, new.requests)?;
    let said = format!("{failed} of {} requests failed", new.requests);
    match Share::new(old.failed, old.requests) {
        Some(before) => {
            let worse = failed.part() - before.part() > allowed && failed.exceeds(before);
            worse.then(|| format!("{said}, {before} of the release before"))
        }
        None => (failed.least() > allowed).then_some(said),
    }
}

/// It is slower when more of its answers than the 5 % that may be are slower than the release before is allowed to have its 95th
/// percentile: so said it is a share as well, and chance is kept out in the same way.
fn too_slow(limits: &Judge, old: &Figures, new: &Figures) -> Option<String> {
    let enough = |times: &Times| times.count() >= u64::from(limits.requests);
    if limits.p95_percent == 0 || !enough(&old.times) || !enough(&new.times) {
        return None;
    }
    let (before, after) = (old.p95()?, new.p95()?);
    let bound = (before.saturating_mul(limits.p95_percent) / 100).max(before + SLOWER_BY_MIN);
    let slower = |times: &Times| Share::new(times.slower_than(bound), times.count());
    let (slow, slow_before) = (slower(&new.times)?, slower(&old.times)?);
    let worse = slow.part() > SLOW_PART && slow.exceeds(slow_before);
    worse.then(|| {
        let (after, before) = (shown(after), shown(before));
        format!("95 % of its answers took up to {after}, {before} those of the release before")
    })
}

/// So many of so many.
#[derive(Debug, Clone, Copy)]
struct Share {
    some: f64,
    all: f64,
}

impl Share {
    /// `None` of nothing.
    fn new(some: u64, all: u64) -> Option<Share> {
        // What other nodes say may not add up.
        let some = some.min(all);
        (all > 0).then_some(Share {
            some: some as f64,
            all: all as f64,
        })
    }

    fn part(self) -> f64 {
        self.some / self.all
    }

    /// Wilson's interval.
    fn interval(self) -> (f64, f64) {
        let (p, n, z2) = (self.part(), self.all, Z * Z);
        let middle = p + z2 / (2.0 * n);
        let width = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        let whole = 1.0 + z2 / n;
        ((middle - width) / whole, (middle + width) / whole)
    }

    /// What it is at least, but for chance.
    fn least(self) -> f64 {
        self.interval().0
    }

    /// Whether it is larger, but for chance: Newcombe's interval of the difference lies above 0.
    fn exceeds(self, other: Share) -> bool {
        let (least, most) = (self.interval().0, other.interval().1);
        let difference = self.part() - other.part();
        difference > (self.part() - least).hypot(most - other.part())
    }
}

/// In percent.
impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} %", 100.0 * self.part())
    }
}

fn shown(took: Duration) -> String {
    match took.as_millis() {
        millis @ 0..1_000 => format!("{millis} ms"),
        _ => format!("{:.1} s", took.as_secs_f64()),
    }
}
