//! Plans for small clusters by example, and what holds for every cluster that does as it is told.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::command::Command;
use crate::ids::{InstanceId, NodeId};
use crate::observed::{Health, Phase};
use crate::state::Desired;
use crate::testing::*;

fn spread(pairs: &[(u64, usize)]) -> BTreeMap<u64, usize> {
    pairs.iter().copied().collect()
}

fn counts(plan: &Plan) -> (usize, usize, usize) {
    let count = |kind: fn(&Change) -> bool| plan.changes.iter().filter(|c| kind(c)).count();
    (
        count(|c| matches!(c, Change::Start { .. })),
        count(|c| matches!(c, Change::Stop { .. })),
        count(|c| matches!(c, Change::Forget { .. })),
    )
}

#[test]
fn instances_spread_evenly() {
    let mut sim = Sim::new(3, 8);
    sim.create("app", service_spec(), 5);
    sim.create("lib", service_spec(), 1);
    assert_eq!(counts(&sim.step()), (6, 0, 0));
    assert_eq!(sim.spread("app"), spread(&[(1, 2), (2, 2), (3, 1)]));
    assert_eq!(sim.spread("lib")[&3], 1, "the node with the fewest in all");
    assert_eq!(counts(&sim.step()), (0, 0, 0), "nothing to add");
}

#[test]
fn a_busy_node_gets_its_share_of_each_deployment() {
    let mut sim = Sim::new(3, 8);
    for node in [2, 3] {
        sim.drain(node, true);
    }
    sim.create("lib", service_spec(), 5);
    sim.settle();
    for node in [2, 3] {
        sim.drain(node, false);
    }
    sim.create("app", service_spec(), 3);
    sim.step();
    assert_eq!(sim.spread("app"), spread(&[(1, 1), (2, 1), (3, 1)]));
}

#[test]
fn a_dead_node_is_replaced_at_once_and_its_return_moves_nothing() {
    let mut sim = Sim::new(3, 8);
    sim.create("app", service_spec(), 3);
    sim.settle();
    sim.set_alive(3, false);
    assert_eq!(counts(&sim.step()), (1, 1, 0));
    assert_eq!(
        counts(&sim.step()),
        (0, 0, 1),
        "the dead are not waited for"
    );
    assert_eq!(sim.spread("app"), spread(&[(1, 2), (2, 1)]));
    sim.settle();
    sim.set_alive(3, true);
    assert_eq!(counts(&sim.step()), (0, 0, 0));
}

#[test]
fn a_removed_node_is_replaced() {
    let mut sim = Sim::new(3, 8);
    sim.create("app", service_spec(), 3);
    sim.settle();
    sim.ok(Command::RemoveNode { node: NodeId(2) });
    sim.view.nodes.remove(&NodeId(2));
    assert_eq!(counts(&sim.step()), (1, 0, 0));
    assert_eq!(sim.running("app").len(), 3);
}

#[test]
fn a_draining_node_keeps_its_instance_until_the_replacement_is_ready() {
    let mut sim = Sim::new(3, 8);
    sim.create("app", service_spec(), 3);
    sim.settle();
    sim.drain(2, true);
    assert_eq!(counts(&sim.step()), (1, 0, 0));
    assert_eq!(counts(&sim.step()), (0, 0, 0), "the replacement starts");
    sim.tell_ready(InstanceId(4));
    assert_eq!(counts(&sim.step()), (0, 1, 0));
    assert_eq!(sim.state.instances[&InstanceId(2)].desired, Desired::Stop);
    assert_eq!(counts(&sim.step()), (0, 0, 0), "it is stopping");
    sim.obey();
    assert_eq!(counts(&sim.step()), (0, 0, 1));
}

#[test]
fn draining_the_only_node_stops_nothing() {
    let mut sim = Sim::new(1, 8);
    sim.create("app", service_spec(), 2);
    sim.create("site", static_spec(), 1);
    sim.settle();
    sim.drain(1, true);
    let plan = sim.step();
    assert!(plan.changes.is_empty());
    assert_eq!(
        plan.unplaced[&name("app")],
        ["2 of 2 instances cannot be placed: node n1 is draining"]
    );
    assert_eq!(
        plan.unplaced[&name("site")],
        ["no node can serve the site: node n1 is draining"]
    );
}

