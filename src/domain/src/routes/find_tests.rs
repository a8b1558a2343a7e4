//! Which route and action a request finds.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::command::Command;
use crate::http::{FieldMatch, Name, RedirectCode, Rule, Weights, path};
use crate::spec::Spec;
use crate::testing::*;

fn with(http: HttpPolicy) -> Spec {
    Spec {
        http: Arc::new(http),
        ..service_spec()
    }
}

fn named(names: &[&str], rules: Vec<Rule>) -> Spec {
    with(HttpPolicy {
        names: names.iter().map(|n| n.parse().unwrap()).collect(),
        rules,
        ..HttpPolicy::default()
    })
}

fn rule(path: &str, action: Action) -> Rule {
    Rule {
        path: path.parse().unwrap(),
        action,
        ..Rule::default()
    }
}

fn forward(to: Option<&str>, strip_prefix: bool) -> Action {
    Action::Forward {
        to: to.map(name),
        strip_prefix,
    }
}

fn answer(code: u16) -> Action {
    Action::Status {
        code: code.try_into().unwrap(),
        body: String::new(),
    }
}

fn redirect(to: &str) -> Action {
    Action::Redirect {
        to: to.parse().unwrap(),
        code: RedirectCode::DEFAULT,
    }
}

fn table(deployments: &[(&str, Spec)]) -> RouteTable {
    let mut sim = Sim::new(1, 8);
    for (name, spec) in deployments {
        sim.create(name, spec.clone(), 1);
    }
    build(&sim.state, &sim.view)
}

/// `GET` without header fields, in words: who answers and how.
fn got(table: &RouteTable, host: &str, path: &str) -> String {
    asked(table, host, "GET", path, None)
}

fn asked(table: &RouteTable, host: &str, method: &str, path: &str, beta: Option<&str>) -> String {
    let request = RequestView {
        method,
        path,
        header: &|name| beta.filter(|_| name == "x-beta").map(str::as_bytes),
    };
    let Some(found) = table.find(host, &request) else {
        return "nobody".to_owned();
    };
    let by = &found.route.deployment;
    match found.action {
        FoundAction::Forward { strip_bytes } => {
            format!("{by} {}", path::stripped(path, strip_bytes))
        }
        FoundAction::Redirect { to, code, .. } => format!("{by} {} {to}", code.get()),
        FoundAction::Answer { code, .. } => format!("{by} {}", code.get()),
        FoundAction::Missing { deployment } => format!("{by} misses {deployment}"),
    }
}

#[test]
fn a_host_alone_finds_a_plain_deployment() {
    let table = table(&[("app", service_spec())]);
    for host in ["app.example.test", "APP.example.test.:80"] {
        assert_eq!(got(&table, host, "/x"), "app /x");
        assert_eq!(got(&table, host, "*"), "app *");
    }
    assert_eq!(got(&table, "www.app.example.test", "/"), "nobody");
}

#[test]
fn exact_goes_before_the_star_and_the_longest_path_first() {
    let table = table(&[
        ("wide", named(&["*.a.test"], vec![])),
        ("one", named(&["one.a.test", "two.a.test/api"], vec![])),
        (
            "deep",
            named(
                &["*.b.a.test", "one.a.test/deep/er", "*.a.test/star"],
                vec![],
            ),
        ),
        ("shop", named(&["one.a.test/deep"], vec![])),
    ]);
    for (host, path, found) in [
        ("x.a.test", "/", "wide /"),
        ("x.a.test", "/star/x", "deep /star/x"),
        ("one.a.test", "/", "one /"),
        ("one.a.test", "/star", "one /star"),
        ("one.a.test", "/deep", "shop /deep"),
        ("one.a.test", "/deeper", "one /deeper"),
        ("one.a.test", "/deep/er", "deep /deep/er"),
        ("two.a.test", "/api/x", "one /api/x"),
        // Nobody has the rest of it by name, so it is like any other under the star.
        ("two.a.test", "/", "wide /"),
        ("x.b.a.test", "/", "deep /"),
        ("b.a.test", "/", "wide /"),
        ("x.y.b.a.test", "/", "nobody"),
        ("a.test", "/", "nobody"),
        (".a.test", "/", "nobody"),
    ] {
        assert_eq!(got(&table, host, path), found, "{host}{path}");
    }
    assert_eq!(table.route("one.a.test").unwrap().deployment, name("one"));
    assert_eq!(table.route("x.a.test").unwrap().deployment, name("wide"));
    assert!(table.route("x.y.a.test").is_none());
}

