//! What goes wrong in a run, and when: all of it decided by the seed.

use std::collections::BTreeSet;
use std::time::Duration;

use nebula_domain::NodeId;
use nebula_drivers::Exit;
use nebula_telemetry::Random;
use tokio::time::{Instant, sleep_until};

use super::cluster::Cluster;
use super::disk::FAST;
use super::network::Weather;

/// Wall clocks are told the time, and restarts looked for, this often.
const STEP: Duration = Duration::from_millis(100);
/// Machines of a run at most.
const MACHINES: usize = 5;

/// Faults come at random within a run, and each kind more or less often by the seed.
pub struct Faults {
    random: Random,
    usual: Weather,
    /// Of each kind, how often it comes beside the others.
    weights: Vec<(Kind, u64)>,
    /// Longest pause between two faults.
    pause_ms: u64,
    restarts: Vec<(Instant, NodeId)>,
    heal: Option<Instant>,
    calm: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kill,
    PowerCut,
    PowerCutAll,
    Partition,
    Isolate,
    OneWay,
    Bridge,
    Weather,
    SlowDisk,
    Clock,
    Program,
    Gossip,
    Loop,
    Grow,
    Shrink,
}

const KINDS: [Kind; 15] = [
    Kind::Kill,
    Kind::PowerCut,
    Kind::PowerCutAll,
    Kind::Partition,
    Kind::Isolate,
    Kind::OneWay,
    Kind::Bridge,
    Kind::Weather,
    Kind::SlowDisk,
    Kind::Clock,
    Kind::Program,
    Kind::Gossip,
    Kind::Loop,
    Kind::Grow,
    Kind::Shrink,
];

/// Kinds that make each other worse. A run keeps to one of these for the most part: with everything at
/// once nothing goes far enough.
const THEMES: [&[Kind]; 6] = [
    &[Kind::PowerCutAll, Kind::SlowDisk],
    &[Kind::Partition, Kind::Isolate, Kind::OneWay, Kind::Bridge],
    &[Kind::Grow, Kind::Shrink, Kind::Kill],
    &[Kind::Kill, Kind::PowerCut, Kind::Loop, Kind::Program],
    &[Kind::Weather, Kind::Isolate, Kind::Clock, Kind::Gossip],
    &[],
];
/// How much more often they come.
const THEME: u64 = 12;

impl Faults {
    pub fn new(random: Random, usual: Weather) -> Faults {
        let theme = THEMES[random.below(THEMES.len() as u64) as usize];
        let weight = |kind| random.below(4) + if theme.contains(&kind) { THEME } else { 0 };
        let weights = KINDS.into_iter().map(|kind| (kind, weight(kind))).collect();
        Faults {
            pause_ms: 300 + random.below(3000),
            random,
            usual,
            weights,
            restarts: Vec::new(),
            heal: None,
            calm: None,
        }
    }

    /// Breaks things until `end`.
    pub async fn run(&mut self, cluster: &mut Cluster, end: Instant) {
        let mut next = self.after(self.pause_ms);
        while Instant::now() < end && cluster.ground.trace.violation().is_none() {
            sleep_until(Instant::now() + STEP).await;
            cluster.keep();
            let now = Instant::now();
            let (due, later) = self.restarts.drain(..).partition(|(at, _)| *at <= now);
            self.restarts = later;
            for (_, id) in due {
                // A restart that fails is a violation, and noted.
                let _ = cluster.start(id).await;
            }
            if self.heal.is_some_and(|at| at <= now) {
                self.heal = None;
                cluster
                    .ground
                    .trace
                    .note(format_args!("the cuts are healed"));
                cluster.ground.network.set_cuts(BTreeSet::new());
            }
            if self.calm.is_some_and(|at| at <= now) {
                self.calm = None;
                cluster.ground.network.set_weather(self.usual);
                for node in cluster.nodes.values() {
                    node.disk.set_sync_takes(FAST);
                }
            }
            if next <= now {
                self.strike(cluster).await;
                next = self.after(self.pause_ms);
            }
        }
    }

    /// Ends everything that is wrong.
    pub async fn heal(&mut self, cluster: &mut Cluster) {
        cluster
            .ground
            .trace
            .note(format_args!("everything is healed"));
        cluster.ground.network.set_cuts(BTreeSet::new());
        cluster.ground.network.set_weather(self.usual);
        self.restarts.clear();
        let ids: Vec<NodeId> = cluster.nodes.keys().copied().collect();
        for id in ids {
            if let Some(node) = cluster.nodes.get_mut(&id) {
                node.disk.set_sync_takes(FAST);
                node.set_skew(0);
            }
            let _ = cluster.start(id).await;
        }
    }

    fn after(&self, most_ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(20 + self.random.below(most_ms))
    }

    fn pick<T: Copy>(&self, from: &[T]) -> Option<T> {
        let at = usize::try_from(self.random.below(from.len() as u64)).ok()?;
        from.get(at).copied()
    }

