//! From what chitchat has heard to a [`View`] of the directory's members.
//!
//! chitchat judges liveness by heartbeats. On top of its word: a member that was never heard of gets a
//! grace, a node that itself stood still does not call its peers dead for that, and a peer that
//! the mesh suspects too is given less time.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chitchat::{Chitchat, ChitchatId, NodeState};
use nebula_domain::observed::{InstanceFacts, NodeFacts, NodeView};
use nebula_domain::rollout::{TRIALS, Tally};
use nebula_domain::traffic::rate::cluster::{Demand, TOLD_RULES};
use nebula_domain::{InstanceId, NodeId, View};
use tokio::time::Instant;

use crate::demand::{self, DEMAND_PREFIX};
use crate::limits::{
    MAX_INSTANCES, MAX_VALUE_BYTES, RETURN_WITHIN, STALL, STALL_GRACE, START_GRACE,
    SUSPECT_SILENCE, UNSETTLED_SILENCE,
};
use crate::local::{FACTS_KEY, INSTANCE_PREFIX, Local};
use crate::tally::{self, TALLY_PREFIX};

/// Of each node what it told of its rate limits.
pub type Demands = BTreeMap<NodeId, Demand>;
/// Of each node what it has counted of rollouts.
pub type Tallies = BTreeMap<NodeId, Arc<Tally>>;

/// What a node says, read from its keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Said {
    pub facts: NodeFacts,
    pub instances: BTreeMap<InstanceId, InstanceFacts>,
    pub demand: Demand,
    pub tally: Arc<Tally>,
}

/// One life of a node as chitchat knows it now.
#[derive(Debug, Clone)]
pub(crate) struct Sighting {
    pub node: NodeId,
    pub generation: u64,
    pub live: bool,
    pub heartbeat: u64,
    /// Changes with what the node says.
    pub version: (u64, u64),
    /// `None` when it is what [`ViewBuilder::known`] has already.
    pub said: Option<Said>,
}

#[derive(Debug)]
struct Memory {
    first_seen: Instant,
    /// Its heartbeat was seen to advance: it did speak, and its silence means something.
    spoke: bool,
    /// chitchat has judged it alive, which takes a few heartbeats.
    was_live: bool,
    alive: bool,
    deaths: u64,
    /// Generation and number of the last heartbeat, and when it came.
    heartbeat: (u64, u64),
    heard: Instant,
    /// It said that it restarts; until then the next life is waited for, which is not alive with its first word.
    awaited_until: Option<Instant>,
    source: Option<(u64, (u64, u64))>,
    said: Said,
}

#[derive(Debug)]
pub(crate) struct ViewBuilder {
    me: NodeId,
    members: BTreeMap<NodeId, Memory>,
    last_pass: Option<Instant>,
    held_until: Option<Instant>,
}

impl ViewBuilder {
    pub fn new(me: NodeId) -> ViewBuilder {
        ViewBuilder {
            me,
            members: BTreeMap::new(),
            last_pass: None,
            held_until: None,
        }
    }

    /// Version of a node's words that were read last.
    pub fn known(&self, node: NodeId, generation: u64) -> Option<(u64, u64)> {
        let (read, version) = self.members.get(&node)?.source?;
        (read == generation).then_some(version)
    }

    /// The member was heard of lately: it takes part in the rounds by itself.
    pub fn is_heard(&self, node: NodeId) -> bool {
        self.members
            .get(&node)
            .is_some_and(|memory| memory.alive && (memory.spoke || memory.was_live))
    }

    /// chitchat was started anew and has forgotten everyone: those alive are given the grace again.
    pub fn forgotten(&mut self, now: Instant) {
        for memory in self.members.values_mut().filter(|m| m.alive) {
            memory.spoke = false;
            memory.was_live = false;
            memory.first_seen = now;
        }
    }

