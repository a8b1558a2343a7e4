//! What a deployment says about its HTTP: its names, who may come in, how much, and how answers look.
//!
//! Everything has a default, and a policy of defaults is what a deployment without any policy has. Pure data
//! with checks; the proxy carries it out. `docs/http.md` is the same for people.

mod auth;
pub mod cache;
mod cors;
mod edge;
pub(crate) mod error;
mod fields;
pub mod limits;
mod name;
mod networks;
pub mod path;
mod protect;
mod redirect;
mod rules;
mod security;
mod size;
#[cfg(test)]
mod tests;
mod weights;

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

pub use auth::{BasicAuth, PASSWORD_BYTES_MAX, PASSWORD_COST, PasswordHash, User, UserName};
pub use cors::{Cors, Origin};
pub use edge::{AccessLog, Cache, Https, Upstream};
pub use error::{HttpError, TextError};
pub use fields::{FieldMatch, FieldName, FieldValue, ResponseField};
pub use name::{HostPattern, Name, behind_first_label};
pub use networks::{AddressRules, Network};
pub use path::PathPrefix;
pub use protect::{Maintenance, RateRule, RequestLimits};
pub use redirect::{RedirectCode, RedirectParts, RedirectTarget};
pub use rules::{Action, AnswerCode, Method, Rule};
pub use security::{Hsts, SecurityHeaders};
pub use size::ByteSize;
pub use weights::{Shares, Weights};

use crate::excerpt::excerpt;
use crate::traffic::balance::Balance;
use crate::traffic::breaker::BreakerPolicy;
use crate::traffic::ejection::EjectionPolicy;
use crate::traffic::retry::{Deadlines, Hedge, RetryPolicy};
use crate::traffic::shed::Capacity;
use crate::traffic::slow_start::SlowStart;
use crate::traffic::sticky::StickyPolicy;
use error::within;
use limits::{HTTP_BYTES, HTTP_NAMES, HTTP_RULES, RATE_LIMITS, RESPONSE_HEADERS};

/// All of it. Checked by [`HttpPolicy::check`] before it is proposed and again on apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpPolicy {
    /// Besides `<name>.<tld>`.
    pub names: Vec<Name>,
    pub rules: Vec<Rule>,
    pub weights: Weights,
    pub https: Https,
    pub limits: RequestLimits,
    pub deadlines: Deadlines,
    pub capacity: Capacity,
    /// All of them hold; the first that refuses a request answers it.
    pub rate_limits: Vec<RateRule>,
    pub retry: RetryPolicy,
    pub hedge: Option<Hedge>,
    pub upstream: Upstream,
    pub balance: Balance,
    pub sticky: Option<StickyPolicy>,
    pub ejection: Option<EjectionPolicy>,
    pub breaker: Option<BreakerPolicy>,
    pub slow_start: Option<SlowStart>,
    pub security: SecurityHeaders,
    pub cors: Cors,
    pub maintenance: Maintenance,
    pub basic_auth: BasicAuth,
    pub addresses: AddressRules,
    pub cache: Cache,
    pub access_log: AccessLog,
    pub response_headers: Vec<ResponseField>,
}

impl Default for HttpPolicy {
    fn default() -> Self {
        HttpPolicy {
            names: Vec::new(),
            rules: Vec::new(),
            weights: Weights::default(),
            https: Https::default(),
            limits: RequestLimits::default(),
            deadlines: Deadlines::default(),
            capacity: Capacity::default(),
            rate_limits: Vec::new(),
            retry: RetryPolicy::default(),
            hedge: None,
            upstream: Upstream::default(),
            balance: Balance::default(),
            sticky: None,
            // An instance that cannot be reached is left out for a while, whatever else is said.
            ejection: Some(EjectionPolicy::default()),
            // Off, because what an application means by its errors only its author knows.
            breaker: None,
            slow_start: None,
            security: SecurityHeaders::default(),
            cors: Cors::default(),
            maintenance: Maintenance::default(),
            basic_auth: BasicAuth::default(),
            addresses: AddressRules::default(),
            cache: Cache::default(),
            access_log: AccessLog::default(),
            response_headers: Vec::new(),
        }
    }
}

