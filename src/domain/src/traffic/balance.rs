//! Which of a deployment's instances gets a request.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::fields::Form;
use super::{TrafficError, check_token};

/// How an instance is chosen. Text: `power-of-two`, `round-robin`, `least-connections`, `hash address`,
/// `hash header x-user`, `hash cookie sid`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Balance {
    /// Of two taken at random the one with the lower cost: what a request lately took there (a peak-sensitive
    /// moving average) times the requests that are under way. Finagle's and Linkerd's choice.
    #[default]
    PowerOfTwo,
    /// One after the other, by weight.
    RoundRobin,
    /// The one with the fewest requests under way for its weight.
    LeastConnections,
    /// The same key goes to the same instance while that is there.
    Hash(HashKey),
}

/// What a consistent hash is made of. A request without it is balanced by its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HashKey {
    /// The client's address, of IPv6 its /64.
    Address,
    /// A header field's value; the name is in lower case.
    Header(String),
    Cookie(String),
}

impl Balance {
    pub fn check(&self) -> Result<(), TrafficError> {
        match self {
            Balance::Hash(HashKey::Header(name)) => check_token("a header's name", name),
            Balance::Hash(HashKey::Cookie(name)) => check_token("a cookie's name", name),
            _ => Ok(()),
        }
    }
}

const FORM: Form = Form {
    what: "a balancing policy",
    example: "power-of-two', 'round-robin', 'least-connections', 'hash address', 'hash header NAME' or 'hash cookie NAME",
    words: &[
        "power-of-two",
        "round-robin",
        "least-connections",
        "hash",
        "address",
        "header",
        "cookie",
    ],
};

impl FromStr for Balance {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let words: Vec<&str> = text.split_ascii_whitespace().take(4).collect();
        let balance = match words[..] {
            ["power-of-two"] => Balance::PowerOfTwo,
            ["round-robin"] => Balance::RoundRobin,
            ["least-connections"] => Balance::LeastConnections,
            ["hash", "address"] => Balance::Hash(HashKey::Address),
            ["hash", "header", name] => Balance::Hash(HashKey::Header(name.to_ascii_lowercase())),
            ["hash", "cookie", name] => Balance::Hash(HashKey::Cookie(name.to_owned())),
            [word] | ["hash", word] | ["hash", word, _] if !FORM.words.contains(&word) => {
                return Err(FORM.unknown(word));
            }
            _ => return Err(FORM.malformed(text)),
        };
        balance.check()?;
        Ok(balance)
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Balance::PowerOfTwo => f.write_str("power-of-two"),
            Balance::RoundRobin => f.write_str("round-robin"),
            Balance::LeastConnections => f.write_str("least-connections"),
            Balance::Hash(HashKey::Address) => f.write_str("hash address"),
            Balance::Hash(HashKey::Header(name)) => write!(f, "hash header {name}"),
            Balance::Hash(HashKey::Cookie(name)) => write!(f, "hash cookie {name}"),
        }
    }
}
