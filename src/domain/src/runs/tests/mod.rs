//! Runs on a cluster on paper: nodes that come and go, leaders that are lost at any step.

mod hooks;
mod life;
mod schedules;
mod supplies;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Absence, Exit, How, Run, Work, steps};
use crate::command::{Command, Outcome, Rejection};
use crate::ids::{InstanceId, NodeId, RunNumber};
use crate::observed::{Health, InstanceFacts, Phase};
use crate::spec::{Kind, RunLimits, Service, Spec, Workload};
use crate::state::{Desired, Instance};
use crate::testing::{NOW, Sim, facts, name};
use crate::time::Millis;

/// A cluster with time, and with what really runs on its nodes.
pub struct World {
    pub sim: Sim,
    pub now: Millis,
    pub absence: Absence,
    /// What every attempt's program has come to; the node's own record, which survives its daemon.
    pub programs: BTreeMap<InstanceId, Option<Exit>>,
    /// As it really is, whatever a leader has seen.
    pub dead_since: BTreeMap<NodeId, Millis>,
}

pub fn job_spec(limits: RunLimits) -> Spec {
    spec_of(Kind::Job(limits))
}

pub fn spec_of(kind: Kind) -> Spec {
    let service = Service {
        kind,
        ..Service::new("work")
    };
    Spec::new(Workload::Service(service), "none.invalid".parse().unwrap())
}

pub fn exit(code: i32) -> Exit {
    Exit {
        how: How::Code(code),
        said: format!("exited with code {code}"),
    }
}

impl World {
    pub fn new(nodes: u64) -> World {
        World {
            sim: Sim::new(nodes, 8),
            now: NOW,
            absence: Absence::default(),
            programs: BTreeMap::new(),
            dead_since: BTreeMap::new(),
        }
    }

    pub fn work(&self, deployment: &str) -> Work {
        let work = self.sim.state.work.get(&name(deployment));
        work.cloned().unwrap_or_default()
    }

    pub fn run(&self, deployment: &str, number: u64) -> Run {
        self.work(deployment)
            .run(RunNumber(number))
            .unwrap()
            .clone()
    }

    /// The attempts' instances that a live node is to run.
    fn tasks(&self) -> Vec<Instance> {
        let all = self.sim.state.instances.values();
        all.filter(|i| i.run.is_some() && self.sim.view.is_alive(i.node))
            .cloned()
            .collect()
    }

    /// Live nodes do what the registry asks of them, and tell how it stands. What they no longer find there they end.
    pub fn obey(&mut self) {
        let known: BTreeSet<InstanceId> = self.sim.state.instances.keys().copied().collect();
        for instance in self.tasks() {
            let program = self.programs.entry(instance.id);
            let ended = match instance.desired {
                Desired::Run => program.or_insert(None),
                Desired::Stop => {
                    let end = program.or_insert(None);
                    end.get_or_insert(Exit {
                        how: How::Signal(15),
                        said: "killed by SIGTERM".into(),
                    });
                    end
                }
            };
            let told = match ended.clone() {
                None => facts(Phase::Running, Health::Unknown),
                Some(exit) => InstanceFacts {
                    exit: Some(exit),
                    ..facts(Phase::Stopped, Health::Unknown)
                },
            };
            self.sim.tell(instance.id, told);
        }
        for node in self.sim.view.nodes.values().filter(|node| node.alive) {
            for id in node.instances.keys().filter(|id| !known.contains(id)) {
                if let Some(end) = self.programs.get_mut(id) {
                    end.get_or_insert(exit(143));
                }
            }
        }
    }

    /// One look of the leader; at most `take` of its steps are taken before it is lost.
    pub fn lead(&mut self, take: usize) -> Vec<Command> {
        self.absence.note(&self.sim.view, self.now);
        let lost = self.absence.lost(self.now);
        let commands = steps(&self.sim.state, &self.sim.view, &lost, self.now);
        let mut taken = Vec::new();
        for command in commands.into_iter().take(take) {
            match self.sim.run(command.clone()) {
                Ok(_) => taken.push(command),
                Err(Rejection::StaleStep(_)) => {}
                Err(other) => panic!("{command:?}: {other}"),
            }
        }
        taken
    }

    pub fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
    }

    /// The leader, the scheduler, the rollouts and the nodes do their part, until nothing changes.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            let before = (self.sim.state.revision, self.sim.view.clone());
            self.lead(usize::MAX);
            self.sim.step();
            self.sim.roll(self.now);
            self.obey();
            let instances: Vec<Instance> = self.sim.state.instances.values().cloned().collect();
            for instance in instances.iter().filter(|i| i.run.is_none()) {
                if !self.sim.view.is_alive(instance.node) {
                    continue;
                }
                match instance.desired {
                    Desired::Run => self.sim.tell_ready(instance.id),
                    Desired::Stop => self
                        .sim
                        .tell(instance.id, facts(Phase::Stopped, Health::Unknown)),
                }
            }
            if before == (self.sim.state.revision, self.sim.view.clone()) {
                return;
            }
        }
        panic!("does not settle: {:?}", self.sim.state.work);
    }

    /// The program of the run's attempt ends.
    pub fn end(&mut self, deployment: &str, number: u64, exit: Exit) {
        let run = self.run(deployment, number);
        let attempt = run.current().expect("an attempt that goes on");
        let program = self.programs.get_mut(&attempt.instance);
        *program.expect("a program that was begun") = Some(exit);
    }

    pub fn kill_node(&mut self, number: u64) {
        self.sim.set_alive(number, false);
        self.dead_since.entry(NodeId(number)).or_insert(self.now);
    }

    pub fn revive_node(&mut self, number: u64) {
        self.sim.set_alive(number, true);
        self.dead_since.remove(&NodeId(number));
    }

    pub fn start(&mut self, deployment: &str) -> Result<Outcome, Rejection> {
        self.sim.run(Command::StartRun {
            name: name(deployment),
            now: self.now,
        })
    }

    pub fn cancel(&mut self, deployment: &str, number: u64) -> Result<Outcome, Rejection> {
        self.sim.run(Command::CancelRun {
            name: name(deployment),
            run: RunNumber(number),
            now: self.now,
        })
    }
}
