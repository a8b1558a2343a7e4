//! Placing a static site: one instance of the wanted release on every open node, whatever its capacity
//! for programs, because each node's proxy serves the site by itself.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::fleet::{Fleet, Standing, sentence};
use super::job::{Class, Copy, Job, Place};
use super::possible::Need;
use super::solution::Solution;
use crate::ids::{NodeId, ReleaseNumber};

pub(super) fn solve(job: &Job, release: ReleaseNumber, fleet: &Fleet, solution: &mut Solution) {
    let mut by_node: BTreeMap<NodeId, Vec<Copy>> = BTreeMap::new();
    for copy in job.present() {
        by_node.entry(copy.node).or_default().push(*copy);
    }
    let served: BTreeSet<NodeId> = current(job).map(|copy| copy.node).collect();
    let ready_to_stay = current(job).any(|copy| copy.ready && copy.place == Place::Staying);

    for copies in by_node.values_mut() {
        match copies[0].place {
            Place::Staying | Place::Moving => stop_all_but_needed(job, copies, solution),
            // The last node of a site goes on serving it while it drains.
            Place::Leaving if ready_to_stay => {
                copies.iter().for_each(|c| solution.stop(&job.name, c.id));
            }
            Place::Leaving | Place::Lost => {}
        }
    }

    let mut silent = Vec::new();
    let mut wanted = 0;
    for slot in fleet.iter() {
        match slot.standing {
            Standing::Open if !served.contains(&slot.id) && solution.has_room() => {
                solution.start(&job.name, release, slot.id);
            }
            Standing::Open if !served.contains(&slot.id) => solution.is_busy(&job.name),
            Standing::Silent if !served.contains(&slot.id) => {
                silent.push(format!("node {} has not reported yet", slot.name));
            }
            _ => {}
        }
        wanted += u32::from(matches!(slot.standing, Standing::Open | Standing::Silent));
    }
    if wanted == 0 {
        let reason = format!(
            "no node can serve the site: {}",
            fleet.why_none(&Need::default())
        );
        solution.explain(&job.name, reason);
    } else if !silent.is_empty() {
        let all = silent.len();
        let reason = format!(
            "{all} of {wanted} nodes cannot serve the site yet: {}",
            sentence(silent, all)
        );
        solution.explain(&job.name, reason);
    }
}

fn current(job: &Job) -> impl Iterator<Item = &Copy> {
    job.present().filter(|copy| copy.class == Class::New)
}

/// Of one node's instances the best of the wanted release is needed and, until that one is ready, the
/// best of those it replaces.
fn stop_all_but_needed(job: &Job, copies: &mut [Copy], solution: &mut Solution) {
    copies.sort_by_key(|copy| {
        (
            Reverse((copy.class == Class::New, copy.ready, copy.class, copy.epoch)),
            copy.id,
        )
    });
    let newest = copies
        .iter()
        .take_while(|copy| copy.class == Class::New)
        .count();
    let (newest, replaced) = copies.split_at(newest);
    let taken_over = newest.first().is_some_and(|copy| copy.ready);
    let needed = usize::from(!taken_over);
    for copy in newest.iter().skip(1).chain(replaced.iter().skip(needed)) {
        solution.stop(&job.name, copy.id);
    }
}
