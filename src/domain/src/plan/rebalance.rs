//! Evening out: moving instances, a few at a time, to nodes that came, came back or emptied.
//!
//! A move is worth it when the instance's new node suits the deployment's wishes better than its present one, or has fewer of
//! its like, or is that much less loaded ([`is_worth_it`]). Each makes (wishes, like on one place, like on one node, the most
//! loaded nodes) smaller in this order of weight, so that evening out comes to an end. Nothing is moved while anything else is to be
//! done, and of no deployment that is not whole and at rest. The instance goes on until the one in its place is ready.
//!
//! Instances of deployments with `near` stay: two that like each other would run after each other. So do those of which two must
//! not run at the same time.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::fleet::{Slot, Standing};
use super::job::{Class, Copy, Job, Kind, Place};
use super::planner::Planner;
use super::possible::{Need, obstacle};
use super::spread::Spread;
use crate::command::Change;
use crate::ids::{NodeId, ReleaseNumber};
use crate::limits::MOVES_AT_ONCE;
use crate::names::DeploymentName;
use crate::resources::Amounts;
use crate::state::State;

/// Deployments for which all nodes are weighed in one look; the next look goes on with the next ones.
const LOOKS: usize = 16;
/// Nodes from which and to which one look tries to move by their load alone.
const NODES_TRIED: usize = 8;

/// A node that is left with at least a quarter more load than the other will have.
fn is_worth_it(left: u64, gets: u64) -> bool {
    left > 0 && u128::from(gets) * 5 <= u128::from(left) * 4
}

/// What moves under way will have taken from each node.
type Going = BTreeMap<NodeId, (u32, Amounts)>;

/// Where the same look sends an instance of each deployment.
type Moved = BTreeMap<DeploymentName, NodeId>;

struct Move {
    name: DeploymentName,
    release: ReleaseNumber,
    copy: Copy,
    to: NodeId,
}

impl Planner {
    /// The next moves. To be asked after a plan without changes, for the same state.
    pub fn rebalance(&mut self, state: &State) -> Vec<Change> {
        let at_once = usize::try_from(MOVES_AT_ONCE.max).unwrap_or(usize::MAX);
        let may = at_once.saturating_sub(state.moving.len());
        let mut going = self.going(state);
        let (mut moves, mut starts) = (Vec::new(), Vec::new());
        let mut moved = Moved::new();
        while moves.len() < may {
            let by_wish = self.by_wish(state, &moved);
            let Some(found) = by_wish.or_else(|| self.by_load(state, &moved, &going)) else {
                break;
            };
            let share = found.copy.share(&found.name);
            self.fleet.try_on(found.to, &share);
            let gone = going.entry(found.copy.node).or_default();
            *gone = (gone.0 + 1, gone.1.plus(share.amounts));
            moves.push(Change::Move {
                instance: found.copy.id,
            });
            starts.push(Change::Start {
                deployment: found.name.clone(),
                release: found.release,
                node: found.to,
            });
            moved.insert(found.name, found.to);
        }
        self.fleet.rewind();
        // The instance gives way before the other is more than is wanted.
        moves.into_iter().chain(starts).collect()
    }

    /// What an instance asks of its node, when these have moved.
    fn need_beside(&self, state: &State, job: &Job, release: ReleaseNumber, moved: &Moved) -> Need {
        let mut need = self.need(state, job, release);
        let nodes = need.apart.iter().filter_map(|name| moved.get(name));
        need.shunned.extend(nodes);
        need
    }

    fn going(&self, state: &State) -> Going {
        let mut going = Going::new();
        for entry in state.moving.iter().filter_map(|id| self.entries.get(id)) {
            let takes = entry.takes.as_ref();
            let amounts = takes.map_or(Amounts::NONE, |share| share.amounts);
            let gone = going.entry(entry.node).or_default();
            *gone = (gone.0 + 1, gone.1.plus(amounts));
        }
        going
    }

    /// A move that suits its deployment better, of the first deployment that has one.
    fn by_wish(&mut self, state: &State, moved: &Moved) -> Option<Move> {
        let mut looks = 0;
        let mut names = self.names_in_turn();
        while let Some(name) = names.pop() {
            if looks == LOOKS {
                self.next = Some(name);
                return None;
            }
            let Some((job, release)) = self.jobs.get(&name).and_then(|job| self.steady(job)) else {
                continue;
            };
            if moved.contains_key(&name) {
                continue;
            }
            let need = self.need_beside(state, job, release, moved);
            let nodes = job.copies.iter().map(|copy| copy.node);
            let mut spread = Spread::of(&need, nodes, &self.fleet);
            if !may_improve(&need, &spread) {
                continue;
            }
            looks += 1;
            let rank = |copy: &&Copy| {
                let slot = self.fleet.get(copy.node);
                (slot.map(|slot| spread.rank(&need, slot)), copy.id)
            };
            let Some(copy) = job.copies.iter().max_by_key(rank).copied() else {
                continue;
            };
            spread.remove(&self.fleet, copy.node);
            let Some(to) = self.fleet.best(&need, &spread, Some(copy.node)) else {
                continue;
            };
            let rank = |node| Some(spread.rank(&need, self.fleet.get(node)?));
            if rank(to) < rank(copy.node) {
                return Some(Move {
                    name,
                    release,
                    copy,
                    to,
                });
            }
        }
        self.next = None;
        None
    }

