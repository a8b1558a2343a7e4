//! Headers that tell browsers to be careful. Each is set where the application sets none; any can be
//! changed or left out.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{HttpError, TextError, text_form};
use super::fields::FieldValue;
use super::limits::AGE_MAX;
use crate::text::{nearest, parse_duration, show_duration};

/// Values of the headers; `None` leaves one out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityHeaders {
    pub frame_options: Option<FieldValue>,
    pub content_type_options: Option<FieldValue>,
    pub referrer_policy: Option<FieldValue>,
    pub content_security_policy: Option<FieldValue>,
    pub xss_protection: Option<FieldValue>,
    /// Over TLS only (RFC 6797 section 7.2).
    pub hsts: Option<Hsts>,
}

/// Framed by the site's own pages only (RFC 7034).
pub const FRAME_OPTIONS: &str = "SAMEORIGIN";
/// No guessing of types (WHATWG Fetch, "nosniff").
pub const CONTENT_TYPE_OPTIONS: &str = "nosniff";
/// What browsers do without it since 2020, also for old ones (W3C Referrer Policy).
pub const REFERRER_POLICY: &str = "strict-origin-when-cross-origin";
/// As much as hardly any page breaks by: no plug-ins, no foreign `<base>`, and framing as above (W3C CSP 3).
/// What scripts a page needs only its author knows.
pub const CONTENT_SECURITY_POLICY: &str =
    "base-uri 'self'; frame-ancestors 'self'; object-src 'none'";
/// Off: the old filters could be abused, and browsers have dropped them (OWASP, HTTP Headers).
pub const XSS_PROTECTION: &str = "0";

impl Default for SecurityHeaders {
    fn default() -> Self {
        let value = |text: &str| Some(text.parse().expect("visible ASCII"));
        SecurityHeaders {
            frame_options: value(FRAME_OPTIONS),
            content_type_options: value(CONTENT_TYPE_OPTIONS),
            referrer_policy: value(REFERRER_POLICY),
            content_security_policy: value(CONTENT_SECURITY_POLICY),
            xss_protection: value(XSS_PROTECTION),
            hsts: Some(Hsts::default()),
        }
    }
}

impl SecurityHeaders {
    /// None at all.
    pub const OFF: SecurityHeaders = SecurityHeaders {
        frame_options: None,
        content_type_options: None,
        referrer_policy: None,
        content_security_policy: None,
        xss_protection: None,
        hsts: None,
    };

    /// Those with a fixed value, by their names in lower case. [`Hsts`] has its text from `Display`.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &FieldValue)> {
        [
            ("x-frame-options", &self.frame_options),
            ("x-content-type-options", &self.content_type_options),
            ("referrer-policy", &self.referrer_policy),
            ("content-security-policy", &self.content_security_policy),
            ("x-xss-protection", &self.xss_protection),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_ref()?)))
    }

    pub(super) fn check(&self) -> Result<(), HttpError> {
        self.hsts.map_or(Ok(()), Hsts::check)
    }

    pub(super) fn text_bytes(&self) -> usize {
        self.fields().map(|(_, value)| value.as_str().len()).sum()
    }
}

/// `Strict-Transport-Security` (RFC 6797). Text: `180d`, `730d include_subdomains preload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hsts {
    pub max_age: Duration,
    pub include_subdomains: bool,
    pub preload: bool,
}

impl Default for Hsts {
    /// Half a year, and nothing about names that are not this deployment's.
    fn default() -> Self {
        Hsts {
            max_age: Duration::from_secs(180 * 86_400),
            include_subdomains: false,
            preload: false,
        }
    }
}

/// What the browsers' preload list asks for (hstspreload.org).
const PRELOAD_AGE_MIN: Duration = Duration::from_secs(365 * 86_400);

impl Hsts {
    /// The header's value.
    pub fn header(&self) -> String {
        let mut value = format!("max-age={}", self.max_age.as_secs());
        if self.include_subdomains {
            value.push_str("; includeSubDomains");
        }
        if self.preload {
            value.push_str("; preload");
        }
        value
    }

    fn check(self) -> Result<(), HttpError> {
        self.checked()
            .map(|_| ())
            .map_err(|e| HttpError::new("security.hsts", e))
    }

    fn checked(self) -> Result<Hsts, TextError> {
        if self.max_age > AGE_MAX {
            return Err(TextError(format!(
                "an age of {} is over the longest of {}",
                show_duration(self.max_age),
                show_duration(AGE_MAX)
            )));
        }
        if self.max_age.subsec_nanos() > 0 {
            return Err(TextError::new("the age is in whole seconds"));
        }
        if self.preload && (!self.include_subdomains || self.max_age < PRELOAD_AGE_MIN) {
            return Err(TextError::new(
                "the preload list takes only names with include_subdomains and an age of at least 365d",
            ));
        }
        Ok(self)
    }
}

impl FromStr for Hsts {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        const EXAMPLE: &str =
            "write an age and perhaps more, as in '180d' or '730d include_subdomains preload'";
        let mut words = text.split_ascii_whitespace();
        let age = words.next().and_then(parse_duration);
        let Some(max_age) = age else {
            return Err(TextError::not(text, "a value of hsts", EXAMPLE));
        };
        let mut hsts = Hsts {
            max_age,
            include_subdomains: false,
            preload: false,
        };
        for word in words {
            match word {
                "include_subdomains" => hsts.include_subdomains = true,
                "preload" => hsts.preload = true,
                other => {
                    let instead = match nearest(other, ["include_subdomains", "preload"]) {
                        Some(near) => format!("did you mean '{near}'?"),
                        None => EXAMPLE.to_owned(),
                    };
                    return Err(TextError::not(other, "part of hsts", instead));
                }
            }
        }
        hsts.checked()
    }
}

text_form!(Hsts);

impl fmt::Display for Hsts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_duration(self.max_age).fmt(f)?;
        f.write_str(if self.include_subdomains {
            " include_subdomains"
        } else {
            ""
        })?;
        f.write_str(if self.preload { " preload" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hsts_is_written_shortly_and_sent_in_full() {
        for (text, header) in [
            ("180d", "max-age=15552000"),
            ("0", "max-age=0"),
            (
                "730d include_subdomains preload",
                "max-age=63072000; includeSubDomains; preload",
            ),
        ] {
            let hsts: Hsts = text.parse().unwrap();
            assert_eq!(hsts.header(), header);
            assert_eq!(hsts.to_string().parse(), Ok(hsts));
        }
        for (bad, word) in [
            ("", "180d"),
            ("on", "180d"),
            ("180d includesubdomains", "'include_subdomains'"),
            ("180d preload", "preload list"),
            ("9999d", "longest"),
            ("1ms", "whole seconds"),
        ] {
            let error = bad.parse::<Hsts>().unwrap_err().to_string();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    #[test]
    fn headers_are_on_unless_left_out() {
        assert_eq!(SecurityHeaders::default().fields().count(), 5);
        assert_eq!(SecurityHeaders::OFF.fields().count(), 0);
        assert!(SecurityHeaders::OFF.check().is_ok());
    }
}
