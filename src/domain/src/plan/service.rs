//! Placing a program's instances: `scale` of the current epoch, spread evenly over the open nodes.
//!
//! What the current epoch replaces (older epochs, and instances on draining nodes) goes on until its
//! replacement is ready: of these, never more are kept than ready replacements are missing.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Solution;
use super::fleet::{Fleet, Standing};
use super::problem::{Copy, Job, Place};
use crate::ids::NodeId;

/// One program while its deployment is being solved.
pub(super) struct Work<'j, 'a> {
    job: &'j Job<'a>,
    scale: usize,
    /// Instances of the current epoch that stay.
    kept: Vec<Copy>,
    /// Instances that go once the current epoch is ready, the most useful first.
    replaced: Vec<Copy>,
    /// Instances of the current epoch on each node, those started by this plan included.
    own: BTreeMap<NodeId, u32>,
    placed: usize,
    no_place: bool,
}

impl<'j, 'a> Work<'j, 'a> {
    /// Sorts out what there is, and stops what is too much.
    pub fn new(job: &'j Job<'a>, scale: u32, fleet: &Fleet, solution: &mut Solution) -> Self {
        let (kept, mut replaced): (Vec<Copy>, Vec<Copy>) = job
            .copies
            .iter()
            .filter(|copy| copy.place != Place::Lost)
            .partition(|copy| copy.current && copy.place == Place::Staying);
        replaced.sort_by_key(|copy| (Reverse((copy.ready, copy.place, copy.epoch)), copy.id));
        let mut own: BTreeMap<NodeId, u32> = BTreeMap::new();
        for copy in &kept {
            *own.entry(copy.node).or_default() += 1;
        }
        let mut work = Work {
            job,
            scale: scale as usize,
            kept,
            replaced,
            own,
            placed: 0,
            no_place: false,
        };
        while work.kept.len() > work.scale
            && let Some(surplus) = least_needed(&work.kept, &work.own, fleet)
        {
            let copy = work.kept.swap_remove(surplus);
            work.own.entry(copy.node).and_modify(|count| *count -= 1);
            solution.stop(copy.id);
        }
        work
    }

    /// The room that this deployment's own stopped instances have left is its own first. Otherwise an
    /// update on full nodes, which stops old instances to make room for new ones, would feed its
    /// room to whoever else waits for some.
    pub fn reclaim(&mut self, fleet: &mut Fleet, solution: &mut Solution) {
        self.place(self.job.freed, fleet, solution);
    }

    /// Places what is still missing and stops what has been replaced.
    pub fn finish(mut self, fleet: &mut Fleet, solution: &mut Solution) {
        self.place(usize::MAX, fleet, solution);

        let ready = self.kept.iter().filter(|copy| copy.ready).count();
        let still_needed = self.replaced.len().min(self.scale - ready);
        let superfluous = self.replaced.split_off(still_needed);
        for copy in &superfluous {
            solution.stop(copy.id);
        }
        if !self.no_place {
            return;
        }
        // One at a time, and only while what was started so far has become ready: a release that
        // does not come up must not take the whole deployment down with it.
        let idle = self.job.stopping == 0 && superfluous.is_empty() && self.placed == 0;
        if idle
            && ready == self.kept.len()
            && let Some(copy) = in_the_way(&self.replaced, fleet)
        {
            solution.stop(copy.id);
        }
        let reason = format!(
            "{} of {} instances cannot be placed: {}",
            self.missing(),
            self.scale,
            fleet.why_none()
        );
        solution.explain(self.job.name, reason);
    }

    fn missing(&self) -> usize {
        self.scale - self.kept.len() - self.placed
    }

    fn place(&mut self, at_most: usize, fleet: &mut Fleet, solution: &mut Solution) {
        for _ in 0..self.missing().min(at_most) {
            if !solution.has_room() {
                return;
            }
            let Some(node) = fleet.best(&self.own) else {
                self.no_place = true;
                return;
            };
            solution.start(self.job.name, node);
            fleet.take(node);
            *self.own.entry(node).or_default() += 1;
            self.placed += 1;
        }
    }
}

/// Which to stop when there are too many: one that is not ready, else one of the fullest node, the
/// newest first.
fn least_needed(kept: &[Copy], own: &BTreeMap<NodeId, u32>, fleet: &Fleet) -> Option<usize> {
    (0..kept.len()).max_by_key(|position| {
        let copy = &kept[*position];
        let on_node = own.get(&copy.node).copied().unwrap_or(0);
        (!copy.ready, on_node, fleet.used(copy.node), copy.id)
    })
}

/// The least useful of the instances to be replaced whose end makes room for a replacement, if not at
/// once then together with its like on the same node.
fn in_the_way<'a>(replaced: &'a [Copy], fleet: &Fleet) -> Option<&'a Copy> {
    let makes_room = |copy: &Copy| {
        let alike = replaced.iter().filter(|c| c.node == copy.node).count();
        let others = fleet.used(copy.node).saturating_sub(alike as u32);
        fleet.standing(copy.node) == Standing::Open && others < fleet.capacity(copy.node)
    };
    replaced.iter().rev().find(|copy| makes_room(copy))
}
