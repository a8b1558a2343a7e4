use proptest::prelude::*;

use super::*;
use crate::command::{Change, Command};
use crate::observed::{Ended, Health, InstanceFacts, LastEnd, Phase};
use crate::rollout::{Order, Step};
use crate::settings;
use crate::spec::{Strategy, Takeover, Workload};
use crate::state::Origin;
use crate::testing::{NOW, Sim, facts, name, service_spec};

/// Kinds and reasons from this number on.
fn told(sim: &Sim, after: u64) -> Vec<(Kind, String)> {
    let events = sim.state.events.after(after);
    events
        .map(|event| (event.kind, event.reason.clone()))
        .collect()
}

fn kinds(sim: &Sim, after: u64) -> Vec<Kind> {
    told(sim, after).into_iter().map(|(kind, _)| kind).collect()
}

/// A cluster whose beginning was told.
fn quiet(nodes: u64) -> (Sim, u64) {
    let sim = Sim::new(nodes, 8);
    let last = sim.state.events.last();
    (sim, last)
}

fn ended(how: Ended, restarts: u32, reason: &str) -> InstanceFacts {
    InstanceFacts {
        restarts,
        reason: reason.to_owned(),
        last_end: Some(LastEnd { how, at: NOW }),
        ..facts(Phase::Backoff, Health::Unknown)
    }
}

#[test]
fn members_come_and_go() {
    let sim = Sim::new(2, 8);
    let all = told(&sim, 0);
    let expected = [
        (Kind::NodeJoined, "voter"),
        (Kind::NodeArrived, ""),
        (Kind::NodeJoined, "voter"),
        (Kind::NodeArrived, ""),
    ];
    let expected: Vec<_> = expected.map(|(kind, why)| (kind, why.to_owned())).into();
    assert_eq!(all, expected);

    let (mut sim, last) = quiet(3);
    sim.drain(2, true);
    sim.drain(2, true);
    sim.drain(2, false);
    let node = NodeId(3);
    sim.ok(Command::SetLeaving {
        node,
        leaving: true,
    });
    sim.ok(Command::RemoveNode { node });
    sim.ok(Command::RemoveNode { node });
    let expected = [
        Kind::NodeDraining,
        Kind::NodeOpened,
        Kind::NodeLeaving,
        Kind::NodeLeft,
    ];
    assert_eq!(kinds(&sim, last), expected);
    let gone = sim.state.events.after(0).last().unwrap();
    assert_eq!(
        gone.node.as_ref().unwrap().name.as_str(),
        "n3",
        "its name is known still"
    );
}

#[test]
fn a_release_is_told_from_its_start_to_its_end() {
    let (mut sim, last) = quiet(1);
    sim.create("api", service_spec(), 1);
    sim.look();
    sim.step();
    let id = sim.running("api")[0];
    sim.tell(id, facts(Phase::Starting, Health::Unknown));
    assert_eq!(sim.look(), 0, "that it starts is no news: it was placed");
    sim.tell(id, facts(Phase::Running, Health::Unknown));
    assert_eq!(sim.look(), 1);
    sim.tell_ready(id);
    assert_eq!(sim.look(), 1);
    assert_eq!(sim.look(), 0);
    sim.roll(NOW);
    let expected = [
        Kind::DeploymentCreated,
        Kind::ReleaseStarted,
        Kind::InstancePlaced,
        Kind::InstanceStarted,
        Kind::InstanceReady,
        Kind::ReleaseGood,
    ];
    assert_eq!(kinds(&sim, last), expected);

    let last = sim.state.events.last();
    sim.ok(Command::UpdateDeployment {
        name: name("api"),
        based_on: None,
        spec: None,
        artifact: crate::ids::Digest([7; 32]),
        artifact_bytes: 1,
        origin: Origin {
            author: "ada".to_owned(),
            message: "faster".to_owned(),
        },
        now: NOW,
    });
    let events: Vec<Event> = sim.state.events.after(last).cloned().collect();
    assert_eq!(events.len(), 1);
    assert_eq!(
        (events[0].kind, events[0].who.as_str()),
        (Kind::ReleaseStarted, "ada")
    );
    assert_eq!(events[0].reason, "after release r1: faster");
    let release = sim.state.deployments[&name("api")].target;
    sim.ok(Command::StepRollout {
        name: name("api"),
        release,
        seq: 0,
        step: Step::Fail {
            why: "no progress for 60 s".to_owned(),
        },
        now: NOW,
    });
    let back = told(&sim, last + 1);
    assert_eq!(
        back,
        [(
            Kind::ReleaseTakenBack,
            "no progress for 60 s; release r1 is wanted again".to_owned()
        )]
    );
}