    fn kind(&self) -> Kind {
        let all: u64 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.below(all.max(1));
        for (kind, weight) in &self.weights {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return *kind,
            }
        }
        Kind::Kill
    }

    async fn strike(&mut self, cluster: &mut Cluster) {
        let all: Vec<NodeId> = cluster.nodes.keys().copied().collect();
        let up: Vec<NodeId> = cluster.lives.all().iter().map(|life| life.node).collect();
        let Some(one) = self.pick(&all) else {
            return;
        };
        let kind = self.kind();
        match kind {
            Kind::Kill => {
                cluster.kill(one);
                self.restarts.push((self.after(6000), one));
            }
            Kind::PowerCut => {
                cluster.cut_power(one);
                self.restarts.push((self.after(6000), one));
            }
            Kind::PowerCutAll => {
                for id in all {
                    cluster.cut_power(id);
                    self.restarts.push((self.after(2000), id));
                }
            }
            Kind::Partition | Kind::Isolate | Kind::OneWay | Kind::Bridge => {
                let cuts = self.cuts(kind, cluster, &all, one);
                cluster
                    .ground
                    .trace
                    .note(format_args!("{kind:?}: {cuts:?}"));
                cluster.ground.network.set_cuts(cuts);
                self.heal = Some(self.after(8000));
            }
            Kind::Weather => {
                let least = Duration::from_millis(self.random.below(40));
                let weather = Weather {
                    delay: (
                        least,
                        least + Duration::from_millis(1 + self.random.below(100)),
                    ),
                    lost: self.random.below(300),
                    doubled: self.random.below(200),
                };
                cluster.ground.trace.note(format_args!("{weather:?}"));
                cluster.ground.network.set_weather(weather);
                self.calm = Some(self.after(6000));
            }
            Kind::SlowDisk => {
                let least = Duration::from_millis(self.random.below(300));
                let takes = (
                    least,
                    least + Duration::from_millis(self.random.below(1500)),
                );
                cluster
                    .ground
                    .trace
                    .note(format_args!("{one} disk: {takes:?}"));
                // Machines of one make have one trouble.
                let every = self.random.below(3) == 0;
                for node in cluster.nodes.values().filter(|n| every || n.id == one) {
                    node.disk.set_sync_takes(takes);
                }
                self.calm = Some(self.after(6000));
            }
            Kind::Clock => {
                let hour: i64 = 3_600_000;
                let skew = self.random.below(2 * hour as u64) as i64 - hour;
                cluster
                    .ground
                    .trace
                    .note(format_args!("{one} clock: {skew} ms"));
                if let Some(node) = cluster.nodes.get_mut(&one) {
                    node.set_skew(skew);
                }
            }
            Kind::Program => {
                if let Some(node) = cluster.nodes.get(&one)
                    && let Some(instance) = self.pick(&node.running())
                {
                    cluster
                        .ground
                        .trace
                        .note(format_args!("{instance} on {one} crashes"));
                    node.programs.exit(instance, Exit::Code(1));
                }
            }
            Kind::Gossip => {
                if let Some(life) = cluster.nodes.get(&one).and_then(|n| n.life.as_ref()) {
                    cluster.ground.trace.note(format_args!("{one} gossip dies"));
                    life.membership.kill();
                }
            }
            Kind::Loop => {
                if let Some(life) = cluster.nodes.get(&one).and_then(|n| n.life.as_ref()) {
                    let numbers: Vec<usize> = (0..life.loops.len()).collect();
                    if let Some(child) = self.pick(&numbers).and_then(|n| life.loops.get(n)) {
                        cluster
                            .ground
                            .trace
                            .note(format_args!("{one} {} dies", child.name()));
                        child.kill();
                    }
                }
            }
            Kind::Grow => self.grow(cluster, &up).await,
            Kind::Shrink => self.shrink(cluster, &up).await,
        }
    }

    async fn grow(&self, cluster: &mut Cluster, up: &[NodeId]) {
        if cluster.nodes.len() >= MACHINES {
            return;
        }
        let through = self.pick(up);
        let through = through.and_then(|id| cluster.nodes.get(&id)?.life.clone());
        if let Some(through) = through
            && let Err(reason) = cluster.grow(&through).await
        {
            cluster
                .ground
                .trace
                .note(format_args!("nobody joined: {reason}"));
        }
    }

    async fn shrink(&self, cluster: &mut Cluster, up: &[NodeId]) {
        if cluster.nodes.len() <= 3 {
            return;
        }
        let through = self.pick(up);
        let through = through.and_then(|id| cluster.nodes.get(&id)?.life.clone());
        if let (Some(through), Some(leaves)) = (through, self.pick(up))
            && let Err(reason) = cluster.shrink(&through, leaves).await
        {
            cluster
                .ground
                .trace
                .note(format_args!("{leaves} was not removed: {reason}"));
        }
    }

    fn cuts(
        &self,
        kind: Kind,
        cluster: &Cluster,
        all: &[NodeId],
        one: NodeId,
    ) -> BTreeSet<(NodeId, NodeId)> {
        let leader = cluster.lives.all().into_iter().find_map(|life| {
            let leads = life.registry.status().borrow().is_leader;
            leads.then_some(life.node)
        });
        // The leader is the more interesting one.
        let one = leader.filter(|_| self.random.below(3) != 0).unwrap_or(one);
        let side: BTreeSet<NodeId> = match kind {
            Kind::Isolate | Kind::OneWay => BTreeSet::from([one]),
            _ => all
                .iter()
                .copied()
                .filter(|_| self.random.below(2) == 0)
                .collect(),
        };
        let (out, back) = match kind {
            Kind::OneWay if self.random.below(2) == 0 => (true, false),
            Kind::OneWay => (false, true),
            _ => (true, true),
        };
        let mut cuts = BTreeSet::new();
        for a in all.iter().filter(|id| side.contains(id)) {
            for b in all.iter().filter(|id| !side.contains(id)) {
                // One node still reaches both sides.
                if kind == Kind::Bridge && (*a == one || *b == one) {
                    continue;
                }
                if out {
                    cuts.insert((*a, *b));
                }
                if back {
                    cuts.insert((*b, *a));
                }
            }
        }
        cuts
    }
}
