//! Which answers are kept (RFC 9111 section 3), and for how long they are fresh (section 4.2).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::control::seconds;
use super::freshness::Freshness;
use super::{Lines, ResponseControl};
use crate::http::Cache;
use crate::traffic::Nanos;

/// What a request says of who sends it: those who do are not served what was made for those who do not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Asker {
    /// There is an `Authorization` field.
    pub authorized: bool,
    /// There is a `Cookie` field.
    pub cookies: bool,
}

/// When an answer was asked for and came.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub asked: Nanos,
    pub received: Nanos,
    /// When it came, in seconds since 1970.
    pub date: u64,
}

/// Why an answer is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Status,
    NoStore,
    Private,
    /// It sets a cookie, which is for one client; nginx and Varnish do not keep such by default either.
    SetCookie,
    /// It was made for somebody who authenticates, and does not say that others may have it (section 3.5).
    Authorized,
    /// It depends on what is not known here, or on too much.
    Vary,
    /// It says nothing of how long it is fresh, nor does the policy.
    NoLifetime,
    /// It is old already and there is nothing by which it could be asked about.
    Expired,
    TooLarge,
    /// There is no room for it.
    NoRoom,
    /// What it is of has changed meanwhile, or an instance of an older release has sent it.
    Outdated,
}

impl Refusal {
    /// For `Cache-Status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::Status => "status",
            Refusal::NoStore => "no-store",
            Refusal::Private => "private",
            Refusal::SetCookie => "set-cookie",
            Refusal::Authorized => "authorization",
            Refusal::Vary => "vary",
            Refusal::NoLifetime => "no-lifetime",
            Refusal::Expired => "expired",
            Refusal::TooLarge => "too-large",
            Refusal::NoRoom => "no-room",
            Refusal::Outdated => "outdated",
        }
    }
}

/// An answer in place of which an older one may be given (RFC 5861 section 4).
pub fn is_failure(status: u16) -> bool {
    matches!(status, 500 | 502..=504)
}

/// Whether the answer to a `GET` may be kept. Errors of the server are not, whatever they say: they are about a moment.
pub fn keep<'a>(
    policy: &Cache,
    asker: Asker,
    status: u16,
    fields: impl Lines<'a>,
    times: Times,
) -> Result<Freshness, Refusal> {
    // RFC 9110 section 15.1 lists what may be kept without a word on its lifetime; 206 is part of an answer.
    let by_default = matches!(status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 410);
    if !by_default && !matches!(status, 302 | 303 | 307) {
        return Err(Refusal::Status);
    }
    let control = ResponseControl::read(&fields("cache-control"));
    if control.no_store {
        return Err(Refusal::NoStore);
    }
    if control.private {
        return Err(Refusal::Private);
    }
    if !fields("set-cookie").is_empty() {
        return Err(Refusal::SetCookie);
    }
    let for_authorized = control.public || control.must_revalidate || control.s_maxage.is_some();
    if asker.authorized && !for_authorized {
        return Err(Refusal::Authorized);
    }
    let explicit = explicit(&control, &fields, times);
    let assumed = explicit.is_none();
    let lifetime = match explicit {
        Some(lifetime) => lifetime,
        // What does not say that it is for everybody may be for whoever the cookie names.
        None if by_default && !asker.cookies && !policy.default_ttl.is_zero() => policy.default_ttl,
        None => return Err(Refusal::NoLifetime),
    };
    let seconds = |own: Option<u32>| own.map(|s| Duration::from_secs(u64::from(s)));
    let or = |own: Option<u32>, general: Duration| match own {
        _ if control.must_revalidate || control.proxy_revalidate => Duration::ZERO,
        // Section 5.2.2.10: after `s-maxage` it is to be asked about, unless it says itself what else may be done.
        None if control.s_maxage.is_some() => Duration::ZERO,
        own => seconds(own).unwrap_or(general),
    };
    let kept = Freshness {
        received: times.received,
        initial_age: initial_age(&fields, times),
        lifetime,
        always_validate: control.no_cache,
        while_revalidate: or(
            control.stale_while_revalidate,
            policy.stale_while_revalidate,
        ),
        if_error: or(control.stale_if_error, policy.stale_if_error),
        for_authorized,
        assumed,
    };
    let validators = super::Validators::of(&fields);
    match kept.is_of_use(times.received) || validators.is_there() {
        true => Ok(kept),
        false => Err(Refusal::Expired),
    }
}

/// What the answer itself says of its lifetime.
fn explicit<'a>(
    control: &ResponseControl,
    fields: &impl Lines<'a>,
    times: Times,
) -> Option<Duration> {
    if let Some(seconds) = control.s_maxage.or(control.max_age) {
        return Some(Duration::from_secs(u64::from(seconds)));
    }
    let expires = fields("expires");
    if !expires.is_empty() {
        // What is not a date, as "0", has passed (section 5.3); of several the first that passes holds.
        let from = date(fields).unwrap_or(times.date);
        let lifetimes = expires.into_iter().map(|value| {
            let until = http_date(value).unwrap_or(0);
            Duration::from_secs(until.saturating_sub(from))
        });
        return lifetimes.min();
    }
    control.no_cache.then_some(Duration::ZERO)
}

/// Section 4.2.3, "corrected_initial_age".
fn initial_age<'a>(fields: &impl Lines<'a>, times: Times) -> Duration {
    let said = fields("age").into_iter().filter_map(|value| {
        let text = std::str::from_utf8(value).ok()?;
        seconds(text.trim())
    });
    let said = Duration::from_secs(u64::from(said.max().unwrap_or(0)));
    let delay = Duration::from_nanos(times.received.saturating_sub(times.asked));
    let apparent = date(fields).map_or(0, |date| times.date.saturating_sub(date));
    Duration::from_secs(apparent).max(said.saturating_add(delay))
}

fn date<'a>(fields: &impl Lines<'a>) -> Option<u64> {
    fields("date").first().and_then(|value| http_date(value))
}

/// In seconds since 1970.
pub(super) fn http_date(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let time: SystemTime = httpdate::parse_http_date(text.trim()).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}
