//! Passive outlier ejection: an instance whose requests failed is left out for a while. Shared by all
//! threads (atomics); while nothing fails, a request costs one load.
//!
//! As nginx has it: `max_fails` failures within `fail_timeout` leave an instance out for `fail_timeout`. After that one
//! request finds out whether it is well: until that one ends, and if it fails, it stays left out.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fields::Form;
use super::{Nanos, TrafficError, check_count, check_window, nanos};
use crate::text::{Percent, show_duration};

/// Text: `max_fails=3 fail_timeout=30s max_ejected=50%`, the first two as nginx's `server` directive has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EjectionPolicy {
    /// So many failures within `fail_timeout` eject an instance.
    pub max_fails: u32,
    /// The time in which failures are counted, and for which the instance is then left out.
    pub fail_timeout: Duration,
    /// Of a deployment's instances at most this share is left out at a time (one, if that is none), and never
    /// the last one. Envoy's `max_ejection_percent`.
    pub max_ejected: Percent,
}

impl Default for EjectionPolicy {
    /// nginx's 10 s. Three failures and not its one, because a single one may be the request's fault. Half of
    /// the instances: if more fail, the fault is most likely not theirs, and the rest would be overrun.
    fn default() -> Self {
        EjectionPolicy {
            max_fails: 3,
            fail_timeout: Duration::from_secs(10),
            max_ejected: Percent::capped(50),
        }
    }
}

const FORM: Form = Form {
    what: "an ejection setting",
    example: "max_fails=3 fail_timeout=30s",
    words: &["max_fails", "fail_timeout", "max_ejected"],
};

impl EjectionPolicy {
    pub fn check(&self) -> Result<(), TrafficError> {
        check_count("max_fails", self.max_fails, 1)?;
        check_window("fail_timeout", self.fail_timeout)
    }
}

impl FromStr for EjectionPolicy {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let (fields, default) = (FORM.read(text)?, EjectionPolicy::default());
        let policy = EjectionPolicy {
            max_fails: fields.count("max_fails", default.max_fails)?,
            fail_timeout: fields.duration("fail_timeout", default.fail_timeout)?,
            max_ejected: fields.percent("max_ejected", default.max_ejected)?,
        };
        policy.check()?;
        Ok(policy)
    }
}

impl fmt::Display for EjectionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "max_fails={} fail_timeout={} max_ejected={}",
            self.max_fails,
            show_duration(self.fail_timeout),
            self.max_ejected
        )
    }
}

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Well,
    /// Left out.
    Ejected,
    /// Was left out, and may get one request to show that it is well: [`Outlier::probe`].
    OnProbation,
}

/// What happened to an instance, for the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ejected {
    /// It is left out from now on.
    Now,
    /// It has failed too often, and is kept because too many are left out already.
    Spared,
}

/// One instance's failures.
#[derive(Debug, Default)]
pub struct Outlier {
    /// Until when it is left out; 0: it is not.
    until: AtomicU64,
    /// The present window's beginning and its failures: see [`Failures`].
    failures: AtomicU64,
}

/// When the window began, in units of 2^20 ns (about a millisecond), and how many failed since, in one word.
#[derive(Clone, Copy)]
struct Failures {
    since: u64,
    count: u64,
}

const SINCE_SHIFT: u32 = 20;
const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

impl Failures {
    fn read(word: u64) -> Failures {
        Failures {
            since: word >> COUNT_BITS << SINCE_SHIFT,
            count: word & COUNT_MAX,
        }
    }

    fn word(self) -> u64 {
        self.since >> SINCE_SHIFT << COUNT_BITS | self.count.min(COUNT_MAX)
    }
}

impl Outlier {
    pub fn standing(&self, now: Nanos) -> Standing {
        // Relaxed: a moment's delay costs a retry.
        match self.until.load(Ordering::Relaxed) {
            0 => Standing::Well,
            until if until > now => Standing::Ejected,
            _ => Standing::OnProbation,
        }
    }