#[test]
fn an_update_stops_one_old_instance_for_each_new_one_that_is_ready() {
    let mut sim = Sim::new(3, 8);
    sim.create("app", service_spec(), 3);
    sim.settle();
    sim.update("app", 2);
    assert_eq!(counts(&sim.step()), (3, 0, 0));
    assert_eq!(sim.spread("app"), spread(&[(1, 2), (2, 2), (3, 2)]));
    assert_eq!(counts(&sim.step()), (0, 0, 0));
    for (ready, left) in [(4, 5), (5, 4), (6, 3)] {
        sim.tell_ready(InstanceId(ready));
        assert_eq!(counts(&sim.step()), (0, 1, 0));
        assert_eq!(sim.running("app").len(), left);
    }
    let ids: Vec<u64> = sim.running("app").iter().map(|id| id.0).collect();
    assert_eq!(ids, [4, 5, 6]);
}

#[test]
fn a_second_update_drops_what_never_got_ready() {
    let mut sim = Sim::new(3, 8);
    sim.create("app", service_spec(), 3);
    sim.settle();
    sim.update("app", 2);
    sim.step();
    sim.update("app", 3);
    assert_eq!(counts(&sim.step()), (3, 3, 0));
    let ids: Vec<u64> = sim.running("app").iter().map(|id| id.0).collect();
    assert_eq!(ids, [1, 2, 3, 7, 8, 9], "the ready ones of release 1 stay");
}

#[test]
fn an_update_on_full_nodes_goes_one_by_one() {
    let mut sim = Sim::new(2, 2);
    sim.create("app", service_spec(), 4);
    sim.settle();
    sim.update("app", 2);
    let plan = sim.step();
    assert_eq!(counts(&plan), (0, 1, 0));
    assert_eq!(
        plan.unplaced[&name("app")],
        [
            "4 of 4 instances cannot be placed: node n1 is full (2 of 2 instances), \
             node n2 is full (2 of 2 instances)"
        ]
    );
    assert_eq!(counts(&sim.step()), (0, 0, 0), "one at a time");
    sim.settle_with(|sim| assert!(sim.running("app").len() >= 3));
    let app = &sim.state.deployments[&name("app")];
    let ids = sim.running("app");
    assert!(
        ids.iter()
            .all(|id| sim.state.instances[id].epoch == app.epoch)
    );
    assert_eq!(sim.spread("app"), spread(&[(1, 2), (2, 2)]));
}

#[test]
fn a_bad_release_on_full_nodes_takes_one_instance_and_no_more() {
    let mut sim = Sim::new(2, 2);
    sim.create("app", service_spec(), 4);
    sim.settle();
    sim.update("app", 2);
    for _ in 0..20 {
        sim.step();
        let instances: Vec<_> = sim.state.instances.values().cloned().collect();
        for instance in instances {
            match (instance.desired, instance.release.0) {
                (Desired::Stop, _) => sim.tell(instance.id, facts(Phase::Stopped, Health::Unknown)),
                (Desired::Run, 1) => sim.tell_ready(instance.id),
                (Desired::Run, _) => sim.tell(instance.id, facts(Phase::Backoff, Health::Unknown)),
            }
        }
    }
    let old = sim.state.instances.values().filter(|i| i.release.0 == 1);
    assert_eq!(old.count(), 3);
}

#[test]
fn room_made_on_full_nodes_is_not_taken_by_others() {
    let mut sim = Sim::new(2, 3);
    sim.create("app", service_spec(), 1);
    sim.create("lib", service_spec(), 3);
    sim.create("aaa", service_spec(), 1);
    sim.settle();
    sim.create("greedy", service_spec(), 100);
    sim.scale("aaa", 100);
    sim.settle();
    for text in ["app", "lib"] {
        sim.update(text, 2);
    }
    sim.settle_with(|sim| assert!(sim.running("lib").len() >= 2));
    for (text, scale) in [("app", 1), ("lib", 3), ("aaa", 2)] {
        let deployment = &sim.state.deployments[&name(text)];
        let running = sim.running(text);
        assert_eq!(running.len(), scale, "{text}");
        assert!(
            running
                .iter()
                .all(|id| sim.state.instances[id].epoch == deployment.epoch)
        );
    }
}

