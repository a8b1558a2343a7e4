//! Networks of addresses, in CIDR notation (RFC 4632, RFC 4291 section 2.3).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{TextError, text_form};

/// `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The first bits of an address, the others zero.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

impl Network {
    /// Whether an address is in it. An IPv4 address that is written as IPv6 (`::ffff:10.0.0.1`) is that address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.bits) == self.address
    }
}

impl FromStr for Network {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let not = |instead: &str| TextError::not(text, "a network", instead);
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| not("write an address or a network such as 10.0.0.0/8"))?;
        if address != address.to_canonical() {
            return Err(not(&format!("did you mean '{}'?", address.to_canonical())));
        }
        let width = width(address);
        let legal = |bits: &str| bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit());
        let bits = match bits {
            None => width,
            Some(bits) => Some(bits)
                .filter(|bits| legal(bits))
                .and_then(|bits| bits.parse().ok())
                .filter(|bits| *bits <= width)
                .ok_or_else(|| not(&format!("the number behind '/' is 0 to {width}")))?,
        };
        let first = masked(address, bits);
        if first != address {
            return Err(not(&format!("did you mean '{first}/{bits}'?")));
        }
        Ok(Network { address, bits })
    }
}

text_form!(Network);

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        match self.bits == width(self.address) {
            true => Ok(()),
            false => write!(f, "/{}", self.bits),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_is_in_the_networks_that_hold_it() {
        let networks = networks(&["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"]);
        for (address, held) in [
            ("10.0.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("11.0.0.1", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
        ] {
            let address = address.parse().unwrap();
            let found = networks.iter().any(|network| network.contains(address));
            assert_eq!(found, held, "{address}");
        }
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("1.2.3.4".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()));
    }

    #[test]
    fn a_refused_network_is_told_how_to_be_written() {
        for (bad, word) in [
            ("", "10.0.0.0/8"),
            ("10.0.0", "10.0.0.0/8"),
            ("example.test", "10.0.0.0/8"),
            ("10.1.2.3/8", "'10.0.0.0/8'"),
            ("10.0.0.0/33", "0 to 32"),
            ("10.0.0.0/+8", "0 to 32"),
            ("::/129", "0 to 128"),
            ("10.0.0.0/", "0 to 32"),
            ("::ffff:10.0.0.1", "'10.0.0.1'"),
        ] {
            let error = bad.parse::<Network>().unwrap_err().to_string();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    proptest! {
        #[test]
        fn networks_read_back_what_they_print(address: u32, bits in 0..=32u8) {
            let network = format!("{}/{bits}", masked(IpAddr::V4(address.into()), bits));
            let network: Network = network.parse().unwrap();
            prop_assert_eq!(network.to_string().parse(), Ok(network));
            prop_assert!(network.contains(IpAddr::V4(address.into())));
        }
    }
}
