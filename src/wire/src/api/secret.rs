//! Secrets of the cluster. No answer ever holds a value.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A secret that a program is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretRef {
    /// The environment variable that it is given in.
    pub env: String,
    /// The secret's name.
    pub secret: String,
}

/// A secret's new value.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct SecretValue {
    pub value: String,
    /// Who sets it, for the list.
    #[serde(default)]
    pub author: String,
}

/// Never the value.
impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretValue")
            .field("author", &self.author)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Secrets {
    pub secrets: Vec<SecretInfo>,
}

/// What is told of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretInfo {
    pub name: String,
    /// Counts from 1 with every value that is set.
    pub version: u64,
    /// RFC 3339.
    pub set_at: String,
    pub author: String,
    /// Deployments whose programs are given it.
    pub used_by: Vec<String>,
    /// Of these, those with instances that have an older value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<String>,
}
