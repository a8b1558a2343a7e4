//! Which table follows from which state and view.

use super::*;
use crate::command::Command;
use crate::observed::{Health, Phase};
use crate::testing::*;

fn hosts(table: &RouteTable) -> Vec<&str> {
    let mut hosts: Vec<&str> = table.iter().map(|(host, _)| host).collect();
    hosts.sort_unstable();
    hosts
}

fn ids(route: &Route) -> Vec<u64> {
    route.endpoints.iter().map(|e| e.instance.0).collect()
}

/// Three ready instances of a program, 1 to 3, on the nodes of the same numbers.
fn three() -> Sim {
    let mut sim = Sim::new(3, 8);
    sim.create("app", service_spec(), 3);
    sim.settle();
    sim
}

#[test]
fn hosts_are_found_however_they_are_written() {
    let sim = three();
    let table = build(&sim.state, &sim.view);
    assert_eq!(table.revision, sim.state.revision);
    assert_eq!(hosts(&table), ["app.example.test"]);
    for host in [
        "app.example.test",
        "app.example.test.",
        "app.example.test:8080",
        "app.example.test.:8080",
        "app.example.test:",
        "APP.Example.TEST",
        "App.example.test:80",
    ] {
        assert!(table.route(host).is_some(), "{host}");
    }
    let long = "a".repeat(10_000);
    for host in [
        "",
        ".",
        ":80",
        "example.test",
        "app.example.test..",
        "app.example.test:http",
        "[::1]:80",
        "::1",
        "x.app.example.test",
        &long,
    ] {
        assert!(table.route(host).is_none(), "{host}");
    }
}

#[test]
fn only_ready_instances_on_live_nodes_take_requests() {
    let mut sim = three();
    let route = |sim: &Sim| {
        let table = build(&sim.state, &sim.view);
        ids(table.route("app.example.test").unwrap())
    };
    assert_eq!(route(&sim), [1, 2, 3]);
    sim.tell(InstanceId(1), facts(Phase::Running, Health::Unhealthy));
    assert_eq!(route(&sim), [2, 3]);
    sim.set_alive(2, false);
    assert_eq!(route(&sim), [3]);
    sim.assign(crate::command::Change::Stop {
        instance: InstanceId(3),
    });
    assert!(route(&sim).is_empty(), "the route stays, to answer 503");
}

#[test]
fn a_deployment_that_is_removed_has_no_route() {
    let mut sim = three();
    sim.ok(Command::RemoveDeployment { name: name("app") });
    assert!(build(&sim.state, &sim.view).is_empty());
}

#[test]
fn both_releases_of_a_program_answer_during_an_update() {
    let mut sim = three();
    sim.update("app", 2);
    sim.step();
    sim.tell_ready(InstanceId(4));
    let table = build(&sim.state, &sim.view);
    let route = table.route("app.example.test").unwrap();
    assert_eq!(ids(route), [1, 2, 3, 4]);
    assert_eq!(route.kind, RouteKind::Service);
    assert_eq!(route.version.release, ReleaseNumber(2));
    let older = [1, 2, 3, 4].map(|id| route.is_older(InstanceId(id)));
    assert_eq!(older, [true, true, true, false]);
}

#[test]
fn a_release_that_differs_in_its_policy_alone_is_another_version() {
    let mut sim = three();
    let table = build(&sim.state, &sim.view);
    let mut spec = service_spec();
    let mut policy = HttpPolicy::default();
    policy.cache.on = true;
    spec.http = Arc::new(policy);
    let current = sim.state.deployments[&name("app")].current();
    let (artifact, before) = (current.artifact, current.number);
    sim.ok(Command::UpdateDeployment {
        name: name("app"),
        based_on: None,
        spec: Some(spec),
        artifact,
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    });
    let next = table.rebuild(&sim.state, &sim.view);
    let version = |table: &RouteTable| table.route("app.example.test").unwrap().version;
    assert_eq!(version(&table).release, before);
    assert_ne!(version(&table), version(&next));
    let route = next.route("app.example.test").unwrap();
    assert!(!route.is_older(InstanceId(1)), "its instances run on");
}

