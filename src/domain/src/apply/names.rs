//! Whose a name is. Each deployment has `<name>.<tld>`, and what names its policy claims besides; nobody else's.

use crate::command::Rejection;
use crate::excerpt::excerpt;
use crate::http::{Action, HostPattern, HttpError, Name, Rule, behind_first_label};
use crate::names::DeploymentName;
use crate::spec::{HOST_BYTES_MAX, Spec, SpecError};
use crate::state::{Deployment, State};
use crate::text::nearest;

/// Names that are compared for a suggestion: some milliseconds' work at most, while others' changes wait.
const SUGGESTED_AMONG: usize = 1_000;

/// Checks a spec, and that its names are free or the deployment's own.
pub(super) fn check(state: &State, name: &DeploymentName, spec: &Spec) -> Result<(), Rejection> {
    spec.check()?;
    spec.check_for(name)?;
    let host_bytes = name.as_str().len() + 1 + spec.tld.as_str().len();
    if host_bytes > HOST_BYTES_MAX {
        return Err(SpecError::HostTooLong { host_bytes }.into());
    }
    let host = format!("{name}.{}", spec.tld);
    // Both parts were checked, and so was their length.
    let own: Name = host
        .parse()
        .map_err(|e| SpecError::Http(HttpError::new("names", e)))?;
    for claimed in std::iter::once(&own).chain(&spec.http.names) {
        if let Some(other) = holder(state, claimed).filter(|holder| *holder != name) {
            return Err(Rejection::NameTaken {
                name: excerpt(&claimed.to_string()),
                deployment: other.clone(),
            });
        }
    }
    let before = state.deployments.get(name);
    let before = before.map_or(&[][..], |d| &d.current().spec.http.rules);
    for (i, rule) in spec.http.rules.iter().enumerate() {
        let at = |part: &str| format!("rules[{i}].{part}");
        check_host(rule, &own, spec)
            .map_err(|reason| SpecError::Http(HttpError::new(at("host"), reason)))?;
        // A rule that has outlived the deployment it leads to must not stand in the way of a repair.
        if !before.contains(rule) {
            check_target(state, name, rule)
                .map_err(|reason| SpecError::Http(HttpError::new(at("to"), reason)))?;
        }
    }
    Ok(())
}

/// The deployment that has a name now.
fn holder<'a>(state: &'a State, name: &Name) -> Option<&'a DeploymentName> {
    if let Some(holder) = state.names.get(name) {
        return Some(holder);
    }
    let HostPattern::Exact(host) = &name.host else {
        return None;
    };
    // A host's first label is the name of the only deployment that could have it by itself.
    let tld = behind_first_label(host.as_str()).filter(|_| name.path.is_root())?;
    let label = host.as_str().split('.').next().unwrap_or_default();
    let present = state
        .deployments
        .get(&label.parse::<DeploymentName>().ok()?)?;
    let has = !present.removing && present.current().spec.tld.as_str() == tld;
    has.then_some(&present.name)
}

/// A rule about a host that none of the names covers would never be followed.
fn check_host(rule: &Rule, own: &Name, spec: &Spec) -> Result<(), String> {
    let Some(host) = &rule.host else {
        return Ok(());
    };
    let hosts = || {
        std::iter::once(own)
            .chain(&spec.http.names)
            .map(|name| &name.host)
    };
    let covered = hosts().any(|known| match host {
        HostPattern::Exact(exact) => known.covers(exact.as_str()),
        HostPattern::Wildcard(_) => known == host,
    });
    if covered {
        return Ok(());
    }
    let known: Vec<String> = hosts().map(ToString::to_string).collect();
    let host = host.to_string();
    let instead = match nearest(&host, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean '{near}'?"),
        None => "add it to 'names'".to_owned(),
    };
    Err(format!(
        "'{}' is none of the deployment's names: {instead}",
        excerpt(&host)
    ))
}

fn check_target(state: &State, name: &DeploymentName, rule: &Rule) -> Result<(), String> {
    let Action::Forward { to: Some(to), .. } = &rule.action else {
        return Ok(());
    };
    let there = |d: &Deployment| !d.removing;
    if to == name || state.deployments.get(to).is_some_and(there) {
        return Ok(());
    }
    let known = state.deployments.keys().map(DeploymentName::as_str);
    let known = known.take(SUGGESTED_AMONG);
    Err(match nearest(to.as_str(), known) {
        Some(near) => format!("there is no deployment named '{to}': did you mean '{near}'?"),
        None => format!("there is no deployment named '{to}'"),
    })
}