#[test]
fn rules_are_looked_at_by_their_paths_then_in_order() {
    let beta: FieldMatch = "x-beta: on".parse().unwrap();
    let rules = vec![
        rule("/", redirect("https://www.a.test{path}{query}")).on_host("old.a.test"),
        rule("/api", forward(Some("api"), true)),
        rule("/api/v1", answer(410)),
        Rule {
            methods: vec!["POST".parse().unwrap()],
            ..rule("/form", answer(405))
        },
        Rule {
            headers: vec![beta],
            ..rule("/", forward(Some("beta"), false))
        },
        rule("/own", forward(Some("shop"), true)),
    ];
    let table = table(&[
        ("api", named(&[], vec![rule("/", answer(500))])),
        ("beta", service_spec()),
        ("shop", named(&["old.a.test"], rules)),
    ]);
    let host = "shop.example.test";
    for (path, found) in [
        ("/", "shop /"),
        ("/api", "api /"),
        ("/api/", "api /"),
        ("/api/v2/x", "api /v2/x"),
        ("/api/v1/x", "shop 410"),
        ("/apis", "shop /apis"),
        ("/form", "shop /form"),
        ("/own/x", "shop /x"),
        ("*", "shop *"),
    ] {
        assert_eq!(got(&table, host, path), found, "{path}");
    }
    assert_eq!(asked(&table, host, "POST", "/form", None), "shop 405");
    assert_eq!(asked(&table, host, "GET", "/", Some("on")), "beta /");
    assert_eq!(asked(&table, host, "GET", "/", Some("off")), "shop /");
    assert_eq!(asked(&table, host, "GET", "/api", Some("on")), "api /");
    assert_eq!(
        got(&table, "old.a.test", "/x"),
        "shop 308 https://www.a.test{path}{query}"
    );
    // The rules of the one it leads to are its own affair.
    assert_eq!(got(&table, "api.example.test", "/"), "api 500");
}

#[test]
fn a_rule_may_outlive_the_deployment_it_leads_to() {
    let mut sim = Sim::new(1, 8);
    sim.create("api", service_spec(), 1);
    sim.create(
        "shop",
        named(&[], vec![rule("/api", forward(Some("api"), false))]),
        1,
    );
    let first = build(&sim.state, &sim.view);
    assert_eq!(got(&first, "shop.example.test", "/api"), "api /api");
    sim.ok(Command::RemoveDeployment { name: name("api") });
    let second = first.rebuild(&sim.state, &sim.view);
    assert_eq!(got(&second, "shop.example.test", "/api"), "shop misses api");
    assert_eq!(got(&second, "shop.example.test", "/"), "shop /");
    let route = |table: &RouteTable| Arc::clone(table.route("shop.example.test").unwrap());
    assert!(
        Arc::ptr_eq(&route(&first), &route(&second)),
        "it is unchanged"
    );
}

