//! Programs that have to have one port: at most one instance with it on a node.

use super::*;
use crate::command::Rejection;
use crate::ids::{ReleaseNumber, RunNumber};
use crate::plan::Places;
use crate::port::{FixedPort, PortError};
use crate::runs::{Cause, Hook, Run, RunState};
use crate::spec::{Kind, ProbeSpec, RunLimits, Spec, SpecError, Strategy, Takeover, Workload};
use crate::testing::*;

fn on_port(port: u32) -> Spec {
    let mut spec = service_spec();
    if let Workload::Service(service) = &mut spec.workload {
        service.port = Some(FixedPort::try_from(port).unwrap());
    }
    spec
}

fn running_release(sim: &Sim, text: &str) -> Vec<u32> {
    let ids = sim.running(text);
    ids.iter()
        .map(|id| sim.state.instances[id].release.0)
        .collect()
}

#[test]
fn a_node_has_one_instance_with_a_port_and_the_rest_is_explained() {
    let mut sim = Sim::new(3, 8);
    sim.create("db", on_port(8080), 4);
    let last = sim.settle();
    assert_eq!(sim.spread("db"), [(1, 1), (2, 1), (3, 1)].into());
    assert_eq!(
        last.unplaced[&name("db")],
        [
            "1 of 4 instances cannot be placed: node n1 has port 8080 in use by an instance of db, \
             node n2 has port 8080 in use by an instance of db, \
             node n3 has port 8080 in use by an instance of db"
        ]
    );
    // Whoever asks for the same port is told who has it; another port and none are free.
    sim.create("cache", on_port(8080), 1);
    sim.create("other", on_port(8081), 3);
    sim.create("any", service_spec(), 6);
    let last = sim.settle();
    assert!(
        last.unplaced[&name("cache")][0]
            .contains("node n2 has port 8080 in use by an instance of db")
    );
    assert_eq!(sim.running("cache").len(), 0);
    assert_eq!(sim.spread("other"), [(1, 1), (2, 1), (3, 1)].into());
    assert_eq!(sim.running("any").len(), 6);
    let service = on_port(8080);
    let asked = (&name("new"), service.service().unwrap(), 1);
    assert!(unplaceable(&sim.state, &sim.view, asked).is_some());
    let asked = (&name("db"), service.service().unwrap(), 3);
    assert_eq!(
        unplaceable(&sim.state, &sim.view, asked),
        None,
        "in place of its own"
    );
}

#[test]
fn a_port_is_in_use_until_what_has_it_is_gone() {
    let mut sim = Sim::new(1, 8);
    sim.create("db", on_port(8080), 1);
    sim.settle();
    sim.create("cache", on_port(8080), 1);
    sim.scale("db", 0);
    sim.step();
    let made = sim.step();
    assert!(made.changes.is_empty(), "{made:?}");
    assert_eq!(sim.running("cache").len(), 0);
    sim.obey();
    sim.settle();
    assert_eq!(sim.running("cache").len(), 1);
}

#[test]
fn an_update_on_one_node_stops_one_before_it_starts_another() {
    let strategies = [
        service_spec().strategy,
        Strategy {
            watch: std::time::Duration::ZERO,
            ..Strategy::default()
        },
        Strategy {
            takeover: Takeover::Recreate,
            watch: std::time::Duration::ZERO,
            ..Strategy::default()
        },
    ];
    for strategy in strategies {
        let mut sim = Sim::new(1, 8);
        let spec = Spec {
            strategy,
            ..on_port(8080)
        };
        sim.create("app", spec, 1);
        sim.settle();
        sim.update("app", 2);
        let last = sim.settle_with(|sim| {
            let app = name("app");
            let there = sim.state.instances_of(&app).filter(|instance| {
                let facts = sim.view.instance(instance.node, instance.id);
                facts.is_none_or(|facts| facts.phase != crate::observed::Phase::Stopped)
            });
            assert!(there.count() <= 1, "two would have the port");
        });
        assert!(last.unplaced.is_empty(), "{last:?}");
        assert_eq!(running_release(&sim, "app"), [2]);
        assert!(sim.state.deployments[&name("app")].rollout.is_none());
    }
}

