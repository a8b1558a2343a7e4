//! Persistent lists as bytes. A [`Vec`] of serde reserves a bounded part of the length that the bytes claim; the crate's own
//! form reserves all of it, and a few bytes from a peer would take all memory.

use imbl::Vector;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub fn serialize<T: Serialize + Clone, S: Serializer>(
    list: &Vector<T>,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_seq(list)
}

pub fn deserialize<'de, T, D>(from: D) -> Result<Vector<T>, D::Error>
where
    T: Deserialize<'de> + Clone,
    D: Deserializer<'de>,
{
    Ok(Vec::deserialize(from)?.into())
}