#[test]
fn scaling_down_stops_the_unready_first_then_on_the_fullest_node() {
    let mut sim = Sim::new(2, 8);
    sim.create("app", service_spec(), 4);
    sim.settle();
    sim.tell(InstanceId(1), facts(Phase::Backoff, Health::Unknown));
    sim.scale("app", 3);
    assert_eq!(
        sim.step().changes,
        [Change::Stop {
            instance: InstanceId(1)
        }]
    );
    sim.settle();
    sim.scale("app", 2);
    sim.settle();
    assert_eq!(sim.spread("app"), spread(&[(1, 1), (2, 1)]));
    sim.scale("app", 0);
    sim.settle();
    assert!(sim.state.instances.is_empty());
}

#[test]
fn every_obstacle_is_named() {
    let mut sim = Sim::new(5, 1);
    sim.create("app", service_spec(), 3);
    sim.see_node(1, 1);
    sim.see_node(2, 0);
    sim.drain(3, true);
    sim.view.nodes.get_mut(&NodeId(4)).unwrap().facts = Default::default();
    sim.set_alive(5, false);
    let plan = sim.step();
    assert_eq!(counts(&plan), (1, 0, 0));
    assert_eq!(
        plan.unplaced[&name("app")],
        [
            "2 of 3 instances cannot be placed: node n1 is full (1 of 1 instances), \
             node n2 is full (0 of 0 instances), node n3 is draining, \
             node n4 has not reported its capacity yet, node n5 is not reachable"
        ]
    );
}

#[test]
fn a_long_list_of_obstacles_is_cut() {
    let mut sim = Sim::new(12, 0);
    sim.create("app", service_spec(), 1);
    let reason = &sim.step().unplaced[&name("app")][0];
    assert!(reason.ends_with("node n8 is full (0 of 0 instances), and 4 more nodes cannot either"));
}

#[test]
fn a_site_is_on_every_open_node_whatever_its_capacity() {
    let mut sim = Sim::new(3, 0);
    sim.create("site", static_spec(), 1);
    sim.drain(3, true);
    sim.settle();
    assert_eq!(sim.spread("site"), spread(&[(1, 1), (2, 1)]));
    sim.drain(3, false);
    sim.ok(join_command("all", 4));
    sim.see_node(4, 0);
    sim.settle();
    assert_eq!(sim.running("site").len(), 4);
    sim.drain(1, true);
    sim.settle();
    assert_eq!(sim.spread("site"), spread(&[(2, 1), (3, 1), (4, 1)]));
    sim.set_alive(2, false);
    sim.settle();
    assert_eq!(sim.spread("site"), spread(&[(3, 1), (4, 1)]));
}

#[test]
fn a_site_is_updated_node_by_node() {
    let mut sim = Sim::new(2, 0);
    sim.create("site", static_spec(), 1);
    sim.settle();
    sim.update("site", 2);
    assert_eq!(counts(&sim.step()), (2, 0, 0));
    assert_eq!(counts(&sim.step()), (0, 0, 0));
    sim.tell_ready(InstanceId(4));
    assert_eq!(
        sim.step().changes,
        [Change::Stop {
            instance: InstanceId(2)
        }]
    );
    sim.update("site", 3);
    assert_eq!(
        counts(&sim.step()),
        (2, 1, 0),
        "release 2 on node 1 never got ready"
    );
}

#[test]
fn programs_and_sites_can_become_each_other() {
    let mut sim = Sim::new(3, 4);
    sim.create("app", service_spec(), 2);
    sim.settle();
    for (spec, expected) in [(static_spec(), 3), (service_spec(), 2)] {
        sim.ok(Command::UpdateDeployment {
            name: name("app"),
            based_on: None,
            spec: Some(spec),
            artifact: crate::Digest([2; 32]),
            artifact_bytes: 1,
            origin: Default::default(),
            now: NOW,
        });
        sim.settle_with(|sim| assert!(sim.running("app").len() >= 2));
        assert_eq!(sim.running("app").len(), expected);
    }
}

