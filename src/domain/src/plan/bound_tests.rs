//! Instances with volumes: by example, and that no history ever puts two on one volume.

use proptest::prelude::*;

use super::*;
use crate::command::{Command, Rejection};
use crate::ids::{InstanceId, NodeId};
use crate::observed::{Health, Phase};
use crate::spec::Spec;
use crate::state::Desired;
use crate::testing::*;

fn change_spec(sim: &mut Sim, spec: Spec) {
    sim.ok(Command::UpdateDeployment {
        name: name("db"),
        based_on: None,
        spec: Some(spec),
        artifact: crate::Digest([7; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    });
}

/// The node with the volumes of each number.
fn nodes(sim: &Sim) -> Vec<u64> {
    let sets = sim.state.volumes_of(&name("db"));
    sets.map(|(_, set)| set.node.0).collect()
}

fn starts(plan: &Plan) -> usize {
    let is_start = |change: &&Change| matches!(change, Change::Start { .. });
    plan.changes.iter().filter(is_start).count()
}

fn stops(plan: &Plan) -> Vec<InstanceId> {
    let stop = |change: &Change| match change {
        Change::Stop { instance } => Some(*instance),
        _ => None,
    };
    plan.changes.iter().filter_map(stop).collect()
}

/// Two instances never have one set of volumes, and each runs where its own are.
fn is_exclusive(sim: &Sim) -> bool {
    sim.state.instances_of(&name("db")).all(|instance| {
        let held = sim.state.volumes_held(&name("db"), instance.id);
        held.is_some_and(|(_, set)| set.node == instance.node)
    })
}

#[test]
fn what_replaces_an_instance_begins_on_its_node_once_it_has_ended() {
    let mut sim = Sim::new(3, 8);
    sim.create("db", keeping_spec(), 1);
    sim.settle();
    assert_eq!(nodes(&sim), [1]);
    sim.update("db", 2);
    let made = sim.step();
    let first = InstanceId(1);
    assert_eq!(made.changes, [Change::Stop { instance: first }]);
    assert!(sim.step().changes.is_empty(), "it is stopping");
    sim.tell(first, facts(Phase::Stopped, Health::Unknown));
    assert_eq!(sim.step().changes, [Change::Forget { instance: first }]);
    let made = sim.step();
    assert!(matches!(made.changes[..], [Change::Start { node, .. }] if node == NodeId(1)));
    sim.settle();
    assert!(is_exclusive(&sim));
    assert_eq!(nodes(&sim), [1]);
}

#[test]
fn several_have_their_own_and_are_replaced_one_after_the_other() {
    let mut sim = Sim::new(3, 8);
    sim.create("db", keeping_spec(), 3);
    sim.settle();
    assert_eq!(nodes(&sim), [1, 2, 3]);
    sim.update("db", 2);
    sim.settle_with(|sim| {
        let asked = sim.state.instances.values();
        let gone = asked.filter(|i| i.desired == Desired::Stop).count();
        assert!(gone <= 1, "one at a time");
        assert!(is_exclusive(sim));
    });
    assert_eq!((nodes(&sim), sim.running("db").len()), (vec![1, 2, 3], 3));
    sim.scale("db", 1);
    sim.settle();
    assert_eq!(nodes(&sim), [1, 2, 3], "what was kept stays");
    sim.scale("db", 3);
    sim.settle();
    assert_eq!(sim.spread("db"), [(1, 1), (2, 1), (3, 1)].into());
}

#[test]
fn a_lost_node_is_waited_for_and_the_plan_says_so() {
    let mut sim = Sim::new(3, 8);
    sim.create("db", keeping_spec(), 1);
    sim.settle();
    sim.set_alive(1, false);
    let made = sim.step();
    assert!(made.changes.is_empty(), "{:?}", made.changes);
    assert_eq!(
        made.unplaced[&name("db")],
        ["instance i-1 waits for node n1, which is not reachable: its volume 'data' is there"]
    );
    // Nor does an update or a restart move it.
    sim.update("db", 2);
    assert!(sim.step().changes.is_empty());
    sim.set_alive(1, true);
    sim.settle();
    assert_eq!((nodes(&sim), sim.running("db").len()), (vec![1], 1));
}

#[test]
fn one_that_was_to_end_when_its_node_was_lost_is_not_replaced_before_it_is_back() {
    let mut sim = Sim::new(2, 8);
    sim.create("db", keeping_spec(), 1);
    sim.settle();
    sim.update("db", 2);
    sim.step();
    sim.set_alive(1, false);
    for _ in 0..3 {
        assert!(sim.step().changes.is_empty(), "nobody has seen it end");
    }
    sim.set_alive(1, true);
    sim.settle();
    assert_eq!(sim.running("db").len(), 1);
}

#[test]
fn one_that_cannot_end_does_not_hold_up_the_others_and_is_named() {
    let mut sim = Sim::new(3, 8);
    sim.create("db", keeping_spec(), 3);
    sim.settle();
    sim.update("db", 2);
    assert_eq!(stops(&sim.step()), [InstanceId(1)]);
    sim.set_alive(1, false);
    let made = sim.settle();
    assert_eq!(
        made.unplaced[&name("db")],
        [
            "instance number 0 waits for instance i-1 on node n1, which is not reachable, to end: it has its volume 'data'"
        ]
    );
    let release = sim.state.deployments[&name("db")].target;
    let updated = |sim: &Sim, id: &InstanceId| sim.state.instances[id].release == release;
    let others = sim.running("db");
    assert_eq!(others.len(), 2);
    assert!(others.iter().all(|id| updated(&sim, id)), "{others:?}");

    sim.set_alive(1, true);
    sim.settle();
    assert_eq!(sim.running("db").len(), 3);
}

#[test]
fn what_is_on_its_way_out_is_named_as_what_a_start_waits_for() {
    let mut sim = Sim::new(2, 8);
    sim.create("db", keeping_spec(), 1);
    sim.settle();
    sim.update("db", 2);
    sim.step();
    assert_eq!(
        sim.step().unplaced[&name("db")],
        ["instance number 0 waits for instance i-1 on node n1 to end: it has its volume 'data'"]
    );
    sim.settle();

    // Of a release without volumes.
    sim.create("web", service_spec(), 1);
    sim.settle();
    let web = sim.running("web")[0];
    let node = sim.state.instances[&web].node;
    sim.ok(Command::UpdateDeployment {
        name: name("web"),
        based_on: None,
        spec: Some(keeping_spec()),
        artifact: crate::Digest([7; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    });
    sim.step();
    assert_eq!(
        sim.step().unplaced[&name("web")],
        [format!(
            "instances with volumes wait for instance {web} on node n{} to end",
            node.0
        )]
    );
}

#[test]
fn a_draining_node_keeps_what_cannot_leave_it() {
    let mut sim = Sim::new(2, 8);
    sim.create("db", keeping_spec(), 1);
    sim.settle();
    sim.drain(1, true);
    let made = sim.step();
    assert!(made.changes.is_empty());
    assert_eq!(
        made.unplaced[&name("db")],
        ["instance i-1 cannot leave node n1, which is draining: its volume 'data' is there"]
    );
    sim.update("db", 2);
    assert!(sim.step().changes.is_empty(), "it could not begin again");
    sim.drain(1, false);
    sim.settle();
    assert_eq!(sim.running("db").len(), 1);
}

#[test]
fn a_removed_node_takes_its_volumes_along_until_somebody_gives_them_up() {
    let mut sim = Sim::new(3, 8);
    sim.create("db", keeping_spec(), 1);
    sim.settle();
    sim.ok(Command::RemoveNode { node: NodeId(1) });
    sim.view.nodes.remove(&NodeId(1));
    let made = sim.settle();
    assert_eq!(starts(&made), 0);
    assert_eq!(
        made.unplaced[&name("db")],
        [
            "instance number 0 cannot be placed: its volume 'data' was on node 1, which is no member any more: removing the deployment with its volumes gives it up"
        ]
    );
    let delete = || Command::DeleteVolumes { name: name("db") };
    assert_eq!(sim.run(delete()), Err(Rejection::VolumesNeeded(name("db"))));
    sim.ok(Command::RemoveDeployment { name: name("db") });
    sim.ok(delete());
    assert!(sim.state.volumes.is_empty());
    sim.create("db", keeping_spec(), 1);
    sim.settle();
    assert_eq!(sim.running("db").len(), 1);
}

#[test]
fn volumes_outlive_their_deployment_until_their_node_says_they_are_deleted() {
    let mut sim = Sim::new(3, 8);
    sim.create("db", keeping_spec(), 1);
    sim.settle();
    sim.ok(Command::RemoveDeployment { name: name("db") });
    sim.settle();
    assert!(sim.state.deployments.is_empty());
    assert_eq!(nodes(&sim), [1]);
    // The same name finds them again.
    sim.create("other", service_spec(), 1);
    sim.create("db", keeping_spec(), 1);
    sim.settle();
    assert_eq!(sim.spread("db")[&1], 1);

    sim.ok(Command::RemoveDeployment { name: name("db") });
    sim.ok(Command::DeleteVolumes { name: name("db") });
    let gone = |node| Command::VolumesGone {
        node: NodeId(node),
        name: name("db"),
        ordinal: 0,
    };
    sim.ok(gone(1));
    assert_eq!(nodes(&sim), [1], "its instance has not ended");
    sim.settle();
    sim.create("db", keeping_spec(), 1);
    let made = sim.step();
    assert_eq!(
        made.unplaced[&name("db")],
        [
            "instance number 0 cannot be placed: its volume 'data' of before is still being deleted on node n1"
        ]
    );
    sim.ok(gone(2));
    assert_eq!(nodes(&sim), [1], "not another node's to say");
    sim.ok(gone(1));
    sim.settle();
    assert_eq!(sim.running("db").len(), 1);
    let unknown = Command::DeleteVolumes { name: name("x") };
    assert_eq!(sim.run(unknown), Err(Rejection::VolumesUnknown(name("x"))));
}

#[test]
fn a_program_can_be_given_volumes_and_lose_them() {
    let mut sim = Sim::new(3, 8);
    sim.create("db", service_spec(), 2);
    sim.settle();
    change_spec(&mut sim, keeping_spec());
    sim.settle();
    assert!(is_exclusive(&sim));
    assert_eq!(sim.running("db").len(), 2);
    change_spec(&mut sim, service_spec());
    sim.settle();
    assert_eq!(sim.running("db").len(), 2);
    assert_eq!(nodes(&sim).len(), 2, "kept");
}

#[test]
fn volumes_ask_for_a_strategy_that_never_has_two() {
    let spec = Spec {
        strategy: service_spec().strategy,
        ..keeping_spec()
    };
    let error = spec.check().unwrap_err().to_string();
    assert!(error.contains("'recreate'"), "{error}");
}

#[derive(Debug, Clone)]
enum Event {
    Scale(u32),
    Update,
    Restart,
    RollBack,
    Alive(u64, bool),
    Drain(u64, bool),
    Remove(u64),
    Plan,
    Obey,
}

fn event() -> impl Strategy<Value = Event> {
    let node = 1u64..4;
    prop_oneof![
        (0u32..5).prop_map(Event::Scale),
        Just(Event::Update),
        Just(Event::Restart),
        Just(Event::RollBack),
        (node.clone(), any::<bool>()).prop_map(|(node, alive)| Event::Alive(node, alive)),
        (node.clone(), any::<bool>()).prop_map(|(node, on)| Event::Drain(node, on)),
        node.prop_map(Event::Remove),
        Just(Event::Plan),
        Just(Event::Plan),
        Just(Event::Obey),
    ]
}

fn happen(sim: &mut Sim, event: &Event) {
    let member = |node: &u64| sim.state.nodes.contains_key(&NodeId(*node));
    match event {
        Event::Scale(scale) => drop(sim.scale("db", *scale)),
        Event::Update => drop(sim.update("db", 9)),
        Event::Restart => drop(sim.run(restart("db"))),
        Event::RollBack => drop(sim.run(Command::RollBack {
            name: name("db"),
            to: None,
            now: NOW,
        })),
        Event::Alive(node, alive) if member(node) => sim.set_alive(*node, *alive),
        Event::Drain(node, on) if member(node) => sim.drain(*node, *on),
        Event::Remove(node) => {
            let node = NodeId(*node);
            if sim.run(Command::RemoveNode { node }).is_ok() {
                sim.view.nodes.remove(&node);
            }
        }
        Event::Plan => drop(sim.step()),
        Event::Obey => sim.obey(),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_history_puts_two_on_one_volume_or_one_elsewhere(
        events in proptest::collection::vec(event(), 1..60)
    ) {
        let mut sim = Sim::new(4, 64);
        sim.create("db", keeping_spec(), 3);
        let mut known = std::collections::BTreeMap::new();
        for event in &events {
            happen(&mut sim, event);
            prop_assert!(is_exclusive(&sim));
            for (ordinal, set) in sim.state.volumes_of(&name("db")) {
                let node = *known.entry(ordinal).or_insert(set.node);
                prop_assert_eq!(node, set.node, "a volume never moves");
            }
        }
        for node in sim.state.nodes.keys().copied().collect::<Vec<_>>() {
            sim.set_alive(node.0, true);
            sim.drain(node.0, false);
        }
        sim.settle();
        let lost = sim.state.volumes_of(&name("db"))
            .filter(|(_, set)| !sim.state.nodes.contains_key(&set.node));
        let scale = sim.state.deployments[&name("db")].scale;
        let lost = lost.filter(|(ordinal, _)| *ordinal < scale).count();
        prop_assert_eq!(sim.running("db").len(), scale as usize - lost);
    }
}
