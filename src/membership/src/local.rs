//! What this node says of itself, and how that becomes keys and values.

use std::collections::{BTreeMap, BTreeSet};

use nebula_domain::InstanceId;
use nebula_domain::observed::{Health, InstanceFacts, NodeFacts, Phase};
use nebula_domain::traffic::rate::cluster::Demand;

use crate::demand::{self, DEMAND_PREFIX};
use crate::limits::{MAX_INSTANCES, MAX_REASON_BYTES, MAX_VALUE_BYTES, RSS_STEP_BYTES};

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
    /// Counts the program's starts: facts of a new run say nothing of its health yet.
    pub run: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Local {
    pub facts: NodeFacts,
    pub instances: BTreeMap<InstanceId, LocalFacts>,
    pub demand: Demand,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalFacts {
    run: u64,
    pub facts: InstanceFacts,
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

    pub fn set_phase(&mut self, instance: InstanceId, new: PhaseFacts) -> Change {
        let old = self.instances.get(&instance);
        if old.is_none() && self.instances.len() >= MAX_INSTANCES {
            return Change::Over;
        }
        let health = old
            .filter(|old| old.run == new.run)
            .map_or(Health::Unknown, |old| old.facts.health);
        let new = LocalFacts {
            run: new.run,
            facts: InstanceFacts {
                phase: new.phase,
                health,
                restarts: new.restarts,
                reason: one_line(&new.reason),
            },
        };
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
    pub fn set_health(&mut self, instance: InstanceId, health: Health) -> Change {
        match self.instances.get_mut(&instance) {
            Some(known) if known.facts.health != health => {
                known.facts.health = health;
                Change::Urgent
            }
            _ => Change::None,
        }
    }

    pub fn set_demand(&mut self, demand: Demand) -> Change {
        if demand == self.demand {
            return Change::None;
        }
        self.demand = demand;
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
            run,
        }
    }

    #[test]
    fn a_new_run_is_of_unknown_health() {
        let mut local = Local::default();
        let id = InstanceId(4);
        assert_eq!(local.set_health(id, Health::Healthy), Change::None);
        assert_eq!(local.set_phase(id, running(1)), Change::Urgent);
        assert_eq!(local.set_health(id, Health::Healthy), Change::Urgent);
        assert_eq!(local.set_health(id, Health::Healthy), Change::None);
        assert_eq!(local.set_phase(id, running(1)), Change::None);
        assert_eq!(local.instances[&id].facts.health, Health::Healthy);
        assert_eq!(local.set_phase(id, running(2)), Change::Urgent);
        assert_eq!(local.instances[&id].facts.health, Health::Unknown);
        assert_eq!(local.keep(&BTreeSet::from([id])), Change::None);
        assert_eq!(local.keep(&BTreeSet::new()), Change::Urgent);
        assert_eq!(local.keep(&BTreeSet::new()), Change::None);
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
