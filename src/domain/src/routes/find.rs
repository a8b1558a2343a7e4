//! From a request to its route: the host, then the path, then the rules.
//!
//! An exact host goes before a wildcard; a star is one label, so no two wildcards of different length
//! cover one host. Of what is claimed of a host the longest path counts, and if none covers the request's
//! the wildcard is asked. Of a deployment's rules the one with the longest path that accepts the request
//! counts, of equally long ones the first; if none does, the request goes to the deployment itself.

use std::borrow::Cow;
use std::sync::Arc;

use super::hosts::{Host, Part};
use super::{Route, RouteTable};
use crate::http::{Action, AnswerCode, RedirectCode, RedirectTarget, Rule, behind_first_label};
use crate::names::DeploymentName;
use crate::spec::HOST_BYTES_MAX;

/// What rules look at in a request.
#[derive(Clone, Copy)]
pub struct RequestView<'a> {
    pub method: &'a str,
    /// Without the query, in the form of [`crate::http::path::canonical`]: a rule about `/admin` must hold for
    /// `/%61dmin` too. [`FoundAction::Forward`] counts in these bytes.
    pub path: &'a str,
    /// The first field with this name, which is in lower case.
    pub header: &'a dyn Fn(&str) -> Option<&'a [u8]>,
}

/// Who answers a request, and how.
#[derive(Debug, Clone, Copy)]
pub struct Found<'t> {
    /// The deployment that answers, whose policy holds. For a redirect or a fixed answer the one whose rule it is.
    pub route: &'t Arc<Route>,
    pub action: FoundAction<'t>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundAction<'t> {
    /// To an instance or a file, so many bytes of the path left out: see [`crate::http::path::stripped`].
    Forward {
        strip_bytes: usize,
    },
    Redirect {
        to: &'t RedirectTarget,
        code: RedirectCode,
        /// What `{rest}` leaves out.
        prefix_bytes: usize,
    },
    Answer {
        code: AnswerCode,
        body: &'t str,
    },
    /// A rule leads to a deployment that was removed since: 503.
    Missing {
        deployment: &'t DeploymentName,
    },
}

impl RouteTable {
    /// Where a request goes, by the value of its `Host` field: a port and a trailing dot are ignored, and so is
    /// case. None: nobody has the host, or nobody the path on it.
    pub fn find(&self, host: &str, request: &RequestView<'_>) -> Option<Found<'_>> {
        let name = bare(host)?;
        let exact = self.exact.get(&name);
        if let Some(Host::Plain(route)) = exact {
            return Some(to(route));
        }
        exact
            .and_then(|host| self.within(host, &name, request))
            .or_else(|| {
                let host = self.wildcards.get(behind_first_label(&name)?)?;
                self.within(host, &name, request)
            })
    }

    /// Whose the host is, whatever the request says besides: the deployment that has its shortest path.
    pub fn route(&self, host: &str) -> Option<&Arc<Route>> {
        let name = bare(host)?;
        let host = self
            .exact
            .get(&name)
            .or_else(|| self.wildcards.get(behind_first_label(&name)?))?;
        host.routes().last()
    }

    /// The route of a deployment that a request for this host has found in an earlier table.
    pub fn again(&self, host: &str, deployment: &DeploymentName) -> Option<&Arc<Route>> {
        let name = bare(host)?;
        let wildcard = || {
            self.wildcards
                .route_of(behind_first_label(&name)?, deployment)
        };
        self.exact
            .route_of(&name, deployment)
            .or_else(wildcard)
            .or_else(|| self.targets.get(deployment))
    }

    fn within<'t>(
        &'t self,
        host: &'t Host,
        name: &str,
        request: &RequestView<'_>,
    ) -> Option<Found<'t>> {
        match host {
            Host::Plain(route) => Some(to(route)),
            Host::Divided(parts) => {
                let part = parts.iter().find(|part| part.path.covers(request.path))?;
                Some(self.by_rules(part, name, request))
            }
        }
    }

    fn by_rules<'t>(&'t self, part: &'t Part, name: &str, request: &RequestView<'_>) -> Found<'t> {
        let route = &part.route;
        let rules = route
            .order
            .iter()
            .map(|number| &route.policy.rules[*number]);
        match rules.into_iter().find(|rule| accepts(rule, name, request)) {
            Some(rule) => self.act(route, rule),
            None => to(route),
        }
    }

    fn act<'t>(&'t self, route: &'t Arc<Route>, rule: &'t Rule) -> Found<'t> {
        let prefix_bytes = rule.path.bytes();
        let (route, action) = match &rule.action {
            Action::Forward { to, strip_prefix } => {
                let strip_bytes = if *strip_prefix { prefix_bytes } else { 0 };
                let forward = FoundAction::Forward { strip_bytes };
                match to {
                    Some(other) if *other != route.deployment => match self.targets.get(other) {
                        Some(target) => (target, forward),
                        None => (route, FoundAction::Missing { deployment: other }),
                    },
                    _ => (route, forward),
                }
            }
            Action::Redirect { to, code } => {
                let code = *code;
                let redirect = FoundAction::Redirect {
                    to,
                    code,
                    prefix_bytes,
                };
                (route, redirect)
            }
            Action::Status { code, body } => (route, FoundAction::Answer { code: *code, body }),
        };
        Found { route, action }
    }

    /// All exact hosts with those who have them, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Route>)> {
        self.exact
            .iter()
            .flat_map(|(name, host)| host.routes().map(move |route| (name, route)))
    }

    /// How many hosts and paths of hosts it knows, those with a star left out.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

fn to(route: &Arc<Route>) -> Found<'_> {
    Found {
        route,
        action: FoundAction::Forward { strip_bytes: 0 },
    }
}

/// The host without port and trailing dot, in lower case; none that is too long for a name.
fn bare(host: &str) -> Option<Cow<'_, str>> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > HOST_BYTES_MAX {
        return None;
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Some(Cow::Owned(name.to_ascii_lowercase()));
    }
    Some(Cow::Borrowed(name))
}

fn accepts(rule: &Rule, host: &str, request: &RequestView<'_>) -> bool {
    let method = || rule.methods.iter().any(|m| m.as_str() == request.method);
    rule.path.covers(request.path)
        && rule
            .host
            .as_ref()
            .is_none_or(|pattern| pattern.covers(host))
        && (rule.methods.is_empty() || method())
        && rule
            .headers
            .iter()
            .all(|field| field.accepts((request.header)(field.name.as_str())))
}
