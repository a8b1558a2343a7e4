//! Room, labels and neighbours; evening out; and that a plan costs what has changed.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::command::Command;
use crate::ids::{InstanceId, NodeId};
use crate::limits::MOVES_AT_ONCE;
use crate::observed::{Health, Phase};
use crate::placement::Placement;
use crate::port::FixedPort;
use crate::resources::{Amounts, Cpu, Memory};
use crate::spec::{Service, Spec, Takeover, Workload};
use crate::state::{Desired, Instance};
use crate::testing::*;

/// A program that asks for so much memory (MiB) and so many thousandths of a core; 0 for no limit.
fn asks(memory_mib: u64, cpu: u32) -> Spec {
    with(|service| {
        service.resources.memory = (memory_mib > 0).then(|| Memory::mib(memory_mib));
        service.resources.cpu = (cpu > 0).then_some(Cpu(cpu));
    })
}

fn with(change: impl FnOnce(&mut Service)) -> Spec {
    let mut spec = service_spec();
    let Workload::Service(service) = &mut spec.workload else {
        unreachable!("it is a service");
    };
    change(service);
    spec
}

fn placed(placement: Placement) -> Spec {
    with(|service| service.placement = placement)
}

fn require(rules: &[&str]) -> Spec {
    placed(Placement {
        require: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        ..Placement::default()
    })
}

fn prefer(rules: &[&str]) -> Spec {
    placed(Placement {
        prefer: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        ..Placement::default()
    })
}

fn near(name_: &str) -> Spec {
    placed(Placement {
        near: vec![name(name_)],
        ..Placement::default()
    })
}

fn apart(name_: &str) -> Spec {
    placed(Placement {
        apart_from: vec![name(name_)],
        ..Placement::default()
    })
}