    /// Takes the one request that an instance on probation may get. `false`: another one has it, choose again. With
    /// `true` the caller tells the end by [`Outlier::probed`]; if it cannot, another may try after `fail_timeout`.
    #[must_use]
    pub fn probe(&self, policy: &EjectionPolicy, now: Nanos) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        let again = now.saturating_add(nanos(policy.fail_timeout));
        until != 0
            && until <= now
            && self
                .until
                .compare_exchange(until, again, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// The request of [`Outlier::probe`] has ended.
    pub fn probed(&self, policy: &EjectionPolicy, succeeded: bool, now: Nanos) {
        let until = match succeeded {
            true => 0,
            false => now.saturating_add(nanos(policy.fail_timeout)),
        };
        self.failures.store(0, Ordering::Relaxed);
        self.until.store(until, Ordering::Relaxed);
    }

    /// The request of [`Outlier::probe`] found nothing out: another may at once.
    pub fn not_probed(&self, now: Nanos) {
        let back = |until| (until != 0).then_some(now.max(1));
        let _ = self
            .until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
    }

    /// A request failed that was no probe. `all` are the outliers of the deployment's endpoints, this one
    /// among them. What counts as a failure is the caller's to say; nginx: errors and time-outs.
    pub fn failed<'a>(
        &'a self,
        policy: &EjectionPolicy,
        all: impl IntoIterator<Item = &'a Outlier>,
        now: Nanos,
    ) -> Option<Ejected> {
        if self.standing(now) != Standing::Well {
            return None;
        }
        if self.count(policy, now) < u64::from(policy.max_fails) {
            return None;
        }
        let until = now.saturating_add(nanos(policy.fail_timeout));
        // Sequentially consistent, like the counting below: of two threads that eject at the same time at
        // least one sees the other, and withdraws if that was too many.
        let placed = self
            .until
            .compare_exchange(0, until, Ordering::SeqCst, Ordering::SeqCst);
        placed.ok()?;
        let (mut count, mut left_out) = (0, 0);
        for outlier in all {
            count += 1;
            // Those on probation too: it may end badly.
            left_out += u64::from(outlier.until.load(Ordering::SeqCst) != 0);
        }
        let most = policy
            .max_ejected
            .of(count)
            .max(1)
            .min(count.saturating_sub(1));
        if left_out > most {
            // Unless it has been decided anew meanwhile.
            let _ = self
                .until
                .compare_exchange(until, 0, Ordering::SeqCst, Ordering::SeqCst);
            return Some(Ejected::Spared);
        }
        self.failures.store(0, Ordering::Relaxed);
        Some(Ejected::Now)
    }

