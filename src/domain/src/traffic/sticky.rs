//! Sticky sessions: a signed cookie names the instance that a client talked to before.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fields::Form;
use super::{Longest, TrafficError, check_token};
use crate::text::show_duration;

/// Browsers keep a cookie no longer than this (RFC 6265bis section 5.5).
pub const COOKIE_AGE: Longest = Longest {
    name: "cookie_age",
    max: Duration::from_secs(400 * 86_400),
};

/// Text: `cookie=nebula_instance max_age=1h`; without `max_age` the cookie ends with the browser's session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StickyPolicy {
    /// The cookie's name.
    pub cookie: String,
    /// How long a browser keeps it; zero: for its session.
    pub max_age: Duration,
}

impl Default for StickyPolicy {
    fn default() -> Self {
        StickyPolicy {
            cookie: "nebula_instance".to_owned(),
            max_age: Duration::ZERO,
        }
    }
}

const FORM: Form = Form {
    what: "a sticky session",
    example: "cookie=nebula_instance max_age=1h",
    words: &["cookie", "max_age"],
};

impl StickyPolicy {
    pub fn check(&self) -> Result<(), TrafficError> {
        check_token("a cookie's name", &self.cookie)?;
        COOKIE_AGE.check("max_age", self.max_age)?;
        if self.max_age.is_zero() {
            return Ok(());
        }
        // `Max-Age` counts whole seconds (RFC 6265 section 5.2.2).
        let second = Duration::from_secs(1);
        if self.max_age < second {
            return Err(TrafficError::TooSmall {
                field: "max_age".to_owned(),
                actual: show_duration(self.max_age).to_string(),
                least: show_duration(second).to_string(),
            });
        }
        Ok(())
    }
}

impl FromStr for StickyPolicy {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let (fields, default) = (FORM.read(text)?, StickyPolicy::default());
        let policy = StickyPolicy {
            cookie: fields.text("cookie", &default.cookie)?,
            max_age: fields.duration("max_age", default.max_age)?,
        };
        policy.check()?;
        Ok(policy)
    }
}

impl fmt::Display for StickyPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cookie={}", self.cookie)?;
        if self.max_age.is_zero() {
            return Ok(());
        }
        write!(f, " max_age={}", show_duration(self.max_age))
    }
}