#[test]
fn a_purge_makes_another_version_of_its_deployment_alone() {
    let mut sim = three();
    sim.create("other", service_spec(), 1);
    sim.settle();
    let before = build(&sim.state, &sim.view);
    sim.ok(Command::PurgeCache { name: name("app") });
    let after = before.rebuild(&sim.state, &sim.view);
    let route = |table: &RouteTable, host| Arc::clone(table.route(host).unwrap());
    let [was, is] = [&before, &after].map(|table| route(table, "app.example.test"));
    assert_ne!(was.version, is.version);
    assert_eq!(was.version.release, is.version.release);
    assert_eq!(was.endpoints, is.endpoints);
    let [was, is] = [&before, &after].map(|table| route(table, "other.example.test"));
    assert!(Arc::ptr_eq(&was, &is));
}

#[test]
fn a_site_answers_with_one_release_and_never_with_none() {
    let mut sim = Sim::new(3, 8);
    sim.create("site", static_spec(), 1);
    sim.settle();
    sim.update("site", 2);
    let seen = |sim: &Sim| {
        let table = build(&sim.state, &sim.view);
        let route = table.route("site.example.test").unwrap();
        let RouteKind::Static { artifact, .. } = route.kind else {
            panic!("a site")
        };
        (artifact.0[0], ids(route))
    };
    assert_eq!(seen(&sim), (1, vec![1, 2, 3]), "nothing new is assigned");
    sim.step();
    assert_eq!(seen(&sim), (1, vec![1, 2, 3]), "nothing new is ready");
    sim.tell_ready(InstanceId(5));
    assert_eq!(seen(&sim), (2, vec![5]));
    sim.set_alive(2, false);
    assert_eq!(seen(&sim), (1, vec![1, 3]), "its node was lost");
    sim.set_alive(2, true);
    sim.settle_with(|sim| assert!(!seen(sim).1.is_empty()));
    assert_eq!(seen(&sim), (2, vec![4, 5, 6]));

    sim.restart("site");
    sim.step();
    sim.tell_ready(InstanceId(7));
    assert_eq!(seen(&sim), (2, vec![4, 5, 6, 7]), "one release, two epochs");
}

#[test]
fn a_program_that_becomes_a_site_answers_as_one_or_the_other() {
    let mut sim = three();
    sim.ok(Command::UpdateDeployment {
        name: name("app"),
        based_on: None,
        spec: Some(static_spec()),
        artifact: Digest([2; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    });
    sim.step();
    let seen = |sim: &Sim| {
        let table = build(&sim.state, &sim.view);
        let route = table.route("app.example.test").unwrap();
        (route.kind == RouteKind::Service, ids(route))
    };
    assert_eq!(seen(&sim), (true, vec![1, 2, 3]));
    sim.tell_ready(InstanceId(4));
    assert_eq!(seen(&sim), (false, vec![4]));
}

#[test]
fn an_unchanged_route_stays_the_same() {
    let mut sim = three();
    let first = build(&sim.state, &sim.view);
    let route = first.route("app.example.test").unwrap();
    let second = first.rebuild(&sim.state, &sim.view);
    assert!(Arc::ptr_eq(
        route,
        second.route("app.example.test").unwrap()
    ));

    sim.tell(InstanceId(3), facts(Phase::Backoff, Health::Unknown));
    let third = second.rebuild(&sim.state, &sim.view);
    let changed = third.route("app.example.test").unwrap();
    assert!(!Arc::ptr_eq(route, changed));
    assert_eq!(ids(changed), [1, 2]);
    let again = third.again("app.example.test", &name("app"));
    assert!(Arc::ptr_eq(again.unwrap(), changed));
}