fn update_spec(sim: &mut Sim, text: &str, spec: Spec) {
    sim.ok(Command::UpdateDeployment {
        name: name(text),
        based_on: None,
        spec: Some(spec),
        artifact: crate::Digest([9; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    });
}

fn spread(pairs: &[(u64, usize)]) -> BTreeMap<u64, usize> {
    pairs.iter().copied().collect()
}

fn nodes_of(sim: &Sim, text: &str) -> BTreeSet<u64> {
    let deployment = name(text);
    let instances = sim.state.instances_of(&deployment);
    instances.map(|instance| instance.node.0).collect()
}

fn asked_by(sim: &Sim, instance: &Instance) -> Amounts {
    let release = sim.state.release_of(instance).unwrap();
    Amounts::asked(&release.spec.service().unwrap().resources)
}

/// What all instances on each node that are not known to be gone ask for, and how many they are.
fn taken(sim: &Sim) -> BTreeMap<NodeId, (u32, Amounts)> {
    let mut taken = BTreeMap::new();
    for instance in sim.state.instances.values() {
        let facts = sim.view.instance(instance.node, instance.id);
        let stopped = facts.is_some_and(|facts| facts.phase == Phase::Stopped);
        if instance.desired == Desired::Stop && stopped {
            continue;
        }
        let entry: &mut (u32, Amounts) = taken.entry(instance.node).or_default();
        *entry = (entry.0 + 1, entry.1.plus(asked_by(sim, instance)));
    }
    taken
}

fn overfilled(sim: &Sim) -> Option<String> {
    taken(sim).into_iter().find_map(|(node, (count, asked))| {
        let facts = &sim.view.nodes[&node].facts;
        let has = facts.has();
        let fits = count <= facts.capacity_instances
            && asked.memory_bytes <= has.memory_bytes
            && asked.cpu_millis <= has.cpu_millis;
        (!fits).then(|| format!("node {node}: {count}, {asked:?} of {has:?}"))
    })
}

/// Evens out and settles until nothing moves any more. Returns how many moves it took.
fn even_out(sim: &mut Sim, most: usize) -> usize {
    let mut moves = 0;
    loop {
        let moved = sim.even_out().len();
        if moved == 0 {
            return moves;
        }
        moves += moved;
        assert!(moves <= most, "evening out does not end");
        sim.settle();
    }
}

#[test]
fn a_node_is_filled_up_to_what_it_has() {
    let mut sim = Sim::new(2, 64);
    sim.see_room(1, 64, 2048, 2);
    sim.see_room(2, 64, 1024, 2);
    sim.create("app", asks(512, 0), 8);
    let last = sim.settle();
    assert_eq!(sim.spread("app"), spread(&[(1, 4), (2, 2)]));
    assert_eq!(
        last.unplaced[&name("app")],
        [
            "2 of 8 instances cannot be placed: no node has 512Mi of memory free: \
             node n1 has 0 of 2Gi memory, node n2 has 0 of 1Gi memory"
        ]
    );
    sim.create("small", asks(0, 1500), 2);
    sim.settle();
    assert_eq!(sim.spread("small"), spread(&[(1, 1), (2, 1)]));
    sim.create("more", asks(0, 600), 1);
    let last = sim.settle();
    assert_eq!(
        last.unplaced[&name("more")],
        [
            "1 of 1 instances cannot be placed: no node has 600m of processor time free: \
             node n1 has 500m of 2 cores, node n2 has 500m of 2 cores"
        ]
    );
    sim.create("tiny", service_spec(), 1);
    sim.settle();
    assert_eq!(sim.running("tiny").len(), 1, "what asks for nothing fits");
}

#[test]
fn what_would_have_no_place_is_told_before() {
    let mut sim = Sim::new(2, 8);
    for node in [1, 2] {
        sim.see_room(node, 8, 1024, 4);
    }
    sim.create("app", asks(512, 0), 2);
    sim.settle();
    let told = |sim: &Sim, text: &str, spec: &Spec, instances| {
        let service = spec.service().unwrap();
        unplaceable(&sim.state, &sim.view, (&name(text), service, instances))
    };
    assert_eq!(told(&sim, "new", &asks(512, 0), 2), None);
    let why = told(&sim, "new", &asks(512, 0), 3).unwrap();
    assert!(
        why.starts_with("1 of 3 instances cannot be placed: no node has 512Mi"),
        "{why}"
    );
    assert_eq!(
        told(&sim, "app", &asks(1024, 0), 2),
        None,
        "in place of its own"
    );
    let why = told(&sim, "app", &require(&["gpu"]), 1).unwrap();
    assert!(
        why.ends_with("node n1 is not gpu, node n2 is not gpu"),
        "{why}"
    );
}

#[test]
fn what_is_kept_back_is_not_given_away() {
    let mut sim = Sim::new(1, 8);
    sim.see_room(1, 8, 1024, 1);
    let facts = &mut sim.view.nodes.get_mut(&NodeId(1)).unwrap().facts;
    facts.reserved_memory_bytes = 600 << 20;
    sim.create("app", asks(512, 0), 1);
    let why = &sim.settle().unplaced[&name("app")][0];
    assert!(why.ends_with("node n1 has 424Mi of 424Mi memory"), "{why}");
}

#[test]
fn stopping_instances_take_room_until_they_are_gone() {
    let mut sim = Sim::new(1, 8);
    sim.see_room(1, 8, 1024, 1);
    sim.create("old", asks(1024, 0), 1);
    sim.settle();
    sim.ok(Command::RemoveDeployment { name: name("old") });
    sim.create("new", asks(1024, 0), 1);
    sim.step();
    assert!(sim.step().unplaced.contains_key(&name("new")), "it stops");
    sim.obey();
    sim.step();
    assert_eq!(sim.running("new").len(), 1);
}

#[test]
fn an_update_on_nodes_without_memory_goes_one_by_one() {
    let mut sim = Sim::new(2, 8);
    for node in [1, 2] {
        sim.see_room(node, 8, 1024, 4);
    }
    sim.create("app", asks(512, 0), 4);
    sim.settle();
    sim.update("app", 2);
    sim.settle_with(|sim| {
        assert!(sim.running("app").len() >= 3);
        assert_eq!(overfilled(sim), None);
    });
    assert_eq!(sim.spread("app"), spread(&[(1, 2), (2, 2)]));
    // A release that asks for more than two old ones leave needs both of them gone.
    update_spec(&mut sim, "app", asks(1024, 0));
    sim.settle_with(|sim| assert_eq!(overfilled(sim), None));
    assert_eq!(sim.spread("app"), spread(&[(1, 1), (2, 1)]));
}

#[test]
fn the_least_loaded_node_is_that_with_the_most_room() {
    let mut sim = Sim::new(2, 64);
    sim.see_room(1, 64, 8192, 8);
    sim.see_room(2, 64, 1024, 8);
    for app in ["a", "b", "c", "d"] {
        sim.create(app, asks(512, 0), 1);
    }
    sim.settle();
    let on_first = ["a", "b", "c", "d"]
        .iter()
        .filter(|app| sim.spread(app)[&1] == 1);
    assert_eq!(on_first.count(), 4);
}

#[test]
fn requirements_are_kept_and_said() {
    let mut sim = Sim::new(3, 8);
    sim.label(1, "disk=ssd zone=eu");
    sim.label(2, "disk=hdd zone=eu");
    sim.create("app", require(&["disk=ssd"]), 2);
    sim.create("lib", require(&["zone!=eu"]), 2);
    sim.create("any", require(&["node=n2"]), 1);
    sim.create("none", require(&["disk", "zone=us"]), 1);
    let last = sim.settle();
    assert_eq!(sim.spread("app"), spread(&[(1, 2), (2, 0), (3, 0)]));
    assert_eq!(sim.spread("lib"), spread(&[(1, 0), (2, 0), (3, 2)]));
    assert_eq!(nodes_of(&sim, "any"), [2].into());
    assert_eq!(
        last.unplaced[&name("none")],
        [
            "1 of 1 instances cannot be placed: node n1 is not zone=us, \
             node n2 is not zone=us, node n3 is not disk"
        ]
    );
    // A label that goes moves nothing; what is placed from then on goes elsewhere.
    sim.label(2, "disk=ssd");
    sim.label(1, "disk=hdd");
    assert!(sim.settle().changes.is_empty());
    assert_eq!(nodes_of(&sim, "app"), [1].into());
    sim.update("app", 2);
    sim.settle();
    assert_eq!(nodes_of(&sim, "app"), [2].into());
}

#[test]
fn preferred_nodes_come_first_and_avoided_ones_last() {
    let mut sim = Sim::new(3, 2);
    sim.label(2, "disk=ssd");
    sim.create("app", prefer(&["disk=ssd"]), 3);
    sim.settle();
    assert_eq!(sim.spread("app"), spread(&[(1, 1), (2, 2), (3, 0)]));
    let avoid = Placement {
        avoid: vec!["spot".parse().unwrap()],
        ..Placement::default()
    };
    sim.label(3, "spot=yes");
    sim.create("lib", placed(avoid), 2);
    sim.settle();
    assert_eq!(sim.spread("lib"), spread(&[(1, 1), (2, 0), (3, 1)]));
}

#[test]
fn instances_spread_over_a_label_before_they_spread_over_nodes() {
    let mut sim = Sim::new(5, 8);
    for node in [1, 2, 3, 4] {
        sim.label(node, "zone=a");
    }
    sim.label(5, "zone=b");
    let over_zones = Placement {
        spread: Some("zone".parse().unwrap()),
        ..Placement::default()
    };
    sim.create("app", placed(over_zones), 4);
    sim.settle();
    assert_eq!(
        sim.spread("app"),
        spread(&[(1, 1), (2, 1), (3, 0), (4, 0), (5, 2)])
    );
    sim.scale("app", 2);
    sim.settle();
    let zone_b = sim.spread("app")[&5];
    assert_eq!(zone_b, 1);
}

#[test]
fn neighbours_are_sought_and_shunned() {
    let mut sim = Sim::new(3, 8);
    sim.create("db", require(&["node=n2"]), 1);
    sim.settle();
    sim.create("api", near("db"), 1);
    sim.create("batch", apart("db"), 4);
    sim.settle();
    assert_eq!(nodes_of(&sim, "api"), [2].into());
    assert_eq!(sim.spread("batch"), spread(&[(1, 2), (2, 0), (3, 2)]));
    // Kept apart from both sides: the other one does not come to it either.
    sim.scale("db", 2);
    update_spec(&mut sim, "db", service_spec());
    sim.settle();
    assert_eq!(nodes_of(&sim, "db"), [2].into());
    let mut both = Sim::new(2, 8);
    both.create("a", apart("b"), 1);
    both.create("b", service_spec(), 1);
    both.step();
    assert_ne!(nodes_of(&both, "a"), nodes_of(&both, "b"), "in one plan");
    let own = both.run(Command::CreateDeployment {
        name: name("self"),
        spec: near("self"),
        scale: 1,
        artifact: crate::Digest([1; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    });
    let refused = own.unwrap_err().to_string();
    assert!(refused.contains("names the deployment itself"), "{refused}");
}

#[test]
fn labels_are_set_and_removed_within_their_limits() {
    let mut sim = Sim::new(1, 8);
    sim.label(1, "a=1 b=2");
    let revision = sim.state.plan_revision;
    sim.label(1, "a=1");
    assert_eq!(sim.state.plan_revision, revision, "nothing has changed");
    let set = |set: &str, remove: &str| Command::SetLabels {
        node: NodeId(1),
        set: (set.split_whitespace())
            .map(|key| (key.parse().unwrap(), "x".parse().unwrap()))
            .collect(),
        remove: remove
            .split_whitespace()
            .map(|key| key.parse().unwrap())
            .collect(),
    };
    sim.ok(set("c", "a none"));
    let labels = &sim.state.nodes[&NodeId(1)].labels;
    let keys: Vec<_> = labels.keys().map(|key| key.as_str()).collect();
    assert_eq!(keys, ["b", "c"]);
    let many: String = (0..31).map(|n| format!("k{n} ")).collect();
    let refused = sim.run(set(&many, "")).unwrap_err().to_string();
    assert!(refused.contains("labels_per_node"), "{refused}");
    for command in [set("node", ""), set("", "node")] {
        let refused = sim.run(command).unwrap_err().to_string();
        assert!(refused.contains("cannot be changed"), "{refused}");
    }
}

#[test]
fn a_new_node_is_given_its_part_a_few_at_a_time() {
    let mut sim = Sim::new(2, 64);
    for app in ["a", "b", "c", "d", "e", "f"] {
        sim.create(app, service_spec(), 4);
    }
    sim.settle();
    sim.ok(join_command("all", 3));
    sim.arrive(3);
    sim.see_node(3, 64);
    assert!(sim.step().changes.is_empty(), "nothing has to move");
    let moved = sim.even_out();
    assert_eq!(moved.len() as u64, MOVES_AT_ONCE.max);
    assert!(sim.even_out().is_empty(), "no more than so many at once");
    for app in ["a", "b", "c", "d"] {
        assert_eq!(sim.running(app).len(), 5, "the new one is started first");
    }
    sim.settle();
    even_out(&mut sim, 24);
    for app in ["a", "b", "c", "d", "e", "f"] {
        let counts = sim.spread(app);
        assert!(
            counts.values().all(|count| (1..=2).contains(count)),
            "{counts:?}"
        );
    }
}

#[test]
fn single_instances_move_by_load_until_it_is_not_worth_it() {
    let mut sim = Sim::new(2, 64);
    let apps: Vec<String> = (0..20).map(|n| format!("app{n}")).collect();
    for app in &apps {
        sim.create(app, service_spec(), 1);
    }
    sim.settle();
    sim.drain(2, true);
    sim.settle();
    sim.drain(2, false);
    let moves = even_out(&mut sim, 10);
    let on_second = apps.iter().filter(|app| sim.spread(app)[&2] == 1).count();
    assert_eq!(on_second, moves);
    assert!((8..=10).contains(&moves), "{moves}");
    let mut few = Sim::new(2, 64);
    few.create("a", service_spec(), 1);
    few.create("b", service_spec(), 1);
    few.settle();
    few.drain(2, true);
    few.settle();
    few.drain(2, false);
    assert!(few.even_out().is_empty(), "two on one node are no load");
}

#[test]
fn nothing_moves_while_a_release_is_on_its_way_or_two_must_not_run() {
    let lopsided = |spec: Spec| {
        let mut sim = Sim::new(2, 64);
        sim.drain(2, true);
        sim.create("app", spec, 4);
        sim.settle();
        sim.drain(2, false);
        sim
    };
    let watched = Spec {
        strategy: crate::spec::Strategy {
            watch: std::time::Duration::from_secs(5),
            ..service_spec().strategy
        },
        ..service_spec()
    };
    assert_eq!(lopsided(watched.clone()).even_out().len(), 1);
    let mut sim = lopsided(watched);
    sim.drain(2, true);
    sim.update("app", 2);
    sim.settle();
    sim.drain(2, false);
    assert!(
        sim.state.deployments[&name("app")].rollout.is_some(),
        "watched"
    );
    assert!(sim.even_out().is_empty());

    let mut alone = lopsided(Spec {
        strategy: crate::spec::Strategy {
            takeover: Takeover::Recreate,
            ..service_spec().strategy
        },
        ..service_spec()
    });
    assert!(alone.even_out().is_empty());
    assert!(lopsided(near("db")).even_out().is_empty());
}

#[test]
fn a_move_without_a_place_is_called_off() {
    let mut sim = Sim::new(2, 64);
    sim.drain(2, true);
    sim.create("app", service_spec(), 4);
    sim.settle();
    sim.drain(2, false);
    assert_eq!(sim.even_out().len(), 1);
    sim.set_alive(2, false);
    sim.see_node(1, 4);
    sim.obey();
    let last = sim.settle_with(|sim| assert!(sim.running("app").len() >= 4));
    assert!(last.unplaced.is_empty(), "{last:?}");
    assert!(sim.state.moving.is_empty());
    assert_eq!(sim.running("app").len(), 4);
}

#[test]
fn those_of_which_two_must_not_run_stop_before_they_move() {
    let recreate = Spec {
        strategy: crate::spec::Strategy {
            takeover: Takeover::Recreate,
            ..service_spec().strategy
        },
        ..service_spec()
    };
    let mut sim = Sim::new(2, 8);
    sim.create("app", recreate, 1);
    sim.settle();
    let first = nodes_of(&sim, "app").pop_first().unwrap();
    sim.drain(first, true);
    sim.settle_with(|sim| {
        let deployment = name("app");
        let alive = sim.state.instances_of(&deployment).filter(|instance| {
            let facts = sim.view.instance(instance.node, instance.id);
            !facts.is_some_and(|facts| facts.phase == Phase::Stopped)
        });
        assert!(alive.count() <= 1);
    });
    assert_eq!(nodes_of(&sim, "app"), [3 - first].into());
    sim.drain(3 - first, true);
    sim.settle();
    assert_eq!(sim.running("app").len(), 1, "there is no other place");
}

/// Counts of things that were looked at, and not time, which depends on the machine.
#[test]
fn a_plan_costs_what_has_changed() {
    let nodes = 50;
    let mut sim = Sim::new(nodes, 64);
    let apps: Vec<String> = (0..100).map(|n| format!("app{n}")).collect();
    for app in &apps {
        sim.create(app, service_spec(), 5);
    }
    sim.settle();
    sim.plan();
    sim.plan();
    assert_eq!(
        sim.planner.looked(),
        Looked::default(),
        "nothing has changed"
    );
    sim.view.nodes.get_mut(&NodeId(1)).unwrap().facts.rss_bytes += 1;
    sim.plan();
    assert_eq!(
        sim.planner.looked(),
        Looked::default(),
        "nothing that matters"
    );

    sim.scale("app7", 6);
    let made = sim.plan();
    assert_eq!(made.changes.len(), 1);
    let looked = sim.planner.looked();
    let expected = Looked {
        instances: 5,
        deployments: 1,
        nodes,
    };
    assert_eq!(looked, expected);
    sim.settle();

    let on_first = sim.state.instances_on(NodeId(1)).count() as u64;
    sim.set_alive(1, false);
    let made = sim.plan();
    assert_eq!(made.changes.len() as u64, 2 * on_first);
    let looked = sim.planner.looked();
    assert!(looked.instances == on_first && looked.deployments <= on_first);
    assert_eq!(looked.nodes, nodes * on_first);
    sim.settle();

    let id = *sim.state.instances.keys().next().unwrap();
    sim.tell(id, facts(Phase::Backoff, Health::Unknown));
    sim.plan();
    let looked = sim.planner.looked();
    assert_eq!((looked.instances, looked.deployments), (1, 1));
}

#[derive(Debug, Clone)]
enum Event {
    Scale(usize, u32),
    Spec(usize, usize),
    Die(u64),
    Return(u64),
    Drain(u64, bool),
    Label(u64, usize),
    Room(u64, u64),
    EvenOut,
    /// So many instances do what they are told; the others take their time.
    Obey(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let node = 1u64..5;
    prop_oneof![
        (0usize..3, 0u32..6).prop_map(|(app, scale)| Event::Scale(app, scale)),
        (0usize..3, 0usize..8).prop_map(|(app, spec)| Event::Spec(app, spec)),
        node.clone().prop_map(Event::Die),
        node.clone().prop_map(Event::Return),
        (node.clone(), any::<bool>()).prop_map(|(node, on)| Event::Drain(node, on)),
        (node.clone(), 0usize..3).prop_map(|(node, label)| Event::Label(node, label)),
        (node, 512u64..4096).prop_map(|(node, memory)| Event::Room(node, memory)),
        Just(Event::EvenOut),
        (1usize..20).prop_map(Event::Obey),
    ]
}

const APPS: [&str; 3] = ["app", "lib", "web"];

fn some_spec(which: usize) -> Spec {
    match which {
        0 => asks(256, 0),
        1 => asks(700, 300),
        2 => require(&["zone!=a"]),
        3 => prefer(&["zone=b"]),
        4 => apart("lib"),
        5 => near("web"),
        6 => with(|service| service.port = FixedPort::try_from(8080).ok()),
        _ => placed(Placement {
            spread: Some("zone".parse().unwrap()),
            ..Placement::default()
        }),
    }
}

/// Does it where it makes sense.
fn happen(sim: &mut Sim, event: &Event) {
    match event {
        Event::Scale(app, scale) => drop(sim.scale(APPS[*app], *scale)),
        Event::Spec(app, which) => {
            let changed = sim.run(Command::UpdateDeployment {
                name: name(APPS[*app]),
                based_on: None,
                spec: Some(some_spec(*which)),
                artifact: crate::Digest([3; 32]),
                artifact_bytes: 1,
                origin: Default::default(),
                now: NOW,
            });
            // None may be its own neighbour.
            assert!(changed.is_ok() || (*app > 0 && [4, 5].contains(which)));
        }
        Event::Die(node) => sim.set_alive(*node, false),
        Event::Return(node) => sim.set_alive(*node, true),
        Event::Drain(node, on) => sim.drain(*node, *on),
        Event::Label(node, label) => {
            sim.label(*node, ["zone=a", "zone=b", "zone=c"][*label]);
        }
        Event::Room(node, memory) => {
            let seen = sim.view.nodes.get_mut(&NodeId(*node)).unwrap();
            seen.facts.memory_bytes = memory << 20;
        }
        Event::EvenOut => drop(sim.even_out()),
        Event::Obey(count) => {
            let instances: Vec<_> = sim.state.instances.values().cloned().collect();
            let alive = instances.into_iter().filter(|i| sim.view.is_alive(i.node));
            for instance in alive.collect::<Vec<_>>().iter().take(*count) {
                match instance.desired {
                    Desired::Run => sim.tell_ready(instance.id),
                    Desired::Stop => sim.tell(instance.id, facts(Phase::Stopped, Health::Unknown)),
                }
            }
        }
    }
}

fn started(before: &crate::State, after: &crate::State) -> Vec<Instance> {
    let new = after.instances.values();
    new.filter(|instance| instance.id.0 >= before.next_instance_id)
        .cloned()
        .collect()
}

/// What must hold of an instance at the moment of its start.
fn check_start(sim: &Sim, instance: &Instance) {
    let node = &sim.state.nodes[&instance.node];
    assert!(!node.draining && sim.view.is_alive(node.id));
    let spec = &sim.state.release_of(instance).unwrap().spec;
    let service = spec.service().unwrap();
    let placement = &service.placement;
    let mut labels = node.labels.clone();
    labels.insert(
        "node".parse().unwrap(),
        node.name.to_string().parse().unwrap(),
    );
    for rule in &placement.require {
        assert!(rule.applies(&labels), "{rule} on {labels:?}");
    }
    for other in sim.state.instances_on(instance.node) {
        let facts = sim.view.instance(other.node, other.id);
        let gone = other.desired == Desired::Stop
            && facts.is_some_and(|facts| facts.phase == Phase::Stopped);
        let kept_apart = placement.apart_from.contains(&other.deployment);
        assert!(gone || !kept_apart, "{other:?} beside {instance:?}");
        let release = sim.state.release_of(other).unwrap();
        let port = release.spec.service().unwrap().port;
        let clash = other.id != instance.id && port.is_some() && port == service.port;
        assert!(gone || !clash, "{other:?} has the port of {instance:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Whatever happens: no plan makes a node fuller than it may be, or puts an instance where it must not be; a planner that
    /// remembers plans as one that does not (checked by each step); and evening out ends.
    #[test]
    fn no_history_overfills_a_node_or_breaks_a_rule(
        events in proptest::collection::vec(event(), 1..40)
    ) {
        let mut sim = Sim::new(4, 8);
        for node in 1..=4 {
            sim.see_room(node, 8, 2048, 4);
        }
        for (which, app) in APPS.iter().enumerate() {
            sim.create(app, some_spec(which), 2);
        }
        for event in &events {
            let before = sim.state.clone();
            happen(&mut sim, event);
            sim.step();
            let new = started(&before, &sim.state);
            for instance in &new {
                check_start(&sim, instance);
            }
            let taken = taken(&sim);
            for instance in &new {
                let facts = &sim.view.nodes[&instance.node].facts;
                let (count, asked) = taken[&instance.node];
                let asks = asked_by(&sim, instance);
                // A machine that has shrunk is given nothing more of what it lacks.
                prop_assert!(count <= facts.capacity_instances);
                prop_assert!(asks.memory_bytes == 0 || asked.memory_bytes <= facts.has().memory_bytes);
                prop_assert!(asks.cpu_millis == 0 || asked.cpu_millis <= facts.has().cpu_millis);
            }
            prop_assert!(sim.state.moving.len() as u64 <= MOVES_AT_ONCE.max);
        }
        for node in 1..=4 {
            sim.set_alive(node, true);
        }
        sim.settle();
        even_out(&mut sim, 200);
        prop_assert!(sim.settle().changes.is_empty(), "a fixed point");
    }

    /// Moves and drains start another first: no deployment has fewer ready instances than it had, up to its scale.
    #[test]
    fn no_move_and_no_drain_serves_with_fewer(
        nodes in 2u64..5, scales in proptest::collection::vec(1u32..6, 1..5),
        lopsided in 1u64..5, drain in any::<bool>(), order in any::<u64>()
    ) {
        let mut sim = Sim::new(nodes, 64);
        let away = lopsided.min(nodes);
        sim.drain(away, true);
        let apps: Vec<String> = (0..scales.len()).map(|n| format!("app{n}")).collect();
        for (app, scale) in apps.iter().zip(&scales) {
            sim.create(app, service_spec(), *scale);
        }
        sim.settle();
        sim.drain(away, false);
        if drain {
            sim.drain(away % nodes + 1, true);
        }
        let mut turn = order;
        let mut moves = 0;
        let mut quiet = false;
        for _ in 0..1_000 {
            let made = sim.step();
            moves += sim.even_out().len();
            for (app, scale) in apps.iter().zip(&scales) {
                let ready = sim.running(app).iter().filter(|id| {
                    let node = sim.state.instances[*id].node;
                    sim.view.instance(node, **id).is_some_and(|f| f.is_ready())
                }).count();
                prop_assert!(ready >= *scale as usize, "{app}: {ready}");
            }
            let waiting: Vec<_> = sim.state.instances.values()
                .filter(|i| i.desired == Desired::Stop
                    || sim.view.instance(i.node, i.id).is_none_or(|f| !f.is_ready()))
                .map(|i| (i.id, i.desired)).collect();
            quiet = waiting.is_empty() && made.changes.is_empty();
            if quiet {
                break;
            }
            if !waiting.is_empty() {
                turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                match waiting[(turn >> 33) as usize % waiting.len()] {
                    (id, Desired::Run) => sim.tell_ready(id),
                    (id, Desired::Stop) => sim.tell(id, facts(Phase::Stopped, Health::Unknown)),
                }
            }
        }
        prop_assert!(quiet, "it ends");
        prop_assert!(moves <= 40);
        if drain {
            let drained = NodeId(away % nodes + 1);
            prop_assert_eq!(sim.state.instances_on(drained).count(), 0, "the drain ends");
        }
        let none: Vec<InstanceId> = sim.even_out();
        prop_assert!(none.is_empty());
    }
}
