//! Frames from peers that mean no good: whatever is decoded, and encoded again, says the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nebula_domain::http::HttpPolicy;
use nebula_domain::probe::Standing;
use nebula_domain::spec::{ProbeRole, Service, Spec, Workload};
use nebula_domain::time::Millis;
use nebula_domain::{Command, Digest, InstanceId, NodeId, ReleaseNumber, Request, RequestId};
use nebula_testkit::fuzz::{Kind, Target};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::convert::{self, Passwords};
use crate::peer::registry::{Blob, OperatorToken, Proposal, RegistryAnswer, RegistryRequest};
use crate::peer::{artifact, health, identity, log_copy, log_search, logs, tunnel};

fn read<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let Ok(value) = codec::decode::<T>(bytes) else {
        return false;
    };
    let again = codec::encode(&value).unwrap();
    let same: T = codec::decode(&again).unwrap();
    assert_eq!(codec::encode(&same).unwrap(), again);
    true
}

fn kind<T: Serialize + DeserializeOwned>() -> Kind {
    Kind {
        name: std::any::type_name::<T>(),
        read: read::<T>,
    }
}

fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
    codec::encode(value).unwrap()
}

fn http() -> HttpPolicy {
    let json = r#"{"names": ["a.test/x", "*.a.test"], "rules": [{"path": "/a", "redirect": "/b{rest}", "code": 302},
        {"headers": ["x: y"], "methods": ["GET"], "status": 404, "body": "no"}], "weights": {"r1": 3},
        "rate_limits": [{"limit": "10r/s burst=20", "exempt": ["/h"]}], "sticky": "on", "breaker": "on",
        "cors": {"origins": ["https://a.test"]}, "addresses": {"deny": ["10.0.0.0/8"]},
        "basic_auth": {"users": ["ann:$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i"]}}"#;
    convert::policy(&serde_json::from_str(json).unwrap(), Passwords::Unseen).unwrap()
}

fn create() -> Request {
    let service = Service {
        env: BTreeMap::from([("KEY".to_owned(), "value".to_owned())]),
        stop_grace: Duration::from_secs(3),
        ..Service::new("./serve --fast")
    };
    Request {
        id: RequestId(77),
        command: Command::CreateDeployment {
            name: "api".parse().unwrap(),
            spec: Spec {
                http: Arc::new(http()),
                ..Spec::new(Workload::Service(service), "example.test".parse().unwrap())
            },
            scale: 3,
            artifact: Digest([9; 32]),
            artifact_bytes: 1000,
            origin: Default::default(),
            now: Millis(5),
        },
        stamp: Default::default(),
    }
}

fn running() -> health::Running {
    health::Running {
        instance: InstanceId(3),
        run: 2,
        since: Millis(9),
        held: vec![health::Held {
            what: "seccomp".to_owned(),
            holds: true,
            detail: "60 system calls".to_owned(),
        }],
        usage: health::Usage {
            memory_bytes: Some(1 << 20),
            ..health::Usage::default()
        },
    }
}

fn log_line(n: u64) -> logs::Line {
    logs::Line {
        time: "2026-01-01T00:00:00.000Z".to_owned(),
        instance: InstanceId(n),
        release: ReleaseNumber(1),
        source: logs::Source::Stdout,
        text: "hello".to_owned(),
    }
}

fn probed() -> health::Probed {
    let (role, standing) = (ProbeRole::Liveness, Standing::Failing);
    health::Probed {
        instance: InstanceId(4),
        run: 2,
        probes: vec![health::Probe {
            role,
            asks: "GET /live".to_owned(),
            standing,
            last: Some(health::Last {
                ok: false,
                at: Millis(9),
                reason: "GET /live answered 500".to_owned(),
            }),
            streak: 3,
        }],
        history: vec![health::Change {
            at: Millis(9),
            run: 2,
            role,
            standing,
            reason: "GET /live answered 500".to_owned(),
        }],
    }
}

#[test]
fn fuzz_peer_frames() {
    let proposal = |n| Proposal {
        request: Blob(bytes(&create())),
        operator: (n % 2 == 0).then(|| OperatorToken("token".to_owned())),
    };
    let digest = Digest([3; 32]);
    let corpus = vec![
        bytes(&create()),
        bytes(&RegistryRequest::Propose {
            proposals: (0..4).map(proposal).collect(),
            deadline_ms: 100,
        }),
        bytes(&RegistryAnswer::NotLeader {
            leader: Some(NodeId(3)),
        }),
        bytes(&artifact::ArtifactRequest::Get { digest }),
        bytes(&artifact::ArtifactAnswer::Failed {
            message: "why".to_owned(),
        }),
        bytes(&identity::IdentityRequest::Join {
            request_json: b"{}".to_vec(),
        }),
        bytes(&identity::IdentityAnswer::Authority {
            sealed: vec![1; 80],
        }),
        bytes(&logs::Request {
            deployment: "api".parse().unwrap(),
            instance: Some(InstanceId(1)),
            tail: 10,
            after: None,
            follow: true,
        }),
        bytes(&logs::Answer::Lines((0..20).map(log_line).collect())),
        bytes(&health::Request {
            deployment: "api".parse().unwrap(),
            history: true,
            runs: true,
        }),
        bytes(&health::Answer {
            instances: vec![probed()],
            runs: vec![running()],
        }),
        bytes(&log_search::Search {
            deployment: "api".parse().unwrap(),
            tail: 10,
            follow: false,
            place: log_search::Place::CopiesBut(vec![NodeId(1), NodeId(2)]),
            filter: log_search::Filter {
                level: Some(nebula_domain::loglevel::Level::Warn),
                since: Some("2026-01-01T00:00:00.000Z".to_owned()),
                grep: Some("a.*b".to_owned()),
                ..Default::default()
            },
        }),
        bytes(&log_search::Found::Copied {
            owner: NodeId(1),
            name: "n1".to_owned(),
            lines: (0..20).map(log_line).collect(),
        }),
        bytes(&log_copy::Offer::Piece(log_copy::Piece {
            instance: InstanceId(1),
            deployment: "api".parse().unwrap(),
            release: ReleaseNumber(1),
            node: "n1".to_owned(),
            at: log_copy::Position {
                segment: 1 << 24,
                offset: 100,
            },
            plain_bytes: 1000,
            bytes: vec![7; 200],
        })),
        bytes(&log_copy::Kept::Ends(vec![])),
        bytes(&tunnel::Open {
            instance: InstanceId(4),
            site: Some(tunnel::Site {
                artifact: digest,
                spa: true,
            }),
        }),
    ];
    let target = Target {
        name: "wire: peer frames",
        corpus,
        words: &[],
        max_bytes: 16 * 1024,
        // Many values are a byte on the wire and a struct in memory.
        allocated_per_byte: 256,
        // A length may claim as much as the codec allows before it is found out.
        allocated_bytes: codec::MAX_BYTES as u64 + 64 * 1024,
        understood_percent: 5,
    };
    target.run_kinds(&[
        kind::<Request>(),
        kind::<RegistryRequest>(),
        kind::<RegistryAnswer>(),
        kind::<artifact::ArtifactRequest>(),
        kind::<artifact::ArtifactAnswer>(),
        kind::<identity::IdentityRequest>(),
        kind::<identity::IdentityAnswer>(),
        kind::<logs::Request>(),
        kind::<logs::Answer>(),
        kind::<health::Request>(),
        kind::<health::Answer>(),
        kind::<log_search::Search>(),
        kind::<log_search::Found>(),
        kind::<log_copy::Offer>(),
        kind::<log_copy::Kept>(),
        kind::<tunnel::Open>(),
    ]);
}
