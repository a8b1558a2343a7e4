//! What clients ask of one node, whatever carries it there.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Consistency {
    Linearizable,
    Stale,
}

impl Consistency {
    pub fn as_str(self) -> &'static str {
        match self {
            Consistency::Linearizable => "linearizable",
            Consistency::Stale => "stale",
        }
    }
}

/// Why there is no answer, by what may have become of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It has no effect, now or later: it was never sent, or refused for good.
    Never(String),
    /// It may have an effect, now or later.
    Unknown(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Never(why) | Fault::Unknown(why) => f.write_str(why),
        }
    }
}

/// All settings at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub revision: u64,
    pub values: BTreeMap<String, String>,
}

/// A client of one node. Every call ends within its deadline.
#[async_trait]
pub trait Api: Send {
    /// Sets a setting. `request` is 32 hexadecimal digits; the same ones again are applied once.
    async fn put(
        &mut self,
        key: &str,
        value: &str,
        request: &str,
        deadline: Duration,
    ) -> Result<(), Fault>;

    async fn get(
        &mut self,
        key: &str,
        consistency: Consistency,
        deadline: Duration,
    ) -> Result<Option<String>, Fault>;

    async fn settings(
        &mut self,
        consistency: Consistency,
        deadline: Duration,
    ) -> Result<Settings, Fault>;

    /// `GET path`, for what has no method here.
    async fn look(&mut self, path: &str, deadline: Duration) -> Result<Value, Fault>;
}
