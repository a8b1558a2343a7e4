//! One test for each rule of `apply`, and the properties that hold for every sequence of requests.

mod dependencies;
mod members;
mod purges;
mod secrets;

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::command::Change;
use crate::ids::{Digest, InstanceId, NodeId, ReleaseNumber, RequestId};
use crate::limits::RELEASES_KEPT;
use crate::spec::{Spec, SpecError, Workload};
use crate::state::{Desired, Role};
use crate::testing::*;

#[test]
fn init_makes_the_first_node_once() {
    let mut sim = Sim::new(1, 8);
    let node = &sim.state.nodes[&NodeId(1)];
    assert_eq!((node.role, node.draining), (Role::Voter, false));
    assert_eq!((sim.state.next_node_id, sim.state.next_instance_id), (2, 1));
    assert!(sim.state.api_tokens.contains_key(&[1; 32]));
    assert_eq!(sim.run(init_command()), Err(Rejection::AlreadyInitialised));

    let mut empty = State::default();
    let early = Request {
        id: RequestId(1),
        command: join_command("all", 2),
        stamp: Default::default(),
    };
    assert_eq!(apply(&mut empty, &early), Err(Rejection::NotInitialised));
}

#[test]
fn a_request_is_applied_once() {
    let mut sim = Sim::new(1, 8);
    sim.create("app", service_spec(), 1);
    let scale = Request {
        id: RequestId(77),
        command: Command::ScaleDeployment {
            name: name("app"),
            scale: 5,
            based_on: None,
        },
        stamp: Default::default(),
    };
    let first = apply(&mut sim.state, &scale);
    let after = sim.state.clone();
    assert_eq!(apply(&mut sim.state, &scale), first);
    assert_eq!(sim.state, after);

    let unknown = Request {
        id: RequestId(78),
        command: restart("gone"),
        stamp: Default::default(),
    };
    let refused = apply(&mut sim.state, &unknown);
    assert!(refused.is_err());
    sim.create("gone", service_spec(), 1);
    assert_eq!(
        apply(&mut sim.state, &unknown),
        refused,
        "the answer of then"
    );
}

#[test]
fn stale_plans_are_refused_and_not_remembered() {
    let mut sim = Sim::new(1, 8);
    let before = sim.state.clone();
    let refused = sim.run(Command::Assign {
        plan_revision: before.plan_revision + 1,
        changes: vec![],
    });
    assert!(matches!(refused, Err(Rejection::StalePlan { .. })));
    assert_eq!(sim.state, before);
}

#[test]
fn the_latest_requests_are_remembered_and_no_more() {
    use crate::limits::REQUESTS_REMEMBERED;
    let mut sim = Sim::new(1, 8);
    let set = |n: u128| Request {
        id: RequestId(1_000_000 + n),
        command: Command::SetSetting {
            key: "user.x".into(),
            value: n.to_string(),
        },
        stamp: Default::default(),
    };
    let count = REQUESTS_REMEMBERED as u128;
    for n in 0..=count {
        apply(&mut sim.state, &set(n)).unwrap();
    }
    let known = &sim.state.remembered;
    assert_eq!(known.len(), REQUESTS_REMEMBERED);
    assert_eq!(known.get(set(0).id), None);
    assert_eq!(known.get(set(1).id), Some(Ok(Outcome::Done)));
    let mut again = crate::state::Remembered::default();
    again.extend(known.iter());
    assert_eq!(&again, known);
}

