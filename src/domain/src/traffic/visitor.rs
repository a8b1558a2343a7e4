//! Who stays with which release while a new one is tried on a part of the visitors. A visitor has a lot: at first one that
//! follows from their address, kept from then on in a cookie that every node of the cluster knows. A rollout makes a draw of
//! it, so that it is not the same visitors each time who get what is new first.
//!
//! The cookie's value is the lot and a MAC over it, in hexadecimal: `01af.0123…`. Signed, because lots are to be had by chance, not
//! chosen. There are few of them on purpose: a lot sorts visitors and identifies nobody.

use std::fmt;
use std::net::IpAddr;

use subtle::ConstantTimeEq;

use super::hash::mix;
use super::rate::table::Key;

/// The cookie's name.
pub const VISITOR_COOKIE: &str = "nebula_visitor";

/// 128 bits, as of other cookies of ours.
const MAC_BYTES: usize = 16;
/// Four digits, a dot and the MAC.
const VALUE_BYTES: usize = 4 + 1 + 2 * MAC_BYTES;
/// Keys are derived for one purpose each (BLAKE3's `derive_key`): others are derived from the same secret.
const COOKIE_PURPOSE: &str = "nebula 2026 canary visitor cookie";
const ADDRESS_PURPOSE: &str = "nebula 2026 canary visitor address";

/// Fine enough for shares of a hundredth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lot(u16);

impl Lot {
    /// The draw of this lot in a rollout; which release that means says [`crate::http::Shares::pick`].
    pub fn draw(self, trial: u64) -> u64 {
        mix(mix(trial) ^ mix(u64::from(self.0) + 1))
    }
}

/// What lots are told apart and signed with.
#[derive(Clone)]
pub struct VisitorKey<'a>(&'a [u8; 32]);

impl fmt::Debug for VisitorKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VisitorKey(..)")
    }
}

impl<'a> VisitorKey<'a> {
    /// `secret` is the cluster's.
    pub fn new(secret: &'a [u8; 32]) -> VisitorKey<'a> {
        VisitorKey(secret)
    }

    /// Of a client without a cookie. With the key, because a lot goes to the client, and nobody else should be able to say of an
    /// address which one it has. A network of IPv6 is one client, as for rate limits.
    pub fn lot_of(&self, client: IpAddr) -> Lot {
        let key = blake3::derive_key(ADDRESS_PURPOSE, self.0);
        let hash = match Key::from(client) {
            Key::V4(octets) => blake3::keyed_hash(&key, &octets),
            Key::V6(octets) => blake3::keyed_hash(&key, &octets),
            Key::Value(value) => blake3::keyed_hash(&key, value),
            Key::Everyone => blake3::keyed_hash(&key, &[]),
        };
        let [a, b, ..] = *hash.as_bytes();
        Lot(u16::from_le_bytes([a, b]))
    }

    /// The cookie's value.
    pub fn sign(&self, lot: Lot) -> String {
        format!("{:04x}.{}", lot.0, hex::encode(self.mac(lot)))
    }

    /// The lot that a value is of, if we signed it.
    pub fn verify(&self, value: &[u8]) -> Option<Lot> {
        if value.len() != VALUE_BYTES {
            return None;
        }
        let (digits, mac) = std::str::from_utf8(value).ok()?.split_once('.')?;
        let mut lot = [0; 2];
        hex::decode_to_slice(digits, &mut lot).ok()?;
        let mut given = [0; MAC_BYTES];
        hex::decode_to_slice(mac, &mut given).ok()?;
        let lot = Lot(u16::from_be_bytes(lot));
        // In constant time, so that how long it takes does not tell how much of a guess was right.
        bool::from(self.mac(lot).ct_eq(&given)).then_some(lot)
    }

    fn mac(&self, lot: Lot) -> [u8; MAC_BYTES] {
        let key = blake3::derive_key(COOKIE_PURPOSE, self.0);
        let hash = blake3::keyed_hash(&key, &lot.0.to_le_bytes());
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&hash.as_bytes()[..MAC_BYTES]);
        mac
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::Weights;
    use crate::ids::ReleaseNumber;

    const SECRET: [u8; 32] = [7; 32];

    fn key() -> VisitorKey<'static> {
        VisitorKey::new(&SECRET)
    }

    #[test]
    fn lots_are_signed_for_one_cluster() {
        let lot = key().lot_of("192.0.2.1".parse().unwrap());
        let value = key().sign(lot);
        assert_eq!(value.len(), VALUE_BYTES);
        assert_eq!(key().verify(value.as_bytes()), Some(lot));
        assert_eq!(VisitorKey::new(&[8; 32]).verify(value.as_bytes()), None);
        let (digits, mac) = value.split_once('.').unwrap();
        let other = u16::from_str_radix(digits, 16).unwrap() ^ 1;
        for forged in [format!("{other:04x}.{mac}"), mac.to_owned(), String::new()] {
            assert_eq!(key().verify(forged.as_bytes()), None, "{forged}");
        }
        assert_eq!(format!("{:?}", key()), "VisitorKey(..)");
    }

    #[test]
    fn a_network_of_ipv6_is_one_visitor() {
        let lot = |address: &str| key().lot_of(address.parse().unwrap());
        assert_eq!(lot("2001:db8::1"), lot("2001:db8::2"));
        assert_eq!(lot("192.0.2.1"), lot("::ffff:192.0.2.1"));
        assert_ne!(lot("192.0.2.1"), lot("192.0.2.2"));
    }

    #[test]
    fn lots_follow_the_shares_and_every_rollout_begins_with_others() {
        let (old, new) = (ReleaseNumber(1), ReleaseNumber(2));
        let shares = Weights([(old, 90), (new, 10)].into()).among([old, new]);
        let chosen = |trial| {
            let new = (0..=u16::MAX).filter(|lot| shares.pick(Lot(*lot).draw(trial)) == Some(new));
            new.collect::<std::collections::BTreeSet<_>>()
        };
        let (first, second) = (chosen(1), chosen(2));
        for of in [&first, &second] {
            assert!((6_200..6_900).contains(&of.len()), "{}", of.len());
        }
        let again = first.intersection(&second).count();
        assert!((500..800).contains(&again), "{again}");
    }

    proptest! {
        #[test]
        fn no_cookie_breaks_it(value: Vec<u8>) {
            prop_assert_eq!(key().verify(&value), None);
        }
    }
}