    /// One failure more; how many there were in the window that the first of them began.
    fn count(&self, policy: &EjectionPolicy, now: Nanos) -> u64 {
        let mut word = self.failures.load(Ordering::Relaxed);
        loop {
            let before = Failures::read(word);
            let within = now.saturating_sub(before.since) <= nanos(policy.fail_timeout);
            let next = match within && before.count > 0 {
                true => Failures {
                    count: before.count + 1,
                    ..before
                },
                false => Failures {
                    since: now,
                    count: 1,
                },
            };
            match self.failures.compare_exchange_weak(
                word,
                next.word(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return next.count,
                Err(newer) => word = newer,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn policy() -> EjectionPolicy {
        "max_fails=3 fail_timeout=30s".parse().unwrap()
    }

    fn outliers(count: usize) -> Vec<Outlier> {
        (0..count).map(|_| Outlier::default()).collect()
    }

    /// So many failures of one among others at these seconds; what came of the last.
    fn fail(all: &[Outlier], index: usize, seconds: &[u64]) -> Option<Ejected> {
        let fail = |s: &u64| all[index].failed(&policy(), all, s * SECOND);
        seconds.iter().map(fail).fold(None, |_, last| last)
    }

    #[test]
    fn enough_failures_in_time_eject() {
        let all = outliers(3);
        assert_eq!(fail(&all, 0, &[0, 10]), None);
        assert_eq!(all[0].standing(10 * SECOND), Standing::Well);
        assert_eq!(fail(&all, 0, &[20]), Some(Ejected::Now));
        assert_eq!(all[0].standing(49 * SECOND), Standing::Ejected);
        assert_eq!(all[0].standing(50 * SECOND), Standing::OnProbation);
        assert_eq!(fail(&all, 1, &[0, 29, 31, 60]), None, "never three in 30 s");
    }

    #[test]
    fn one_request_decides_after_the_time() {
        let all = outliers(3);
        fail(&all, 0, &[0, 0, 0]);
        let outlier = &all[0];
        assert!(!outlier.probe(&policy(), 29 * SECOND));
        assert!(outlier.probe(&policy(), 30 * SECOND));
        assert!(!outlier.probe(&policy(), 30 * SECOND), "one at a time");
        outlier.probed(&policy(), false, 31 * SECOND);
        assert_eq!(outlier.standing(60 * SECOND), Standing::Ejected);
        assert!(outlier.probe(&policy(), 61 * SECOND));
        // Nobody told how it ended.
        assert_eq!(outlier.standing(90 * SECOND), Standing::Ejected);
        assert!(outlier.probe(&policy(), 91 * SECOND));
        outlier.probed(&policy(), true, 92 * SECOND);
        assert_eq!(outlier.standing(92 * SECOND), Standing::Well);
        assert_eq!(fail(&all, 0, &[93, 93]), None, "it begins anew");
    }

    #[test]
    fn the_last_one_stays() {
        let one = outliers(1);
        assert_eq!(fail(&one, 0, &[0, 0, 0]), Some(Ejected::Spared));
        assert_eq!(one[0].standing(0), Standing::Well);
        let two = outliers(2);
        assert_eq!(fail(&two, 0, &[0, 0, 0]), Some(Ejected::Now));
        assert_eq!(fail(&two, 1, &[0, 0, 0]), Some(Ejected::Spared));
        assert_eq!(
            fail(&two, 1, &[30]),
            Some(Ejected::Spared),
            "the first may fail again"
        );
        assert!(two[0].probe(&policy(), 30 * SECOND));
        two[0].probed(&policy(), true, 30 * SECOND);
        assert_eq!(fail(&two, 1, &[30]), Some(Ejected::Now));
    }

    #[test]
    fn threads_that_eject_together_leave_enough() {
        for _ in 0..200 {
            let all = outliers(4);
            std::thread::scope(|scope| {
                for index in 0..4 {
                    let all = &all;
                    scope.spawn(move || fail(all, index, &[1, 1, 1]));
                }
            });
            let left_out = |o: &&Outlier| o.standing(SECOND) == Standing::Ejected;
            assert!(all.iter().filter(left_out).count() <= 2);
        }
    }

    proptest! {
        #[test]
        fn never_more_are_left_out_than_allowed(
            count in 1usize..12,
            percent in 0u8..=100,
            events in proptest::collection::vec((0usize..12, 0u64..120), 1..200),
        ) {
            let policy = EjectionPolicy { max_ejected: Percent::capped(percent), ..policy() };
            let all = outliers(count);
            let mut events = events;
            events.sort_by_key(|(_, time)| *time);
            for (index, time) in events {
                let now = time * SECOND;
                let outlier = &all[index % count];
                if outlier.probe(&policy, now) {
                    outlier.probed(&policy, index % 2 == 0, now);
                } else {
                    outlier.failed(&policy, &all, now);
                }
                let left_out = all.iter().filter(|o| o.standing(now) != Standing::Well).count();
                let most = (count * usize::from(percent) / 100).max(1);
                prop_assert!(left_out <= most && left_out < count, "{left_out} of {count}");
            }
        }
    }
}
