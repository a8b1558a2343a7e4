//! Sticky sessions: a signed cookie names the instance that a client talked to before. Pure functions of a key; every
//! node has the same one, so a client may come back through any.
//!
//! The value is the instance's number and a MAC over it and the deployment, in hexadecimal: `1f.0123…`. Signed,
//! because a client that could choose its instance could heap load on one, or reach one of another deployment. It
//! proves nothing about the client and hides nothing.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::fields::Form;
use super::{Longest, TrafficError, check_token};
use crate::ids::InstanceId;
use crate::names::DeploymentName;
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

/// 128 bits: a forgery succeeds once in 2^128 tries, and the cookie stays short.
const MAC_BYTES: usize = 16;
/// Sixteen digits of an instance, a dot and the MAC.
const VALUE_BYTES_MAX: usize = 16 + 1 + 2 * MAC_BYTES;
/// The key is derived for this purpose alone (BLAKE3's `derive_key`): others may be derived from the same.
const PURPOSE: &str = "nebula 2026 sticky session cookie";
/// What is signed: the instance's number and the deployment's name, of at most 63 bytes.
const SIGNED_BYTES_MAX: usize = 8 + 63;

/// What the cookies of a cluster are signed with.
#[derive(Clone)]
pub struct StickyKey([u8; 32]);

impl fmt::Debug for StickyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StickyKey(..)")
    }
}

/// What becomes of a request to a deployment with sticky sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stickiness {
    /// Send it to the endpoint at this index.
    Keep(usize),
    /// There is no valid cookie, or its instance cannot be used: pick one and issue a cookie for it.
    Issue,
}

impl StickyKey {
    pub fn new(key: &[u8; 32]) -> StickyKey {
        StickyKey(blake3::derive_key(PURPOSE, key))
    }

    /// The cookie's value for an instance.
    pub fn sign(&self, deployment: &DeploymentName, instance: InstanceId) -> String {
        let mac = self.mac(deployment, instance);
        format!("{:x}.{}", instance.0, hex::encode(mac))
    }

    /// The instance that a value names, if we signed it for this deployment.
    pub fn verify(&self, deployment: &DeploymentName, value: &[u8]) -> Option<InstanceId> {
        if value.len() > VALUE_BYTES_MAX {
            return None;
        }
        let (number, mac) = std::str::from_utf8(value).ok()?.split_once('.')?;
        // A value has one spelling: no sign, no leading zero, lower case.
        let legal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if !number.bytes().all(legal) || (number.len() > 1 && number.starts_with('0')) {
            return None;
        }
        let instance = InstanceId(u64::from_str_radix(number, 16).ok()?);
        let mut given = [0; MAC_BYTES];
        hex::decode_to_slice(mac, &mut given).ok()?;
        let ours = self.mac(deployment, instance);
        // In constant time, so that how long it takes does not tell how much of a guess was right.
        bool::from(ours.ct_eq(&given)).then_some(instance)
    }

    /// Whether a request stays with the instance of its cookie. `usable` gives the index of an instance among
    /// the endpoints, if it may get the request now. A session moves on when its instance is lost, or left out for a
    /// while, and then stays where it went.
    pub fn decide(
        &self,
        deployment: &DeploymentName,
        cookie: Option<&[u8]>,
        usable: impl FnOnce(InstanceId) -> Option<usize>,
    ) -> Stickiness {
        let named = cookie.and_then(|value| self.verify(deployment, value));
        match named.and_then(usable) {
            Some(index) => Stickiness::Keep(index),
            None => Stickiness::Issue,
        }
    }

    fn mac(&self, deployment: &DeploymentName, instance: InstanceId) -> [u8; MAC_BYTES] {
        // The number is of fixed length and first, so no two inputs read the same.
        let name = deployment.as_str().as_bytes();
        let mut signed = [0; SIGNED_BYTES_MAX];
        let length = (8 + name.len()).min(SIGNED_BYTES_MAX);
        signed[..8].copy_from_slice(&instance.0.to_le_bytes());
        signed[8..length].copy_from_slice(&name[..length - 8]);
        let hash = blake3::keyed_hash(&self.0, &signed[..length]);
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&hash.as_bytes()[..MAC_BYTES]);
        mac
    }
}

impl StickyPolicy {
    /// The value of `Set-Cookie` (RFC 6265 section 4.1). For the server alone, not for requests that other sites
    /// make, and over TLS only when the request came that way.
    pub fn set_cookie(&self, value: &str, over_tls: bool) -> String {
        let mut cookie = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax", self.cookie);
        if !self.max_age.is_zero() {
            cookie.push_str(&format!("; Max-Age={}", self.max_age.as_secs()));
        }
        if over_tls {
            cookie.push_str("; Secure");
        }
        cookie
    }
}