    pub fn build(
        &mut self,
        members: &BTreeSet<NodeId>,
        local: &Local,
        suspects: &BTreeSet<NodeId>,
        sightings: Vec<Sighting>,
        now: Instant,
    ) -> View {
        self.notice_stall(now);
        self.members.retain(|node, _| members.contains(node));
        for node in members {
            self.members
                .entry(*node)
                .or_insert_with(|| Memory::new(now));
        }
        let mut lives: BTreeMap<NodeId, Sighting> = BTreeMap::new();
        for sighting in sightings {
            let rank = |s: &Sighting| (s.live, s.generation);
            match lives.get(&sighting.node) {
                // The live one counts, also when a clock that was set back gave it a lower generation.
                Some(other) if rank(other) >= rank(&sighting) => {}
                _ => {
                    lives.insert(sighting.node, sighting);
                }
            }
        }
        let held = self.held_until.is_some_and(|until| now < until);
        let mut nodes = BTreeMap::new();
        for (node, memory) in self
            .members
            .iter_mut()
            .filter(|(node, _)| **node != self.me)
        {
            memory.update(lives.remove(node), suspects.contains(node), held, now);
            nodes.insert(
                *node,
                NodeView {
                    alive: memory.alive,
                    returning: memory.returns(now),
                    deaths: memory.deaths,
                    facts: memory.said.facts.clone(),
                    instances: memory.said.instances.clone(),
                },
            );
        }
        nodes.insert(self.me, own(local));
        View { nodes }
    }

    /// What the others that are alive say of their rate limits; those with nothing to say are not in it.
    pub fn demands(&self) -> Demands {
        let others = self.members.iter().filter(|(node, _)| **node != self.me);
        let told = others.filter(|(_, memory)| memory.alive && !memory.said.demand.is_empty());
        told.map(|(node, memory)| (*node, memory.said.demand.clone()))
            .collect()
    }

    /// What the others have counted of rollouts. Requests of a node that is dead by now are evidence still.
    pub fn tallies(&self) -> Tallies {
        let others = self.members.iter().filter(|(node, _)| **node != self.me);
        let told = others.filter(|(_, memory)| !memory.said.tally.is_empty());
        told.map(|(node, memory)| (*node, Arc::clone(&memory.said.tally)))
            .collect()
    }

    fn notice_stall(&mut self, now: Instant) {
        if let Some(last) = self.last_pass
            && now.saturating_duration_since(last) > STALL
        {
            self.held_until = Some(now + STALL_GRACE);
        }
        self.last_pass = Some(now);
    }
}

/// This node's entry.
pub(crate) fn own(local: &Local) -> NodeView {
    NodeView {
        alive: true,
        returning: false,
        deaths: 0,
        // What it tells others: its own edge serves until it is closed.
        facts: NodeFacts {
            restarting: false,
            ..local.facts.clone()
        },
        instances: local
            .instances
            .iter()
            .map(|(id, known)| (*id, known.facts.clone()))
            .collect(),
    }
}

impl Memory {
    fn new(now: Instant) -> Memory {
        Memory {
            first_seen: now,
            spoke: false,
            was_live: false,
            alive: true,
            deaths: 0,
            heartbeat: (0, 0),
            heard: now,
            awaited_until: None,
            source: None,
            said: Said::default(),
        }
    }

    fn returns(&self, now: Instant) -> bool {
        self.awaited_until.is_some_and(|until| now < until)
    }

    fn update(&mut self, life: Option<Sighting>, suspect: bool, held: bool, now: Instant) {
        let mut live = false;
        if let Some(life) = life {
            if self.heartbeat != (life.generation, life.heartbeat) {
                // The first is hearsay, perhaps of a dead node; another of the same life is not.
                self.spoke |= self.heartbeat.0 == life.generation;
                self.heartbeat = (life.generation, life.heartbeat);
                self.heard = now;
            }
            if let Some(said) = life.said {
                self.said = said;
                self.source = Some((life.generation, life.version));
            }
            let silent = age(self.heard, now) > SUSPECT_SILENCE;
            live = life.live && !(suspect && silent);
            self.was_live |= life.live;
        }
        let in_grace = !self.was_live
            && if self.spoke {
                age(self.heard, now) < UNSETTLED_SILENCE
            } else {
                age(self.first_seen, now) < START_GRACE
            };
        let alive = live || in_grace || (self.alive && held);
        self.deaths += u64::from(self.alive && !alive);
        self.alive = alive;
        if self.said.facts.restarting && !self.said.facts.for_good {
            self.awaited_until = Some(self.heard + RETURN_WITHIN);
        } else if live {
            self.awaited_until = None;
        }
    }
}

