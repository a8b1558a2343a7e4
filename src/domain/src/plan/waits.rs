//! Deployments that wait for others: none of their instances is started before those are there.

use crate::ids::ReleaseNumber;
use crate::names::DeploymentName;
use crate::observed::{InstanceFacts, View};
use crate::spec::Spec;
use crate::state::{Desired, State};

/// Why nothing of the release is begun now; `None` when nothing is missing, or nothing is waited for. What runs goes on
/// either way, whatever becomes of that which it depends on.
pub(super) fn held(
    state: &State,
    view: &View,
    name: &DeploymentName,
    release: ReleaseNumber,
) -> Option<String> {
    let release = state.deployments.get(name)?.release(release)?;
    waited_for(state, view, &release.spec)
}

/// What a program of this spec would wait for now.
pub(super) fn waited_for(state: &State, view: &View, spec: &Spec) -> Option<String> {
    let missing: Vec<String> = spec
        .depends_on()
        .filter_map(|on| missing(state, view, on))
        .collect();
    (!missing.is_empty()).then(|| format!("waits for {}", missing.join(", and for ")))
}

fn missing(state: &State, view: &View, on: &DeploymentName) -> Option<String> {
    let Some(deployment) = state.deployments.get(on).filter(|d| !d.removing) else {
        return Some(format!("'{on}', which is not deployed"));
    };
    let is_ready = deployment.current().spec.is_static()
        || state.instances_of(on).any(|instance| {
            let facts = view.instance(instance.node, instance.id);
            instance.desired == Desired::Run
                && view.is_alive(instance.node)
                && facts.is_some_and(InstanceFacts::is_ready)
        });
    (!is_ready).then(|| format!("'{on}', which has no ready instance"))
}

#[cfg(test)]
mod tests {
    use crate::ids::InstanceId;
    use crate::observed::{Health, Phase};
    use crate::spec::{Spec, Workload};
    use crate::testing::*;

    fn needs(on: &[&str]) -> Spec {
        let mut spec = service_spec();
        if let Workload::Service(service) = &mut spec.workload {
            service.depends_on = on.iter().map(|text| name(text)).collect();
        }
        spec
    }

    #[test]
    fn it_begins_when_that_which_it_needs_is_ready_and_goes_on_when_that_fails() {
        let mut sim = Sim::new(2, 8);
        sim.create("db", service_spec(), 1);
        sim.create("site", static_spec(), 1);
        sim.create("web", needs(&["db", "site"]), 2);
        let made = sim.step();
        assert_eq!(sim.running("web").len(), 0);
        assert_eq!(
            made.unplaced[&name("web")],
            ["waits for 'db', which has no ready instance"]
        );
        sim.settle();
        assert_eq!(sim.running("web").len(), 2);

        let db = sim.running("db")[0];
        sim.tell(db, facts(Phase::Backoff, Health::Unhealthy));
        let made = sim.step();
        assert!(
            made.changes.is_empty() && made.unplaced.is_empty(),
            "{made:?}"
        );
        // More of it is begun once it is there again.
        sim.scale("web", 3);
        assert!(sim.step().changes.is_empty());
        sim.tell_ready(db);
        sim.step();
        assert_eq!(sim.running("web").len(), 3);
        assert!(sim.state.instances.contains_key(&InstanceId(1)));
    }

    fn fail(sim: &mut Sim, deployment: &str) {
        for id in sim.running(deployment) {
            sim.tell(id, facts(Phase::Backoff, Health::Unhealthy));
        }
    }

    /// What is decided is compared with a plan from nothing by [`Sim::plan`].
    #[test]
    fn what_has_all_that_is_wanted_of_it_now_waits_for_nothing() {
        let mut sim = Sim::new(2, 16);
        sim.create("db", service_spec(), 1);
        // What runs to its end has no strategy.
        let mut job = Spec {
            strategy: crate::spec::Strategy::default(),
            ..needs(&["db"])
        };
        if let Workload::Service(service) = &mut job.workload {
            service.kind = crate::spec::Kind::Job(crate::spec::RunLimits::default());
        }
        sim.create("job", job, 1);
        let mut canary = needs(&["db"]);
        canary.strategy.takeover = crate::spec::Takeover::Canary {
            steps: vec![crate::spec::CanaryStep {
                percent: 25,
                pause: std::time::Duration::from_secs(600),
            }],
        };
        sim.create("web", canary, 4);
        sim.settle();
        sim.update("web", 2);
        sim.settle();
        assert_eq!(sim.running("web").len(), 5);
        fail(&mut sim, "db");
        let made = sim.step();
        assert!(
            made.changes.is_empty() && made.unplaced.is_empty(),
            "{made:?}"
        );
    }

    #[test]
    fn what_is_too_much_ends_while_the_rest_waits() {
        let mut sim = Sim::new(2, 16);
        sim.create("db", service_spec(), 1);
        sim.create("web", needs(&["db"]), 3);
        let mut store = keeping_spec();
        if let Workload::Service(service) = &mut store.workload {
            service.depends_on = [name("db")].into();
        }
        sim.create("store", store, 2);
        sim.settle();
        fail(&mut sim, "db");
        for deployment in ["web", "store"] {
            sim.update(deployment, 2);
            sim.scale(deployment, 1);
        }
        sim.step();
        assert_eq!(
            (sim.running("web").len(), sim.running("store").len()),
            (1, 1)
        );
        let made = sim.step();
        assert!(made.changes.is_empty(), "{made:?}");
        for deployment in ["web", "store"] {
            assert_eq!(
                made.unplaced[&name(deployment)],
                ["waits for 'db', which has no ready instance"]
            );
        }
        let db = sim.running("db")[0];
        sim.tell_ready(db);
        sim.settle();
        for deployment in ["web", "store"] {
            let id = sim.running(deployment)[0];
            let target = sim.state.deployments[&name(deployment)].target;
            assert_eq!(sim.state.instances[&id].release, target);
        }
    }

    #[test]
    fn an_update_of_what_waits_stops_nothing() {
        let mut sim = Sim::new(2, 8);
        sim.create("db", service_spec(), 1);
        sim.create("web", needs(&["db"]), 1);
        sim.settle();
        let db = sim.running("db")[0];
        sim.tell(db, facts(Phase::Backoff, Health::Unhealthy));
        sim.update("web", 2);
        let made = sim.step();
        assert!(made.changes.is_empty(), "{made:?}");
        sim.tell_ready(db);
        sim.settle();
        assert_eq!(sim.running("web").len(), 1);
    }
}
