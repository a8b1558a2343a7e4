//! Which nodes vote: 1, 3 or 5 of the members that may.
//!
//! The rules, and why:
//! - The set grows by itself to the largest odd number of live members that may vote, at most five: an
//!   even number costs one more acknowledgement for each commit and survives no more losses; beyond
//!   five the leader's work grows faster than the safety.
//! - Only members whose log has caught up become voters: a new voter that still copies the log would
//!   count towards the quorum and stall every commit.
//! - Nobody becomes a voter beside one that has not heard of it: voters refuse their votes to strangers, so such a set
//!   could be unable to elect once the others are lost. A dead one does not hold this up: its place may be the one to fill.
//! - A voter that was removed from the cluster, or is about to be, leaves the set, even if an even number is left; another
//!   member takes its place as soon as there is one.
//! - A dead voter is replaced when a live member can take its place. The count does not change, so
//!   that nobody's mistake about who is alive can lower the number of copies of the registry. For
//!   the same reason the set never shrinks because nodes are merely dead: three nodes, two of which are
//!   cut off, must not come to think that one of them is a majority.
//! - The leader stays: replacing it would cost an election for nothing.
//! - A set whose live members are no majority of it is never proposed: the change could not commit and
//!   would leave the cluster between two configurations.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::NodeId;
use crate::state::Role;

/// Voters at most: two may be lost, and each commit waits for two others.
pub const MAX_VOTERS: usize = 5;

/// What the leader knows of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// `Worker` also for a voter that is about to be removed.
    pub role: Role,
    pub alive: bool,
    /// Its log is as long as the leader's, or nearly: a vote of its own would not stall commits.
    pub caught_up: bool,
    /// Its log tells it of every present member.
    pub knows_members: bool,
}

/// The set of voters to change to, or `None` when the present one is right.
/// `members`: every node in `State::nodes`; `current`: the voters of the present configuration.
pub fn plan(
    leader: NodeId,
    members: &BTreeMap<NodeId, Candidate>,
    current: &BTreeSet<NodeId>,
) -> Option<BTreeSet<NodeId>> {
    let is_alive = |id: &NodeId| *id == leader || members.get(id).is_some_and(|m| m.alive);
    let mut voters: BTreeSet<NodeId> = current
        .iter()
        .filter(|id| members.get(id).is_some_and(|m| m.role == Role::Voter))
        .copied()
        .collect();
    let knows_others =
        |id: &NodeId| *id == leader || members.get(id).is_some_and(|m| m.knows_members || !m.alive);
    let all_know = voters.iter().all(knows_others);
    let mut spares: Vec<NodeId> = members
        .iter()
        .filter(|_| all_know)
        .filter(|(id, m)| {
            m.role == Role::Voter
                && m.alive
                && m.caught_up
                && m.knows_members
                && !current.contains(id)
        })
        .map(|(id, _)| *id)
        .rev()
        .collect();

    let dead: Vec<NodeId> = voters.iter().filter(|id| !is_alive(id)).copied().collect();
    for gone in dead {
        let Some(spare) = spares.pop() else { break };
        voters.remove(&gone);
        voters.insert(spare);
    }

    let live_eligible = members
        .iter()
        .filter(|(id, m)| m.role == Role::Voter && is_alive(id))
        .count();
    let reachable = (voters.len() + spares.len()).min(largest_odd(live_eligible));
    let target = largest_odd(reachable);
    while voters.len() < target {
        let Some(spare) = spares.pop() else { break };
        voters.insert(spare);
    }

    let live = voters.iter().filter(|id| is_alive(id)).count();
    let works = live * 2 > voters.len();
    (works && voters != *current).then_some(voters)
}

