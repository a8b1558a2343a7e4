//! Which address is asked, what is asked again elsewhere, and what is not.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use http::StatusCode;
use nebula_client::ClientError;
use nebula_client::api::{CreateJoinToken, ErrorCode, REQUEST_ID_HEADER, Scale};
use serde_json::json;
use support::{Pki, dead_address, ok, refuse, say};

fn deployed() -> serde_json::Value {
    json!({"name": "api", "generation": 2, "release": 1, "urls": []})
}

fn two() -> Scale {
    Scale {
        instances: 2,
        based_on: None,
    }
}

#[tokio::test]
async fn a_dead_address_is_passed_over_and_the_live_one_remembered() {
    let pki = Pki::new();
    let live = pki.serve(|_| ok(deployed())).await;
    let dead = dead_address().await;
    let client = pki.client(&[&dead, &live.address]);
    let answer = client.scale_deployment("api", &two()).await.unwrap();
    assert_eq!(answer.generation, 2);
    client.restart_deployment("api").await.unwrap();
    let seen = live.seen();
    assert_eq!(seen[0].line, "POST /v1/deployments/api/scale");
    assert_eq!(seen[0].body, r#"{"instances":2}"#);
    assert_eq!(
        seen[0].header("authorization").unwrap(),
        "Bearer secret-token"
    );
    assert_eq!(seen[1].line, "POST /v1/deployments/api/restart");
    assert_ne!(
        seen[0].header(REQUEST_ID_HEADER),
        seen[1].header(REQUEST_ID_HEADER),
        "each change has an id of its own"
    );
}

#[tokio::test]
async fn a_node_without_quorum_or_out_of_time_sends_the_same_request_elsewhere() {
    let pki = Pki::new();
    for code in [ErrorCode::NoQuorum, ErrorCode::Timeout] {
        let cut_off = pki.serve(move |_| refuse(code)).await;
        let live = pki.serve(|_| ok(deployed())).await;
        let client = pki.client(&[&cut_off.address, &live.address]);
        client.scale_deployment("api", &two()).await.unwrap();
        let id = cut_off.seen()[0].header(REQUEST_ID_HEADER).unwrap();
        assert_eq!(id.len(), 32);
        assert_eq!(live.seen()[0].header(REQUEST_ID_HEADER), Some(id));
    }
}

#[tokio::test]
async fn without_a_quorum_anywhere_the_cluster_s_own_words_are_kept() {
    let pki = Pki::new();
    let one = pki.serve(|_| refuse(ErrorCode::NoQuorum)).await;
    let client = pki.client(&[&one.address, &dead_address().await]);
    let error = client.restart_deployment("api").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NoQuorum));
    assert!(error.is_temporary());
    // Also when another one had not noticed yet.
    let late = pki.serve(|_| refuse(ErrorCode::Timeout)).await;
    for addresses in [[&late.address, &one.address], [&one.address, &late.address]] {
        let error = pki
            .client(&addresses.map(|a| a.as_str()))
            .restart_deployment("api")
            .await;
        assert_eq!(error.unwrap_err().code(), Some(ErrorCode::NoQuorum));
    }
}

#[tokio::test]
async fn a_refusal_is_final() {
    let pki = Pki::new();
    let first = pki.serve(|_| refuse(ErrorCode::NotFound)).await;
    let second = pki.serve(|_| ok(deployed())).await;
    let client = pki.client(&[&first.address, &second.address]);
    let error = client.restart_deployment("api").await.unwrap_err();
    assert!(error.is_not_found());
    assert!(second.seen().is_empty());
}

#[tokio::test]
async fn with_all_dead_the_error_names_each() {
    let pki = Pki::new();
    let (a, b) = (dead_address().await, dead_address().await);
    let client = pki.client(&[&a, &b]);
    let error = client.members().await.unwrap_err();
    let ClientError::Unreachable { tried } = &error else {
        panic!("{error}");
    };
    assert_eq!(tried.len(), 2);
    let text = error.to_string();
    assert!(
        text.contains(&a) && text.contains(&b) && text.contains("refused"),
        "{text}"
    );
}

#[tokio::test]
async fn silence_ends_with_the_deadline() {
    let pki = Pki::new();
    let silent = pki.serve(|_| Box::pin(std::future::pending())).await;
    let client = pki
        .client(&[&silent.address])
        .with_deadline(Duration::from_millis(200));
    let error = client.members().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn another_program_s_answer_is_told_apart() {
    let pki = Pki::new();
    let other = pki.serve(|_| say(StatusCode::OK, "<html>")).await;
    let broken = pki.serve(|_| say(StatusCode::NOT_FOUND, "<html>")).await;
    for server in [&other, &broken] {
        let error = pki.client(&[&server.address]).members().await.unwrap_err();
        assert!(matches!(error, ClientError::BadAnswer { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_server_of_another_authority_is_named_and_not_spoken_to() {
    let ours = Pki::new();
    let foreign = Pki::new();
    let server = foreign.serve(|_| ok(deployed())).await;
    let client = ours.client(&[&server.address]);
    let error = client.restart_deployment("api").await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Untrusted { address, .. } if *address == server.address),
        "{error}"
    );
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn an_impostor_does_not_keep_the_cluster_from_being_reached() {
    let ours = Pki::new();
    let impostor = Pki::new().serve(|_| ok(deployed())).await;
    let live = ours.serve(|_| ok(deployed())).await;
    let client = ours.client(&[&impostor.address, &live.address]);
    client.restart_deployment("api").await.unwrap();
    assert!(impostor.seen().is_empty());
    assert_eq!(live.seen().len(), 1);
}

#[tokio::test]
async fn each_try_for_a_secret_is_a_change_of_its_own() {
    let pki = Pki::new();
    let cut_off = pki.serve(|_| refuse(ErrorCode::NoQuorum)).await;
    let live = pki
        .serve(|_| {
            ok(json!({"id": "a", "token": "t", "role": "voter", "expires_at": "", "reusable": false, "address": ""}))
        })
        .await;
    let client = pki.client(&[&cut_off.address, &live.address]);
    let request = CreateJoinToken {
        role: "voter".into(),
        ttl_seconds: 60,
        reusable: false,
    };
    assert_eq!(client.create_join_token(&request).await.unwrap().token, "t");
    assert_ne!(
        cut_off.seen()[0].header(REQUEST_ID_HEADER),
        live.seen()[0].header(REQUEST_ID_HEADER)
    );
}

#[tokio::test]
async fn addresses_are_checked_before_they_are_used() {
    let pki = Pki::new();
    let tls = || {
        std::sync::Arc::new(
            rustls::ClientConfig::builder()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth(),
        )
    };
    drop(pki);
    for bad in [
        "",
        "host",
        "https://a:1",
        "a:0",
        "a:99999",
        "a:1/x",
        "u@a:1",
    ] {
        let error = nebula_client::Client::with_tls(vec![bad.into()], tls(), None).unwrap_err();
        assert!(matches!(error, ClientError::Setup(_)), "{bad}");
    }
    for good in ["127.0.0.1:1", "[::1]:7601", "node-1.example.test:7601"] {
        assert!(
            nebula_client::Client::with_tls(vec![good.into()], tls(), None).is_ok(),
            "{good}"
        );
    }
    assert!(nebula_client::Client::with_tls(vec![], tls(), None).is_err());
}