#[test]
fn removal_stops_and_forgets_everything() {
    let mut sim = Sim::new(3, 8);
    sim.create("app", service_spec(), 3);
    sim.create("site", static_spec(), 1);
    sim.settle();
    for text in ["app", "site"] {
        sim.ok(Command::RemoveDeployment { name: name(text) });
    }
    assert_eq!(counts(&sim.step()), (0, 6, 0));
    assert_eq!(counts(&sim.step()), (0, 0, 0), "they are stopping");
    sim.settle();
    assert!(sim.state.instances.is_empty() && sim.state.deployments.is_empty());
}

#[test]
fn large_changes_take_several_plans() {
    let mut sim = Sim::new(4, 1_000);
    sim.create("a", service_spec(), 500);
    sim.create("b", service_spec(), 500);
    let first = sim.step();
    assert_eq!(counts(&first), (256, 0, 0));
    assert!(first.unplaced.is_empty(), "the rest is only late");
    sim.settle();
    assert_eq!(
        sim.spread("a"),
        spread(&[(1, 125), (2, 125), (3, 125), (4, 125)])
    );
    sim.set_alive(1, false);
    assert_eq!(counts(&sim.step()), (250, 6, 0), "starts come first");
    sim.settle();
    assert_eq!((sim.running("a").len(), sim.running("b").len()), (500, 500));
}

#[derive(Debug, Clone)]
enum Event {
    Scale(usize, u32),
    Update(usize),
    Restart(usize),
    Die(u64),
    Return(u64),
    Drain(u64, bool),
    Remove(u64),
    Join,
}

fn event() -> impl Strategy<Value = Event> {
    let node = 1u64..5;
    prop_oneof![
        (0usize..2, 0u32..9).prop_map(|(app, scale)| Event::Scale(app, scale)),
        (0usize..2).prop_map(Event::Update),
        (0usize..2).prop_map(Event::Restart),
        node.clone().prop_map(Event::Die),
        node.clone().prop_map(Event::Return),
        (node.clone(), any::<bool>()).prop_map(|(node, on)| Event::Drain(node, on)),
        node.prop_map(Event::Remove),
        Just(Event::Join),
    ]
}

const APPS: [&str; 2] = ["app", "web"];

/// Does it where it makes sense. Room and nodes are such that everything can be placed.
fn happen(sim: &mut Sim, event: &Event) {
    let open = sim.open();
    let may_lose = |node: &u64| open.len() > 1 || !open.contains(node);
    let member = |node: &u64| sim.state.nodes.contains_key(&NodeId(*node));
    match event {
        Event::Scale(app, scale) => drop(sim.scale(APPS[*app], *scale)),
        Event::Update(app) => drop(sim.update(APPS[*app], 9)),
        Event::Restart(app) => {
            sim.restart(APPS[*app]);
        }
        Event::Die(node) if member(node) && may_lose(node) => sim.set_alive(*node, false),
        Event::Return(node) if member(node) => sim.set_alive(*node, true),
        Event::Drain(node, on) if member(node) && (!on || may_lose(node)) => {
            sim.drain(*node, *on);
        }
        Event::Remove(node) if member(node) && may_lose(node) => {
            let removed = sim.run(Command::RemoveNode {
                node: NodeId(*node),
            });
            if removed.is_ok() {
                sim.view.nodes.remove(&NodeId(*node));
            }
        }
        Event::Join if sim.state.nodes.len() < 6 => {
            let number = sim.state.next_node_id;
            sim.ok(join_command("all", number));
            sim.see_node(number, 64);
        }
        _ => {}
    }
}