/// What nearly all releases share.
static DEFAULT: LazyLock<Arc<HttpPolicy>> = LazyLock::new(Arc::default);

impl HttpPolicy {
    /// The policy of a deployment that says nothing, always the same object.
    pub fn shared() -> Arc<HttpPolicy> {
        Arc::clone(&DEFAULT)
    }

    pub fn check(&self) -> Result<(), HttpError> {
        within("names", HTTP_NAMES, "the number of names", self.names.len())?;
        let mut seen = BTreeSet::new();
        for (i, name) in self.names.iter().enumerate() {
            if !seen.insert(name) {
                let twice = format!("'{}' is there twice", excerpt(&name.to_string()));
                return Err(HttpError::new(format!("names[{i}]"), twice));
            }
        }
        within("rules", HTTP_RULES, "the number of rules", self.rules.len())?;
        for (i, rule) in self.rules.iter().enumerate() {
            rule.check(&format!("rules[{i}]"))?;
        }
        self.weights.check()?;
        self.limits.check()?;
        let limits = self.rate_limits.len();
        within(
            "rate_limits",
            RATE_LIMITS,
            "the number of rate limits",
            limits,
        )?;
        for (i, rule) in self.rate_limits.iter().enumerate() {
            rule.check(&format!("rate_limits[{i}]"))?;
        }
        self.check_traffic()?;
        self.security.check()?;
        self.cors.check()?;
        self.maintenance.check()?;
        self.basic_auth.check()?;
        self.addresses.check()?;
        self.cache.check()?;
        let headers = self.response_headers.len();
        within(
            "response_headers",
            RESPONSE_HEADERS,
            "the number of headers",
            headers,
        )?;
        HTTP_BYTES
            .check("the size of all texts in bytes", self.text_bytes())
            .map_err(|e| HttpError::new("names, rules, pages and lists", e))
    }

    fn check_traffic(&self) -> Result<(), HttpError> {
        let at = |field: &'static str| move |error| HttpError::new(field, error);
        self.deadlines.check().map_err(at("deadlines"))?;
        if self.deadlines.per_try > self.deadlines.whole {
            return Err(HttpError::new(
                "deadlines",
                "per_try is longer than whole: one try may last no longer than all of them",
            ));
        }
        self.capacity.check().map_err(at("capacity"))?;
        self.retry.check().map_err(at("retry"))?;
        self.balance.check().map_err(at("balance"))?;
        if let Some(hedge) = &self.hedge {
            hedge.check().map_err(at("hedge"))?;
        }
        if let Some(sticky) = &self.sticky {
            sticky.check().map_err(at("sticky"))?;
        }
        if let Some(ejection) = &self.ejection {
            ejection.check().map_err(at("ejection"))?;
        }
        if let Some(breaker) = &self.breaker {
            breaker.check().map_err(at("breaker"))?;
        }
        match &self.slow_start {
            Some(slow_start) => slow_start.check().map_err(at("slow_start")),
            None => Ok(()),
        }
    }

    /// The texts that may be long; the rest of a policy has a fixed size.
    fn text_bytes(&self) -> usize {
        /// An address and a length in their longest form.
        const NETWORK: usize = 43;
        let names = self.names.iter().map(|n| n.to_string().len());
        let rules = self.rules.iter().map(Rule::text_bytes);
        let exempt = self.rate_limits.iter().flat_map(|r| &r.exempt);
        let users = self.basic_auth.users.iter();
        let headers = self.response_headers.iter();
        let networks =
            self.addresses.allow.len() + self.addresses.deny.len() + self.maintenance.exempt.len();
        names.sum::<usize>()
            + rules.sum::<usize>()
            + exempt.map(PathPrefix::bytes).sum::<usize>()
            + users
                .map(|u| u.name.as_str().len() + u.hash.as_str().len())
                .sum::<usize>()
            + headers
                .map(|h| h.name.as_str().len() + h.value.as_str().len())
                .sum::<usize>()
            + networks * NETWORK
            + self.maintenance.page.len()
            + self.security.text_bytes()
            + self.cors.text_bytes()
    }
}
