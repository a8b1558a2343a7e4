//! Who stays with which release while a new one is tried on a part of the visitors.

use std::time::Duration;

use nebula_domain::routes::Route;
use nebula_domain::traffic::sticky::{StickyPolicy, find_cookie};
use nebula_domain::traffic::visitor::{Lot, VISITOR_COOKIE, VisitorKey};

use crate::choice::Wish;

/// One client, as far as they can be told from others.
pub(crate) struct Visitor {
    /// Decides their release.
    pub(crate) draw: u64,
    /// What is still to be kept by them, signed.
    unsaid: Option<String>,
}

impl Visitor {
    /// `None`: nobody has to stay anywhere.
    pub(crate) fn of(route: &Route, wish: &Wish<'_>) -> Option<Visitor> {
        let trial = route.canary()?;
        let secret = wish.secret?;
        let key = VisitorKey::new(&secret.0);
        let mut cookies = wish.head.fields().all("cookie");
        let kept = cookies.find_map(|cookie| find_cookie(cookie, VISITOR_COOKIE));
        let kept: Option<Lot> = kept.and_then(|value| key.verify(value));
        let lot = kept.unwrap_or_else(|| key.lot_of(wish.client));
        Some(Visitor {
            draw: lot.draw(trial.number),
            unsaid: kept.is_none().then(|| key.sign(lot)),
        })
    }

    /// The value of `Set-Cookie` for a client that has none, for the browser's session.
    pub(crate) fn cookie(&self, over_tls: bool) -> Option<String> {
        let value = self.unsaid.as_ref()?;
        let policy = StickyPolicy {
            cookie: VISITOR_COOKIE.to_owned(),
            max_age: Duration::ZERO,
        };
        Some(policy.set_cookie(value, over_tls))
    }
}
