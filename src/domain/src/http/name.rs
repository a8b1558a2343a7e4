//! The names under which a deployment answers: hosts, one label of which may be any, and a path prefix.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{TextError, text_form};
use super::path::PathPrefix;
use crate::names::DomainName;

/// One host, or all hosts with one label before a domain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    /// `shop.example.test`.
    Exact(DomainName),
    /// `*.shop.example.test`: exactly one label in place of the star, as in certificates (RFC 6125 section 6.4.3).
    Wildcard(DomainName),
}

impl HostPattern {
    /// Whether a lower-case host without port and trailing dot is meant.
    pub fn covers(&self, host: &str) -> bool {
        match self {
            HostPattern::Exact(name) => host == name.as_str(),
            HostPattern::Wildcard(domain) => {
                behind_first_label(host).is_some_and(|rest| rest == domain.as_str())
            }
        }
    }
}

/// What a wildcard name would have behind its star for this host to be meant.
pub fn behind_first_label(host: &str) -> Option<&str> {
    match host.split_once('.') {
        Some((label, rest)) if !label.is_empty() => Some(rest),
        _ => None,
    }
}

impl FromStr for HostPattern {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let not = |instead: &str| Err(TextError::not(text, "a host name", instead));
        let (star, domain) = match text.strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, text),
        };
        if domain.contains('*') {
            return not("a star stands for the whole first label, as in '*.example.test'");
        }
        if text.contains("://") {
            return not("leave out the scheme");
        }
        if text.contains(':') {
            return not("leave out the port: the proxy answers on its own");
        }
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return not(&format!("did you mean '{}'?", text.to_ascii_lowercase()));
        }
        if let Some(without) = text.strip_suffix('.') {
            return not(&format!("did you mean '{without}'?"));
        }
        let domain: DomainName = match domain.parse() {
            Ok(domain) => domain,
            Err(error) => return not(&error.reason),
        };
        match (star, domain.as_str().contains('.')) {
            (false, _) => Ok(HostPattern::Exact(domain)),
            (true, true) => Ok(HostPattern::Wildcard(domain)),
            // `*.test` would take the names of everybody under a top-level domain.
            (true, false) => not("a star needs at least two labels behind it"),
        }
    }
}

text_form!(HostPattern);

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => name.fmt(f),
            HostPattern::Wildcard(domain) => write!(f, "*.{domain}"),
        }
    }
}

/// A host with a path prefix: `shop.example.test`, `example.test/shop`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name {
    pub host: HostPattern,
    pub path: PathPrefix,
}

impl Name {
    /// A whole host.
    pub fn whole(host: DomainName) -> Name {
        Name {
            host: HostPattern::Exact(host),
            path: PathPrefix::root(),
        }
    }
}

impl FromStr for Name {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        if text.contains("://") {
            return Err(TextError::not(text, "a name", "leave out the scheme"));
        }
        let (host, path) = match text.find('/') {
            Some(at) => text.split_at(at),
            None => (text, "/"),
        };
        Ok(Name {
            host: host.parse()?,
            path: path.parse()?,
        })
    }
}

text_form!(Name);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(f)?;
        match self.path.is_root() {
            true => Ok(()),
            false => self.path.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_is_one_label() {
        let wild: HostPattern = "*.shop.example.test".parse().unwrap();
        assert!(wild.covers("a.shop.example.test"));
        for other in [
            "shop.example.test",
            "a.b.shop.example.test",
            ".shop.example.test",
            "",
        ] {
            assert!(!wild.covers(other), "{other}");
        }
        let exact: HostPattern = "shop.example.test".parse().unwrap();
        assert!(exact.covers("shop.example.test"));
        assert!(!exact.covers("a.shop.example.test"));
    }

    #[test]
    fn names_have_hosts_and_paths() {
        let name: Name = "example.test/shop/".parse().unwrap();
        assert_eq!(name.to_string(), "example.test/shop");
        let name: Name = "*.example.test/".parse().unwrap();
        assert_eq!(name.to_string(), "*.example.test");
        for (bad, word) in [
            ("", "empty"),
            ("/shop", "empty"),
            ("*.test", "two labels"),
            ("a.*.test", "star"),
            ("*", "star"),
            ("w*.example.test", "star"),
            ("Shop.example.test", "'shop.example.test'"),
            ("shop.example.test.", "'shop.example.test'"),
            ("shop.example.test:8080", "port"),
            ("http://shop.example.test", "scheme"),
            ("shop_1.example.test", "lower-case"),
            ("example.test/a?b", "'?'"),
        ] {
            let error = bad.parse::<Name>().unwrap_err().to_string();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    proptest! {
        #[test]
        fn names_read_back_what_they_print(text in "(\\*\\.)?[a-b.]{1,8}(/[a-b/]{0,6})?") {
            if let Ok(name) = text.parse::<Name>() {
                prop_assert_eq!(name.to_string().parse(), Ok(name));
            }
        }
    }
}
