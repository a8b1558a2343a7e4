//! Which other sites' scripts may read a deployment's answers (WHATWG Fetch, "CORS protocol").

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{HttpError, TextError, text_form, within};
use super::fields::FieldName;
use super::limits::{AGE_MAX, CORS_ENTRIES};
use super::rules::Method;
use crate::text::show_duration;

/// One site, or all: `https://app.example.test`, `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Origin {
    Any,
    /// In the form in which browsers send it: lower case, no path, no default port.
    One(String),
}

impl FromStr for Origin {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let not = |instead: &str| TextError::not(text, "an origin", instead);
        if text == "*" {
            return Ok(Origin::Any);
        }
        let (scheme, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => ("https", rest),
            (None, Some(rest)) => ("http", rest),
            (None, None) => {
                return Err(not(
                    "begin it with https:// or http://, or write '*' for all",
                ));
            }
        };
        if let Some((host, _)) = rest.split_once('/') {
            return Err(not(&format!("did you mean '{scheme}://{host}'?")));
        }
        if rest.contains('*') {
            return Err(not("name each site; only '*' alone stands for all"));
        }
        if rest.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(not(&format!(
                "did you mean '{}'?",
                text.to_ascii_lowercase()
            )));
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !rest.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let default = if scheme == "https" { "443" } else { "80" };
        if port == Some(default) {
            return Err(not(&format!("did you mean '{scheme}://{host}'?")));
        }
        let legal_port =
            port.is_none_or(|p| p.parse::<u16>().is_ok() && !p.starts_with(['0', '+']));
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        if host.is_empty() || host.len() > 255 || !host.bytes().all(legal) || !legal_port {
            return Err(not(
                "write a host and perhaps a port, as in https://app.example.test",
            ));
        }
        Ok(Origin::One(text.to_owned()))
    }
}

text_form!(Origin);

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Any => "*",
            Origin::One(origin) => origin,
        })
    }
}

/// Answers preflights and marks responses. Without origins it is off, and the application answers for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    pub origins: Vec<Origin>,
    /// Besides GET, HEAD and POST, which need no permission.
    pub methods: Vec<Method>,
    /// Request headers besides the safelisted ones.
    pub headers: Vec<FieldName>,
    /// Response headers that scripts may read besides the safelisted ones.
    pub expose: Vec<FieldName>,
    /// Whether cookies may come along.
    pub credentials: bool,
    /// How long a browser remembers the permission.
    pub max_age: Duration,
}

impl Default for Cors {
    /// The five seconds that Fetch has for a missing age would ask before nearly every request; ten minutes are
    /// what the strictest browser keeps.
    fn default() -> Self {
        Cors {
            origins: Vec::new(),
            methods: Vec::new(),
            headers: Vec::new(),
            expose: Vec::new(),
            credentials: false,
            max_age: Duration::from_secs(600),
        }
    }
}

impl Cors {
    pub fn is_on(&self) -> bool {
        !self.origins.is_empty()
    }

    /// Whether scripts of this origin (the request's field) may read answers.
    pub fn allows(&self, origin: &[u8]) -> bool {
        self.origins.iter().any(|known| match known {
            Origin::Any => true,
            Origin::One(known) => known.as_bytes() == origin,
        })
    }

    pub(super) fn check(&self) -> Result<(), HttpError> {
        let lists = [
            ("cors.origins", self.origins.len()),
            ("cors.methods", self.methods.len()),
            ("cors.headers", self.headers.len()),
            ("cors.expose", self.expose.len()),
        ];
        for (field, entries) in lists {
            within(field, CORS_ENTRIES, "the number of entries", entries)?;
        }
        // Fetch, "CORS protocol and credentials": browsers refuse it, and it would open everything to everybody.
        if self.credentials && self.origins.contains(&Origin::Any) {
            return Err(HttpError::new(
                "cors.credentials",
                "credentials do not go with the origin '*': name the sites",
            ));
        }
        if self.max_age > AGE_MAX {
            return Err(HttpError::new(
                "cors.max_age",
                format!(
                    "it is {}, over the longest of {}",
                    show_duration(self.max_age),
                    show_duration(AGE_MAX)
                ),
            ));
        }
        Ok(())
    }

    pub(super) fn text_bytes(&self) -> usize {
        let origins = self.origins.iter().map(|o| match o {
            Origin::Any => 1,
            Origin::One(origin) => origin.len(),
        });
        let methods = self.methods.iter().map(|m| m.as_str().len());
        let fields = self
            .headers
            .iter()
            .chain(&self.expose)
            .map(|f| f.as_str().len());
        origins.sum::<usize>() + methods.sum::<usize>() + fields.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_send_them() {
        for good in [
            "*",
            "https://a.test",
            "http://a.test:8080",
            "http://[::1]:3000",
            "http://localhost",
        ] {
            let origin: Origin = good.parse().unwrap();
            assert_eq!(origin.to_string(), good);
        }
        for (bad, word) in [
            ("", "https://"),
            ("a.test", "https://"),
            ("https://a.test/", "'https://a.test'"),
            ("https://A.test", "'https://a.test'"),
            ("https://a.test:443", "'https://a.test'"),
            ("https://*.a.test", "each site"),
            ("https://", "a host"),
            ("https://a.test:x", "a port"),
            ("https://a b", "a host"),
        ] {
            let error = bad.parse::<Origin>().unwrap_err().to_string();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    #[test]
    fn only_named_sites_may_read() {
        let cors = Cors {
            origins: vec!["https://a.test".parse().unwrap()],
            credentials: true,
            ..Cors::default()
        };
        assert!(cors.is_on() && cors.check().is_ok());
        assert!(cors.allows(b"https://a.test"));
        assert!(!cors.allows(b"https://b.test") && !cors.allows(b"null"));
        let open = Cors {
            origins: vec![Origin::Any],
            ..cors
        };
        assert_eq!(open.check().unwrap_err().field, "cors.credentials");
        assert!(!Cors::default().is_on());
    }
}
