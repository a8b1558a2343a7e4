//! A set of certificates, and which of them answers to a name.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use rustls::sign::CertifiedKey;

/// A certificate with its key, and what it says of itself.
pub(super) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    /// Names of hosts, in lower case; `*.` before one stands for one label.
    pub(super) names: Vec<String>,
    /// Seconds since 1970.
    pub(super) not_after: i64,
    /// For clients that name no host, or none of those here.
    pub(super) is_default: bool,
}

/// Immutable: a change of the folder makes a new one.
#[derive(Default)]
pub(super) struct Certificates {
    /// By name as it stands in the certificate, the star included.
    by_name: HashMap<String, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
    pub(super) count: usize,
    /// When the first of them ends, in seconds since 1970; 0 without one.
    pub(super) expiry: i64,
}

impl Certificates {
    pub(super) fn new(mut all: Vec<Certificate>) -> Certificates {
        // What stands later takes the name.
        all.sort_by_key(|certificate| certificate.not_after);
        let mut set = Certificates {
            count: all.len(),
            expiry: all.first().map_or(0, |first| first.not_after),
            ..Certificates::default()
        };
        for certificate in all {
            for name in certificate.names {
                set.by_name.insert(name, Arc::clone(&certificate.key));
            }
            if certificate.is_default {
                set.default = Some(certificate.key);
            }
        }
        set
    }

    /// The certificate that names a host: as it is before one with a star, which stands for the whole first label and nothing
    /// else (RFC 9525 section 6.3).
    pub(super) fn named(&self, host: &str) -> Option<&Arc<CertifiedKey>> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let host = match host.bytes().any(|b| b.is_ascii_uppercase()) {
            true => Cow::Owned(host.to_ascii_lowercase()),
            false => Cow::Borrowed(host),
        };
        if host.starts_with('*') {
            return None;
        }
        self.by_name.get(&*host).or_else(|| {
            let (first, parent) = host.split_once('.')?;
            let label = (!first.is_empty()).then_some(parent)?;
            self.by_name.get(&format!("*.{label}"))
        })
    }

    pub(super) fn choose(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        name.and_then(|name| self.named(name))
            .or(self.default.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str], not_after: i64, is_default: bool) -> Certificate {
        let made = rcgen::generate_simple_self_signed(["x.test".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let provider = rustls::crypto::ring::default_provider();
        let chain = vec![made.cert.der().clone()];
        let key = CertifiedKey::from_der(chain, key.unwrap(), &provider).unwrap();
        Certificate {
            key: Arc::new(key),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            not_after,
            is_default,
        }
    }

    #[test]
    fn a_name_gets_the_certificate_that_fits_best_and_lasts_longest() {
        let all = [
            certificate(&["a.example.test"], 20, false),
            certificate(&["*.example.test"], 90, false),
            certificate(&["a.example.test", "b.example.test"], 30, false),
            certificate(&["b.example.test"], 10, false),
            certificate(&[], 50, true),
        ];
        let keys: Vec<_> = all.iter().map(|one| Arc::clone(&one.key)).collect();
        let set = Certificates::new(Vec::from(all));
        assert_eq!((set.count, set.expiry), (5, 10));
        for (name, expected) in [
            (Some("a.example.test"), 2),
            (Some("A.Example.Test."), 2),
            (Some("b.example.test"), 2),
            (Some("c.example.test"), 1),
            (Some("a.c.example.test"), 4),
            (Some("example.test"), 4),
            (Some(".example.test"), 4),
            (Some("*.example.test"), 4),
            (Some("other.test"), 4),
            (None, 4),
        ] {
            let chosen = set.choose(name).unwrap();
            assert!(Arc::ptr_eq(chosen, &keys[expected]), "{name:?}");
        }
        assert!(set.named("c.example.test").is_some() && set.named("other.test").is_none());
        let empty = Certificates::new(Vec::new());
        assert!(empty.choose(None).is_none() && empty.expiry == 0);
    }
}