/// Instances of the current epoch that are ready, which is all there may be once settled.
fn is_settled(sim: &Sim, text: &str) -> bool {
    let app = &sim.state.deployments[&name(text)];
    let running = sim.running(text);
    running.len() == app.scale as usize
        && running.iter().all(|id| {
            let instance = &sim.state.instances[id];
            let facts = sim.view.instance(instance.node, *id);
            instance.epoch == app.epoch && facts.is_some_and(|f| f.is_ready())
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_history_settles_on_what_is_wanted(
        events in proptest::collection::vec((event(), any::<bool>()), 1..30)
    ) {
        let mut sim = Sim::new(4, 64);
        for app in APPS {
            sim.create(app, service_spec(), 3);
        }
        sim.create("site", static_spec(), 1);
        let mut most = [3usize; 2];
        for (event, settle) in &events {
            happen(&mut sim, event);
            sim.step();
            for (most, app) in most.iter_mut().zip(APPS) {
                let scale = sim.state.deployments[&name(app)].scale as usize;
                prop_assert!(sim.running(app).len() <= 2 * scale.max(*most), "scale and surge");
                if *settle {
                    *most = scale;
                } else {
                    *most = scale.max(*most);
                }
            }
            if *settle {
                let last = sim.settle_with(|sim| for app in APPS {
                    let scale = sim.state.deployments[&name(app)].scale as usize;
                    assert!(sim.running(app).len() <= 2 * scale);
                });
                prop_assert!(last.unplaced.is_empty(), "{:?}", last.unplaced);
                for app in APPS {
                    prop_assert!(is_settled(&sim, app), "{app}: {:?}", sim.state.instances);
                }
                prop_assert!(sim.spread("site").values().all(|count| *count == 1));
                let stopping = sim.state.instances.values().any(|i| i.desired == Desired::Stop);
                prop_assert!(!stopping, "nothing is left over");
                prop_assert!(plan(&sim.state, &sim.view).changes.is_empty());
            }
        }
    }

    #[test]
    fn loss_scaling_and_updates_keep_the_spread_even(
        nodes in 1u64..7, scale in 0u32..20, second in 0u32..20, update in any::<bool>()
    ) {
        let mut sim = Sim::new(nodes, 64);
        sim.create("app", service_spec(), scale);
        let even = |sim: &Sim| {
            let spread = sim.spread("app");
            let most = spread.values().max().copied().unwrap_or(0);
            let least = spread.values().min().copied().unwrap_or(0);
            most - least <= 1
        };
        sim.settle();
        prop_assert!(even(&sim) && is_settled(&sim, "app"));
        sim.scale("app", second);
        if update {
            sim.update("app", 2);
        }
        sim.settle();
        prop_assert!(even(&sim) && is_settled(&sim, "app"), "{:?}", sim.spread("app"));
        if nodes > 1 {
            sim.set_alive(nodes, false);
            sim.settle();
            prop_assert!(even(&sim) && is_settled(&sim, "app"));
        }
    }

    #[test]
    fn updates_and_drains_never_serve_with_fewer(
        nodes in 2u64..5, scale in 1u32..8, drain in any::<bool>(), order in any::<u64>()
    ) {
        let mut sim = Sim::new(nodes, 64);
        sim.create("app", service_spec(), scale);
        sim.settle();
        sim.update("app", 2);
        if drain {
            sim.drain(1, true);
        }
        let mut turn = order;
        for _ in 0..200 {
            let made = sim.step();
            let ready = sim.running("app").iter().filter(|id| {
                let node = sim.state.instances[*id].node;
                sim.view.instance(node, **id).is_some_and(|f| f.is_ready())
            }).count();
            prop_assert!(ready >= scale as usize);
            let waiting: Vec<_> = sim.state.instances.values()
                .filter(|i| i.desired == Desired::Stop
                    || sim.view.instance(i.node, i.id).is_none_or(|f| !f.is_ready()))
                .map(|i| (i.id, i.desired)).collect();
            if waiting.is_empty() && made.changes.is_empty() {
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
        prop_assert!(is_settled(&sim, "app"));
    }

    #[test]
    fn scarce_room_is_used_up_and_the_rest_explained(
        nodes in 1u64..4, capacity in 0u32..4, scale in 0u32..12, update in any::<bool>()
    ) {
        let mut sim = Sim::new(nodes, capacity);
        sim.create("app", service_spec(), scale);
        sim.settle();
        if update {
            sim.update("app", 2);
        }
        let last = sim.settle();
        let room = nodes as u32 * capacity;
        let epoch = sim.state.deployments[&name("app")].epoch;
        let running = sim.running("app");
        prop_assert_eq!(running.len() as u32, scale.min(room));
        prop_assert!(running.iter().all(|id| sim.state.instances[id].epoch == epoch));
        prop_assert_eq!(last.unplaced.contains_key(&name("app")), scale > room);
    }
}
