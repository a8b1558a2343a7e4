//! Placing a program's instances: so many of each release as the rollout's demand says, spread evenly over the open
//! nodes.
//!
//! What a release replaces (older releases and epochs, and instances on draining nodes) goes on until its replacement
//! is ready: of these, never more are kept than ready replacements are missing, and never fewer but for what the
//! strategy gives leave for.

use std::cmp::Reverse;

use super::fleet::{Fleet, Standing};
use super::job::{Class, Copy, Job, Place};
use super::possible::{Need, obstacle};
use super::solution::Solution;
use super::spread::Spread;
use crate::ids::{NodeId, ReleaseNumber};
use crate::rollout::Demand;

/// The instances of one release of one program, while its deployment is being solved.
pub(super) struct Work<'j> {
    job: &'j Job,
    release: ReleaseNumber,
    /// What each of them asks of its node.
    need: Need,
    count: usize,
    /// How many more may run while others are replaced, and how many fewer be ready.
    surge: usize,
    unavailable: usize,
    alone: bool,
    /// Instances of the release that stay.
    kept: Vec<Copy>,
    /// Instances that go once those of the release are ready, the most useful first.
    replaced: Vec<Copy>,
    /// Where the instances of the release are, those started by this plan included.
    spread: Spread,
    placed: usize,
    no_place: bool,
    /// Nothing of it is stopped by this plan because it has been replaced.
    waits: bool,
    /// Why nothing of it is begun now, and nothing stopped in favour of what would begin.
    held: Option<String>,
}

/// What the deployment's releases ask for.
pub(super) struct Asked<'f> {
    /// Of the node of one of the release's instances.
    pub need: &'f dyn Fn(ReleaseNumber) -> Need,
    /// Why nothing of the release may begin now; asked when some of it are missing.
    pub held: &'f dyn Fn(ReleaseNumber) -> Option<String>,
}

/// Sorts out what there is: by the wanted release, and while another is kept beside it by that one too.
pub(super) fn works<'j>(
    job: &'j Job,
    release: ReleaseNumber,
    demand: &Demand,
    fleet: &Fleet,
    asked: &Asked,
) -> Vec<Work<'j>> {
    let of = |classes: &[Class]| {
        let some = job.present().filter(|copy| classes.contains(&copy.class));
        some.copied().collect::<Vec<_>>()
    };
    let work = |release, count, own, others| {
        let mut work = Work::new(
            job,
            (release, (asked.need)(release)),
            count,
            (own, others),
            fleet,
        );
        if work.missing() > 0 {
            work.held = (asked.held)(release);
        }
        work
    };
    let (surge, unavailable) = (demand.surge as usize, demand.unavailable as usize);
    match demand.keep {
        None => {
            let others = of(&[Class::From, Class::Again, Class::Other, Class::Bad]);
            let mut work = work(release, demand.new, of(&[Class::New]), others);
            (work.surge, work.unavailable) = (surge, unavailable);
            work.alone = demand.alone;
            vec![work]
        }
        Some((from, count)) => {
            let others = of(&[Class::Other, Class::Bad]);
            let again = of(&[Class::Again]);
            let mut new = work(release, demand.new, of(&[Class::New]), again);
            (new.surge, new.unavailable) = (surge.max(1), unavailable);
            vec![work(from, count, of(&[Class::From]), others), new]
        }
    }
}

impl<'j> Work<'j> {
    fn new(
        job: &'j Job,
        (release, need): (ReleaseNumber, Need),
        count: u32,
        (own, others): (Vec<Copy>, Vec<Copy>),
        fleet: &Fleet,
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
        let spread = Spread::of(&need, kept.iter().map(|copy| copy.node), fleet);
        Work {
            job,
            release,
            need,
            count: count as usize,
            surge: usize::MAX,
            unavailable: 0,
            alone: false,
            kept,
            replaced,
            spread,
            placed: 0,
            no_place: false,
            waits: true,
            held: None,
        }
    }

    /// Stops what is too much of the release itself, and of the others what has been replaced.
    pub fn stop_surplus(&mut self, fleet: &mut Fleet, solution: &mut Solution) {
        while self.kept.len() > self.count
            && let Some(surplus) = self.least_needed(fleet)
        {
            let copy = self.kept.swap_remove(surplus);
            self.spread.remove(fleet, copy.node);
            solution.stop(&self.job.name, copy.id);
        }
        let superfluous = self.replaced.split_off(self.still_needed(fleet));
        self.waits = superfluous.is_empty();
        for copy in &superfluous {
            solution.stop(&self.job.name, copy.id);
        }
    }

    /// Which to stop when there are too many: one that is not ready, else one where it is of the least use, else one
    /// of the fullest node, the newest first.
    fn least_needed(&self, fleet: &Fleet) -> Option<usize> {
        (0..self.kept.len()).max_by_key(|position| {
            let copy = &self.kept[*position];
            let slot = fleet.get(copy.node);
            let rank = slot.map(|slot| self.spread.rank(&self.need, slot));
            (!copy.ready, rank, slot.map(|slot| slot.used), copy.id)
        })
    }

