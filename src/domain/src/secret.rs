//! Secrets as the registry holds them: sealed, by a key that is not in it.
//!
//! A release names the secrets that its program is given. Which version each instance gets is settled when it is
//! placed, as its deployment's last release or restart found it: a changed secret reaches no program that only happens
//! to start again.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::SecretName;
use crate::time::Millis;

/// One secret with the versions that are still of use, by their number from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    pub versions: BTreeMap<u64, Version>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub sealed: Sealed,
    pub set_at: Millis,
    /// Who set it, in their words; may be empty.
    pub author: String,
}

/// A value that only a holder of the key can read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed(pub Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(..)")
    }
}

/// Which version of each.
pub type SecretVersions = BTreeMap<SecretName, u64>;

impl Secret {
    /// The number of the latest version, and it.
    pub fn latest(&self) -> Option<(u64, &Version)> {
        self.versions
            .last_key_value()
            .map(|(n, version)| (*n, version))
    }
}
