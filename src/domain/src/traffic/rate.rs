//! Rate limits: how many requests a client, a key or a deployment may make, as nginx's `limit_req` says it.
//!
//! The rule is the generic cell rate algorithm (ITU-T I.371, annex A; nginx's leaky bucket is the same
//! rule seen from the other side). A key's whole state is one moment: when it would be at rest if it
//! asked nothing more.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fields::Form;
use super::{Longest, TrafficError, check_count, check_token};
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
        let nanos = super::nanos(self.per.duration());
        Duration::from_nanos(nanos.div_ceil(u64::from(self.requests.max(1))))
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
