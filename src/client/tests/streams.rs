//! Uploads and log streams.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use http::StatusCode;
use nebula_client::api::ErrorCode;
use nebula_client::{ArtifactSource, ClientError, LogQuery};
use serde_json::json;
use support::{Pki, dead_address, ok, refuse, say};

fn source(chunks: Vec<std::io::Result<&'static str>>, size_bytes: u64) -> ArtifactSource {
    let chunks: Arc<Vec<Result<&str, String>>> = Arc::new(
        chunks
            .into_iter()
            .map(|c| c.map_err(|e| e.to_string()))
            .collect(),
    );
    ArtifactSource {
        digest: "ab".repeat(32),
        size_bytes,
        open: Arc::new(move || {
            let chunks = chunks.as_ref().clone();
            futures::stream::iter(chunks)
                .map(|c| c.map(Bytes::from).map_err(std::io::Error::other))
                .boxed()
        }),
    }
}

#[tokio::test]
async fn an_upload_begins_again_at_the_next_address() {
    let pki = Pki::new();
    let full = pki.serve(|_| refuse(ErrorCode::Unavailable)).await;
    let live = pki
        .serve(|r| ok(json!({"digest": "ab", "size_bytes": r.body.len(), "nodes": [1, 2]})))
        .await;
    let client = pki.client(&[&dead_address().await, &full.address, &live.address]);
    let heard = Arc::new(AtomicU64::new(0));
    let progress = heard.clone();
    let info = client
        .upload_artifact(&source(vec![Ok("hello "), Ok("world")], 11), move |n| {
            progress.store(n, Ordering::Relaxed);
        })
        .await
        .unwrap();
    assert_eq!(info.size_bytes, 11);
    assert_eq!(heard.load(Ordering::Relaxed), 11);
    assert_eq!(live.seen()[0].body, "hello world");
    assert_eq!(live.seen()[0].header("content-length").unwrap(), "11");
    assert!(live.seen()[0].line.starts_with("PUT /v1/artifacts/abab"));
}

#[tokio::test]
async fn a_source_that_fails_is_named() {
    let pki = Pki::new();
    let live = pki.serve(|_| ok(json!({}))).await;
    let client = pki.client(&[&live.address]);
    let broken = source(
        vec![Ok("a"), Err(std::io::Error::other("disk on fire"))],
        11,
    );
    let error = client.upload_artifact(&broken, |_| ()).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Source(r) if r.contains("disk on fire")),
        "{error}"
    );
}

#[tokio::test]
async fn known_and_unknown_artifacts_are_told_apart() {
    let pki = Pki::new();
    let server = pki
        .serve(|r| {
            let known = r.line.ends_with("/aa");
            say(
                if known {
                    StatusCode::OK
                } else {
                    StatusCode::NOT_FOUND
                },
                "",
            )
        })
        .await;
    let client = pki.client(&[&server.address]);
    assert!(client.has_artifact("aa").await.unwrap());
    assert!(!client.has_artifact("bb").await.unwrap());
    let closed = pki.serve(|_| say(StatusCode::UNAUTHORIZED, "")).await;
    let error = pki
        .client(&[&closed.address])
        .has_artifact("aa")
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Unauthorized));
}

#[tokio::test]
async fn log_lines_arrive_one_by_one() {
    let pki = Pki::new();
    let line = |n: u32| {
        json!({"time": "2026-01-01T00:00:00.000Z", "instance": format!("i-{n}"), "node": "a",
               "release": 1, "stream": "stdout", "line": "hello"})
    };
    let server = pki
        .serve(move |_| say(StatusCode::OK, format!("{}\n\n{}\n", line(1), line(2))))
        .await;
    let client = pki.client(&[&server.address]);
    let query = LogQuery {
        tail: Some(2),
        ..LogQuery::default()
    };
    let lines: Vec<_> = client.logs("api", &query).await.unwrap().collect().await;
    let ids: Vec<_> = lines.into_iter().map(|l| l.unwrap().instance).collect();
    assert_eq!(ids, ["i-1", "i-2"]);
    assert_eq!(
        server.seen()[0].line,
        "GET /v1/deployments/api/logs?follow=false&tail=2"
    );
}

#[tokio::test]
async fn a_unix_socket_needs_no_token() {
    let dir = std::env::temp_dir().join(format!("nebula-client-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let socket = dir.join("api.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service =
            hyper::service::service_fn(|r: http::Request<hyper::body::Incoming>| async move {
                assert!(r.headers().get("authorization").is_none());
                let body = json!({"settings": {"user.a": "1"}}).to_string();
                Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::new(
                    Bytes::from(body),
                )))
            });
        let io = hyper_util::rt::TokioIo::new(stream);
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .await;
    });
    let settings = nebula_client::Client::unix(&socket)
        .settings()
        .await
        .unwrap();
    assert_eq!(settings.settings["user.a"], "1");
    served.abort();
    std::fs::remove_dir_all(&dir).unwrap();
}
