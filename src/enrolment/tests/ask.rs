//! A node that cannot sign asks one voter after the other.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use async_trait::async_trait;
use nebula_enrolment::{EnrolError, Enrolment, Parts};
use nebula_mesh::{Peer, Service, Stream};
use nebula_registry::{Config, Registry};
use nebula_telemetry::{Clock, Random};
use nebula_testkit::Cluster;
use nebula_wire::api::{ApiError, ErrorCode, JoinRequest, JoinResponse};
use nebula_wire::codec;
use nebula_wire::peer::Protocol;
use nebula_wire::peer::identity::IdentityAnswer;

/// Gives every question the same answer.
struct Says(Vec<u8>);

#[async_trait]
impl Service for Says {
    async fn serve(&self, _: Peer, mut stream: Stream) {
        let _ = stream.read_frame(1 << 20).await;
        let _ = stream.write_frame(self.0.clone()).await;
        let _ = stream.finish().await;
    }
}

fn request() -> JoinRequest {
    let text = |text: &str| text.to_owned();
    JoinRequest {
        request_id: "0".repeat(32),
        token_id: text("t"),
        secret: "0".repeat(64),
        name: text("n9"),
        quic: text("127.0.0.1:1"),
        api: text("127.0.0.1:2"),
        edge: text("127.0.0.1:3"),
        csr: text("CSR"),
        level: 1,
    }
}

fn joined() -> Vec<u8> {
    let response = JoinResponse {
        cluster_id: "test".to_owned(),
        node_id: 9,
        role: "worker".to_owned(),
        certificate: String::new(),
        ca: String::new(),
        peers: vec![],
        next_node_id: 10,
    };
    codec::encode(&IdentityAnswer::Joined {
        response_json: serde_json::to_vec(&response).unwrap(),
    })
    .unwrap()
}

fn refused(code: ErrorCode) -> Vec<u8> {
    let error = ApiError::new(code, "no", "ask another");
    codec::encode(&IdentityAnswer::Refused {
        error_json: serde_json::to_vec(&error).unwrap(),
    })
    .unwrap()
}

/// What a join through a node without the key comes to, when the voters say this in turn.
async fn ask(answers: Vec<Option<Vec<u8>>>) -> Result<JoinResponse, EnrolError> {
    let mut cluster = Cluster::empty();
    let asker = cluster.add(1);
    let mut voters = Vec::new();
    for (id, answer) in (2..).zip(answers) {
        let voter = cluster.add(id);
        match answer {
            Some(answer) => voter.mesh.serve(Protocol::Identity, Arc::new(Says(answer))),
            None => voter.mesh.close().await,
        }
        voters.push(voter);
    }
    let dir = tempfile::tempdir().unwrap();
    let config = Config::new(dir.path().join("registry"));
    let registry = Registry::start(config, asker.mesh.clone(), Random::system(), &asker.metrics);
    let registry = registry.await.unwrap();
    let enrolment = Enrolment::start(Parts {
        data_dir: dir.path().to_owned(),
        registry: registry.clone(),
        mesh: asker.mesh.clone(),
        clock: Clock::system(),
    });
    let answer = enrolment.unwrap().join(request()).await;
    registry.shutdown().await;
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_read_sends_it_to_the_next_voter() {
    let mut bad_refusal = refused(ErrorCode::InvalidToken);
    let end = bad_refusal.len() - 1;
    bad_refusal[end] = b'x';
    let answers = vec![
        Some(b"rubbish".to_vec()),
        Some(bad_refusal),
        None,
        Some(refused(ErrorCode::Unavailable)),
        Some(joined()),
    ];
    assert_eq!(ask(answers).await.unwrap().node_id, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_every_voter_would_repeat_is_the_answer() {
    let answers = vec![Some(refused(ErrorCode::InvalidToken)), Some(joined())];
    let error = ask(answers).await.unwrap_err();
    assert_eq!(error.to_api().code, ErrorCode::InvalidToken);
    let nobody = ask(vec![Some(b"rubbish".to_vec())]).await.unwrap_err();
    assert!(matches!(nobody, EnrolError::NoSigner), "{nobody}");
}
