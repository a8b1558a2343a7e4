//! Slow start: an instance that became ready gets its full share only after a while, so that caches, pools
//! and compilers may warm up. Pure functions; the moment an instance became ready is the caller's to keep.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fields::Form;
use super::{TrafficError, check_count, check_window};
use crate::text::{Percent, show_duration};

/// Text: `window=30s from=10%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowStart {
    /// From becoming ready to the full share.
    pub window: Duration,
    /// The share to begin with.
    pub from: Percent,
}

impl Default for SlowStart {
    /// Envoy's smallest share, 10%: with nothing at all the instance would never warm up.
    fn default() -> Self {
        SlowStart {
            window: Duration::from_secs(30),
            from: Percent::capped(10),
        }
    }
}

const FORM: Form = Form {
    what: "a slow start",
    example: "window=30s from=10%",
    words: &["window", "from"],
};

impl SlowStart {
    pub fn check(&self) -> Result<(), TrafficError> {
        check_window("window", self.window)?;
        check_count("from", u32::from(self.from.get()), 1)
    }
}

impl FromStr for SlowStart {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let (fields, default) = (FORM.read(text)?, SlowStart::default());
        let start = SlowStart {
            window: fields.duration("window", default.window)?,
            from: fields.percent("from", default.from)?,
        };
        start.check()?;
        Ok(start)
    }
}

impl fmt::Display for SlowStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window = show_duration(self.window);
        write!(f, "window={window} from={}", self.from)
    }
}
