//! Secrets: who is given which version, and which may go.

use crate::command::{Command, Outcome, Rejection};
use crate::secret::{Sealed, SecretVersions};
use crate::spec::{Spec, Workload};
use crate::testing::*;

fn secret(text: &str) -> crate::SecretName {
    text.parse().unwrap()
}

fn given(names: &[&str]) -> Spec {
    let mut spec = service_spec();
    if let Workload::Service(service) = &mut spec.workload {
        let variables = names.iter().map(|text| ((*text).to_owned(), secret(text)));
        service.secrets = variables.collect();
    }
    spec
}

fn set(sim: &mut Sim, text: &str) -> u64 {
    let outcome = sim.ok(Command::SetSecret {
        name: secret(text),
        sealed: Sealed(vec![1; 100]),
        author: "ann".into(),
        now: NOW,
    });
    let Outcome::SecretSet { version } = outcome else {
        panic!("{outcome:?}");
    };
    version
}

fn change(sim: &mut Sim, spec: Spec) {
    sim.ok(Command::UpdateDeployment {
        name: name("app"),
        based_on: None,
        spec: Some(spec),
        artifact: crate::Digest([1; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    });
}

fn delete(text: &str) -> Command {
    Command::DeleteSecret { name: secret(text) }
}

/// The versions of all instances that run.
fn versions(sim: &Sim) -> Vec<SecretVersions> {
    let running = sim.running("app").into_iter();
    let mut all: Vec<_> = running
        .map(|id| sim.state.instances[&id].secrets.clone())
        .collect();
    all.dedup();
    all
}

#[test]
fn a_changed_secret_is_given_with_the_next_release_or_restart_and_not_before() {
    let mut sim = Sim::new(2, 8);
    assert_eq!(set(&mut sim, "KEY"), 1);
    sim.create("app", given(&["KEY"]), 2);
    sim.settle();
    let of = |version| vec![SecretVersions::from([(secret("KEY"), version)])];
    assert_eq!(versions(&sim), of(1));
    assert_eq!(set(&mut sim, "KEY"), 2);
    // One more, and one in place of another that is lost, are as those that are there.
    sim.scale("app", 3);
    sim.set_alive(2, false);
    sim.settle();
    assert_eq!((sim.running("app").len(), versions(&sim)), (3, of(1)));
    sim.restart("app");
    sim.settle();
    assert_eq!(versions(&sim), of(2));
    set(&mut sim, "KEY");
    // Another policy alone replaces no instance; a changed secret does.
    change(&mut sim, given(&["KEY"]));
    sim.settle();
    assert_eq!(versions(&sim), of(3));
    let kept = &sim.state.secrets[&secret("KEY")].versions;
    assert_eq!(kept.len(), 2, "set again, the first is of no use any more");
}

#[test]
fn what_is_in_use_is_kept_and_what_is_missing_is_said() {
    let mut sim = Sim::new(2, 8);
    let unknown = sim.run(Command::CreateDeployment {
        name: name("app"),
        spec: given(&["KEY"]),
        scale: 1,
        artifact: crate::Digest([1; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    });
    assert_eq!(unknown, Err(Rejection::SecretUnknown(secret("KEY"))));
    assert_eq!(
        sim.run(delete("KEY")),
        Err(Rejection::SecretUnknown(secret("KEY")))
    );
    set(&mut sim, "KEY");
    sim.create("app", given(&["KEY"]), 1);
    sim.settle();
    let needed = Err(Rejection::SecretNeeded {
        name: secret("KEY"),
        by: name("app"),
    });
    assert_eq!(sim.run(delete("KEY")), needed);
    change(&mut sim, given(&[]));
    assert_eq!(sim.run(delete("KEY")), needed, "it may come back");
    sim.settle();
    sim.ok(delete("KEY"));
    // The first release cannot come back without it.
    let back = sim.run(Command::RollBack {
        name: name("app"),
        to: Some(crate::ReleaseNumber(1)),
        now: NOW,
    });
    assert_eq!(back, Err(Rejection::SecretUnknown(secret("KEY"))));
}

#[test]
fn a_value_has_a_limit() {
    let mut sim = Sim::new(1, 8);
    let long = sim.run(Command::SetSecret {
        name: secret("KEY"),
        sealed: Sealed(vec![1; 40_000]),
        author: String::new(),
        now: NOW,
    });
    assert!(matches!(long, Err(Rejection::Limit(_))), "{long:?}");
}

#[test]
fn names_are_those_of_variables_and_the_usual_others() {
    for good in ["DB_PASSWORD", "_x", "api.key", "2nd-key", &"x".repeat(128)] {
        assert!(good.parse::<crate::SecretName>().is_ok(), "{good}");
    }
    for bad in ["", "-x", ".x", "a b", "a/b", "\u{e4}", &"x".repeat(129)] {
        assert!(bad.parse::<crate::SecretName>().is_err(), "{bad}");
    }
}