    /// The room that this deployment's own stopped instances have left is its own first. Otherwise an
    /// update on full nodes, which stops old instances to make room for new ones, would feed its
    /// room to whoever else waits for some.
    pub fn reclaim(&mut self, fleet: &mut Fleet, solution: &mut Solution) {
        self.place(self.job.freed, fleet, solution);
    }

    /// Places what is still missing, and makes room for it if there is none.
    pub fn finish(mut self, fleet: &mut Fleet, solution: &mut Solution) {
        if self.missing() > 0 {
            // What it waits for may be another deployment, or room: nothing that its own record would show.
            solution.is_busy(&self.job.name);
        }
        if let Some(reason) = self.held.take() {
            solution.explain(&self.job.name, reason);
            return;
        }
        self.place(usize::MAX, fleet, solution);
        if !self.no_place {
            return;
        }
        // A move was for the better, and nothing has to come of it.
        let moving = self.replaced.iter().filter(|c| c.place == Place::Moving);
        let moving: Vec<_> = moving.map(|copy| copy.id).collect();
        if !moving.is_empty() {
            for copy in moving {
                solution.stay(&self.job.name, copy);
            }
            return;
        }
        // One at a time, and only while what was started so far has become ready: a release that
        // does not come up must not take the whole deployment down with it.
        let idle = self.job.stopping == 0 && self.waits && self.placed == 0;
        if idle
            && self.ready() == self.kept.len()
            && let Some(copy) = self.in_the_way(fleet)
        {
            solution.stop(&self.job.name, copy.id);
        }
        let why = solution.give_up(&self.need, fleet);
        let reason = format!(
            "{} of {} instances cannot be placed: {why}",
            self.missing(),
            self.count
        );
        solution.explain(&self.job.name, reason);
    }

    /// The least useful of the instances to be replaced whose end makes room for a replacement, if not at
    /// once then together with its like on the same node.
    fn in_the_way(&self, fleet: &Fleet) -> Option<&Copy> {
        let makes_room = |copy: &Copy| {
            let Some(slot) = fleet.get(copy.node) else {
                return false;
            };
            let alike = self.replaced.iter().filter(|c| c.node == copy.node);
            let mut without = slot.clone();
            for other in alike {
                without.remove(&other.share(&self.job.name));
            }
            slot.standing == Standing::Open && obstacle(&self.need, &without).is_none()
        };
        self.replaced.iter().rev().find(|copy| makes_room(copy))
    }

    fn ready(&self) -> usize {
        self.kept.iter().filter(|copy| copy.ready).count()
    }

    /// How many of those that are replaced have to go on.
    fn still_needed(&self, fleet: &mut Fleet) -> usize {
        let ready = self.ready();
        let alone = self.alone && self.held.is_none();
        if alone && self.replaced.iter().any(is_outdated) {
            return 0;
        }
        // Of those of which two must not run, one goes before another comes: if there is a place for that one.
        if alone
            && !self.replaced.is_empty()
            && fleet.best(&self.need, &self.spread, None).is_some()
        {
            return 0;
        }
        let good = self.replaced.iter().filter(|copy| copy.class != Class::Bad);
        let something_good = ready > 0 || good.clone().any(|copy| copy.ready);
        let outdated = self.replaced.iter().any(is_outdated);
        let missing = match outdated && self.held.is_none() {
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
        self.count.saturating_sub(self.kept.len() + self.placed)
    }

    /// Starts that the strategy gives leave for: instances on draining nodes have to go anyway and do not count.
    fn leave(&self) -> usize {
        if self.held.is_some() {
            return 0;
        }
        let outdated = || self.replaced.iter().filter(|copy| is_outdated(copy));
        let going = self.job.stopping > 0 || !self.waits;
        if self.alone && (going || outdated().next().is_some()) {
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

    fn best(&mut self, fleet: &mut Fleet, solution: &Solution) -> Option<NodeId> {
        if solution.why_hopeless(&self.need).is_some() {
            return None;
        }
        for name in &self.need.apart {
            self.need.shunned.extend(solution.started(name));
        }
        fleet.best(&self.need, &self.spread, None)
    }

    fn place(&mut self, at_most: usize, fleet: &mut Fleet, solution: &mut Solution) {
        for _ in 0..self.missing().min(at_most).min(self.leave()) {
            if !solution.has_room() {
                solution.is_busy(&self.job.name);
                return;
            }
            let Some(node) = self.best(fleet, solution) else {
                self.no_place = true;
                return;
            };
            solution.start(&self.job.name, self.release, node);
            fleet.try_on(node, &self.need.share);
            self.spread.add(fleet, node);
            self.placed += 1;
        }
    }
}

/// Not of the release, on a node where it could stay.
fn is_outdated(copy: &Copy) -> bool {
    copy.place == Place::Staying
}