#[test]
fn what_operators_say_of_a_release_is_told() {
    let (mut sim, _) = quiet(1);
    let spec = crate::spec::Spec {
        strategy: Strategy {
            takeover: Takeover::BlueGreen {
                warm: std::time::Duration::from_secs(60),
            },
            ..Strategy::default()
        },
        ..service_spec()
    };
    sim.create("api", spec, 1);
    sim.settle();
    sim.update("api", 2);
    let last = sim.state.events.last();
    for order in [
        Order::Pause,
        Order::Pause,
        Order::Resume,
        Order::Promote,
        Order::Abort,
    ] {
        sim.ok(Command::OrderRollout {
            name: name("api"),
            order,
            now: NOW,
        });
    }
    let expected = [
        Kind::ReleasePaused,
        Kind::ReleaseResumed,
        Kind::ReleaseStep,
        Kind::ReleaseAborted,
    ];
    assert_eq!(kinds(&sim, last), expected);
}

#[test]
fn a_program_that_ends_is_told_with_how_and_how_often() {
    let (mut sim, _) = quiet(1);
    sim.create("api", service_spec(), 1);
    sim.settle();
    sim.look();
    let last = sim.state.events.last();
    let id = sim.running("api")[0];
    let why = "killed: out of memory (limit 64Mi)";
    sim.tell(id, ended(Ended::OutOfMemory, 0, why));
    sim.look();
    // Its words change, and nothing else.
    sim.tell(id, ended(Ended::OutOfMemory, 0, "other words"));
    assert_eq!(sim.look(), 0);
    let again = InstanceFacts {
        phase: Phase::Running,
        health: Health::Healthy,
        ..ended(Ended::OutOfMemory, 1, why)
    };
    sim.tell(id, again.clone());
    sim.look();
    // The next time it ends and is back between two looks.
    sim.tell(
        id,
        InstanceFacts {
            restarts: 2,
            last_end: Some(LastEnd {
                how: Ended::Code(3),
                at: Millis(NOW.0 + 5),
            }),
            ..again.clone()
        },
    );
    sim.look();
    sim.tell(
        id,
        InstanceFacts {
            health: Health::Unhealthy,
            reason: "GET / answered 500".to_owned(),
            restarts: 2,
            last_end: Some(LastEnd {
                how: Ended::Code(3),
                at: Millis(NOW.0 + 5),
            }),
            ..again
        },
    );
    sim.look();
    let expected = [
        (Kind::InstanceEnded, why),
        (Kind::InstanceRestarted, "once"),
        (Kind::InstanceReady, ""),
        (Kind::InstanceEnded, "exited with code 3"),
        (Kind::InstanceRestarted, "2 times"),
        (Kind::InstanceReady, ""),
        (Kind::InstanceNotReady, "GET / answered 500"),
    ];
    let expected: Vec<_> = expected.map(|(kind, why)| (kind, why.to_owned())).into();
    assert_eq!(told(&sim, last), expected);
}

#[test]
fn one_that_cannot_be_started_is_told_once() {
    let (mut sim, _) = quiet(1);
    sim.create("api", service_spec(), 1);
    sim.step();
    sim.look();
    let last = sim.state.events.last();
    let id = sim.running("api")[0];
    for phase in [
        Phase::Pending,
        Phase::Fetching,
        Phase::Starting,
        Phase::Pending,
    ] {
        let reason = "no port is free".to_owned();
        sim.tell(
            id,
            InstanceFacts {
                reason,
                ..facts(phase, Health::Unknown)
            },
        );
        sim.look();
    }
    assert_eq!(
        told(&sim, last),
        [(Kind::InstanceBackoff, "no port is free".to_owned())]
    );
}

#[test]
fn the_loss_of_a_node_is_the_reason_for_what_follows() {
    let (mut sim, _) = quiet(2);
    sim.create("api", service_spec(), 1);
    sim.settle();
    sim.look();
    let last = sim.state.events.last();
    let id = sim.running("api")[0];
    let node = sim.state.instances[&id].node;
    sim.set_alive(node.0, false);
    sim.look();
    sim.settle();
    sim.look();
    let all = told(&sim, last);
    let dead = format!("node n{} is dead", node.0);
    let at = |wanted: (Kind, &str)| {
        let found = all
            .iter()
            .position(|(kind, why)| (*kind, why.as_str()) == wanted);
        found.unwrap_or_else(|| panic!("{wanted:?}: {all:?}"))
    };
    let moved = at((Kind::InstanceMoved, &dead));
    assert!(at((Kind::NodeDead, "")) < moved);
    assert!(at((Kind::InstancePlaced, "")) > at((Kind::NodeDead, "")));
    assert!(at((Kind::InstanceReady, "")) > moved);
    sim.set_alive(node.0, true);
    sim.look();
    assert_eq!(kinds(&sim, 0).last(), Some(&Kind::NodeAlive));
}

