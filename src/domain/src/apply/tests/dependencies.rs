//! What deployments may wait for.

use crate::command::{Command, Rejection};
use crate::spec::{Kind, RunLimits, Service, Spec, Workload};
use crate::testing::*;

fn needs(names: &[&str]) -> Spec {
    let mut spec = service_spec();
    if let Workload::Service(service) = &mut spec.workload {
        service.depends_on = names.iter().map(|text| name(text)).collect();
    }
    spec
}

fn create(text: &str, on: &[&str]) -> Command {
    Command::CreateDeployment {
        name: name(text),
        spec: needs(on),
        scale: 1,
        artifact: crate::Digest([1; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    }
}

fn update(text: &str, on: &[&str]) -> Command {
    Command::UpdateDeployment {
        name: name(text),
        based_on: None,
        spec: Some(needs(on)),
        artifact: crate::Digest([2; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    }
}

fn refusal(sim: &mut Sim, command: Command) -> String {
    let before = sim.state.deployments.clone();
    let refusal = sim.run(command).unwrap_err().to_string();
    assert!(before.ptr_eq(&sim.state.deployments), "nothing changes");
    refusal
}

#[test]
fn what_runs_to_its_end_cannot_be_waited_for() {
    let mut sim = Sim::new(1, 8);
    let mut spec = service_spec();
    spec.strategy = Default::default();
    spec.workload = Workload::Service(Service {
        kind: Kind::Job(RunLimits::default()),
        ..Service::new("migrate")
    });
    sim.create("job", spec, 1);
    let refused = refusal(&mut sim, create("web", &["job"]));
    assert!(
        refused.contains("'job', which runs to its end"),
        "{refused}"
    );
    sim.ok(create("web", &[]));
    assert_eq!(refusal(&mut sim, update("web", &["job"])), refused);
}

#[test]
fn what_is_not_there_cannot_be_waited_for() {
    let mut sim = Sim::new(1, 8);
    let refused = refusal(&mut sim, create("web", &["db"]));
    assert_eq!(
        refused,
        "'web' depends on 'db', and there is no such deployment"
    );
    sim.ok(create("db", &[]));
    sim.ok(create("web", &["db"]));
    let remove = |text| Command::RemoveDeployment { name: name(text) };
    assert_eq!(
        sim.run(remove("db")),
        Err(Rejection::DependencyNeeded {
            name: name("db"),
            by: name("web")
        })
    );
    sim.settle();
    sim.ok(update("web", &[]));
    assert!(
        sim.run(remove("db")).is_err(),
        "the release before may come back"
    );
    sim.settle();
    sim.ok(remove("db"));
}

#[test]
fn nothing_waits_for_itself() {
    let mut sim = Sim::new(1, 8);
    let refused = refusal(&mut sim, create("a", &["a"]));
    assert!(refused.ends_with("a -> a"), "{refused}");
    sim.ok(create("a", &[]));
    sim.ok(create("b", &["a"]));
    sim.ok(create("c", &["a", "b"]));
    sim.settle();
    let refused = refusal(&mut sim, update("a", &["c"]));
    assert!(
        refused.ends_with("a -> c -> b -> a") || refused.ends_with("a -> c -> a"),
        "{refused}"
    );
    // Going back would close a circle as well.
    sim.ok(update("b", &[]));
    sim.settle();
    sim.ok(update("c", &[]));
    sim.settle();
    sim.ok(update("a", &["b"]));
    sim.settle();
    let back = Command::RollBack {
        name: name("b"),
        to: Some(crate::ReleaseNumber(1)),
        now: NOW,
    };
    let refused = refusal(&mut sim, back);
    assert!(refused.ends_with("b -> a -> b"), "{refused}");
}
