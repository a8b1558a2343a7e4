//! Which secrets a program is given, between text and the domain's types.

use std::collections::BTreeMap;

use nebula_domain::SecretName;
use nebula_domain::excerpt::excerpt;
use nebula_domain::names::NameError;

use crate::api::{ApiError, SecretRef};

pub(super) fn secrets(wire: &[SecretRef]) -> Result<BTreeMap<String, SecretName>, ApiError> {
    let mut secrets = BTreeMap::new();
    for (position, given) in wire.iter().enumerate() {
        let bad = |what: String| {
            let message = format!("secrets[{position}]: {what}");
            ApiError::bad_request(message, "see docs/secrets.md")
        };
        let name: Result<SecretName, NameError> = given.secret.parse();
        let name = name.map_err(|error| bad(error.to_string()))?;
        if secrets.insert(given.env.clone(), name).is_some() {
            let twice = format!(
                "the variable '{}' is given two secrets",
                excerpt(&given.env)
            );
            return Err(bad(twice));
        }
    }
    Ok(secrets)
}

pub(super) fn told(secrets: &BTreeMap<String, SecretName>) -> Vec<SecretRef> {
    let told = |(env, secret): (&String, &SecretName)| SecretRef {
        env: env.clone(),
        secret: secret.to_string(),
    };
    secrets.iter().map(told).collect()
}
