//! The decisions together: a proxy with some instances, simulated request by request, while one of them dies,
//! slows down, or answers with errors.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use super::balance::{Ask, Balance, Target, Targets};
use super::breaker::{BreakerPolicy, BreakerState};
use super::ejection::EjectionPolicy;
use super::hash::mix;
use super::instance::{HealthPolicy, Heard, Instance, Place};
use super::retry::{Body, Budget, Deadlines, Failure, RetryPolicy, Tries, may_repeat};
use super::{Nanos, nanos};
use crate::ids::InstanceId;

const SECOND: Nanos = 1_000_000_000;

/// What an instance does with a request at a moment.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    /// After so long.
    Good(Duration),
    /// After so long, with a 500.
    Bad(Duration),
    /// There is nobody.
    Refused,
}

const QUICK: Answer = Answer::Good(Duration::from_millis(10));

struct Sent {
    to: usize,
    answer: Answer,
    place: Place,
    tries: Tries,
    tried: Vec<usize>,
}

struct Simulation<'a> {
    targets: Targets,
    behaviour: &'a dyn Fn(usize, Nanos) -> Answer,
    breaker: Option<BreakerPolicy>,
    ejection: EjectionPolicy,
    retry: RetryPolicy,
    budget: Budget,
    under_way: BinaryHeap<Reverse<(Nanos, u64)>>,
    sent: Vec<Option<Sent>>,
    /// Tries of each instance in each second.
    tries: Vec<Vec<u32>>,
    /// Requests that ended without an answer, in each second.
    failed: Vec<u32>,
}

impl<'a> Simulation<'a> {
    fn new(count: usize, behaviour: &'a dyn Fn(usize, Nanos) -> Answer) -> Self {
        let target = |index: usize| Target {
            id: InstanceId(index as u64),
            instance: Arc::new(Instance::new(0)),
            weight: 1,
            local: false,
        };
        Simulation {
            targets: Targets::new((0..count).map(target).collect(), 0),
            behaviour,
            breaker: None,
            ejection: EjectionPolicy::default(),
            retry: RetryPolicy::default(),
            budget: Budget::default(),
            under_way: BinaryHeap::new(),
            sent: Vec::new(),
            tries: vec![vec![0; 61]; count],
            failed: vec![0; 61],
        }
    }

    /// A minute of GET requests without a body.
    fn run(mut self, per_second: u64) -> Self {
        for n in 0..60 * per_second {
            let now = n * SECOND / per_second;
            self.finish_until(now);
            self.budget.deposit(&self.retry, now);
            self.send(Tries::new(now), Vec::new(), now);
        }
        self.finish_until(60 * SECOND);
        self
    }

    fn instance(&self, index: usize) -> &Instance {
        &self.targets.targets()[index].instance
    }

    fn health(&self) -> HealthPolicy<'_> {
        HealthPolicy {
            ejection: Some(&self.ejection),
            breaker: self.breaker.as_ref(),
            per_instance: u32::MAX,
        }
    }

    fn send(&mut self, mut tries: Tries, tried: Vec<usize>, now: Nanos) {
        let ask = Ask {
            now,
            random: mix(self.sent.len() as u64 + 1),
            key: 0,
            slow_start: None,
        };
        let health = self.health();
        let fresh = |index: usize| !tried.contains(&index);
        let well = |index: usize| fresh(index) && self.instance(index).may_begin(&health, now);
        let policy = Balance::PowerOfTwo;
        let place = match self.targets.pick(&policy, &ask, well) {
            Some(to) => self
                .instance(to)
                .begin(&health, now)
                .map(|place| (to, place)),
            None => {
                let to = self.targets.pick(&policy, &ask, fresh);
                to.and_then(|to| Some((to, self.instance(to).begin_anyway(&health, now)?)))
            }
        };
        let Some((to, place)) = place else {
            self.failed[second(now)] += 1;
            return;
        };
        tries.begin(&Deadlines::default(), now);
        let answer = (self.behaviour)(to, now);
        let takes = match answer {
            Answer::Good(takes) | Answer::Bad(takes) => takes,
            Answer::Refused => Duration::from_micros(100),
        };
        self.tries[to][second(now)] += 1;
        let end = now + nanos(takes);
        self.under_way.push(Reverse((end, self.sent.len() as u64)));
        self.sent.push(Some(Sent {
            to,
            answer,
            place,
            tries,
            tried,
        }));
    }

    fn finish_until(&mut self, now: Nanos) {
        while let Some(Reverse((end, number))) = self.under_way.peek().copied() {
            if end > now {
                return;
            }
            self.under_way.pop();
            if let Some(sent) = self.sent[usize::try_from(number).unwrap()].take() {
                self.finish(sent, end);
            }
        }
    }

    fn finish(&mut self, mut sent: Sent, now: Nanos) {
        let heard = match sent.answer {
            Answer::Good(_) => Heard::Answer,
            Answer::Bad(_) => Heard::Error,
            Answer::Refused => Heard::Nothing,
        };
        let all = self
            .targets
            .targets()
            .iter()
            .map(|target| &*target.instance);
        let instance = self.instance(sent.to);
        instance.heard(&self.health(), &sent.place, heard, all, now);
        instance.end();
        if heard != Heard::Nothing {
            self.failed[second(now)] += u32::from(heard == Heard::Error);
            return;
        }
        let may_repeat = may_repeat(true, Body::Whole, Failure::Connect);
        let again = sent.tries.again(
            &self.retry,
            &Deadlines::default(),
            &self.budget,
            may_repeat,
            now,
        );
        match again {
            Ok(()) => {
                sent.tried.push(sent.to);
                self.send(sent.tries, sent.tried, now);
            }
            Err(_) => self.failed[second(now)] += 1,
        }
    }

    /// Tries of an instance from one second to another.
    fn tries_of(&self, index: usize, seconds: std::ops::Range<usize>) -> u32 {
        self.tries[index][seconds].iter().sum()
    }
}

