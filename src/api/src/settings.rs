//! `/v1/config`: cluster settings.

use axum::Json;
use axum::extract::{Path, Query, State as Ex};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use nebula_domain::{Command, Rejection, settings};
use nebula_wire::api::{ApiError, Setting, SettingValue, Settings};

use crate::app::{App, Consistency};
use crate::error::Answer;

/// All settings.
#[utoipa::path(get, path = "/v1/config", params(Consistency), responses((status = 200, body = Settings)))]
pub async fn list(Ex(app): Ex<App>, Query(consistency): Query<Consistency>) -> Answer<Response> {
    let read = app.read(consistency).await?;
    let settings = read
        .state
        .settings
        .iter()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    Ok(read.answer(Json(Settings { settings })))
}

/// One setting.
#[utoipa::path(get, path = "/v1/config/{key}", params(("key" = String, Path), Consistency),
    responses((status = 200, body = Setting), (status = 404, body = ApiError)))]
pub async fn get(
    Ex(app): Ex<App>,
    Path(key): Path<String>,
    Query(consistency): Query<Consistency>,
) -> Answer<Response> {
    settings::check_key(&key).map_err(|e| ApiError::from(&Rejection::Setting(e)))?;
    let read = app.read(consistency).await?;
    let Some(value) = read.state.settings.get(&key).cloned() else {
        return Err(ApiError::from(&Rejection::SettingUnset(key)).into());
    };
    let revision = read.state.revision;
    Ok(read.answer(Json(Setting {
        key,
        value,
        revision,
    })))
}

/// Sets one setting.
#[utoipa::path(put, path = "/v1/config/{key}", params(("key" = String, Path)), request_body = SettingValue,
    responses((status = 200, body = Setting), (status = 400, body = ApiError), (status = 503, body = ApiError)))]
pub async fn set(
    Ex(app): Ex<App>,
    Path(key): Path<String>,
    headers: HeaderMap,
    Json(body): Json<SettingValue>,
) -> Answer<Json<Setting>> {
    settings::check(&key, &body.value).map_err(|e| ApiError::from(&Rejection::Setting(e)))?;
    let command = Command::SetSetting {
        key: key.clone(),
        value: body.value.clone(),
    };
    let applied = app.change(&headers, command).await?;
    Ok(Json(Setting {
        key,
        value: body.value,
        revision: applied.revision,
    }))
}

/// Removes one setting.
#[utoipa::path(delete, path = "/v1/config/{key}", params(("key" = String, Path)),
    responses((status = 204), (status = 404, body = ApiError)))]
pub async fn unset(
    Ex(app): Ex<App>,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Answer<StatusCode> {
    settings::check_key(&key).map_err(|e| ApiError::from(&Rejection::Setting(e)))?;
    app.change(&headers, Command::UnsetSetting { key }).await?;
    Ok(StatusCode::NO_CONTENT)
}
