//! Hosts, and what of each belongs to whom.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::Route;
use crate::http::PathPrefix;
use crate::names::DeploymentName;

#[derive(Debug, Default)]
pub(super) struct Hosts(HashMap<String, Host>);

#[derive(Debug)]
pub(super) enum Host {
    /// All of it is one deployment's, which has no rules. Nearly all hosts are, and nothing of a request
    /// but its host is looked at.
    Plain(Arc<Route>),
    /// Longest path first.
    Divided(Vec<Part>),
}

/// What lies under one path of a host.
#[derive(Debug)]
pub(super) struct Part {
    pub path: PathPrefix,
    pub route: Arc<Route>,
}

impl Host {
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        let (plain, parts) = match self {
            Host::Plain(route) => (Some(route), &[][..]),
            Host::Divided(parts) => (None, parts.as_slice()),
        };
        plain
            .into_iter()
            .chain(parts.iter().map(|part| &part.route))
    }
}

impl Hosts {
    pub fn get(&self, host: &str) -> Option<&Host> {
        self.0.get(host)
    }

    pub fn route_of(&self, host: &str, deployment: &DeploymentName) -> Option<&Arc<Route>> {
        self.get(host)?
            .routes()
            .find(|route| route.deployment == *deployment)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Host)> {
        self.0.iter().map(|(name, host)| (name.as_str(), host))
    }

    /// Adds a path of a host. What is there already stays: names are claimed once.
    pub fn add(&mut self, host: String, path: PathPrefix, route: &Arc<Route>) {
        let part = Part {
            path,
            route: Arc::clone(route),
        };
        match self.0.entry(host) {
            Entry::Vacant(free) => {
                let plain = part.path.is_root() && part.route.policy.rules.is_empty();
                free.insert(match plain {
                    true => Host::Plain(part.route),
                    false => Host::Divided(vec![part]),
                });
            }
            Entry::Occupied(mut taken) => taken.get_mut().add(part),
        }
    }
}

impl Host {
    fn add(&mut self, part: Part) {
        if let Host::Plain(route) = self {
            if part.path.is_root() {
                return;
            }
            let all = Part {
                path: PathPrefix::root(),
                route: Arc::clone(route),
            };
            *self = Host::Divided(vec![all]);
        }
        let Host::Divided(parts) = self else {
            return;
        };
        if parts.iter().any(|present| present.path == part.path) {
            return;
        }
        let at = parts.partition_point(|present| present.path.bytes() >= part.path.bytes());
        parts.insert(at, part);
    }
}
