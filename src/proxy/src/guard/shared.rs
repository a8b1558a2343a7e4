//! Rate limits that the nodes of a cluster share: what is asked of them here, and how much of them this node may give. The proxy knows of
//! no gossip: whoever has it calls [`SharedRates::turn`] once in a [`SharedRates::PERIOD`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use nebula_domain::limits::Limit;
use nebula_domain::state::EdgeSecret;
use nebula_domain::traffic::rate::RateLimit;
use nebula_domain::traffic::rate::cluster::{
    self, Demand, Share, Talker, Talkers, shared_key, shares, told,
};
use nebula_domain::traffic::rate::table::Key;
use tokio::sync::Notify;

/// Rules of which a node counts who asks most; each takes some 2 KiB. Further ones are limited at each node alone.
const COUNTED_RULES: Limit = Limit {
    name: "rate_rules_counted",
    max: 1024,
};

/// A rule that nobody asked anything of for so many turns is no longer counted.
const FORGOTTEN_AFTER: u32 = 120;

/// One for a node's proxy.
#[derive(Default)]
pub struct SharedRates {
    rules: RwLock<HashMap<u64, Rule>>,
    /// By rule and key. Who is not in it has the whole limit.
    shares: RwLock<Arc<HashMap<u64, HashMap<u64, Share>>>>,
    used: Notify,
}

struct Rule {
    limit: RateLimit,
    talkers: Mutex<Talkers>,
    /// For so long they have been counted.
    counted: Duration,
    /// What was told last.
    told: Vec<Talker>,
    idle_turns: u32,
}

impl SharedRates {
    /// From one turn to the next: shares follow the demand by this and the way of the news.
    pub const PERIOD: Duration = Duration::from_secs(1);

    /// Counts a request; what part of the rule's limit its key has here.
    pub(super) fn count(
        &self,
        secret: &EdgeSecret,
        rule: u64,
        limit: &RateLimit,
        key: &Key<'_>,
    ) -> Share {
        let key = shared_key(number_of(secret), rule, key);
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        match rules.get(&rule) {
            Some(known) if known.limit == *limit => known.count(key),
            _ => {
                drop(rules);
                self.count_first(rule, limit, key);
            }
        }
        let shares = self.shares.read().unwrap_or_else(PoisonError::into_inner);
        let share = shares.get(&rule).and_then(|keys| keys.get(&key));
        share.copied().unwrap_or(Share::WHOLE)
    }

    fn count_first(&self, rule: u64, limit: &RateLimit, key: u64) {
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let room = COUNTED_RULES.check("rules", rules.len() + 1).is_ok();
        if !room && !rules.contains_key(&rule) {
            return;
        }
        let known = rules.entry(rule).or_insert_with(|| Rule::new(*limit));
        if known.limit != *limit {
            *known = Rule::new(*limit);
        }
        known.count(key);
        drop(rules);
        self.used.notify_one();
    }

    /// Ends when there is something to take turns about.
    pub async fn used(&self) {
        loop {
            let used = self.used.notified();
            if !self
                .rules
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .is_empty()
            {
                return;
            }
            used.await;
        }
    }

    /// Ends a period that took `period`: what was asked here, to be told to the other nodes, of which `others` is what they
    /// told last. `nodes` is how many there are, this one included.
    pub fn turn<'a>(
        &self,
        nodes: usize,
        others: impl Iterator<Item = &'a Demand> + Clone,
        period: Duration,
    ) -> Demand {
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let mut demand = Demand::new();
        let mut granted = HashMap::new();
        rules.retain(|number, rule| {
            rule.take(nodes, period);
            let elsewhere = others.clone().filter_map(|told| told.get(number)).flatten();
            let shares = shares(&rule.limit, nodes, &rule.told, elsewhere.copied());
            let keeps = rule.idle_turns < FORGOTTEN_AFTER;
            if keeps && !shares.is_empty() {
                granted.insert(*number, shares);
            }
            if !rule.told.is_empty() {
                demand.insert(*number, rule.told.clone());
            }
            keeps
        });
        drop(rules);
        let mut shares = self.shares.write().unwrap_or_else(PoisonError::into_inner);
        if !(shares.is_empty() && granted.is_empty()) {
            *shares = Arc::new(granted);
        }
        demand
    }
}