fn second(now: Nanos) -> usize {
    usize::try_from(now / SECOND).unwrap()
}

#[test]
fn a_dead_instance_costs_retries_and_no_request() {
    let dies = |index: usize, now: Nanos| match (index, second(now)) {
        (1, 10..30) => Answer::Refused,
        _ => QUICK,
    };
    let run = Simulation::new(3, &dies).run(1_000);
    assert_eq!(run.failed.iter().sum::<u32>(), 0);
    let policy = EjectionPolicy::default();
    // Three to find out, what was on its way meanwhile, and a probe each ten seconds.
    let tries = run.tries_of(1, 10..30);
    assert!((3..12).contains(&tries), "{tries} tries of a dead instance");
    // Back by the next probe.
    let back = 31 + policy.fail_timeout.as_secs() as usize;
    let tries = run.tries_of(1, back..60);
    let even = (60 - back as u32) * 1_000 / 3;
    assert!(tries.abs_diff(even) < even / 2, "{tries}, not {even}");
}

#[test]
fn a_slow_instance_gets_little() {
    let slows = |index: usize, now: Nanos| match (index, second(now)) {
        (1, 20..60) => Answer::Good(Duration::from_millis(200)),
        _ => QUICK,
    };
    let run = Simulation::new(3, &slows).run(1_000);
    let before = run.tries_of(1, 5..20);
    assert!(before.abs_diff(5_000) < 1_000, "{before} of 15,000");
    let slow = run.tries_of(1, 21..60);
    assert!(slow < 39_000 / 50, "{slow} of 39,000");
    assert!(slow > 0, "it is looked at again");
}

#[test]
fn when_all_are_dead_retries_stay_in_their_budget_and_they_are_found_again() {
    let outage = |_: usize, now: Nanos| match second(now) {
        10..30 => Answer::Refused,
        _ => QUICK,
    };
    let run = Simulation::new(3, &outage).run(1_000);
    let tries: u32 = (0..3).map(|index| run.tries_of(index, 10..30)).sum();
    // A fifth more, ten a second, and what was saved up.
    assert!(
        tries < 20_000 * 6 / 5 + 20 * 10 + 2_500,
        "{tries} tries of 20,000"
    );
    assert_eq!(run.failed[10..30].iter().sum::<u32>(), 20_000);
    assert_eq!(run.failed[30..].iter().sum::<u32>(), 0);
}

#[test]
fn a_breaker_takes_out_who_answers_with_errors_and_lets_it_back() {
    let errors = |index: usize, now: Nanos| match (index, second(now)) {
        (1, 10..30) => Answer::Bad(Duration::from_millis(1)),
        _ => QUICK,
    };
    let without = Simulation::new(3, &errors).run(1_000);
    let mut with = Simulation::new(3, &errors);
    with.breaker = Some(BreakerPolicy::default());
    let with = with.run(1_000);
    let errors = |run: &Simulation<'_>| run.failed.iter().sum::<u32>();
    assert!(errors(&without) > 4_000, "{}", errors(&without));
    // Until half of ten seconds' requests failed; then three probes each five seconds.
    assert!(errors(&with) < errors(&without) / 2, "{}", errors(&with));
    assert_eq!(with.instance(1).breaker.state(), BreakerState::Closed);
    assert!(with.tries_of(1, 40..60) > 20_000 / 6);
}