/// Gives back the names that a deployment has had, and takes those that it has from now on.
pub(super) fn hand_over(state: &mut State, changed: &Deployment) {
    if let Some(before) = state.deployments.get(&changed.name) {
        if before.claimed_names() == changed.claimed_names() {
            return;
        }
        for name in before.claimed_names() {
            state.names.remove(&name);
        }
    }
    for name in changed.claimed_names() {
        state.names.insert(name, changed.name.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::command::Command;
    use crate::http::HttpPolicy;
    use crate::ids::Digest;
    use crate::testing::*;

    fn with(http: HttpPolicy) -> Spec {
        Spec {
            http: Arc::new(http),
            ..static_spec()
        }
    }

    fn named(names: &[&str]) -> Spec {
        with(HttpPolicy {
            names: names.iter().map(|n| n.parse().unwrap()).collect(),
            ..HttpPolicy::default()
        })
    }

    fn create(name: &str, spec: Spec) -> Command {
        Command::CreateDeployment {
            name: self::name(name),
            spec,
            scale: 1,
            artifact: Digest([1; 32]),
            artifact_bytes: 1,
            origin: Default::default(),
            now: NOW,
        }
    }

    fn update(name: &str, spec: Spec) -> Command {
        Command::UpdateDeployment {
            name: self::name(name),
            based_on: None,
            spec: Some(spec),
            artifact: Digest([1; 32]),
            artifact_bytes: 1,
            origin: Default::default(),
            now: NOW,
        }
    }

    #[track_caller]
    fn taken(sim: &mut Sim, command: Command, name: &str, by: &str) {
        let refused = Rejection::NameTaken {
            name: name.to_owned(),
            deployment: self::name(by),
        };
        assert_eq!(sim.run(command), Err(refused));
    }

    fn index_follows(sim: &Sim) {
        let mut again = sim.state.clone();
        again.index_names();
        assert_eq!(again.names, sim.state.names);
    }

    #[test]
    fn a_name_has_one_deployment() {
        let mut sim = Sim::new(1, 8);
        sim.ok(create("shop", named(&["a.test", "*.a.test", "b.test/x"])));
        taken(
            &mut sim,
            create("other", named(&["c.test", "a.test"])),
            "a.test",
            "shop",
        );
        taken(
            &mut sim,
            create("other", named(&["*.a.test"])),
            "*.a.test",
            "shop",
        );
        taken(
            &mut sim,
            create("other", named(&["b.test/x"])),
            "b.test/x",
            "shop",
        );
        taken(
            &mut sim,
            create("other", named(&["shop.example.test"])),
            "shop.example.test",
            "shop",
        );
        // Another path, another host under the star, another top: each is somebody's own.
        sim.ok(create(
            "other",
            named(&["b.test", "www.a.test", "shop.example.test/x", "shop.b.test"]),
        ));
        index_follows(&sim);
        // Its own names are no conflict.
        sim.ok(update(
            "shop",
            named(&["a.test", "shop.example.test", "b.test/x"]),
        ));
        index_follows(&sim);
        sim.ok(create("third", named(&["*.a.test"])));
        index_follows(&sim);
    }

    #[test]
    fn a_deployment_is_refused_whose_own_name_is_another_s() {
        let mut sim = Sim::new(1, 8);
        sim.ok(create("shop", named(&["api.example.test"])));
        taken(
            &mut sim,
            create("api", static_spec()),
            "api.example.test",
            "shop",
        );
        let elsewhere = Spec {
            tld: "b.test".parse().unwrap(),
            ..static_spec()
        };
        sim.ok(create("api", elsewhere));
        taken(
            &mut sim,
            update("api", static_spec()),
            "api.example.test",
            "shop",
        );
        sim.ok(update("shop", static_spec()));
        sim.ok(update("api", static_spec()));
        index_follows(&sim);
    }

    #[test]
    fn names_are_free_when_their_deployment_is_removed() {
        let mut sim = Sim::new(1, 8);
        sim.ok(create("shop", named(&["a.test"])));
        sim.settle();
        sim.ok(Command::RemoveDeployment { name: name("shop") });
        assert!(
            sim.state.deployments.contains_key(&name("shop")),
            "its instance is left"
        );
        sim.ok(create("next", named(&["a.test", "shop.example.test"])));
        sim.settle();
        assert_eq!(sim.state.names.len(), 2);
        index_follows(&sim);
    }

    #[test]
    fn rules_speak_of_names_and_deployments_that_are_there() {
        let mut sim = Sim::new(1, 8);
        sim.ok(create("api", static_spec()));
        let ruled = |host: Option<&str>, to: Option<&str>| {
            let rule = Rule {
                host: host.map(|h| h.parse().unwrap()),
                action: Action::Forward {
                    to: to.map(name),
                    strip_prefix: false,
                },
                ..Rule::default()
            };
            with(HttpPolicy {
                names: vec!["*.a.test".parse().unwrap()],
                rules: vec![Rule::default(), rule],
                ..HttpPolicy::default()
            })
        };
        for (spec, field, reason) in [
            (
                ruled(Some("elsewhere.com"), None),
                "rules[1].host",
                "add it to 'names'",
            ),
            (ruled(Some("*.b.test"), None), "rules[1].host", "'*.a.test'"),
            (
                ruled(None, Some("aip")),
                "rules[1].to",
                "did you mean 'api'?",
            ),
            (
                ruled(None, Some("nothing-like-it")),
                "rules[1].to",
                "no deployment",
            ),
        ] {
            let Err(Rejection::Spec(SpecError::Http(error))) = sim.run(create("shop", spec)) else {
                panic!("{field}: {reason}");
            };
            assert_eq!(error.field, field);
            assert!(error.reason.contains(reason), "{error}");
        }
        for spec in [
            ruled(Some("x.a.test"), Some("api")),
            ruled(Some("shop.example.test"), Some("shop")),
            ruled(Some("*.a.test"), None),
        ] {
            assert!(sim.would(create("shop", spec)).is_ok());
        }
        sim.ok(create("shop", ruled(None, Some("api"))));
        sim.ok(Command::RemoveDeployment { name: name("api") });
        assert!(sim.would(update("shop", ruled(None, Some("api")))).is_ok());
        assert!(
            sim.would(update("shop", ruled(Some("*.a.test"), Some("api"))))
                .is_err()
        );
    }

    impl Sim {
        /// What would become of a command.
        fn would(&self, command: Command) -> Result<(), Rejection> {
            let mut state = self.state.clone();
            let id = crate::RequestId(u128::MAX);
            crate::apply(&mut state, &crate::Request::new(id, command)).map(|_| ())
        }
    }
}