impl Rule {
    fn new(limit: RateLimit) -> Rule {
        Rule {
            limit,
            talkers: Mutex::default(),
            counted: Duration::ZERO,
            told: Vec::new(),
            idle_turns: 0,
        }
    }

    fn count(&self, key: u64) {
        let mut talkers = self.talkers.lock().unwrap_or_else(PoisonError::into_inner);
        talkers.count(key);
    }

    /// Another `period` is over.
    fn take(&mut self, nodes: usize, period: Duration) {
        self.counted += period;
        if self.counted >= cluster::period(&self.limit, SharedRates::PERIOD) {
            let talkers = self.talkers.get_mut();
            let talkers = talkers.unwrap_or_else(PoisonError::into_inner);
            let counts: Vec<_> = talkers.take().collect();
            self.idle_turns = match counts.is_empty() {
                true => self.idle_turns + 1,
                false => 0,
            };
            self.told = told(&self.limit, nodes, counts, self.counted);
            self.counted = Duration::ZERO;
        }
    }
}

/// For the names of keys. Whoever sees those learns nothing of what else the secret is for.
fn number_of(secret: &EdgeSecret) -> u64 {
    let hash = blake3::keyed_hash(&secret.0, b"the names of rate limits' keys");
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: EdgeSecret = EdgeSecret([7; 32]);

    fn ask(rates: &SharedRates, rule: u64, times: u32) -> Share {
        let limit: RateLimit = "10r/s".parse().unwrap();
        let key = Key::Value(b"k");
        for _ in 1..times {
            rates.count(&SECRET, rule, &limit, &key);
        }
        rates.count(&SECRET, rule, &limit, &key)
    }

    #[test]
    fn nodes_divide_a_limit_after_a_turn() {
        let (one, two) = (SharedRates::default(), SharedRates::default());
        assert_eq!(ask(&one, 1, 30), Share::WHOLE);
        assert_eq!(ask(&two, 1, 10), Share::WHOLE);
        let period = SharedRates::PERIOD;
        let told_by_one = one.turn(2, [].iter(), period);
        let told_by_two = two.turn(2, [&told_by_one].into_iter(), period);
        assert_eq!(told_by_one[&1][0].rate, 30_000);
        assert_eq!(ask(&two, 1, 10).as_ratio(), 0.25);
        assert_eq!(ask(&one, 1, 30), Share::WHOLE);
        one.turn(2, [&told_by_two].into_iter(), period);
        assert_eq!(ask(&one, 1, 30).as_ratio(), 0.75);
        // Another rule, and a key that the other no longer asks for.
        assert_eq!(ask(&one, 2, 1), Share::WHOLE);
        one.turn(2, [].iter(), period);
        assert_eq!(ask(&one, 1, 1), Share::WHOLE);
    }

    #[test]
    fn a_rule_that_is_not_asked_is_forgotten_and_many_are_bounded() {
        let rates = SharedRates::default();
        for rule in 0..COUNTED_RULES.max + 10 {
            ask(&rates, rule, 1);
        }
        assert_eq!(rates.rules.read().unwrap().len() as u64, COUNTED_RULES.max);
        for _ in 0..=2 * FORGOTTEN_AFTER {
            rates.turn(3, [].iter(), SharedRates::PERIOD);
        }
        assert!(rates.rules.read().unwrap().is_empty());
        assert!(rates.shares.read().unwrap().is_empty());
    }

    #[test]
    fn a_changed_limit_is_counted_anew() {
        let rates = SharedRates::default();
        ask(&rates, 1, 5);
        let other: RateLimit = "20r/s".parse().unwrap();
        rates.count(&SECRET, 1, &other, &Key::Everyone);
        assert_eq!(rates.rules.read().unwrap()[&1].limit, other);
    }
}
