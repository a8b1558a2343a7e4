//! Cluster settings: a short list of known keys, and free ones under `user.`.

use crate::excerpt::excerpt;
use crate::limits::SETTING_VALUE_BYTES;
use crate::names::DomainName;

/// The domain for deployments created without `--tld`.
pub const DEFAULT_TLD: &str = "scheduler.default_tld";

/// Every known key with what it means.
pub const KNOWN: &[(&str, &str)] = &[(DEFAULT_TLD, "domain for deployments created without --tld")];

/// Keys under this prefix belong to the cluster's users and mean nothing to Nebula.
pub const USER_PREFIX: &str = "user.";

/// Why a setting was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum SettingError {
    #[error("unknown setting '{key}': known are {known}, and any key under 'user.'")]
    Unknown { key: String, known: String },
    #[error(
        "'{key}' is not a setting name: use at most 128 lower-case letters, digits, '.', '_' and '-'"
    )]
    BadKey { key: String },
    #[error("bad value for '{key}': {reason}")]
    BadValue { key: String, reason: String },
}

/// Checks a key and a value for it.
pub fn check(key: &str, value: &str) -> Result<(), SettingError> {
    check_key(key)?;
    let bad = |reason: String| SettingError::BadValue {
        key: key.to_owned(),
        reason,
    };
    SETTING_VALUE_BYTES
        .check("the value's size in bytes", value.len())
        .map_err(|e| bad(e.to_string()))?;
    if key == DEFAULT_TLD {
        value
            .parse::<DomainName>()
            .map_err(|e| bad(e.to_string()))?;
    }
    Ok(())
}

/// Checks that a key is known, or free.
pub fn check_key(key: &str) -> Result<(), SettingError> {
    let legal =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    if key.is_empty() || key.len() > 128 || !key.bytes().all(legal) {
        return Err(SettingError::BadKey { key: excerpt(key) });
    }
    let free = key
        .strip_prefix(USER_PREFIX)
        .is_some_and(|rest| !rest.is_empty());
    if free || KNOWN.iter().any(|(known, _)| *known == key) {
        return Ok(());
    }
    let known = KNOWN
        .iter()
        .map(|(k, _)| format!("'{k}'"))
        .collect::<Vec<_>>()
        .join(", ");
    Err(SettingError::Unknown {
        key: key.to_owned(),
        known,
    })
}
