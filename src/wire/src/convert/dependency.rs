//! What a deployment waits for, between text and the domain's types.

use std::collections::BTreeSet;

use nebula_domain::DeploymentName;
use nebula_domain::names::NameError;

use crate::api::ApiError;

pub(super) fn dependencies(wire: &[String]) -> Result<BTreeSet<DeploymentName>, ApiError> {
    let name = |(position, text): (usize, &String)| {
        text.parse().map_err(|error: NameError| {
            let message = format!("depends_on[{position}]: {error}");
            ApiError::bad_request(
                message,
                "name deployments, as 'nebula deploy list' shows them",
            )
        })
    };
    wire.iter().enumerate().map(name).collect()
}
