//! Secrets of an instance: the node that runs it asks one that holds the key.

use std::collections::BTreeMap;
use std::fmt;

use nebula_domain::{InstanceId, SecretName};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub instance: InstanceId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Values(Values),
    /// It holds no key.
    NoKey,
    /// It does not know the instance yet, or another version of its secrets.
    Unknown,
    /// The instance is not the asker's, or a value cannot be opened.
    Refused(String),
}

/// In the clear.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Values(pub BTreeMap<SecretName, String>);

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