/// The value of a cookie in a `Cookie` header (RFC 6265 section 4.2.1), the first of that name.
pub fn find_cookie<'a>(header: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let value = |pair: &'a [u8]| {
        pair.trim_ascii()
            .strip_prefix(name.as_bytes())?
            .strip_prefix(b"=")
    };
    header.split(|b| *b == b';').find_map(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> StickyKey {
        StickyKey::new(&[7; 32])
    }

    fn name(text: &str) -> DeploymentName {
        text.parse().unwrap()
    }

    #[test]
    fn a_cookie_is_for_one_deployment_and_one_key() {
        let value = key().sign(&name("shop"), InstanceId(31));
        assert!(value.starts_with("1f.") && value.len() <= VALUE_BYTES_MAX);
        let verify = |key: &StickyKey, of: &str| key.verify(&name(of), value.as_bytes());
        assert_eq!(verify(&key(), "shop"), Some(InstanceId(31)));
        assert_eq!(verify(&key(), "shop2"), None);
        assert_eq!(verify(&StickyKey::new(&[8; 32]), "shop"), None);
        assert_eq!(format!("{:?}", key()), "StickyKey(..)");
    }

    #[test]
    fn other_spellings_are_not_ours() {
        let value = key().sign(&name("shop"), InstanceId(31));
        let mac = value.split_once('.').unwrap().1;
        for other in [
            format!("1F.{mac}"),
            format!("01f.{mac}"),
            format!("+1f.{mac}"),
            format!(".{mac}"),
            format!("20.{mac}"),
            format!("1f.{}", &mac[2..]),
            format!("1f.{mac}00"),
            format!("1f{mac}"),
            String::new(),
        ] {
            assert_eq!(
                key().verify(&name("shop"), other.as_bytes()),
                None,
                "{other}"
            );
        }
        assert!(key().verify(&name("shop"), &[0xff; 40]).is_none());
    }

    #[test]
    fn a_session_moves_on_when_its_instance_is_lost() {
        let shop = name("shop");
        let cookie = key().sign(&shop, InstanceId(31));
        let decide = |cookie: Option<&[u8]>, running: &[u64]| {
            key().decide(&shop, cookie, |id| running.iter().position(|r| *r == id.0))
        };
        let cookie = Some(cookie.as_bytes());
        assert_eq!(decide(cookie, &[30, 31]), Stickiness::Keep(1));
        assert_eq!(decide(cookie, &[30, 32]), Stickiness::Issue);
        assert_eq!(decide(None, &[30, 31]), Stickiness::Issue);
        assert_eq!(decide(Some(b"1f.00"), &[30, 31]), Stickiness::Issue);
    }

    #[test]
    fn cookies_are_set_and_found() {
        let policy: StickyPolicy = "cookie=sid max_age=1h".parse().unwrap();
        assert_eq!(
            policy.set_cookie("1f.00", true),
            "sid=1f.00; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600; Secure"
        );
        let session = StickyPolicy::default().set_cookie("1f.00", false);
        assert_eq!(
            session,
            "nebula_instance=1f.00; Path=/; HttpOnly; SameSite=Lax"
        );
        let find = |header: &'static str| find_cookie(header.as_bytes(), "sid");
        assert_eq!(find("a=b; sid=x=y; sid=z"), Some(&b"x=y"[..]));
        assert_eq!(find("sid="), Some(&b""[..]));
        assert_eq!(find("xsid=1; sidx=2; sid"), None);
        assert_eq!(find(""), None);
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies_and_nothing_else(instance: u64, flip in 0usize..40, bit in 0u8..7) {
            let mut value = key().sign(&name("shop"), InstanceId(instance)).into_bytes();
            prop_assert_eq!(key().verify(&name("shop"), &value), Some(InstanceId(instance)));
            let flip = flip % value.len();
            value[flip] ^= 1 << bit;
            let changed = key().verify(&name("shop"), &value);
            // The MAC's digits may be in capital letters; that is no other value.
            prop_assert!(changed.is_none() || value[flip].is_ascii_uppercase());
        }

        #[test]
        fn no_cookie_breaks_it(value: Vec<u8>) {
            prop_assert_eq!(key().verify(&name("shop"), &value), None);
            let _ = find_cookie(&value, "sid");
        }
    }
}
