//! `/v1/tokens`: join tokens. The secret is in the answer that made it, and nowhere else.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State as Ex};
use axum::http::{HeaderMap, StatusCode};
use nebula_domain::state::JoinToken;
use nebula_domain::{Command, TokenId};
use nebula_wire::api::{
    ApiError, CreateJoinToken, CreatedJoinToken, ErrorCode, JoinTokenInfo, JoinTokens,
};
use nebula_wire::convert;
use nebula_wire::token::JoinTokenText;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::error::{Answer, Failure};

/// A month: a token that lives longer is a key nobody remembers.
const MAX_TTL_SECONDS: u64 = 30 * 24 * 3600;

/// Makes a join token.
#[utoipa::path(post, path = "/v1/tokens", request_body = CreateJoinToken,
    responses((status = 201, body = CreatedJoinToken), (status = 400, body = ApiError)))]
pub async fn create(
    Ex(app): Ex<App>,
    headers: HeaderMap,
    Json(body): Json<CreateJoinToken>,
) -> Answer<(StatusCode, Json<CreatedJoinToken>)> {
    let role = convert::role(&body.role)?;
    if body.ttl_seconds == 0 || body.ttl_seconds > MAX_TTL_SECONDS {
        return Err(Failure::new(
            ErrorCode::BadRequest,
            format!("a token cannot live for {} seconds", body.ttl_seconds),
            format!(
                "use a time from 1 second to {} days",
                MAX_TTL_SECONDS / 86_400
            ),
        ));
    }
    let ca_sha256 = app.enrolment.ca_sha256();
    let id = hex::encode(app.random.bytes::<6>());
    let secret = app.random.bytes::<32>();
    let now = app.clock.now();
    let token = JoinToken {
        id: TokenId(id.clone()),
        secret_sha256: Sha256::digest(secret).into(),
        role,
        created_at: now,
        expires_at: now.plus(Duration::from_secs(body.ttl_seconds)),
        reusable: body.reusable,
        used: 0,
    };
    let expires_at = crate::node::rfc3339(token.expires_at);
    app.change(&headers, Command::CreateJoinToken { token, now })
        .await?;
    let address = app
        .registry
        .state()
        .nodes
        .get(&app.node.me)
        .map(|n| n.addresses.api.to_string());
    let created = CreatedJoinToken {
        token: JoinTokenText {
            ca_sha256,
            id: id.clone(),
            secret,
        }
        .reveal(),
        id,
        role: body.role,
        expires_at,
        reusable: body.reusable,
        address: address.unwrap_or_else(|| app.node.api.to_string()),
    };
    Ok((StatusCode::CREATED, Json(created)))
}

/// Tokens that have been made, without their secrets.
#[utoipa::path(get, path = "/v1/tokens", responses((status = 200, body = JoinTokens)))]
pub async fn list(Ex(app): Ex<App>) -> Answer<Json<JoinTokens>> {
    let now = app.clock.now();
    let state = app.registry.state();
    let tokens = state.join_tokens.values().map(|token| JoinTokenInfo {
        id: token.id.to_string(),
        role: convert::role_name(token.role).to_owned(),
        created_at: crate::node::rfc3339(token.created_at),
        expires_at: crate::node::rfc3339(token.expires_at),
        reusable: token.reusable,
        used: token.used,
        expired: token.expires_at <= now,
    });
    Ok(Json(JoinTokens {
        tokens: tokens.collect(),
    }))
}

/// Makes a token worthless.
#[utoipa::path(delete, path = "/v1/tokens/{id}", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = ApiError)))]
pub async fn revoke(
    Ex(app): Ex<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer<StatusCode> {
    let token = TokenId(id);
    if !app
        .registry
        .read(crate::app::DEADLINE)
        .await?
        .join_tokens
        .contains_key(&token)
    {
        return Err(Failure::not_found(
            format!("there is no join token '{token}'"),
            "see 'nodectl token list'",
        ));
    }
    app.change(&headers, Command::RevokeJoinToken { token })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