#[test]
fn names_are_had_at_once_and_the_rest_comes_with_the_release() {
    let mut sim = Sim::new(1, 8);
    sim.create("shop", named(&["a.test"], vec![rule("/x", answer(404))]), 1);
    sim.settle();
    sim.ok(Command::UpdateDeployment {
        name: name("shop"),
        based_on: None,
        spec: Some(named(&["b.test"], vec![rule("/x", answer(410))])),
        artifact: Digest([2; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    });
    let before = build(&sim.state, &sim.view);
    // Until the new release is good the names are those of both: the old one may have to come back.
    assert_eq!(got(&before, "a.test", "/x"), "shop 404");
    assert_eq!(got(&before, "b.test", "/x"), "shop 404");
    sim.settle();
    let after = before.rebuild(&sim.state, &sim.view);
    assert_eq!(got(&after, "a.test", "/x"), "nobody");
    assert_eq!(got(&after, "b.test", "/x"), "shop 410");
}

fn change(sim: &mut Sim, deployment: &str, spec: Spec) {
    sim.ok(Command::UpdateDeployment {
        name: name(deployment),
        based_on: None,
        spec: Some(spec),
        artifact: Digest([1; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    });
}

#[test]
fn a_policy_alone_changes_at_once_and_replaces_no_instance() {
    let site = |code| Spec {
        http: named(&[], vec![rule("/x", answer(code))]).http,
        ..static_spec()
    };
    let mut sim = Sim::new(3, 8);
    sim.create("shop", named(&[], vec![rule("/x", answer(404))]), 3);
    sim.create("site", site(404), 1);
    sim.settle();
    let before = sim.state.instances.clone();
    change(
        &mut sim,
        "shop",
        named(&["a.test"], vec![rule("/x", answer(410))]),
    );
    change(&mut sim, "site", site(410));
    let table = build(&sim.state, &sim.view);
    assert_eq!(got(&table, "a.test", "/x"), "shop 410");
    assert_eq!(got(&table, "site.example.test", "/x"), "site 410");
    sim.settle();
    assert_eq!(sim.state.instances, before);
    // A new instance is of the newer release, and serves beside the others.
    sim.scale("shop", 4);
    sim.see_node(4, 8);
    sim.ok(join_command("all", 4));
    sim.arrive(4);
    sim.settle();
    let table = build(&sim.state, &sim.view);
    for host in ["shop.example.test", "site.example.test"] {
        assert_eq!(table.route(host).unwrap().endpoints.len(), 4, "{host}");
    }
    // The same spec again is what it always was: a new release for everybody.
    let epoch = |sim: &Sim| sim.state.deployments[&name("shop")].epoch;
    let last = epoch(&sim);
    change(
        &mut sim,
        "shop",
        named(&["a.test"], vec![rule("/x", answer(410))]),
    );
    assert_eq!(epoch(&sim), last + 1);
}

#[test]
fn weights_divide_the_endpoints() {
    let mut sim = Sim::new(3, 8);
    let weighted = with(HttpPolicy {
        weights: Weights([(ReleaseNumber(1), 3), (ReleaseNumber(2), 1)].into()),
        ..HttpPolicy::default()
    });
    sim.create("app", weighted, 3);
    sim.settle();
    sim.update("app", 2);
    sim.step();
    let newest = *sim.state.instances.keys().next_back().unwrap();
    let seen = |sim: &Sim, draw: u64| {
        let table = build(&sim.state, &sim.view);
        let route = table.route("app.example.test").unwrap();
        route
            .endpoints_for(draw)
            .iter()
            .map(|e| e.instance.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(seen(&sim, u64::MAX), [1, 2, 3], "the new one is not ready");
    sim.tell_ready(newest);
    assert_eq!(seen(&sim, 0), [1, 2, 3]);
    assert_eq!(seen(&sim, u64::MAX), [newest.0]);
    sim.ok(Command::UpdateDeployment {
        name: name("app"),
        based_on: None,
        spec: Some(service_spec()),
        artifact: Digest([3; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    });
    sim.settle();
    assert_eq!(seen(&sim, u64::MAX).len(), 3, "no weights, no difference");
}

impl Rule {
    fn on_host(self, host: &str) -> Rule {
        Rule {
            host: Some(host.parse().unwrap()),
            ..self
        }
    }
}

/// What the documentation says, word for word and without any index.
fn naive(deployments: &[(&str, Spec)], host: &str, path: &str) -> String {
    let claims = deployments.iter().flat_map(|(name, spec)| {
        let own: Name = format!("{name}.example.test").parse().unwrap();
        let all = std::iter::once(own).chain(spec.http.names.iter().cloned());
        all.map(move |claim| (*name, spec, claim))
    });
    let covers = |claim: &Name| claim.host.covers(host) && claim.path.covers(path);
    let best = claims
        .filter(|(_, _, claim)| covers(claim))
        .max_by_key(|(_, _, claim)| {
            let exact = matches!(claim.host, HostPattern::Exact(_));
            (exact, claim.path.bytes())
        });
    let Some((name, spec, _)) = best else {
        return "nobody".to_owned();
    };
    let mut chosen: Option<&Rule> = None;
    for rule in &spec.http.rules {
        let host = rule
            .host
            .as_ref()
            .is_none_or(|pattern| pattern.covers(host));
        let longer = chosen.is_none_or(|best| rule.path.bytes() > best.path.bytes());
        if host && rule.path.covers(path) && longer {
            chosen = Some(rule);
        }
    }
    match chosen.map(|rule| (&rule.action, rule.path.bytes())) {
        None => format!("{name} {path}"),
        Some((Action::Status { code, .. }, _)) => format!("{name} {}", code.get()),
        Some((Action::Redirect { to, code }, _)) => format!("{name} {} {to}", code.get()),
        Some((Action::Forward { to, strip_prefix }, bytes)) => {
            let by = to.as_ref().map_or(name, |to| to.as_str());
            let bytes = if *strip_prefix { bytes } else { 0 };
            format!("{by} {}", path::stripped(path, bytes))
        }
    }
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let action = prop_oneof![
        (
            prop::option::of(prop::sample::select(vec!["a", "b"])),
            any::<bool>()
        )
            .prop_map(|(to, strip)| forward(to, strip)),
        prop::sample::select(vec![404, 410, 503]).prop_map(answer),
        Just(redirect("/x{rest}")),
    ];
    let host = prop::option::of(prop::sample::select(vec![
        "b.t.test",
        "*.t.test",
        "a.example.test",
    ]));
    (host, "(/[xy]){0,3}/?", action).prop_map(|(host, path, action)| {
        let path = if path.is_empty() { "/" } else { &path };
        let rule = rule(path, action);
        match host {
            Some(host) => rule.on_host(host),
            None => rule,
        }
    })
}

fn any_name() -> impl Strategy<Value = Name> {
    let host = prop::sample::select(vec![
        "b.t.test",
        "c.t.test",
        "*.t.test",
        "*.b.t.test",
        "a.example.test",
    ]);
    (host, "(/[xy]){0,2}").prop_map(|(host, path)| format!("{host}{path}").parse().unwrap())
}

proptest! {
    #[test]
    fn finding_equals_a_naive_search(
        policies in prop::collection::vec(
            (prop::collection::btree_set(any_name(), 0..5), prop::collection::vec(any_rule(), 0..6)), 2..4),
        host in prop::sample::select(vec!["a.example.test", "b.example.test", "b.t.test", "c.t.test", "d.t.test",
            "x.b.t.test", "t.test", "x.y.t.test"]),
        path in "(/[xy]z?){0,4}/?",
    ) {
        // Names are claimed once, and `a` has its own.
        let mut claimed: BTreeSet<Name> = ["a.example.test".parse().unwrap()].into();
        let mut specs = Vec::new();
        for (i, (names, rules)) in policies.into_iter().enumerate() {
            let names = names.into_iter().filter(|name| claimed.insert(name.clone())).collect();
            let name = ["a", "b", "c"][i];
            specs.push((name, with(HttpPolicy { names, rules, ..HttpPolicy::default() })));
        }
        let mut sim = Sim::new(1, 8);
        for (name, spec) in &specs {
            sim.create(name, service_spec(), 1);
            // As if it had been checked: rules may here be about hosts that are others'.
            let name = crate::testing::name(name);
            let deployment = sim.state.deployments.get_mut(&name).unwrap();
            let release = Release { spec: spec.clone(), ..(**deployment.current()).clone() };
            deployment.releases = imbl::Vector::unit(Arc::new(release));
        }
        let table = build(&sim.state, &sim.view);
        let path = if path.is_empty() { "/".to_owned() } else { path };
        prop_assert_eq!(got(&table, host, &path), naive(&specs, host, &path));
        let again = table.rebuild(&sim.state, &sim.view);
        for (host, route) in table.iter() {
            prop_assert!(again.iter().any(|(name, same)| name == host && Arc::ptr_eq(route, same)));
        }
    }
}