#[test]
fn an_update_on_full_nodes_keeps_the_others_and_takes_a_free_node_first() {
    let mut sim = Sim::new(3, 8);
    sim.create("app", on_port(8080), 3);
    sim.settle();
    sim.update("app", 2);
    sim.settle_with(|sim| assert!(sim.running("app").len() >= 2));
    assert_eq!(running_release(&sim, "app"), [2, 2, 2]);

    let mut sim = Sim::new(2, 8);
    sim.create("app", on_port(8080), 1);
    sim.settle();
    sim.update("app", 2);
    sim.settle_with(|sim| assert!(!sim.running("app").is_empty()));
    assert_eq!(running_release(&sim, "app"), [2]);
}

#[test]
fn a_release_gives_its_port_up_for_another() {
    let mut sim = Sim::new(1, 8);
    sim.create("app", on_port(8080), 1);
    sim.settle();
    sim.ok(crate::Command::UpdateDeployment {
        name: name("app"),
        based_on: None,
        spec: Some(on_port(8081)),
        artifact: crate::Digest([2; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    });
    // The other port is free: the new one starts beside the old one.
    sim.settle_with(|sim| assert!(!sim.running("app").is_empty()));
    sim.create("other", on_port(8080), 1);
    sim.settle();
    assert_eq!(sim.running("other").len(), 1);
}

#[test]
fn a_drain_moves_to_where_the_port_is_free_and_evening_out_too() {
    let mut sim = Sim::new(2, 8);
    sim.create("app", on_port(8080), 1);
    sim.settle();
    let first = sim.state.instances[&sim.running("app")[0]].node.0;
    sim.drain(first, true);
    sim.settle();
    assert_eq!(sim.spread("app")[&(3 - first)], 1);
    sim.drain(first, false);
    sim.create("blocks", on_port(8080), 1);
    sim.settle();
    sim.drain(first, true);
    let last = sim.settle();
    assert!(last.unplaced[&name("blocks")][0].contains("in use by an instance of app"));
    assert_eq!(
        sim.running("blocks").len(),
        1,
        "it stays until it has a place"
    );
}

#[test]
fn what_runs_beside_it_has_no_port() {
    let mut sim = Sim::new(1, 8);
    sim.create("app", on_port(8080), 1);
    sim.settle();
    let hook = Run {
        number: RunNumber(1),
        release: ReleaseNumber(1),
        cause: Cause::Hook(Hook::PostRelease),
        limits: RunLimits::default(),
        asked_at: NOW,
        state: RunState::Pending {
            since: NOW,
            not_before: NOW,
        },
        attempts: Vec::new(),
        seq: 0,
    };
    let mut places = Places::new(&sim.state, &sim.view);
    for _ in 0..2 {
        places.take(&name("app"), &hook).unwrap();
    }
}

#[test]
fn a_port_of_a_node_itself_is_refused_and_avoided() {
    let mut sim = Sim::new(2, 8);
    // Mesh addresses of the nodes on paper have ports 10001, 10002 and so on.
    let create = |port| crate::Command::CreateDeployment {
        name: name("app"),
        spec: on_port(port),
        scale: 3,
        artifact: crate::Digest([1; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    };
    let refused = sim.run(create(10_002)).unwrap_err();
    let why = PortError::OfNode {
        port: 10_002,
        node: node_name(2),
    };
    assert_eq!(refused, Rejection::Spec(SpecError::Port(why)));
    assert!(
        refused.to_string().contains("node n2 itself listens on it"),
        "{refused}"
    );

    sim.ok(create(10_003));
    sim.ok(join_command("all", 3));
    sim.arrive(3);
    sim.see_node(3, 8);
    let last = sim.settle();
    assert_eq!(sim.spread("app"), [(1, 1), (2, 1), (3, 0)].into());
    assert!(last.unplaced[&name("app")][0].ends_with("node n3 listens on port 10003 itself"));
}

#[test]
fn only_what_takes_requests_has_a_port() {
    for kind in [Kind::Worker, Kind::Job(RunLimits::default())] {
        let mut spec = on_port(8080);
        spec.strategy = Strategy::default();
        if let Workload::Service(service) = &mut spec.workload {
            if kind == Kind::Worker {
                service.probe = ProbeSpec::process();
            }
            service.kind = kind;
        }
        let error = spec.check().unwrap_err().to_string();
        assert!(
            error.contains("has no port: it is sent no requests"),
            "{error}"
        );
    }
}
