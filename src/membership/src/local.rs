//! What this node says of itself, and how that becomes keys and values.

use std::collections::{BTreeMap, BTreeSet};

use nebula_domain::InstanceId;
use nebula_domain::observed::{Health, InstanceFacts, LastEnd, NodeFacts, Phase};
use nebula_domain::rollout::Tally;
use nebula_domain::runs::Exit;
use nebula_domain::traffic::rate::cluster::Demand;

use crate::demand::{self, DEMAND_PREFIX};
use crate::limits::{MAX_INSTANCES, MAX_REASON_BYTES, MAX_VALUE_BYTES, RSS_STEP_BYTES};
use crate::tally::{self, TALLY_PREFIX};

/// Key of a node's facts.
pub(crate) const FACTS_KEY: &str = "facts";
/// Keys of instances: this and the number.
pub(crate) const INSTANCE_PREFIX: &str = "i/";

/// What the supervisor knows of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseFacts {
    pub phase: Phase,
    /// Times the program was started again after it ended by itself.
    pub restarts: u32,
    /// What went wrong last; cut to one line of 300 bytes.
    pub reason: String,
    /// How the program ended last by itself.
    pub last_end: Option<LastEnd>,
    /// Counts the program's starts: facts of a new run say nothing of its health yet.
    pub run: u64,
    /// How an attempt of a run has ended.
    pub exit: Option<Exit>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Local {
    pub facts: NodeFacts,
    pub instances: BTreeMap<InstanceId, LocalFacts>,
    pub demand: Demand,
    pub tally: Tally,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalFacts {
    run: u64,
    /// What the supervisor says went wrong last.
    ended: String,
    /// Why the probes say that it is not ready.
    probed: String,
    pub facts: InstanceFacts,
}

impl LocalFacts {
    /// Of the two, what is the matter now: a program that runs again and is not yet known to be unready is spoken of
    /// by what ended it before.
    fn tell(&mut self) {
        let facts = &mut self.facts;
        let probed = facts.phase == Phase::Running
            && !self.probed.is_empty()
            && match facts.health {
                Health::Healthy => false,
                Health::Unhealthy => true,
                Health::Unknown => self.ended.is_empty(),
            };
        facts.reason = match probed {
            true => self.probed.clone(),
            false => self.ended.clone(),
        };
    }
}

/// What a change to [`Local`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// To be told with the next opportunity.
    Lazy,
    /// To be told at once.
    Urgent,
    /// Refused by a limit.
    Over,
}

impl Local {
    pub fn set_node(&mut self, mut facts: NodeFacts) -> Change {
        facts.restarting |= self.facts.restarting;
        facts.for_good |= self.facts.for_good;
        facts.rss_bytes = facts.rss_bytes / RSS_STEP_BYTES * RSS_STEP_BYTES;
        if facts == self.facts {
            return Change::None;
        }
        let lazy = NodeFacts {
            rss_bytes: self.facts.rss_bytes,
            applied_index: self.facts.applied_index,
            ..facts.clone()
        } == self.facts;
        self.facts = facts;
        if lazy { Change::Lazy } else { Change::Urgent }
    }

    pub fn set_restarting(&mut self, for_good: bool) -> Change {
        self.set_node(NodeFacts {
            restarting: true,
            for_good,
            ..self.facts.clone()
        })
    }

    pub fn set_phase(&mut self, instance: InstanceId, new: PhaseFacts) -> Change {
        let old = self.instances.get(&instance);
        if old.is_none() && self.instances.len() >= MAX_INSTANCES {
            return Change::Over;
        }
        let (health, probed) = old
            .filter(|old| old.run == new.run)
            .map_or((Health::Unknown, String::new()), |old| {
                (old.facts.health, old.probed.clone())
            });
        let mut new = LocalFacts {
            run: new.run,
            ended: one_line(&new.reason),
            probed,
            facts: InstanceFacts {
                phase: new.phase,
                health,
                restarts: new.restarts,
                reason: String::new(),
                exit: new.exit,
                last_end: new.last_end,
            },
        };
        new.tell();
        if old == Some(&new) {
            return Change::None;
        }
        self.instances.insert(instance, new);
        Change::Urgent
    }

    /// Forgets all other instances.
    pub fn keep(&mut self, instances: &BTreeSet<InstanceId>) -> Change {
        let before = self.instances.len();
        self.instances.retain(|id, _| instances.contains(id));
        if self.instances.len() == before {
            Change::None
        } else {
            Change::Urgent
        }
    }

    /// Health of an instance that was never published, or no longer is, says nothing.
    pub fn set_health(&mut self, instance: InstanceId, health: Health, reason: &str) -> Change {
        let Some(known) = self.instances.get_mut(&instance) else {
            return Change::None;
        };
        let before = known.facts.clone();
        known.facts.health = health;
        known.probed = one_line(reason);
        known.tell();
        match (known.facts.health == before.health, known.facts == before) {
            (_, true) => Change::None,
            // Only words: of another status that the same probe met.
            (true, false) => Change::Lazy,
            (false, false) => Change::Urgent,
        }
    }

    pub fn set_demand(&mut self, demand: Demand) -> Change {
        if demand == self.demand {
            return Change::None;
        }
        self.demand = demand;
        Change::Urgent
    }

    /// Told at once: a bad release is to be gone before many have met it.
    pub fn set_tally(&mut self, tally: Tally) -> Change {
        if tally == self.tally {
            return Change::None;
        }
        self.tally = tally;
        Change::Urgent
    }

