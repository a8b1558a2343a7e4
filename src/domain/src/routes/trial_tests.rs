//! Whose requests are told apart while a release is on its way.

use std::time::Duration;

use super::*;
use crate::rollout::Rollout;
use crate::spec::{Amount, CanaryStep, Strategy, Takeover};
use crate::testing::*;

fn route(sim: &Sim) -> (RouteTable, Arc<Route>) {
    let table = build(&sim.state, &sim.view);
    let route = Arc::clone(table.route("app.example.test").unwrap());
    (table, route)
}

fn sides(route: &Route) -> Vec<Option<Side>> {
    (0..route.endpoints.len()).map(|i| route.side(i)).collect()
}

/// Three instances of release 1, and release 2 on its way as this says.
fn under_way(takeover: Takeover) -> Sim {
    let mut spec = service_spec();
    spec.strategy = Strategy {
        takeover,
        ..spec.strategy
    };
    let mut sim = Sim::new(3, 8);
    sim.create("app", spec, 3);
    sim.settle();
    assert_eq!(route(&sim).1.trial, None);
    sim.update("app", 2);
    sim
}

#[test]
fn a_trial_goes_on_as_long_as_its_rollout() {
    let mut sim = under_way(Takeover::Rolling {
        surge: Amount::Count(1),
        unavailable: Amount::Count(0),
    });
    let (table, first) = route(&sim);
    let trial = first.trial.unwrap();
    assert!(table.has_trial(trial.number));
    assert_eq!(sides(&first), [Some(Side::Old); 3]);
    let mut both = false;
    sim.settle_with(|sim| {
        let (_, route) = route(sim);
        let sides = sides(&route);
        let of = |side| sides.contains(&Some(side));
        both |= of(Side::Old) && of(Side::New);
        assert!(
            route.canary().is_none(),
            "nobody has to stay where they are"
        );
    });
    assert!(both);
    let (table, over) = route(&sim);
    assert_eq!((over.trial, over.side(0)), (None, None));
    assert!(!table.has_trial(trial.number));
}

#[test]
fn a_trial_makes_another_route() {
    let mut sim = three_in_canary();
    let (table, first) = route(&sim);
    let again = table.rebuild(&sim.state, &sim.view);
    assert!(Arc::ptr_eq(
        &first,
        again.route("app.example.test").unwrap()
    ));
    // Taken back and begun again between two tables.
    let app = sim.state.deployments.get_mut(&name("app")).unwrap();
    let rollout = app.rollout.take().unwrap();
    app.rollout = Some(Rollout {
        began_at: rollout.began_at.plus(Duration::from_millis(1)),
        ..rollout
    });
    let again = table.rebuild(&sim.state, &sim.view);
    let second = again.route("app.example.test").unwrap();
    assert_ne!(second.trial, first.trial);
    assert!(!again.has_trial(first.trial.unwrap().number));
}

fn three_in_canary() -> Sim {
    let step = |percent| CanaryStep {
        percent,
        pause: Duration::from_secs(10),
    };
    under_way(Takeover::Canary {
        steps: vec![step(10), step(50)],
    })
}

#[test]
fn visitors_stay_once_there_are_two_releases_to_stay_with() {
    let mut sim = three_in_canary();
    assert!(route(&sim).1.canary().is_none(), "all have the old one");
    let mut seen = false;
    sim.settle_with(|sim| {
        let (_, route) = route(sim);
        let app = &sim.state.deployments[&name("app")];
        let in_canary = app
            .rollout
            .as_ref()
            .is_some_and(|rollout| matches!(rollout.stage, Stage::Canary { .. }));
        let Some(trial) = route.canary() else { return };
        assert!(in_canary);
        seen = true;
        // Whoever has the new release keeps it.
        let new = |draw| {
            let first = route.endpoints_for(draw)[0];
            let index = route.endpoints.iter().position(|e| *e == first).unwrap();
            route.side(index) == Some(Side::New)
        };
        assert!(new(u64::MAX) && !new(0));
        assert_eq!((trial.from.0, trial.to.0), (1, 2));
    });
    assert!(seen);
}
