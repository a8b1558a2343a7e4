//! The settings about instances' output, `[output]` in `node.toml`.

use std::time::Duration;

use nebula_domain::http::ByteSize;
use nebula_domain::text::{parse_duration, show_duration};
use nebula_drivers::logfile::{Bounds, SEGMENTS_MAX};
use nebula_logs::Retention;
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// How much output is kept, and how fast one instance may write. For instances that run, all but `keep` and
/// `total` hold from their next start on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputConfig {
    /// Of one segment of one instance, such as `16MiB`.
    pub segment: String,
    /// Of one instance.
    pub segments: u32,
    /// Such as `30d`.
    pub keep: String,
    /// On this node, and once more so much of other nodes' output.
    pub total: String,
    /// A second, of one instance.
    pub rate: String,
}

/// What flags and variables say.
#[derive(Debug, Clone, Default)]
pub struct OutputOverrides {
    pub segment: Option<String>,
    pub segments: Option<u32>,
    pub keep: Option<String>,
    pub total: Option<String>,
    pub rate: Option<String>,
}

/// Smaller segments would be mostly marks and renames.
const SEGMENT_MIN: ByteSize = ByteSize::kib(64);
const KEEP_MIN: Duration = Duration::from_secs(60);
const RATE_MIN: ByteSize = ByteSize::kib(16);

impl Default for OutputConfig {
    fn default() -> OutputConfig {
        let (bounds, retention) = (Bounds::default(), Retention::default());
        OutputConfig {
            segment: ByteSize(bounds.segment_bytes).to_string(),
            segments: bounds.segments,
            keep: show_duration(retention.keep).to_string(),
            total: ByteSize(retention.total_bytes).to_string(),
            rate: ByteSize(bounds.rate_bytes).to_string(),
        }
    }
}

impl OutputConfig {
    pub(crate) fn is_default(&self) -> bool {
        *self == OutputConfig::default()
    }

    pub(crate) fn apply(&mut self, overrides: &OutputOverrides) {
        let OutputOverrides {
            segment,
            segments,
            keep,
            total,
            rate,
        } = overrides.clone();
        for (field, value) in [
            (&mut self.segment, segment),
            (&mut self.keep, keep),
            (&mut self.total, total),
            (&mut self.rate, rate),
        ] {
            if let Some(value) = value {
                *field = value;
            }
        }
        self.segments = segments.unwrap_or(self.segments);
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let bad = |setting, said: &str, wanted: String| ConfigError::Output {
            setting,
            said: format!("'{}'", nebula_domain::excerpt::excerpt(said)),
            wanted,
        };
        for (setting, said, least) in [
            ("output.segment", &self.segment, SEGMENT_MIN),
            ("output.total", &self.total, SEGMENT_MIN),
            ("output.rate", &self.rate, RATE_MIN),
        ] {
            if size(said).is_none_or(|size| size < least) {
                let wanted = format!("a size of at least {least}, such as 16MiB or 1g");
                return Err(bad(setting, said, wanted));
            }
        }
        if parse_duration(&self.keep).is_none_or(|keep| keep < KEEP_MIN) {
            let wanted = "a time of at least one minute, such as 30d".to_owned();
            return Err(bad("output.keep", &self.keep, wanted));
        }
        if !(2..=SEGMENTS_MAX).contains(&self.segments) {
            let wanted = format!("a number from 2 to {SEGMENTS_MAX}");
            return Err(bad("output.segments", &self.segments.to_string(), wanted));
        }
        Ok(())
    }

    /// What a checked configuration says.
    pub(crate) fn bounds(&self) -> Bounds {
        let usual = Bounds::default();
        Bounds {
            segment_bytes: size(&self.segment).map_or(usual.segment_bytes, |size| size.0),
            segments: self.segments,
            keep: self.retention().keep,
            rate_bytes: size(&self.rate).map_or(usual.rate_bytes, |size| size.0),
        }
    }

    pub(crate) fn retention(&self) -> Retention {
        let usual = Retention::default();
        Retention {
            keep: parse_duration(&self.keep).unwrap_or(usual.keep),
            total_bytes: size(&self.total).map_or(usual.total_bytes, |size| size.0),
        }
    }
}

fn size(text: &str) -> Option<ByteSize> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_parts() {
        let config = OutputConfig::default();
        config.check().unwrap();
        assert_eq!(config.bounds(), Bounds::default());
        assert_eq!(config.retention(), Retention::default());
        assert_eq!(config.segment, "16MiB");
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let change = |change: &dyn Fn(&mut OutputOverrides)| {
            let mut overrides = OutputOverrides::default();
            change(&mut overrides);
            let mut config = OutputConfig::default();
            config.apply(&overrides);
            config.check().map_err(|error| error.to_string())
        };
        let said = |text: &str| Some(text.to_owned());
        change(&|o| o.total = said("10g")).unwrap();
        for (error, words) in [
            (
                change(&|o| o.segment = said("1k")),
                "output.segment is '1k'",
            ),
            (change(&|o| o.total = said("much")), "output.total"),
            (change(&|o| o.rate = said("0")), "output.rate"),
            (change(&|o| o.keep = said("1s")), "output.keep"),
            (change(&|o| o.segments = Some(1)), "from 2 to 16"),
        ] {
            let error = error.unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
