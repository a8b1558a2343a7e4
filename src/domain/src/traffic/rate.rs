//! Rate limits: how many requests a client, a key or a deployment may make, as nginx's `limit_req` says it.
//!
//! The rule is the generic cell rate algorithm (ITU-T I.371, annex A; nginx's leaky bucket is the same
//! rule seen from the other side). A key's whole state is one moment: when it would be at rest if it
//! asked nothing more. This file: the settings and the rule; [`table`] keeps the moments of many keys, [`cluster`]
//! divides a limit among nodes.

pub mod cluster;
pub mod table;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fields::Form;
use super::{Longest, Nanos, TrafficError, check_count, check_token, nanos};
use crate::text::{parse_number, show_duration};

/// The longest that a request may be held back to keep to a rate: clients and the proxies before us
/// commonly give up after a minute.
pub const RATE_WAIT: Longest = Longest {
    name: "rate_wait",
    max: Duration::from_secs(60),
};

/// So many requests in a time, and how many above that are taken.
///
/// Text: `10r/s`, `10r/s burst=20 nodelay`, `60r/m burst=5`. Meaning as in nginx's
/// `ngx_http_limit_req_module`: without `burst` each request must keep its distance from the one before;
/// with it, so many may come early and are held back to the rate, or with `nodelay` go on at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    pub requests: u32,
    pub per: Per,
    /// Requests that may come before their time.
    pub burst: u32,
    /// Early requests within the burst go on at once instead of being held back.
    pub nodelay: bool,
}

/// The time that a rate's number is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Per {
    Second,
    Minute,
    Hour,
}

impl Per {
    fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Per::Second => 1,
            Per::Minute => 60,
            Per::Hour => 3600,
        })
    }

    fn letter(self) -> char {
        match self {
            Per::Second => 's',
            Per::Minute => 'm',
            Per::Hour => 'h',
        }
    }
}

const FORM: Form = Form {
    what: "a rate limit",
    example: "10r/s burst=20 nodelay",
    words: &["burst", "nodelay"],
};

impl RateLimit {
    pub fn check(&self) -> Result<(), TrafficError> {
        check_count("the rate's number", self.requests, 1)?;
        check_count("burst", self.burst, 0)?;
        let waits = self.interval().saturating_mul(self.burst);
        if !self.nodelay && waits > RATE_WAIT.max {
            return Err(TrafficError::WaitsTooLong {
                rate: self.rate(),
                burst: self.burst,
                waits: show_duration(Duration::from_secs(waits.as_secs())).to_string(),
                longest: show_duration(RATE_WAIT.max).to_string(),
            });
        }
        Ok(())
    }

    /// From one request to the next at exactly this rate; rounded up, so that the rate is never exceeded.
    pub fn interval(&self) -> Duration {
        Duration::from_nanos(nanos(self.per.duration()).div_ceil(u64::from(self.requests.max(1))))
    }

    fn rate(&self) -> String {
        format!("{}r/{}", self.requests, self.per.letter())
    }
}

impl FromStr for RateLimit {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let text = text.trim();
        let (rate, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
        let malformed = || FORM.malformed(text);
        let (number, per) = rate.split_once("r/").ok_or_else(malformed)?;
        let requests = parse_number(number).and_then(|n| u32::try_from(n).ok());
        let limit = RateLimit {
            requests: requests.ok_or_else(malformed)?,
            per: match per {
                "s" => Per::Second,
                "m" => Per::Minute,
                "h" => Per::Hour,
                _ => return Err(malformed()),
            },
            burst: 0,
            nodelay: false,
        };
        let limit = match rest.trim() {
            "" => limit,
            rest => {
                let fields = FORM.read(rest)?;
                RateLimit {
                    burst: fields.count("burst", 0)?,
                    nodelay: fields.flag("nodelay")?,
                    ..limit
                }
            }
        };
        limit.check()?;
        Ok(limit)
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rate())?;
        if self.burst > 0 {
            write!(f, " burst={}", self.burst)?;
        }
        f.write_str(if self.nodelay { " nodelay" } else { "" })
    }
}

/// What requests are counted by. Text: `address`, `header x-api-key`, `deployment`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RateKey {
    /// The client's address; of IPv6 its /64, since whoever has one address of a subnet (RFC 4291 section 2.5.4)
    /// can take any other of it.
    #[default]
    Address,
    /// The value of a header field, whose name is in lower case. A request without it counts by its address:
    /// leaving a field out must not be the way around the limit.
    Header(String),
    /// All requests of the deployment together.
    Deployment,
}

impl RateKey {
    pub fn check(&self) -> Result<(), TrafficError> {
        match self {
            RateKey::Header(name) => check_token("a header's name", name),
            RateKey::Address | RateKey::Deployment => Ok(()),
        }
    }
}

const KEY_FORM: Form = Form {
    what: "what a rate limit counts by",
    example: "address', 'header x-api-key' or 'deployment",
    words: &["address", "header", "deployment"],
};

impl FromStr for RateKey {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let words: Vec<&str> = text.split_ascii_whitespace().take(3).collect();
        let key = match words[..] {
            ["address"] => RateKey::Address,
            ["deployment"] => RateKey::Deployment,
            ["header", name] => RateKey::Header(name.to_ascii_lowercase()),
            [word, ..] if !KEY_FORM.words.contains(&word) => return Err(KEY_FORM.unknown(word)),
            _ => return Err(KEY_FORM.malformed(text)),
        };
        key.check()?;
        Ok(key)
    }
}

impl fmt::Display for RateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RateKey::Address => f.write_str("address"),
            RateKey::Header(name) => write!(f, "header {name}"),
            RateKey::Deployment => f.write_str("deployment"),
        }
    }
}

/// What is to become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// Send it on only after this time, so that the rate is kept.
    Wait(Duration),
    /// Answer 429 (RFC 6585 section 4) with `Retry-After`: [`super::retry_after_seconds`].
    Refuse {
        retry_after: Duration,
    },
}

/// A limit made ready for deciding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gcra {
    interval: Nanos,
    /// How far ahead of its rate a key may be.
    tolerance: Nanos,
    nodelay: bool,
}

impl From<&RateLimit> for Gcra {
    fn from(limit: &RateLimit) -> Gcra {
        let interval = nanos(limit.interval());
        Gcra {
            interval,
            tolerance: interval.saturating_mul(u64::from(limit.burst)),
            nodelay: limit.nodelay,
        }
    }
}

impl Gcra {
    /// The same limit with a share of its rate. The tolerance stays the same time, so the burst shrinks with the rate. What a request
    /// costs is bounded: a share may grow again after a period, and what was paid before it did is not given back.
    pub fn shared(self, share: cluster::Share) -> Gcra {
        let most = self.interval.saturating_mul(cluster::STRETCH_MAX);
        let most = most.max(nanos(cluster::STRETCH_FREE));
        Gcra {
            interval: share.stretch(self.interval).min(most),
            ..self
        }
    }

    /// For a key that would be at rest at `rest`: the verdict, and when it will be at rest after it.
    fn decide(&self, rest: Nanos, now: Nanos) -> (Verdict, Nanos) {
        let early = rest.saturating_sub(now);
        if early > self.tolerance {
            let retry_after = Duration::from_nanos(early - self.tolerance);
            return (Verdict::Refuse { retry_after }, rest);
        }
        let next = rest.max(now).saturating_add(self.interval);
        if early == 0 || self.nodelay {
            return (Verdict::Pass, next);
        }
        (Verdict::Wait(Duration::from_nanos(early)), next)
    }
}

#[cfg(test)]
mod tests;
