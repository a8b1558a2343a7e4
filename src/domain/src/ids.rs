//! Identities. Numbers come from the registry's counters and are never used twice.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An identity that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{value}' is not {expected}")]
pub struct ParseIdError {
    pub value: String,
    pub expected: &'static str,
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $prefix:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix($prefix)
                    .and_then(|digits| digits.parse().ok())
                    .map($name)
                    .ok_or_else(|| ParseIdError { value: text.to_owned(), expected: $expected })
            }
        }
    };
}

number_id!(
    /// A machine's place in the cluster, for good: a machine that leaves and comes back gets another.
    NodeId, u64, "", "a node id (a number)"
);
number_id!(
    /// One running copy of a release on one node. Shown as `i-17`.
    InstanceId, u64, "i-", "an instance id (such as i-17)"
);
number_id!(
    /// A deployment's immutable versions, numbered from 1. Shown as `r3`.
    ReleaseNumber, u32, "r", "a release (such as r3)"
);

number_id!(
    /// A deployment's runs, numbered from 1. Shown as `run-3`.
    RunNumber, u64, "run-", "a run (such as run-3)"
);

/// The cluster's name for itself, made by `nodectl init`: lower-case letters, digits and dashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub String);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The public half of a join token: safe to show and to log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub String);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Chosen at random by whoever proposes; the same id is applied once, however often it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u128);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for RequestId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let err = || ParseIdError {
            value: text.to_owned(),
            expected: "a request id (32 hexadecimal digits)",
        };
        if text.len() != 32 {
            return Err(err());
        }
        u128::from_str_radix(text, 16)
            .map(RequestId)
            .map_err(|_| err())
    }
}

/// BLAKE3 of an artifact's archive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Digest {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseIdError {
            value: text.to_owned(),
            expected: "a digest (64 hexadecimal digits)",
        })?;
        Ok(Digest(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_print() {
        assert_eq!("i-17".parse(), Ok(InstanceId(17)));
        assert_eq!(InstanceId(17).to_string(), "i-17");
        assert_eq!("3".parse(), Ok(NodeId(3)));
        assert!("17".parse::<InstanceId>().is_err());
        let id = RequestId(7);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(
            "+0000000000000000000000000000007"
                .parse::<RequestId>()
                .is_err()
                || "7".parse::<RequestId>().is_err()
        );
        let digest = Digest([0xab; 32]);
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }
}
