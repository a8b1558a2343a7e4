//! The plain switches of an HTTP policy, and the response cache's settings.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{HttpError, within, words};
use super::limits::{AGE_MAX, CACHED_BYTES_MAX};
use super::size::ByteSize;
use crate::text::show_duration;

/// What plain HTTP gets at a node that has a certificate for the name. Without one there is only plain HTTP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Https {
    /// 301 to the same URL with https.
    #[default]
    On,
    /// The same answers on both.
    Both,
    /// Plain HTTP only: over TLS the name is not known (421).
    Off,
}

words!(Https, "a setting of https", { "on" => On, "both" => Both, "off" => Off });

/// What the proxy speaks to instances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Upstream {
    #[default]
    Http1,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113 section 3.3); what gRPC servers speak.
    H2c,
}

words!(Upstream, "a protocol to instances", { "http1" => Http1, "h2c" => H2c });

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessLog {
    #[default]
    Off,
    /// One JSON object for each request.
    Json,
    /// Apache's combined format.
    Combined,
}

words!(AccessLog, "a form of the access log", { "off" => Off, "json" => Json, "combined" => Combined });

/// Whether and how answers are kept (RFC 9111). What may be kept the application's `Cache-Control` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    pub on: bool,
    /// A larger answer is not kept.
    pub max_response: ByteSize,
    /// How long an answer is fresh that does not say so itself (heuristic freshness, section 4.2.2); zero: not at all.
    pub default_ttl: Duration,
    /// How long an answer may be given while a fresh one is fetched, where it does not say so itself (RFC 5861).
    pub stale_while_revalidate: Duration,
    /// How long an answer may be given in place of an error, where it does not say so itself (RFC 5861).
    pub stale_if_error: Duration,
}

impl Default for Cache {
    /// Only what the application allows, and nothing that would push out much else.
    fn default() -> Self {
        Cache {
            on: false,
            max_response: ByteSize::mib(1),
            default_ttl: Duration::ZERO,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
        }
    }
}

impl Cache {
    pub(super) fn check(&self) -> Result<(), HttpError> {
        let bytes = usize::try_from(self.max_response.0).unwrap_or(usize::MAX);
        within(
            "cache.max_response",
            CACHED_BYTES_MAX,
            "the size in bytes",
            bytes,
        )?;
        let times = [
            ("cache.default_ttl", self.default_ttl),
            ("cache.stale_while_revalidate", self.stale_while_revalidate),
            ("cache.stale_if_error", self.stale_if_error),
        ];
        for (field, time) in times {
            if time > AGE_MAX || time.subsec_nanos() > 0 {
                return Err(HttpError::new(
                    field,
                    format!("use whole seconds, at most {}", show_duration(AGE_MAX)),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_the_nearest_is_told() {
        assert_eq!("both".parse(), Ok(Https::Both));
        assert_eq!(Upstream::H2c.to_string(), "h2c");
        let error = "jsno".parse::<AccessLog>().unwrap_err().to_string();
        assert!(error.contains("did you mean 'json'?"), "{error}");
        let error = "quic".parse::<Upstream>().unwrap_err().to_string();
        assert!(error.contains("'http1' or 'h2c'"), "{error}");
    }

    #[test]
    fn the_cache_is_bounded() {
        assert!(Cache::default().check().is_ok());
        let large = Cache {
            max_response: ByteSize::gib(1),
            ..Cache::default()
        };
        assert_eq!(large.check().unwrap_err().field, "cache.max_response");
        let long = Cache {
            default_ttl: Duration::from_millis(1500),
            ..Cache::default()
        };
        assert_eq!(long.check().unwrap_err().field, "cache.default_ttl");
    }
}
