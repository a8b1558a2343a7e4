//! What the proxy decides about traffic: who is let in, which instance answers, what is tried again.
//!
//! One file for each decision. Each has its settings (what a person writes in a deployment's HTTP
//! policy, with a text form, defaults and checks) and its machine, which knows no clock, randomness
//! or I/O: times are nanoseconds since the proxy's start ([`Nanos`]), random numbers are arguments.
//!
//! The proxy has one thread for each core. The header of each file says whether its state belongs to
//! one thread (`&mut self`) or is shared by all of them (atomics behind `&self`).

pub mod balance;
pub mod breaker;
pub mod ejection;
pub(crate) mod fields;
pub mod hash;
pub mod instance;
pub mod load;
pub mod rate;
pub mod retry;
pub mod shed;
#[cfg(test)]
mod simulation;
pub mod slow_start;
pub mod sticky;
#[cfg(test)]
mod tests;
pub mod visitor;
mod window;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::{Limit, LimitExceeded};
use crate::text::show_duration;

/// A moment: nanoseconds since the proxy's start, by a clock that never goes back.
pub type Nanos = u64;

/// Why a setting was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum TrafficError {
    #[error("'{text}' is not {what}: write it as in '{example}'")]
    Malformed {
        what: String,
        text: String,
        example: String,
    },
    #[error("'{text}' is not a value for '{field}' of {what}: {expected}")]
    BadValue {
        what: String,
        field: String,
        text: String,
        expected: String,
    },
    #[error("'{word}' is not part of {what}: {hint}")]
    UnknownWord {
        what: String,
        word: String,
        hint: String,
    },
    #[error("'{word}' is given twice in {what}")]
    Twice { what: String, word: String },
    #[error("{field} is {actual}: it must be at least {least}")]
    TooSmall {
        field: String,
        actual: String,
        least: String,
    },
    #[error("{field} is {actual}, over the longest of {longest} ({name})")]
    TooLong {
        field: String,
        actual: String,
        longest: String,
        name: String,
    },
    #[error(
        "with {rate} and burst={burst} a request could wait {waits}, over the longest of {longest} (rate_wait): add 'nodelay' or lower the burst"
    )]
    WaitsTooLong {
        rate: String,
        burst: u32,
        waits: String,
        longest: String,
    },
    #[error("'{text}' is not {what}: use letters, digits and any of !#$%&'*+-.^_`|~ (RFC 9110)")]
    BadToken { what: String, text: String },
    #[error("{0}")]
    Limit(#[from] LimitExceeded),
}

/// A limit on a time.
#[derive(Debug, Clone, Copy)]
pub struct Longest {
    pub name: &'static str,
    pub max: Duration,
}

impl Longest {
    fn check(self, field: &str, actual: Duration) -> Result<(), TrafficError> {
        if actual <= self.max {
            return Ok(());
        }
        Err(TrafficError::TooLong {
            field: field.to_owned(),
            actual: show_duration(actual).to_string(),
            longest: show_duration(self.max).to_string(),
            name: self.name.to_owned(),
        })
    }
}

/// A window, pause or ramp: what happened longer ago says nothing of now.
pub const WINDOW: Longest = Longest {
    name: "traffic_window",
    max: Duration::from_secs(3600),
};
/// Counts of requests, failures and connections of one deployment at one node; beyond it a limit is none.
pub const COUNT: Limit = Limit {
    name: "traffic_count",
    max: 1_000_000,
};
/// Names of header fields and cookies that a setting refers to.
pub const TOKEN_BYTES: Limit = Limit {
    name: "token_bytes",
    max: 128,
};

/// A time that must be more than nothing and no longer than [`WINDOW`].
fn check_window(field: &str, actual: Duration) -> Result<(), TrafficError> {
    /// Shorter than this the measuring is noise.
    const LEAST: Duration = Duration::from_millis(1);
    if actual < LEAST {
        return Err(TrafficError::TooSmall {
            field: field.to_owned(),
            actual: show_duration(actual).to_string(),
            least: show_duration(LEAST).to_string(),
        });
    }
    WINDOW.check(field, actual)
}

/// A count of `least` to [`COUNT`].
fn check_count(field: &str, actual: u32, least: u32) -> Result<(), TrafficError> {
    if actual < least {
        return Err(TrafficError::TooSmall {
            field: field.to_owned(),
            actual: actual.to_string(),
            least: least.to_string(),
        });
    }
    Ok(COUNT.check(field, actual as usize)?)
}

/// RFC 9110 section 5.6.2: what names of header fields, and of cookies (RFC 6265 section 4.1.1), are made of.
fn check_token(what: &str, text: &str) -> Result<(), TrafficError> {
    TOKEN_BYTES.check(&format!("the length of {what} in bytes"), text.len())?;
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || !text.bytes().all(legal) {
        return Err(TrafficError::BadToken {
            what: what.to_owned(),
            text: crate::excerpt::excerpt(text),
        });
    }
    Ok(())
}

/// The value of `Retry-After`, which counts whole seconds (RFC 9110 section 10.2.3): rounded up, at least 1.
pub fn retry_after_seconds(wait: Duration) -> u64 {
    let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    whole.max(1)
}

/// A duration in [`Nanos`]. Settings are far below the 584 years at which this saturates.
fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What switches a setting off where it is on by itself.
const OFF: &str = "off";

/// A setting's text, or `off`.
pub fn parse_switch<T>(text: &str) -> Result<Option<T>, TrafficError>
where
    T: std::str::FromStr<Err = TrafficError>,
{
    match text.trim() {
        OFF => Ok(None),
        text => text.parse().map(Some),
    }
}

/// As [`parse_switch`] reads it.
pub fn show_switch<T: ToString>(setting: Option<&T>) -> String {
    setting.map_or_else(|| OFF.to_owned(), T::to_string)
}
