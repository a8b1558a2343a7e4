//! `/v1/secrets`: what programs are given and nobody is told.

use axum::Json;
use axum::extract::{Path, Query, State as Ex};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use nebula_domain::limits::SECRET_BYTES;
use nebula_domain::secret::Secret;
use nebula_domain::{Command, Outcome, Rejection, SecretName, State};
use nebula_secrets::VaultError;
use nebula_wire::api::{ApiError, ErrorCode, SecretInfo, SecretValue, Secrets};

use crate::app::{App, Consistency};
use crate::error::{Answer, Failure, other_change};
use crate::node::rfc3339;

fn name(text: &str) -> Answer<SecretName> {
    Ok(text.parse()?)
}

/// All secrets, without their values.
#[utoipa::path(get, path = "/v1/secrets", params(Consistency), responses((status = 200, body = Secrets)))]
pub async fn list(Ex(app): Ex<App>, Query(consistency): Query<Consistency>) -> Answer<Response> {
    let read = app.read(consistency).await?;
    let secrets = read.state.secrets.iter();
    let secrets = secrets.filter_map(|(name, secret)| info(&read.state, name, secret));
    let secrets = secrets.collect();
    Ok(read.answer(Json(Secrets { secrets })))
}

/// Sets a secret. Programs are given the new value with their deployment's next release or restart.
#[utoipa::path(put, path = "/v1/secrets/{name}", params(("name" = String, Path)), request_body = SecretValue,
    responses((status = 200, body = SecretInfo), (status = 400, body = ApiError), (status = 503, body = ApiError)))]
pub async fn set(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    headers: HeaderMap,
    Json(body): Json<SecretValue>,
) -> Answer<Json<SecretInfo>> {
    let name = name(&text)?;
    check(&body.value)?;
    let sealed = app.vault.seal(&name, &body.value).map_err(no_key)?;
    let now = app.clock.now();
    let command = Command::SetSecret {
        name: name.clone(),
        sealed,
        author: body.author.clone(),
        now,
    };
    let applied = app.change(&headers, command).await?;
    let Outcome::SecretSet { version } = applied.outcome else {
        return Err(other_change());
    };
    Ok(Json(SecretInfo {
        name: name.to_string(),
        version,
        set_at: rfc3339(now),
        author: body.author,
        used_by: used_by(&app.registry.state(), &name),
        behind: Vec::new(),
    }))
}

/// Deletes a secret that no deployment is given.
#[utoipa::path(delete, path = "/v1/secrets/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ApiError), (status = 409, body = ApiError)))]
pub async fn delete(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Answer<StatusCode> {
    let name = name(&text)?;
    app.change(&headers, Command::DeleteSecret { name }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The errors tell nothing of the value but its length.
fn check(value: &str) -> Answer<()> {
    let limit = SECRET_BYTES.check("the secret's length in bytes", value.len());
    limit.map_err(|error| ApiError::from(&Rejection::Limit(error)))?;
    if value.is_empty() {
        return Err(ApiError::bad_request("the value is empty", "give one").into());
    }
    if value.contains('\0') {
        let hint = "an environment variable cannot hold one: encode the value";
        return Err(ApiError::bad_request("the value contains a NUL byte", hint).into());
    }
    Ok(())
}

/// Clients go on to the next node.
fn no_key(error: VaultError) -> Failure {
    Failure::new(
        ErrorCode::Unavailable,
        error.to_string(),
        "ask a voter; see 'nodectl members'",
    )
}

fn used_by(state: &State, name: &SecretName) -> Vec<String> {
    let uses = |secrets: &std::collections::BTreeMap<String, SecretName>| {
        secrets.values().any(|secret| secret == name)
    };
    let deployments = state.deployments.values();
    let using = deployments.filter(|d| d.current().spec.secrets().is_some_and(uses));
    using
        .map(|deployment| deployment.name.to_string())
        .collect()
}

fn info(state: &State, name: &SecretName, secret: &Secret) -> Option<SecretInfo> {
    let (version, latest) = secret.latest()?;
    let instances = state.instances.values();
    let older = instances.filter(|i| i.secrets.get(name).is_some_and(|had| *had < version));
    let mut behind: Vec<String> = older.map(|i| i.deployment.to_string()).collect();
    behind.sort();
    behind.dedup();
    Some(SecretInfo {
        name: name.to_string(),
        version,
        set_at: rfc3339(latest.set_at),
        author: latest.author.clone(),
        used_by: used_by(state, name),
        behind,
    })
}