#[test]
fn why_an_instance_is_stopped_follows_from_the_state() {
    let (mut sim, _) = quiet(2);
    sim.create("api", service_spec(), 2);
    sim.settle();
    let why = |sim: &Sim, after| {
        let stops = told(sim, after).into_iter();
        let stops =
            stops.filter(|(kind, _)| matches!(kind, Kind::InstanceStopping | Kind::InstanceMoved));
        stops.map(|(_, why)| why).collect::<Vec<_>>()
    };
    let last = sim.state.events.last();
    sim.scale("api", 1);
    sim.settle();
    assert_eq!(why(&sim, last), ["1 are wanted"]);
    let last = sim.state.events.last();
    sim.update("api", 2);
    sim.settle();
    assert_eq!(why(&sim, last), ["release r2 takes its place"]);
    let last = sim.state.events.last();
    sim.restart("api");
    sim.settle();
    assert_eq!(why(&sim, last), ["it is replaced by a new one"]);
    let last = sim.state.events.last();
    let node = sim.state.instances[&sim.running("api")[0]].node.0;
    sim.drain(node, true);
    sim.settle();
    assert_eq!(why(&sim, last), [format!("node n{node} is drained")]);
    let last = sim.state.events.last();
    sim.ok(Command::RemoveDeployment { name: name("api") });
    sim.settle();
    assert_eq!(why(&sim, last), ["the deployment is being removed"]);
    let all = kinds(&sim, last);
    assert_eq!(all.first(), Some(&Kind::DeploymentRemoving));
    assert_eq!(all.last(), Some(&Kind::DeploymentRemoved));
}

#[test]
fn users_own_settings_and_values_are_not_told() {
    let (mut sim, last) = quiet(1);
    for key in [settings::DEFAULT_TLD, "user.a"] {
        let value = "example.test".to_owned();
        sim.ok(Command::SetSetting {
            key: key.to_owned(),
            value,
        });
        sim.ok(Command::UnsetSetting {
            key: key.to_owned(),
        });
    }
    let key = settings::DEFAULT_TLD.to_owned();
    assert_eq!(
        told(&sim, last),
        [(Kind::SettingSet, key.clone()), (Kind::SettingUnset, key)]
    );
}

#[test]
fn a_refused_request_and_a_repeated_one_tell_nothing() {
    let (mut sim, last) = quiet(1);
    sim.run(crate::testing::restart("none")).unwrap_err();
    assert_eq!(kinds(&sim, last), []);
    let request = crate::command::Request {
        id: crate::ids::RequestId(7),
        command: Command::SetDraining {
            node: NodeId(1),
            draining: true,
        },
        stamp: Stamp::default(),
    };
    for _ in 0..2 {
        crate::apply(&mut sim.state, &request).unwrap();
    }
    assert_eq!(kinds(&sim, last), [Kind::NodeDraining]);
}

#[test]
fn one_that_is_ill_does_not_push_out_the_others() {
    let (mut sim, _) = quiet(1);
    sim.create("well", service_spec(), 1);
    sim.create("ill", service_spec(), 1);
    let first = sim
        .state
        .events
        .after_of(&name("well"), 0)
        .next()
        .unwrap()
        .seq;
    for n in 0..2 * EVENTS_OF_ONE as u32 {
        sim.scale("ill", 1 + n % 2);
    }
    let events = &sim.state.events;
    assert_eq!(events.after_of(&name("ill"), 0).count(), EVENTS_OF_ONE);
    assert_eq!(events.after_of(&name("well"), 0).next().unwrap().seq, first);
    assert!(events.knows(&name("well")) && !events.knows(&name("none")));
    let newest = events.after_of(&name("ill"), 0).last().unwrap().seq;
    assert_eq!(newest, events.last());
}

#[test]
fn there_is_a_bound_for_all_of_them() {
    let mut events = Events::default();
    for n in 0..EVENTS_KEPT + 100 {
        let draft = Draft {
            deployment: Some(name(&format!("d{}", n % 5_000))),
            ..Draft::new(Kind::DeploymentScaled).why("x".repeat(10_000))
        };
        events.push(&Stamp::default(), draft);
    }
    assert_eq!(events.after(0).count(), EVENTS_KEPT);
    assert_eq!(events.after(0).next().unwrap().seq, 101);
    assert!(
        events
            .after(0)
            .all(|event| event.reason.len() <= EVENT_REASON_BYTES + 3)
    );
}