/// The largest odd number that is at most `n` and [`MAX_VOTERS`]; zero for zero.
fn largest_odd(n: usize) -> usize {
    let n = n.min(MAX_VOTERS);
    if n.is_multiple_of(2) {
        n.saturating_sub(1)
    } else {
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEADER: NodeId = NodeId(1);

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    /// One letter for each node from 1: `v`oter, `w`orker; capitals are caught up; `s` a voter that knows not all members;
    /// `x` dead, `-` removed.
    fn members(text: &str) -> BTreeMap<NodeId, Candidate> {
        (1..)
            .map(NodeId)
            .zip(text.chars())
            .filter(|(_, letter)| *letter != '-')
            .map(|(id, letter)| {
                let candidate = Candidate {
                    role: if letter.eq_ignore_ascii_case(&'w') {
                        Role::Worker
                    } else {
                        Role::Voter
                    },
                    alive: letter != 'x',
                    caught_up: letter.is_ascii_uppercase(),
                    knows_members: !"sx".contains(letter),
                };
                (id, candidate)
            })
            .collect()
    }

    #[track_caller]
    fn check(nodes: &str, current: &[u64], expected: Option<&[u64]>) {
        assert_eq!(
            plan(LEADER, &members(nodes), &set(current)),
            expected.map(set),
            "{nodes} {current:?}"
        );
    }

    #[test]
    fn grows_one_three_five_and_no_further() {
        check("V", &[1], None);
        check("VV", &[1], None);
        check("VVV", &[1], Some(&[1, 2, 3]));
        check("VVVV", &[1, 2, 3], None);
        check("VVVVV", &[1, 2, 3], Some(&[1, 2, 3, 4, 5]));
        check("VVVVV", &[1], Some(&[1, 2, 3, 4, 5]));
        check("VVVVVVV", &[1, 2, 3, 4, 5], None);
    }

    #[test]
    fn waits_for_logs_to_catch_up() {
        check("VVv", &[1], None);
        check("VVVVv", &[1], Some(&[1, 2, 3]));
    }

    #[test]
    fn nobody_votes_beside_a_voter_that_has_not_heard_of_it() {
        check("VVsVV", &[1, 2, 3], None);
        check("VsxV", &[1, 2, 3], None);
        check("VVVVs", &[1], Some(&[1, 2, 3]));
        // It is replaced once it is dead, and does not keep another from leaving.
        check("VVxVV", &[1, 2, 3], Some(&[1, 2, 4]));
        check("VWsVV", &[1, 2, 3], Some(&[1, 3]));
    }

    #[test]
    fn workers_never_vote() {
        check("VWWWW", &[1], None);
    }

    #[test]
    fn death_alone_never_shrinks() {
        check("VVx", &[1, 2, 3], None);
        check("Vxx", &[1, 2, 3], None);
        check("VVVxx", &[1, 2, 3, 4, 5], None);
    }

    #[test]
    fn a_dead_voter_is_replaced_by_a_live_member() {
        check("VVxV", &[1, 2, 3], Some(&[1, 2, 4]));
        check("VVxv", &[1, 2, 3], None);
        // The leader is alive, whatever the failure detector says.
        check("xVVV", &[1, 2, 3], None);
    }

    #[test]
    fn a_removed_voter_leaves_and_is_replaced() {
        check("VV-", &[1, 2, 3], Some(&[1, 2]));
        check("VV-V", &[1, 2, 3], Some(&[1, 2, 4]));
        check("VV-VV", &[1, 2], Some(&[1, 2, 4]));
        check("-VV", &[1, 2, 3], Some(&[2, 3]));
    }

    #[test]
    fn a_leaving_voter_hands_over_also_when_it_leads() {
        check("VVW", &[1, 2, 3], Some(&[1, 2]));
        check("WV", &[1, 2], Some(&[2]));
        check("WVV", &[1, 2, 3], Some(&[2, 3]));
        check("WV", &[1], Some(&[2]));
        check("W", &[1], None);
    }

    #[test]
    fn never_proposes_a_set_without_a_live_majority() {
        check("V-x", &[1, 2, 3], None);
        check("--x", &[1, 2, 3], None);
    }

    proptest! {
        #[test]
        fn every_plan_is_safe_and_final(nodes in "[vVwWsx-]{1,9}", current in proptest::collection::btree_set(1u64..10, 1..6)) {
            let mut all = members(&nodes);
            let current: BTreeSet<NodeId> = current.into_iter().map(NodeId).chain([LEADER])
                .filter(|id| id.0 <= nodes.len() as u64).collect();
            all.insert(LEADER, Candidate { role: Role::Voter, alive: true, caught_up: true, knows_members: true });
            let Some(next) = plan(LEADER, &all, &current) else { return Ok(()) };
            prop_assert!(next.contains(&LEADER));
            let live = next.iter().filter(|id| **id == LEADER || all[id].alive).count();
            prop_assert!(live * 2 > next.len());
            prop_assert!(next.iter().all(|id| all.contains_key(id)));
            for new in next.difference(&current) {
                prop_assert!(all[new].alive && all[new].caught_up && all[new].role == Role::Voter);
                for kept in next.intersection(&current) {
                    prop_assert!(all[kept].knows_members || !all[kept].alive, "{kept} would refuse its vote to {new}");
                }
            }
            let votes = |id: &&NodeId| all.get(id).is_some_and(|m| m.role == Role::Voter);
            let kept = current.iter().filter(votes).count();
            prop_assert!(next.len() >= kept, "shrank only by removal");
            prop_assert!(next.len() == kept || next.len() % 2 == 1, "grew to an odd count");
            prop_assert_eq!(plan(LEADER, &all, &next), None, "settles at once");
        }
    }
}
