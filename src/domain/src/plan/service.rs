//! Placing a program's instances: so many of each release as the rollout's demand says, spread evenly over the open
//! nodes.
//!
//! What a release replaces (older releases and epochs, and instances on draining nodes) goes on until its replacement
//! is ready: of these, never more are kept than ready replacements are missing, and never fewer but for what the
//! strategy gives leave for.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Solution;
use super::fleet::{Fleet, Standing};
use super::problem::{Class, Copy, Job, Place};
use crate::ids::{NodeId, ReleaseNumber};
use crate::rollout::Demand;

/// The instances of one release of one program, while its deployment is being solved.
pub(super) struct Work<'j, 'a> {
    job: &'j Job<'a>,
    release: ReleaseNumber,
    count: usize,
    /// How many more may run while others are replaced, and how many fewer be ready.
    surge: usize,
    unavailable: usize,
    alone: bool,
    /// Instances of the release that stay.
    kept: Vec<Copy>,
    /// Instances that go once those of the release are ready, the most useful first.
    replaced: Vec<Copy>,
    /// Instances of the release on each node, those started by this plan included.
    own: BTreeMap<NodeId, u32>,
    placed: usize,
    no_place: bool,
    /// Nothing of it is stopped by this plan because it has been replaced.
    waits: bool,
}

/// Sorts out what there is: by the wanted release, and while another is kept beside it by that one too.
pub(super) fn works<'j, 'a>(
    job: &'j Job<'a>,
    release: ReleaseNumber,
    demand: &Demand,
) -> Vec<Work<'j, 'a>> {
    let present = || job.copies.iter().filter(|copy| copy.place != Place::Lost);
    let of = |classes: &[Class]| {
        let some = present().filter(|copy| classes.contains(&copy.class));
        some.copied().collect::<Vec<_>>()
    };
    let (surge, unavailable) = (demand.surge as usize, demand.unavailable as usize);
    match demand.keep {
        None => {
            let others = of(&[Class::From, Class::Again, Class::Other, Class::Bad]);
            let mut work = Work::new(job, release, demand.new, of(&[Class::New]), others);
            (work.surge, work.unavailable) = (surge, unavailable);
            work.alone = demand.alone;
            vec![work]
        }
        Some((from, count)) => {
            let others = of(&[Class::Other, Class::Bad]);
            let mut new = Work::new(
                job,
                release,
                demand.new,
                of(&[Class::New]),
                of(&[Class::Again]),
            );
            (new.surge, new.unavailable) = (surge.max(1), unavailable);
            vec![Work::new(job, from, count, of(&[Class::From]), others), new]
        }
    }
}

impl<'j, 'a> Work<'j, 'a> {
    fn new(
        job: &'j Job<'a>,
        release: ReleaseNumber,
        count: u32,
        own: Vec<Copy>,
        others: Vec<Copy>,
    ) -> Self {
        let (kept, mut replaced): (Vec<Copy>, Vec<Copy>) = own
            .into_iter()
            .partition(|copy| copy.place == Place::Staying);
        replaced.extend(others);
        replaced.sort_by_key(|copy| {
            let bad = copy.class == Class::Bad;
            (
                bad,
                Reverse((copy.ready, copy.place, copy.class, copy.epoch)),
                copy.id,
            )
        });
        let mut own: BTreeMap<NodeId, u32> = BTreeMap::new();
        for copy in &kept {
            *own.entry(copy.node).or_default() += 1;
        }
        Work {
            job,
            release,
            count: count as usize,
            surge: usize::MAX,
            unavailable: 0,
            alone: false,
            kept,
            replaced,
            own,
            placed: 0,
            no_place: false,
            waits: true,
        }
    }

    /// Stops what is too much of the release itself, and of the others what has been replaced.
    pub fn stop_surplus(&mut self, fleet: &Fleet, solution: &mut Solution) {
        while self.kept.len() > self.count
            && let Some(surplus) = least_needed(&self.kept, &self.own, fleet)
        {
            let copy = self.kept.swap_remove(surplus);
            self.own.entry(copy.node).and_modify(|count| *count -= 1);
            solution.stop(copy.id);
        }
        let superfluous = self.replaced.split_off(self.still_needed());
        self.waits = superfluous.is_empty();
        for copy in &superfluous {
            solution.stop(copy.id);
        }
    }

    /// The room that this deployment's own stopped instances have left is its own first. Otherwise an
    /// update on full nodes, which stops old instances to make room for new ones, would feed its
    /// room to whoever else waits for some.
    pub fn reclaim(&mut self, fleet: &mut Fleet, solution: &mut Solution) {
        self.place(self.job.freed, fleet, solution);
    }

    /// Places what is still missing, and makes room for it if there is none.
    pub fn finish(mut self, fleet: &mut Fleet, solution: &mut Solution) {
        self.place(usize::MAX, fleet, solution);
        if !self.no_place {
            return;
        }
        // One at a time, and only while what was started so far has become ready: a release that
        // does not come up must not take the whole deployment down with it.
        let idle = self.job.stopping == 0 && self.waits && self.placed == 0;
        if idle
            && self.ready() == self.kept.len()
            && let Some(copy) = in_the_way(&self.replaced, fleet)
        {
            solution.stop(copy.id);
        }
        let reason = format!(
            "{} of {} instances cannot be placed: {}",
            self.missing(),
            self.count,
            fleet.why_none()
        );
        solution.explain(self.job.name, reason);
    }

    fn ready(&self) -> usize {
        self.kept.iter().filter(|copy| copy.ready).count()
    }

    /// How many of those that are replaced have to go on.
    fn still_needed(&self) -> usize {
        let ready = self.ready();
        if self.alone && !self.replaced.is_empty() {
            return 0;
        }
        let good = self.replaced.iter().filter(|copy| copy.class != Class::Bad);
        let something_good = ready > 0 || good.clone().any(|copy| copy.ready);
        let missing = match self.replaced.iter().any(is_outdated) {
            true => self.count.saturating_sub(ready + self.unavailable),
            false => self.count.saturating_sub(ready),
        };
        // Those of a failed release come last, and go at once where there is anything better.
        match something_good {
            true => good.count().min(missing),
            false => self.replaced.len().min(missing),
        }
    }

    fn missing(&self) -> usize {
        self.count - self.kept.len() - self.placed
    }

    /// Starts that the strategy gives leave for: instances on draining nodes have to go anyway and do not count.
    fn leave(&self) -> usize {
        let outdated = || self.replaced.iter().filter(|copy| is_outdated(copy));
        let going = self.job.stopping > 0 || !self.waits;
        if self.alone && (going || !self.replaced.is_empty()) {
            return 0;
        }
        // Those of a failed release go as soon as anything is better.
        let outdated = outdated().filter(|copy| copy.class != Class::Bad).count();
        if outdated == 0 {
            return usize::MAX;
        }
        let most = self.count.saturating_add(self.surge);
        most.saturating_sub(self.kept.len() + self.placed + outdated)
    }

    fn place(&mut self, at_most: usize, fleet: &mut Fleet, solution: &mut Solution) {
        for _ in 0..self.missing().min(at_most).min(self.leave()) {
            if !solution.has_room() {
                return;
            }
            let Some(node) = fleet.best(&self.own) else {
                self.no_place = true;
                return;
            };
            solution.start(self.job.name, self.release, node);
            fleet.take(node);
            *self.own.entry(node).or_default() += 1;
            self.placed += 1;
        }
    }
}

/// Not of the release, on a node where it could stay.
fn is_outdated(copy: &Copy) -> bool {
    copy.place == Place::Staying
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