    /// Keys and values for chitchat. What is over the limit is left out and returned as a count.
    pub fn entries(&self) -> (BTreeMap<String, String>, u64) {
        let mut entries = BTreeMap::new();
        let mut over = 0;
        let mut put = |key: String, value: Result<String, serde_json::Error>| match value {
            Ok(value) if value.len() <= MAX_VALUE_BYTES => {
                entries.insert(key, value);
            }
            _ => over += 1,
        };
        put(FACTS_KEY.to_owned(), serde_json::to_string(&self.facts));
        for (id, known) in &self.instances {
            put(
                format!("{INSTANCE_PREFIX}{}", id.0),
                serde_json::to_string(&known.facts),
            );
        }
        for (rule, talkers) in demand::told(&self.demand) {
            put(format!("{DEMAND_PREFIX}{rule}"), Ok(demand::write(talkers)));
        }
        for (trial, pair) in tally::told(&self.tally) {
            put(format!("{TALLY_PREFIX}{trial}"), Ok(tally::write(pair)));
        }
        (entries, over)
    }
}

/// The first line, cut at a character boundary.
fn one_line(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let mut end = line.len().min(MAX_REASON_BYTES);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    // Control characters would grow sixfold in JSON.
    line[..end].replace(|c: char| c.is_control(), " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(run: u64) -> PhaseFacts {
        PhaseFacts {
            phase: Phase::Running,
            restarts: 0,
            reason: String::new(),
            exit: None,
            last_end: None,
            run,
        }
    }

    #[test]
    fn a_new_run_is_of_unknown_health() {
        let mut local = Local::default();
        let id = InstanceId(4);
        assert_eq!(local.set_health(id, Health::Healthy, ""), Change::None);
        assert_eq!(local.set_phase(id, running(1)), Change::Urgent);
        assert_eq!(local.set_health(id, Health::Healthy, ""), Change::Urgent);
        assert_eq!(local.set_health(id, Health::Healthy, ""), Change::None);
        assert_eq!(local.set_phase(id, running(1)), Change::None);
        assert_eq!(local.instances[&id].facts.health, Health::Healthy);
        assert_eq!(local.set_phase(id, running(2)), Change::Urgent);
        assert_eq!(local.instances[&id].facts.health, Health::Unknown);
        assert_eq!(local.keep(&BTreeSet::from([id])), Change::None);
        assert_eq!(local.keep(&BTreeSet::new()), Change::Urgent);
        assert_eq!(local.keep(&BTreeSet::new()), Change::None);
    }

    #[test]
    fn an_unready_instance_says_which_probe_and_why() {
        let mut local = Local::default();
        let id = InstanceId(4);
        let reason = |local: &Local| local.instances[&id].facts.reason.clone();
        local.set_phase(id, running(1));
        let said = local.set_health(id, Health::Unhealthy, "readiness probe: GET / answered 500");
        assert_eq!(said, Change::Urgent);
        assert_eq!(reason(&local), "readiness probe: GET / answered 500");
        let said = local.set_health(id, Health::Unhealthy, "readiness probe: GET / answered 503");
        assert_eq!(said, Change::Lazy);
        let ended = |phase| PhaseFacts {
            phase,
            reason: "exited with code 1".into(),
            ..running(1)
        };
        local.set_phase(id, ended(Phase::Backoff));
        assert_eq!(reason(&local), "exited with code 1");
        local.set_phase(
            id,
            PhaseFacts {
                run: 2,
                ..ended(Phase::Running)
            },
        );
        local.set_health(
            id,
            Health::Unknown,
            "startup probe: no connection to port 1",
        );
        assert_eq!(reason(&local), "exited with code 1");
        local.set_health(id, Health::Healthy, "");
        assert_eq!(reason(&local), "exited with code 1");
    }

    #[test]
    fn numbers_that_always_change_are_not_urgent() {
        let mut local = Local::default();
        let facts = NodeFacts {
            routed_revision: 3,
            rss_bytes: 9 * RSS_STEP_BYTES + 7,
            ..NodeFacts::default()
        };
        assert_eq!(local.set_node(facts.clone()), Change::Urgent);
        assert_eq!(local.facts.rss_bytes, 9 * RSS_STEP_BYTES);
        let mut next = facts.clone();
        next.rss_bytes += 1;
        assert_eq!(local.set_node(next.clone()), Change::None);
        next.applied_index = 8;
        assert_eq!(local.set_node(next.clone()), Change::Lazy);
        next.routed_revision = 4;
        assert_eq!(local.set_node(next), Change::Urgent);
    }

    #[test]
    fn limits_hold() {
        let mut local = Local::default();
        for id in 0..MAX_INSTANCES as u64 {
            assert_eq!(local.set_phase(InstanceId(id), running(1)), Change::Urgent);
        }
        let over = InstanceId(MAX_INSTANCES as u64);
        assert_eq!(local.set_phase(over, running(1)), Change::Over);
        let mut long = running(1);
        long.reason = "\u{1}\"ä".repeat(400) + "\nsecond";
        local.set_phase(InstanceId(0), long);
        let (entries, left_out) = local.entries();
        assert_eq!((entries.len(), left_out), (MAX_INSTANCES + 1, 0));
        assert!(
            entries
                .keys()
                .all(|k| k.len() <= crate::limits::MAX_KEY_BYTES)
        );
    }
}