/// What somebody does to a cluster.
fn deeds() -> impl proptest::strategy::Strategy<Value = Vec<(u8, u8)>> {
    proptest::collection::vec((0..12_u8, 0..4_u8), 1..60)
}

fn act(sim: &mut Sim, (deed, n): (u8, u8)) {
    let names = ["a", "b", "c", "d"];
    let text = names[n as usize];
    let known = sim.state.deployments.contains_key(&name(text));
    let node = u64::from(n % 3) + 1;
    match deed {
        0 if !known => {
            sim.create(text, service_spec(), 2);
        }
        1 if known => {
            let _ = sim.run(Command::ScaleDeployment {
                name: name(text),
                scale: u32::from(n),
                based_on: None,
            });
        }
        2 if known => {
            let _ = sim.run(crate::testing::restart(text));
        }
        3 if known => {
            let _ = sim.run(Command::RemoveDeployment { name: name(text) });
        }
        4 if sim.state.nodes.contains_key(&NodeId(node)) => sim.drain(node, n % 2 == 0),
        5 => {
            let _ = sim.run(Command::RemoveNode { node: NodeId(2) });
        }
        6 if sim.view.nodes.contains_key(&NodeId(node)) => sim.set_alive(node, n % 2 == 0),
        7 | 8 => {
            sim.step();
        }
        9 => sim.obey(),
        10 => {
            let stop = sim.state.instances.keys().next().copied();
            if let Some(instance) = stop {
                sim.assign(Change::Stop { instance });
            }
        }
        _ => {
            sim.look();
        }
    }
}

proptest! {
    #[test]
    fn numbers_have_no_gaps_and_nothing_is_told_twice(deeds in deeds()) {
        let mut sim = Sim::new(3, 8);
        for deed in deeds {
            let before = sim.state.events.last();
            act(&mut sim, deed);
            let events = &sim.state.events;
            let new: Vec<u64> = events.after(before).map(|event| event.seq).collect();
            prop_assert_eq!(new, (before + 1..=events.last()).collect::<Vec<_>>());
            for id in events.told().keys() {
                prop_assert!(sim.state.instances.contains_key(id));
            }
            for id in events.dead() {
                prop_assert!(sim.state.nodes.contains_key(&id));
            }
        }
        // Whoever leads next tells only what is news.
        while sim.look() > 0 {}
        let last = sim.state.events.last();
        prop_assert_eq!(sim.look(), 0);
        prop_assert_eq!(sim.state.events.last(), last);
    }

    #[test]
    fn what_is_put_together_from_its_parts_is_the_same(deeds in deeds()) {
        let mut sim = Sim::new(3, 8);
        for deed in deeds {
            act(&mut sim, deed);
        }
        let events = &sim.state.events;
        let mut again = Events::default();
        again.extend(events.after(0).cloned());
        let told = events.told().iter().map(|(id, told)| (*id, told.clone()));
        again.restore(events.last(), told, events.dead());
        prop_assert_eq!(&again, events);
    }
}

fn behind(sim: &Sim, names: &[&str]) -> Vec<Sighting> {
    let names: Vec<_> = names.iter().map(|text| name(text)).collect();
    sightings_behind(&sim.state, &sim.view, names.iter())
}

#[test]
fn what_is_waited_for_is_told_before_what_follows() {
    let (mut sim, _) = quiet(2);
    let mut needs = service_spec();
    if let Workload::Service(service) = &mut needs.workload {
        service.depends_on = [name("db")].into();
    }
    sim.create("db", service_spec(), 1);
    sim.create("other", service_spec(), 1);
    sim.create("web", needs, 1);
    sim.step();
    for id in [sim.running("db")[0], sim.running("other")[0]] {
        sim.tell_ready(id);
    }
    let db = sim.running("db")[0];
    let seen = behind(&sim, &["web", "web"]);
    let [Sighting::Instance { instance, told, .. }] = &seen[..] else {
        panic!("{seen:?}");
    };
    assert!(*instance == db && told.ready);
    assert!(behind(&sim, &["db", "other"]).is_empty());

    // As the leader does it.
    let made = sim.plan();
    let sightings = behind(&sim, &["web"]);
    let last = sim.state.events.last();
    sim.ok(Command::Record { sightings });
    sim.ok(Command::Assign {
        plan_revision: made.plan_revision,
        changes: made.changes,
    });
    let kinds = kinds(&sim, last);
    let at = |kind| kinds.iter().position(|k| *k == kind);
    assert!(
        at(Kind::InstanceReady) < at(Kind::InstancePlaced),
        "{kinds:?}"
    );
    assert_eq!(sim.look(), 1, "the other's is still news");
}
