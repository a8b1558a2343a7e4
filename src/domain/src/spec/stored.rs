//! Specs as the log and snapshots hold them: what has its default takes one byte. Most specs say little, there may be
//! tens of thousands, and all that have the default policy share one.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(super) mod policy {
    use std::sync::Arc;

    use super::{Deserialize, Deserializer, Serialize, Serializer};
    use crate::http::HttpPolicy;

    pub fn serialize<S: Serializer>(policy: &Arc<HttpPolicy>, to: S) -> Result<S::Ok, S::Error> {
        let other = (*policy != HttpPolicy::shared()).then_some(&**policy);
        other.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<HttpPolicy>, D::Error> {
        let other = Option::<HttpPolicy>::deserialize(from)?;
        Ok(other.map_or_else(HttpPolicy::shared, Arc::new))
    }
}

pub(super) mod hooks {
    use super::{Deserialize, Deserializer, Serialize, Serializer};
    use crate::spec::Hooks;

    pub fn serialize<S: Serializer>(hooks: &Hooks, to: S) -> Result<S::Ok, S::Error> {
        let other = (*hooks != Hooks::default()).then_some(hooks);
        other.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Hooks, D::Error> {
        let other = Option::<Hooks>::deserialize(from)?;
        Ok(other.unwrap_or_default())
    }
}

pub(super) mod strategy {
    use super::{Deserialize, Deserializer, Serialize, Serializer};
    use crate::spec::Strategy;

    pub fn serialize<S: Serializer>(strategy: &Strategy, to: S) -> Result<S::Ok, S::Error> {
        let other = (*strategy != Strategy::default()).then_some(strategy);
        other.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Strategy, D::Error> {
        let other = Option::<Strategy>::deserialize(from)?;
        Ok(other.unwrap_or_default())
    }
}