fn age(since: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(since)
}

/// Everything chitchat knows of nodes other than this one. Values that cannot be read are left out and
/// counted in `refused`.
pub(crate) fn sightings(
    chitchat: &Chitchat,
    builder: &ViewBuilder,
    refused: &mut u64,
) -> Vec<Sighting> {
    let live: HashSet<&ChitchatId> = chitchat.live_nodes().collect();
    chitchat
        .node_states()
        .iter()
        .filter_map(|(id, state)| {
            let node: NodeId = id.node_id.parse().ok()?;
            if node == builder.me {
                return None;
            }
            let version = (state.last_gc_version(), state.max_version());
            let read = builder.known(node, id.generation_id) == Some(version);
            Some(Sighting {
                node,
                generation: id.generation_id,
                live: live.contains(id),
                heartbeat: u64::from(state.heartbeat()),
                version,
                said: (!read).then(|| said(state, refused)),
            })
        })
        .collect()
}

fn said(state: &NodeState, refused: &mut u64) -> Said {
    let mut said = Said::default();
    let mut tally = Tally::new();
    for (key, value) in state.key_values() {
        if value.len() > MAX_VALUE_BYTES {
            *refused += 1;
        } else if key == FACTS_KEY {
            match serde_json::from_str(value) {
                Ok(facts) => said.facts = facts,
                Err(_) => *refused += 1,
            }
        } else if let Some(id) = key.strip_prefix(INSTANCE_PREFIX) {
            match (id.parse(), serde_json::from_str(value)) {
                (Ok(id), Ok(facts)) if said.instances.len() < MAX_INSTANCES => {
                    said.instances.insert(InstanceId(id), facts);
                }
                _ => *refused += 1,
            }
        } else if let Some(rule) = key.strip_prefix(DEMAND_PREFIX) {
            let room = (said.demand.len() as u64) < TOLD_RULES.max;
            match (rule.parse(), demand::read(value)) {
                (Ok(rule), Some(talkers)) if room => {
                    said.demand.insert(rule, talkers);
                }
                _ => *refused += 1,
            }
        } else if let Some(trial) = key.strip_prefix(TALLY_PREFIX) {
            let room = (tally.len() as u64) < TRIALS.max;
            match (trial.parse(), tally::read(value)) {
                (Ok(trial), Some(pair)) if room => {
                    tally.insert(trial, pair);
                }
                _ => *refused += 1,
            }
        }
        // Other keys belong to later versions.
    }
    said.tally = Arc::new(tally);
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const PEER: NodeId = NodeId(2);

    struct Bench {
        builder: ViewBuilder,
        now: Instant,
        heartbeat: u64,
    }

    impl Bench {
        fn new() -> Bench {
            Bench {
                builder: ViewBuilder::new(ME),
                now: Instant::now(),
                heartbeat: 0,
            }
        }

        fn step(&mut self, ms: u64, sightings: Vec<Sighting>, suspects: &[NodeId]) -> bool {
            self.now += Duration::from_millis(ms);
            let members = BTreeSet::from([ME, PEER]);
            let suspects = suspects.iter().copied().collect();
            let view =
                self.builder
                    .build(&members, &Local::default(), &suspects, sightings, self.now);
            assert!(view.is_alive(ME));
            view.is_alive(PEER)
        }

        fn life(&mut self, generation: u64, live: bool, beats: bool) -> Sighting {
            self.heartbeat += u64::from(beats);
            Sighting {
                node: PEER,
                generation,
                live,
                heartbeat: self.heartbeat,
                version: (0, generation),
                said: Some(Said {
                    facts: NodeFacts {
                        routed_revision: generation,
                        ..NodeFacts::default()
                    },
                    ..Said::default()
                }),
            }
        }
    }

    #[test]
    fn demands_are_of_others_that_are_alive() {
        let mut bench = Bench::new();
        let mut life = bench.life(1, true, true);
        let demand = Demand::from([(
            9,
            vec![nebula_domain::traffic::rate::cluster::Talker { key: 1, rate: 2 }],
        )]);
        life.said.as_mut().unwrap().demand = demand.clone();
        assert!(bench.step(0, vec![life], &[]));
        assert_eq!(bench.builder.demands(), Demands::from([(PEER, demand)]));
        let silent = Sighting {
            said: None,
            ..bench.life(1, false, false)
        };
        // Half a second at a time: who stood still itself calls nobody dead.
        for _ in 0..20 {
            bench.step(500, vec![silent.clone()], &[]);
        }
        assert!(bench.builder.demands().is_empty());
    }

    #[test]
    fn what_a_dead_node_has_counted_still_counts() {
        let mut bench = Bench::new();
        let mut life = bench.life(1, true, true);
        let tally = Tally::from([(9, nebula_domain::rollout::Pair::default())]);
        let tally = Arc::new(tally);
        life.said.as_mut().unwrap().tally = tally.clone();
        assert!(bench.step(0, vec![life], &[]));
        let dead = Sighting {
            said: None,
            ..bench.life(1, false, false)
        };
        assert!(!bench.step(500, vec![dead], &[]));
        assert_eq!(bench.builder.tallies(), Tallies::from([(PEER, tally)]));
    }

    #[test]
    fn a_member_never_heard_of_is_alive_for_the_grace() {
        let mut bench = Bench::new();
        assert!(bench.step(0, vec![], &[]));
        for _ in 0..9 {
            assert!(bench.step(500, vec![], &[]));
        }
        assert!(!bench.step(500, vec![], &[]));
        // Words of a dead life do not revive it.
        let dead = bench.life(1, false, true);
        assert!(!bench.step(500, vec![dead], &[]));
        let live = bench.life(2, true, true);
        assert!(bench.step(500, vec![live], &[]));
    }

    #[test]
    fn one_that_spoke_and_fell_silent_at_once_has_no_grace() {
        let mut bench = Bench::new();
        let first = bench.life(1, false, true);
        bench.step(0, vec![first], &[]);
        let second = bench.life(1, false, true);
        assert!(bench.step(100, vec![second.clone()], &[]));
        for _ in 0..3 {
            assert!(bench.step(500, vec![second.clone()], &[]));
        }
        assert!(!bench.step(500, vec![second], &[]));
    }

    #[test]
    fn once_heard_detection_decides() {
        let mut bench = Bench::new();
        let live = bench.life(1, true, true);
        assert!(bench.step(0, vec![live], &[]));
        let dead = bench.life(1, false, false);
        assert!(!bench.step(500, vec![dead], &[]));
        assert!(!bench.step(500, vec![], &[]), "forgotten by chitchat");
        let deaths = |bench: &Bench| bench.builder.members[&PEER].deaths;
        assert_eq!(
            deaths(&bench),
            1,
            "it has died once, however often that is seen"
        );
        let live = bench.life(2, true, true);
        assert!(bench.step(500, vec![live], &[]));
        let dead = bench.life(2, false, false);
        assert!(!bench.step(500, vec![dead], &[]));
        assert_eq!(deaths(&bench), 2);
    }

    #[test]
    fn one_that_restarts_is_waited_for() {
        let mut bench = Bench::new();
        let mut seen = |ms, life: Sighting| {
            bench.now += Duration::from_millis(ms);
            let view = bench.builder.build(
                &BTreeSet::from([ME, PEER]),
                &Local::default(),
                &BTreeSet::new(),
                vec![life],
                bench.now,
            );
            let returning = view.nodes[&PEER].returning;
            (view.is_alive(PEER), view.serves(PEER), returning)
        };
        let life = |generation, beat, restarting| Sighting {
            node: PEER,
            generation,
            live: true,
            heartbeat: beat,
            version: (0, u64::from(restarting)),
            said: Some(Said {
                facts: NodeFacts {
                    restarting,
                    ..NodeFacts::default()
                },
                ..Said::default()
            }),
        };
        assert_eq!(seen(0, life(1, 1, false)), (true, true, false));
        // It serves nobody from its word on, and not only from its silence; what it has it finishes.
        assert_eq!(seen(500, life(1, 2, true)), (true, false, true));
        let silent = || Sighting {
            live: false,
            ..life(1, 2, true)
        };
        for _ in 0..59 {
            assert_eq!(seen(500, silent()), (false, false, true));
        }
        assert_eq!(seen(500, silent()), (false, false, false), "30 s are over");
        // Its next life has said nothing of the kind.
        assert_eq!(seen(500, life(2, 1, false)), (true, true, false));
        // Nor is it waited for the less because that is heard of before it is known to be alive.
        assert_eq!(seen(500, life(2, 2, true)), (true, false, true));
        let heard_of = Sighting {
            live: false,
            ..life(3, 1, false)
        };
        assert_eq!(seen(500, heard_of), (false, false, true));
        assert_eq!(seen(500, life(3, 2, false)), (true, true, false));
    }

    #[test]
    fn one_that_goes_for_good_serves_nobody_and_is_not_waited_for() {
        let mut bench = Bench::new();
        let mut life = bench.life(1, true, true);
        let facts = &mut life.said.as_mut().unwrap().facts;
        (facts.restarting, facts.for_good) = (true, true);
        let members = BTreeSet::from([ME, PEER]);
        let mut local = Local::default();
        local.set_restarting(false);
        let (nobody, now) = (BTreeSet::new(), bench.now);
        let view = bench
            .builder
            .build(&members, &local, &nobody, vec![life], now);
        assert!(view.is_alive(PEER) && !view.serves(PEER));
        assert!(!view.nodes[&PEER].returning);
        assert!(view.serves(ME), "its own edge serves until it is closed");
    }

    #[test]
    fn a_suspect_that_is_silent_dies_sooner() {
        let mut bench = Bench::new();
        let live = bench.life(1, true, true);
        bench.step(0, vec![live.clone()], &[PEER]);
        for _ in 0..3 {
            assert!(bench.step(500, vec![live.clone()], &[PEER]));
        }
        assert!(bench.step(100, vec![live.clone()], &[]), "silent only");
        assert!(!bench.step(100, vec![live], &[PEER]));
        let heard = bench.life(1, true, true);
        assert!(bench.step(100, vec![heard], &[PEER]), "suspect only");
    }

    #[test]
    fn a_stall_of_our_own_is_not_the_peers_death() {
        let mut bench = Bench::new();
        let live = bench.life(1, true, true);
        bench.step(0, vec![live], &[]);
        let dead = bench.life(1, false, false);
        assert!(bench.step(3000, vec![dead.clone()], &[]));
        assert!(bench.step(700, vec![dead.clone()], &[]));
        assert!(!bench.step(700, vec![dead], &[]));
    }

    #[test]
    fn the_newest_life_counts_and_a_live_one_before_all() {
        let mut bench = Bench::new();
        let lives = vec![bench.life(5, true, true), bench.life(6, true, true)];
        bench.step(0, lives, &[]);
        assert_eq!(bench.builder.members[&PEER].said.facts.routed_revision, 6);
        let lives = vec![bench.life(4, true, true), bench.life(6, false, false)];
        assert!(bench.step(100, lives, &[]));
        assert_eq!(bench.builder.members[&PEER].said.facts.routed_revision, 4);
    }

    #[test]
    fn a_restart_of_gossip_kills_nobody() {
        let mut bench = Bench::new();
        let live = bench.life(1, true, true);
        bench.step(0, vec![live], &[]);
        bench.builder.forgotten(bench.now);
        let unsettled = bench.life(1, false, true);
        assert!(bench.step(500, vec![unsettled], &[]));
    }
}
