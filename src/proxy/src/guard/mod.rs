//! Whom a deployment's policy lets in: looked at before a request costs anything more.
//!
//! In this order, so that the cheapest goes first and nobody learns a password by asking fast: address, maintenance, sizes, rate,
//! password.

mod passwords;
mod shared;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nebula_domain::http::{HttpPolicy, RateRule};
use nebula_domain::routes::Route;
use nebula_domain::state::EdgeSecret;
use nebula_domain::traffic::Nanos;
use nebula_domain::traffic::hash::stable_hash;
use nebula_domain::traffic::rate::table::{Key, RateTable};
use nebula_domain::traffic::rate::{Gcra, RateKey, Verdict};

use crate::h1::{Length, Refusal, RequestHead};
use crate::pages::Problem;
use passwords::{Busy, Passwords};
pub use shared::SharedRates;

/// In which time a full queue of passwords has been computed.
const PASSWORDS_RETRY_AFTER: Duration = Duration::from_secs(5);

/// One for all edge threads of a node.
pub(crate) struct Guard {
    /// Made with the first request that is limited: it is the largest thing that a proxy holds.
    rates: OnceLock<RateTable>,
    pub(crate) shared: Arc<SharedRates>,
    passwords: Passwords,
    started: Instant,
}

impl Guard {
    pub(crate) fn new() -> Guard {
        Guard {
            rates: OnceLock::new(),
            shared: Arc::default(),
            passwords: Passwords::new(),
            started: Instant::now(),
        }
    }

    /// Since the proxy began, for everything in `traffic` that goes by time.
    pub(crate) fn now(&self) -> Nanos {
        self.at(Instant::now())
    }

    pub(crate) fn at(&self, instant: Instant) -> Nanos {
        let since = instant.saturating_duration_since(self.started);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) fn instant(&self, at: Nanos) -> Instant {
        self.started + Duration::from_nanos(at)
    }

    /// Lets a request pass, now or after the wait that a rate asks for. `path` is in its canonical form; without a `secret` every
    /// node counts alone.
    pub(crate) async fn admit(
        &self,
        route: &Route,
        secret: Option<EdgeSecret>,
        client: IpAddr,
        head: &RequestHead,
        path: &str,
    ) -> Result<(), Problem> {
        let policy = &*route.policy;
        let name = || route.deployment.to_string();
        if !policy.addresses.admits(client) {
            return Err(Problem::Forbidden(name()));
        }
        if policy.maintenance.stops(client) {
            return Err(Problem::Maintenance {
                name: name(),
                page: policy.maintenance.page.clone(),
                retry_after: policy.maintenance.retry_after,
            });
        }
        sizes(policy, head).map_err(Problem::Refused)?;
        for (number, rule) in policy.rate_limits.iter().enumerate() {
            if rule.counts(path) {
                let secret = secret.filter(|_| rule.cluster);
                let wait = self.count(route, number, rule, secret, client, head)?;
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
            }
        }
        Ok(())
    }

    /// Asks for a password where one is wanted. Not of a browser that asks whether a script may ask: it sends none.
    pub(crate) async fn authenticate(
        &self,
        route: &Route,
        head: &RequestHead,
    ) -> Result<(), Problem> {
        let policy = &*route.policy;
        if !policy.basic_auth.is_on() {
            return Ok(());
        }
        let given = head.fields().get("authorization");
        let accepted = self.passwords.accept(&route.deployment, policy, given);
        match accepted.await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let realm = policy.basic_auth.realm.as_str().to_owned();
                Err(Problem::Unauthorized(realm))
            }
            Err(Busy) => Err(Problem::Overloaded {
                name: route.deployment.to_string(),
                retry_after: PASSWORDS_RETRY_AFTER,
            }),
        }
    }

    /// How long the request is to wait.
    fn count(
        &self,
        route: &Route,
        number: usize,
        rule: &RateRule,
        secret: Option<EdgeSecret>,
        client: IpAddr,
        head: &RequestHead,
    ) -> Result<Duration, Problem> {
        let key = match &rule.key {
            RateKey::Address => Key::from(client),
            RateKey::Deployment => Key::Everyone,
            RateKey::Header(name) => match head.fields().all(name).next() {
                Some(value) => Key::Value(value),
                None => Key::from(client),
            },
        };
        let rates = self
            .rates
            .get_or_init(|| RateTable::new(Default::default()));
        let rule_number =
            stable_hash(route.deployment.as_str().as_bytes()).wrapping_add(number as u64);
        let mut gcra = Gcra::from(&rule.limit);
        if let Some(secret) = secret {
            let share = self.shared.count(&secret, rule_number, &rule.limit, &key);
            gcra = gcra.shared(share);
        }
        match rates.request(rule_number, key, &gcra, self.now()) {
            Verdict::Pass => Ok(Duration::ZERO),
            Verdict::Wait(wait) => Ok(wait),
            Verdict::Refuse { retry_after } => Err(Problem::TooMany {
                name: route.deployment.to_string(),
                retry_after,
            }),
        }
    }
}

fn sizes(policy: &HttpPolicy, head: &RequestHead) -> Result<(), Refusal> {
    let limits = &policy.limits;
    if head.bytes() as u64 > limits.head.0 {
        return Err(Refusal::HeadTooLarge);
    }
    if head.target().len() as u64 > limits.uri.0 {
        return Err(Refusal::TargetTooLong);
    }
    match (limits.body, head.body_length()) {
        (Some(max), Length::Sized(length)) if length > max.0 => Err(Refusal::BodyTooLarge),
        _ => Ok(()),
    }
}