    /// The deployments' names beginning where the last look ended, the next one last.
    fn names_in_turn(&self) -> Vec<DeploymentName> {
        let next = self.next.as_ref();
        let (from, to) = match next {
            Some(next) => (Bound::Included(next), Bound::Excluded(next)),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let first = self
            .jobs
            .range::<DeploymentName, _>((from, Bound::Unbounded));
        let rest = next.map(|_| self.jobs.range::<DeploymentName, _>((Bound::Unbounded, to)));
        let names = first.chain(rest.into_iter().flatten());
        let mut names: Vec<_> = names.map(|(name, _)| name.clone()).collect();
        names.reverse();
        names
    }

    /// A move from one of the most loaded nodes to one of the least loaded that suits its deployment no worse.
    fn by_load(&self, state: &State, moved: &Moved, going: &Going) -> Option<Move> {
        let settled = |slot: &Slot| {
            let (used, asked) = going.get(&slot.id).copied().unwrap_or_default();
            (slot.used.saturating_sub(used), slot.asked.minus(asked))
        };
        let load = |slot: &Slot| {
            let (used, asked) = settled(slot);
            slot.load(used, asked)
        };
        let open = self.fleet.iter().filter(|s| s.standing == Standing::Open);
        let mut nodes: Vec<(u64, &Slot)> = open.map(|slot| (load(slot), slot)).collect();
        nodes.sort_by_key(|(load, slot)| (*load, slot.id));
        for (from_load, from) in nodes.iter().rev().take(NODES_TRIED) {
            for (to_load, to) in nodes.iter().take(NODES_TRIED) {
                if !is_worth_it(*from_load, *to_load) {
                    break;
                }
                let (from_used, from_asked) = settled(from);
                let (to_used, to_asked) = settled(to);
                let is_better = |copy: &Copy| {
                    let left =
                        from.load(from_used.saturating_sub(1), from_asked.minus(copy.amounts));
                    let gets = to.load(to_used + 1, to_asked.plus(copy.amounts));
                    left < *from_load && is_worth_it(left, gets)
                };
                let found = self.that_may(state, moved, (from, to), is_better);
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    /// The first instance of the one node that would be as well off on the other.
    fn that_may(
        &self,
        state: &State,
        moved: &Moved,
        (from, to): (&Slot, &Slot),
        is_better: impl Fn(&Copy) -> bool,
    ) -> Option<Move> {
        for id in self.on.get(&from.id).into_iter().flatten() {
            let Some(name) = self.entries.get(id).map(|entry| &entry.deployment) else {
                continue;
            };
            let Some((job, release)) = self.jobs.get(name).and_then(|job| self.steady(job)) else {
                continue;
            };
            let Some(copy) = job.copies.iter().find(|copy| copy.id == *id) else {
                continue;
            };
            if moved.contains_key(name) || !is_better(copy) {
                continue;
            }
            let need = self.need_beside(state, job, release, moved);
            if !need.placement.near.is_empty() || obstacle(&need, to).is_some() {
                continue;
            }
            let nodes = job.copies.iter().map(|copy| copy.node);
            let mut spread = Spread::of(&need, nodes, &self.fleet);
            spread.remove(&self.fleet, from.id);
            if spread.rank(&need, to) <= spread.rank(&need, from) {
                return Some(Move {
                    name: name.clone(),
                    release,
                    copy: *copy,
                    to: to.id,
                });
            }
        }
        None
    }

    /// The job of a program that is whole, at rest, and may have one instance more for a moment; with its release.
    fn steady<'j>(&self, job: &'j Job) -> Option<(&'j Job, ReleaseNumber)> {
        let Kind::Service {
            release,
            demand,
            rolling: false,
        } = job.kind
        else {
            return None;
        };
        let whole =
            |copy: &Copy| copy.class == Class::New && copy.place == Place::Staying && copy.ready;
        let steady = !demand.alone
            && job.stopping == 0
            && job.copies.len() == demand.new as usize
            && job.copies.iter().all(whole)
            && !self.open.contains(&job.name);
        steady.then_some((job, release))
    }
}

/// Whether any other node could suit the deployment better than one of its own does.
fn may_improve(need: &Need, spread: &Spread) -> bool {
    let wishes = &need.placement;
    wishes.near.is_empty()
        && (spread.most() > 1
            || wishes.spread.is_some()
            || !wishes.prefer.is_empty()
            || !wishes.avoid.is_empty())
}
