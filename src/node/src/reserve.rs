//! The `[reserve]` table of `node.toml`: what the machine keeps for itself, so that instances are not given it.

use std::fmt::Display;
use std::str::FromStr;

use nebula_domain::resources::{Cpu, Memory};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReserveConfig {
    /// `512Mi`, `1Gi`.
    #[serde(with = "text", skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// `500m` (half a core), `2`.
    #[serde(with = "text", skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
}

impl ReserveConfig {
    pub(crate) fn is_default(&self) -> bool {
        *self == ReserveConfig::default()
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory.map_or(0, Memory::bytes)
    }

    pub(crate) fn cpu_millis(&self) -> u64 {
        self.cpu.map_or(0, |cpu| cpu.millis().into())
    }
}

/// Amounts as people write them.
mod text {
    use super::*;

    pub fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Some).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_written_as_text() {
        let text = "memory = \"1Gi\"\ncpu = \"500m\"\n";
        let config: ReserveConfig = toml::from_str(text).unwrap();
        assert_eq!((config.memory_bytes(), config.cpu_millis()), (1 << 30, 500));
        assert_eq!(toml::to_string(&config).unwrap(), text);
        let none: ReserveConfig = toml::from_str("").unwrap();
        assert!(none.is_default());
        for bad in ["memory = \"lots\"", "memory = 5", "disk = \"1Gi\""] {
            assert!(toml::from_str::<ReserveConfig>(bad).is_err(), "{bad}");
        }
    }
}