#[test]
fn refusals_repeat_little_of_what_was_sent() {
    let mut sim = Sim::new(1, 8);
    let long = "x/".repeat(20_000);
    let mut specs = vec![service_spec(); 2];
    for (n, spec) in specs.iter_mut().enumerate() {
        let Workload::Service(service) = &mut spec.workload else {
            unreachable!()
        };
        match n {
            0 => drop(service.env.insert(long.clone(), "1".into())),
            _ => service.probe.kind = crate::spec::ProbeKind::http(long.clone()),
        }
    }
    let setting = |key: &str, value: &str| Command::SetSetting {
        key: key.into(),
        value: value.into(),
    };
    let mut commands = vec![
        setting(&long, "1"),
        setting(crate::settings::DEFAULT_TLD, &long[..4_000]),
        Command::UnsetSetting { key: long.clone() },
    ];
    commands.extend(specs.into_iter().map(|spec| Command::CreateDeployment {
        name: name("app"),
        spec,
        scale: 1,
        artifact: Digest([1; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    }));
    for command in commands {
        let text = sim.run(command).unwrap_err().to_string();
        assert!(text.len() < 512, "{} bytes: {text}", text.len());
    }
}

#[test]
fn an_update_is_a_new_release() {
    let mut sim = Sim::new(1, 8);
    let spec: Spec = service_spec();
    sim.create("app", spec, 2);
    assert_eq!(
        sim.update("app", 2),
        Outcome::Deployed {
            generation: 2,
            release: ReleaseNumber(2)
        }
    );
    let app = &sim.state.deployments[&name("app")];
    assert_eq!((app.target, app.scale), (ReleaseNumber(2), 2));
    assert_eq!(app.current().spec, service_spec(), "the spec is kept");
    assert_eq!(app.current().artifact, Digest([2; 32]));
}

#[test]
fn an_update_based_on_another_generation_undoes_nobody_s_change() {
    let mut sim = Sim::new(3, 4);
    sim.create("app", service_spec(), 2);
    let update = |based_on, artifact| Command::UpdateDeployment {
        name: name("app"),
        based_on: Some(based_on),
        spec: Some(static_spec()),
        artifact: Digest([artifact; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    };
    sim.ok(update(1, 7));
    // Somebody else had worked theirs out from the first generation too.
    let refused = sim.run(update(1, 8));
    let expected = Rejection::DeploymentChanged {
        name: name("app"),
        based_on: 1,
        current: 2,
    };
    assert_eq!(refused, Err(expected));
    let app = &sim.state.deployments[&name("app")];
    assert_eq!(
        (app.generation, app.current().artifact),
        (2, Digest([7; 32]))
    );
    sim.ok(update(2, 8));
}

#[test]
fn scale_and_restart_count_as_changes() {
    let mut sim = Sim::new(1, 8);
    sim.create("app", service_spec(), 2);
    sim.create("site", static_spec(), 1);
    sim.scale("app", 0);
    sim.restart("app");
    let app = &sim.state.deployments[&name("app")];
    assert_eq!((app.generation, app.epoch, app.scale), (3, 2, 0));
    let scale = |text: &str, scale| Command::ScaleDeployment {
        name: name(text),
        scale,
        based_on: None,
    };
    assert_eq!(
        sim.run(scale("site", 2)),
        Err(Rejection::StaticScale(name("site")))
    );
    assert!(matches!(
        sim.run(scale("app", 501)),
        Err(Rejection::Limit(_))
    ));
    assert!(sim.run(scale("app", 500)).is_ok());
}

#[test]
fn old_releases_go_unless_they_run() {
    let mut sim = Sim::new(1, 8);
    sim.create("app", service_spec(), 1);
    sim.update("app", 2);
    let second = sim.start("app", 1);
    for artifact in 3..=20 {
        sim.update("app", artifact);
    }
    let app = &sim.state.deployments[&name("app")];
    let kept: Vec<u32> = app.releases.iter().map(|r| r.number.0).collect();
    assert_eq!(kept.len(), RELEASES_KEPT + 1);
    assert_eq!((kept[0], kept[1], *kept.last().unwrap()), (2, 11, 20));
    assert!(
        sim.state
            .release_of(&sim.state.instances[&second])
            .is_some()
    );
}

#[test]
fn removal_waits_for_the_last_instance() {
    let mut sim = Sim::new(1, 8);
    let remove = |text: &str| Command::RemoveDeployment { name: name(text) };
    sim.create("idle", service_spec(), 1);
    sim.ok(remove("idle"));
    assert!(!sim.state.deployments.contains_key(&name("idle")));
    assert_eq!(
        sim.run(remove("idle")),
        Err(Rejection::DeploymentUnknown(name("idle")))
    );

    sim.create("app", service_spec(), 1);
    let id = sim.start("app", 1);
    sim.ok(remove("app"));
    let removing = Err(Rejection::DeploymentRemoving(name("app")));
    assert_eq!(sim.run(remove("app")), removing);
    assert_eq!(sim.run(restart("app")), removing);
    sim.assign(Change::Stop { instance: id });
    sim.assign(Change::Forget { instance: id });
    assert!(!sim.state.deployments.contains_key(&name("app")));
    sim.create("app", service_spec(), 1);
}

#[test]
fn bad_specs_are_refused() {
    let mut sim = Sim::new(1, 8);
    sim.create("app", service_spec(), 1);
    let create = |text: &str, spec| Command::CreateDeployment {
        name: name(text),
        spec,
        scale: 1,
        artifact: Digest([1; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    };
    assert_eq!(
        sim.run(create("app", service_spec())),
        Err(Rejection::DeploymentExists(name("app")))
    );
    let mut empty = service_spec();
    if let Workload::Service(service) = &mut empty.workload {
        service.command = " ".into();
    }
    assert_eq!(
        sim.run(create("new", empty)),
        Err(SpecError::EmptyCommand.into())
    );
    let mut long = service_spec();
    long.tld = vec!["a".repeat(62); 4].join(".").parse().unwrap();
    assert_eq!(
        sim.run(create("new", long)),
        Err(SpecError::HostTooLong { host_bytes: 255 }.into())
    );
}

#[test]
fn settings_are_checked() {
    let mut sim = Sim::new(1, 8);
    let set = |key: &str, value: &str| Command::SetSetting {
        key: key.into(),
        value: value.into(),
    };
    sim.ok(set("scheduler.default_tld", "example.test"));
    assert!(sim.run(set("scheduler.default_tld", "-")).is_err());
    assert!(sim.run(set("scheduler.other", "1")).is_err());
    let planned_for = sim.state.plan_revision;
    let revision = sim.state.revision;
    sim.ok(set("user.colour", "blue"));
    assert_eq!(sim.state.plan_revision, planned_for);
    assert_eq!(sim.state.revision, revision + 1);
    let unset = Command::UnsetSetting {
        key: "user.colour".into(),
    };
    sim.ok(unset.clone());
    assert_eq!(
        sim.run(unset),
        Err(Rejection::SettingUnset("user.colour".into()))
    );
}

#[test]
fn assignments_follow_the_rules() {
    let mut sim = Sim::new(2, 8);
    sim.create("app", service_spec(), 2);
    sim.drain(2, true);
    let start = |text: &str, number| Change::Start {
        deployment: name(text),
        release: ReleaseNumber(1),
        node: NodeId(number),
    };
    let plan_revision = sim.state.plan_revision;
    let changes = vec![
        start("app", 1),
        start("app", 2),
        start("none", 1),
        start("app", 7),
    ];
    let assigned = |started, stopped, forgotten| Outcome::Assigned {
        started,
        stopped,
        forgotten,
    };
    let outcome = sim.ok(Command::Assign {
        plan_revision,
        changes,
    });
    assert_eq!(outcome, assigned(1, 0, 0));
    let id = InstanceId(1);
    assert_eq!(sim.state.instances[&id].since_revision, sim.state.revision);
    assert_eq!(
        sim.assign(Change::Forget { instance: id }),
        assigned(0, 0, 0)
    );
    assert_eq!(sim.assign(Change::Stop { instance: id }), assigned(0, 1, 0));
    let stopped = sim.state.instances[&id].clone();
    assert_eq!(
        (stopped.desired, stopped.since_revision),
        (Desired::Stop, sim.state.revision)
    );
    assert_eq!(sim.assign(Change::Stop { instance: id }), assigned(0, 0, 0));
    assert_eq!(
        sim.state.instances[&id], stopped,
        "a second stop moves nothing"
    );
    assert_eq!(
        sim.assign(Change::Forget { instance: id }),
        assigned(0, 0, 1)
    );
    let plan_revision = sim.state.plan_revision;
    let changes = vec![start("app", 1); 257];
    let over = sim.run(Command::Assign {
        plan_revision,
        changes,
    });
    assert!(matches!(over, Err(Rejection::Limit(_))));
    assert!(sim.state.instances.is_empty());
}

/// Any command on a small world, so that they meet; many of them are refused.
fn command() -> impl Strategy<Value = Command> {
    let app = prop_oneof![Just(name("a")), Just(name("b")), Just(name("c"))];
    let spec = prop_oneof![Just(service_spec()), Just(static_spec())];
    let node = (1u64..6).prop_map(NodeId);
    let change = prop_oneof![
        (app.clone(), node.clone()).prop_map(|(deployment, node)| Change::Start {
            deployment,
            release: ReleaseNumber(1),
            node,
        }),
        (1u64..12).prop_map(|id| Change::Stop {
            instance: InstanceId(id)
        }),
        (1u64..12).prop_map(|id| Change::Forget {
            instance: InstanceId(id)
        }),
    ];
    prop_oneof![
        Just(init_command()),
        (2u64..6).prop_map(|number| join_command("all", number)),
        (node.clone(), 1u64..6).prop_map(|(node, to)| Command::SetAddresses {
            node,
            addresses: addresses(to)
        }),
        (node.clone(), any::<bool>())
            .prop_map(|(node, draining)| Command::SetDraining { node, draining }),
        node.clone().prop_map(|node| Command::RemoveNode { node }),
        node.prop_map(|node| Command::ForgetJoiner { node }),
        Just(Command::CreateJoinToken {
            token: join_token("all", Role::Voter, true),
            now: NOW
        }),
        (app.clone(), spec.clone(), 0u32..4).prop_map(|(name, spec, scale)| {
            Command::CreateDeployment {
                name,
                spec,
                scale,
                artifact: Digest([1; 32]),
                artifact_bytes: 1,
                origin: Default::default(),
                now: NOW,
            }
        }),
        (
            app.clone(),
            proptest::option::of(0u64..4),
            proptest::option::of(spec)
        )
            .prop_map(|(name, based_on, spec)| {
                Command::UpdateDeployment {
                    name,
                    based_on,
                    spec,
                    artifact: Digest([2; 32]),
                    artifact_bytes: 1,
                    origin: Default::default(),
                    now: NOW,
                }
            }),
        (app.clone(), 0u32..600).prop_map(|(name, scale)| Command::ScaleDeployment {
            name,
            scale,
            based_on: None,
        }),
        app.clone()
            .prop_map(|name| Command::RestartDeployment { name, now: NOW }),
        app.prop_map(|name| Command::RemoveDeployment { name }),
        (0u64..40, proptest::collection::vec(change, 0..4)).prop_map(|(plan_revision, changes)| {
            Command::Assign {
                plan_revision,
                changes,
            }
        }),
    ]
}

/// Plans are aimed at the present revision, or else nearly all of them would be stale.
fn aimed(command: Command, state: &State) -> Command {
    match command {
        Command::Assign {
            plan_revision,
            changes,
        } if plan_revision > 4 => Command::Assign {
            plan_revision: state.plan_revision,
            changes,
        },
        other => other,
    }
}

fn is_sound(state: &State) -> Result<(), TestCaseError> {
    for (id, node) in &state.nodes {
        prop_assert!(*id == node.id && id.0 < state.next_node_id);
    }
    let voters = state.nodes.values().filter(|n| n.role == Role::Voter);
    prop_assert!(state.cluster.is_none() || voters.count() > 0);
    for (id, instance) in &state.instances {
        prop_assert!(*id == instance.id && id.0 < state.next_instance_id);
        prop_assert!(state.nodes.contains_key(&instance.node));
        prop_assert!(state.release_of(instance).is_some());
        prop_assert!(instance.since_revision <= state.revision);
    }
    for deployment in state.deployments.values() {
        let numbers: Vec<_> = deployment.releases.iter().map(|r| r.number).collect();
        prop_assert!(numbers.is_sorted() && !numbers.is_empty());
        let empty = state.instances_of(&deployment.name).next().is_none();
        prop_assert!(!(deployment.removing && empty));
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_sequence_is_sound_deterministic_and_idempotent(
        commands in proptest::collection::vec((0u128..60, command()), 1..80)
    ) {
        let mut state = Sim::new(2, 8).state;
        let mut twin = state.clone();
        for (id, command) in commands {
            let request = Request::new(RequestId(1_000 + id), aimed(command, &state));
            let before = state.clone();
            let known = before.remembered.get(request.id);
            let answer = apply(&mut state, &request);
            prop_assert_eq!(&apply(&mut twin, &request), &answer);
            prop_assert_eq!(&twin, &state);
            is_sound(&state)?;

            if let Some(known) = known {
                prop_assert_eq!(&known, &answer);
                prop_assert_eq!(&before, &state);
                continue;
            }
            let mut unremembered = state.clone();
            unremembered.remembered = before.remembered.clone();
            if answer.is_err() {
                prop_assert_eq!(&unremembered, &before, "a refusal changes nothing");
            } else {
                prop_assert_eq!(state.revision, before.revision + 1);
                let same = state.nodes == before.nodes && state.deployments == before.deployments
                    && state.instances == before.instances;
                prop_assert_eq!(state.plan_revision, before.plan_revision + u64::from(!same));
            }
            let after = state.clone();
            prop_assert_eq!(apply(&mut state, &request), answer);
            prop_assert_eq!(&after, &state);
        }
    }
}

#[test]
fn a_kept_release_is_shared_and_not_copied() {
    let mut sim = Sim::new(1, 8);
    sim.create("app", service_spec(), 1);
    sim.settle();
    let first = Arc::clone(sim.state.deployments[&name("app")].current());
    sim.update("app", 2);
    let app = &sim.state.deployments[&name("app")];
    assert!(Arc::ptr_eq(app.release(ReleaseNumber(1)).unwrap(), &first));
}
