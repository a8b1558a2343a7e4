//! `/v1/artifacts`: archives come in as streams, are named by what they hold, and count once enough
//! nodes hold them.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State as Ex};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use nebula_domain::{Digest, NodeId};
use nebula_wire::api::{ApiError, ArtifactInfo, ErrorCode};

use crate::app::App;
use crate::error::{Answer, Failure};

/// Copies before a release may be created: one machine may be lost at any time.
pub const COPIES: usize = 2;

/// For an answer to reach a client that is still sending.
const LINGER: Duration = Duration::from_secs(5);

fn digest(text: &str) -> Answer<Digest> {
    text.parse().map_err(|e: nebula_domain::ids::ParseIdError| {
        Failure::new(
            ErrorCode::BadRequest,
            e.to_string(),
            "name an artifact by the BLAKE3 of its archive",
        )
    })
}

/// Alive members other than this one, which may hold copies.
fn others(app: &App) -> Vec<NodeId> {
    let view = app.view();
    let state = app.registry.state();
    state
        .nodes
        .keys()
        .copied()
        .filter(|n| *n != app.node.me && view.is_alive(*n))
        .collect()
}

/// Makes sure that enough nodes hold the artifact; says which do.
pub async fn secure(app: &App, digest: Digest) -> Answer<(u64, Vec<NodeId>)> {
    let others = others(app);
    if !app.artifacts.has(digest) {
        // It was uploaded through another node: hold it here as well.
        app.artifacts.ensure(digest, &others).await?;
    }
    let wanted = COPIES.min(app.registry.state().nodes.len());
    let holders = app.artifacts.replicate(digest, wanted, &others).await?;
    Ok((app.artifacts.size(digest).unwrap_or_default(), holders))
}

/// Whether the cluster holds the artifact.
#[utoipa::path(get, path = "/v1/artifacts/{digest}", params(("digest" = String, Path)),
    responses((status = 200, body = ArtifactInfo), (status = 404, body = ApiError)))]
pub async fn get(Ex(app): Ex<App>, Path(text): Path<String>) -> Answer<Json<ArtifactInfo>> {
    let digest = digest(&text)?;
    let mut holders = app.artifacts.holders(digest, &others(&app)).await;
    holders.extend(app.artifacts.size(digest).map(|size| (app.node.me, size)));
    // The same bytes everywhere; where one copy was cut short, the others say how long it has to be.
    let Some(size_bytes) = holders.values().copied().max() else {
        return Err(Failure::not_found(
            format!("no member holds the artifact {digest}"),
            "upload it",
        ));
    };
    Ok(Json(ArtifactInfo {
        digest: text,
        size_bytes,
        nodes: holders.into_keys().map(|n| n.0).collect(),
    }))
}

/// Takes an archive in. The body is a tar stream; its BLAKE3 has to be the digest in the path.
#[utoipa::path(put, path = "/v1/artifacts/{digest}", params(("digest" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 200, body = ArtifactInfo), (status = 400, body = ApiError), (status = 422, body = ApiError), (status = 507, body = ApiError)))]
pub async fn put(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    body: Body,
) -> Answer<Json<ArtifactInfo>> {
    let digest = digest(&text)?;
    let mut stream = Box::pin(body.into_data_stream().map_err(std::io::Error::other));
    if let Err(error) = app.artifacts.receive(digest, stream.as_mut()).await {
        tokio::spawn(linger(stream));
        return Err(error.into());
    }
    let (size_bytes, holders) = secure(&app, digest).await?;
    Ok(Json(ArtifactInfo {
        digest: text,
        size_bytes,
        nodes: holders.into_iter().map(|n| n.0).collect(),
    }))
}

/// Takes in and drops for a while what a client still sends that is being told why its upload failed: a
/// connection closed with bytes unread is reset, and the answer lost with it.
async fn linger(mut body: impl Stream<Item = std::io::Result<Bytes>> + Unpin) {
    let rest = async { while let Some(Ok(_)) = body.next().await {} };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// The digest in a request to deploy.
pub fn parse(text: &str) -> Answer<Digest> {
    digest(text)
}
