//! One message of every kind that nodes send each other, for the tests of how they are written and read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nebula_domain::http::HttpPolicy;
use nebula_domain::ids::RunNumber;
use nebula_domain::probe::Standing;
use nebula_domain::spec::{ProbeRole, Service, Spec, Workload};
use nebula_domain::state::Role;
use nebula_domain::time::Millis;
use nebula_domain::{
    Command, Digest, InstanceId, NodeId, Outcome, Rejection, ReleaseNumber, Request, RequestId,
};
use nebula_testkit::forms;
use nebula_testkit::fuzz::Kind;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::convert::{self, Passwords};
use crate::peer::registry::{
    Applied, Blob, OperatorToken, Proposal, RegistryAnswer, RegistryRequest,
};
use crate::peer::{
    artifact, health, identity, log_copy, log_search, logs, secrets, tunnel, volumes,
};

/// A message and what reads its kind.
pub(crate) struct Message {
    pub bytes: Vec<u8>,
    pub kind: Kind,
}

fn message<T: Serialize + DeserializeOwned>(value: &T) -> Message {
    Message {
        bytes: codec::encode(value).unwrap(),
        kind: forms::kind::<T>(),
    }
}

fn all<T: Serialize + DeserializeOwned>(values: impl IntoIterator<Item = T>) -> Vec<Message> {
    values.into_iter().map(|value| message(&value)).collect()
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

fn log_line(n: u64, source: logs::Source) -> logs::Line {
    logs::Line {
        time: "2026-01-01T00:00:00.000Z".to_owned(),
        instance: InstanceId(n),
        release: ReleaseNumber(1),
        source,
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

/// Every variant of every message once, in a fixed order; new ones go to the end of their kind.
pub(crate) fn messages() -> Vec<Message> {
    let groups = [
        registry(),
        artifacts(),
        identities(),
        plain_logs(),
        searches(),
        copies(),
        healths(),
        tunnels(),
        kept_values(),
    ];
    groups.into_iter().flatten().collect()
}

fn registry() -> Vec<Message> {
    let proposal = |n| Proposal {
        request: Blob(codec::encode(&create()).unwrap()),
        operator: (n % 2 == 0).then(|| OperatorToken("token".to_owned())),
    };
    let outcomes = [
        Outcome::Done,
        Outcome::Joined {
            node: NodeId(2),
            role: Role::Voter,
        },
        Outcome::Deployed {
            generation: 4,
            release: ReleaseNumber(2),
        },
        Outcome::Assigned {
            started: 1,
            stopped: 2,
            forgotten: 3,
        },
        Outcome::CachePurged { revision: 8 },
        Outcome::SecretSet { version: 2 },
        Outcome::RunBegun { run: RunNumber(5) },
    ];
    let applied = |outcome| {
        Ok(Applied {
            outcome,
            revision: 9,
        })
    };
    let refused = [
        Rejection::TokenUsed,
        Rejection::NodeUnknown(NodeId(3)),
        Rejection::StalePlan {
            planned: 1,
            current: 2,
        },
        Rejection::DeploymentUnknown("api".parse().unwrap()),
    ];
    let answers = outcomes.into_iter().map(applied);
    let answers = answers.chain(refused.into_iter().map(Err)).collect();
    let mut some = all([create()]);
    some.extend(all([
        RegistryRequest::Propose {
            proposals: (0..4).map(proposal).collect(),
            deadline_ms: 100,
        },
        RegistryRequest::ReadIndex,
    ]));
    some.extend(all([
        RegistryAnswer::Proposed(answers),
        RegistryAnswer::ReadIndex(77),
        RegistryAnswer::NotLeader {
            leader: Some(NodeId(3)),
        },
        RegistryAnswer::Unfinished,
        RegistryAnswer::Refused("why".to_owned()),
    ]));
    some
}

fn artifacts() -> Vec<Message> {
    let digest = Digest([3; 32]);
    let mut some = all([
        artifact::ArtifactRequest::Has { digest },
        artifact::ArtifactRequest::Get { digest },
        artifact::ArtifactRequest::Fetch { digest },
    ]);
    some.extend(all([
        artifact::ArtifactAnswer::Held { size_bytes: 1000 },
        artifact::ArtifactAnswer::Missing,
        artifact::ArtifactAnswer::Sending { size_bytes: 1000 },
        artifact::ArtifactAnswer::Failed {
            message: "why".to_owned(),
        },
    ]));
    some
}

fn identities() -> Vec<Message> {
    let mut some = all([
        identity::IdentityRequest::Join {
            request_json: b"{}".to_vec(),
        },
        identity::IdentityRequest::Renew {
            csr: "csr".to_owned(),
        },
        identity::IdentityRequest::FetchAuthority {
            public_key: [2; 32],
        },
    ]);
    some.extend(all([
        identity::IdentityAnswer::Joined {
            response_json: b"{}".to_vec(),
        },
        identity::IdentityAnswer::Renewed {
            certificate: "certificate".to_owned(),
        },
        identity::IdentityAnswer::Authority {
            sealed: vec![1; 80],
        },
        identity::IdentityAnswer::Refused {
            error_json: b"{}".to_vec(),
        },
    ]));
    some
}

fn lines() -> Vec<logs::Line> {
    use logs::Source::{Nebula, Stderr, Stdout};
    [Stdout, Stderr, Nebula]
        .into_iter()
        .zip(1..)
        .map(|(source, n)| log_line(n, source))
        .collect()
}

fn plain_logs() -> Vec<Message> {
    let mut some = all([logs::Request {
        deployment: "api".parse().unwrap(),
        instance: Some(InstanceId(1)),
        tail: 10,
        after: Some("2026-01-01T00:00:00.000Z".to_owned()),
        follow: true,
    }]);
    some.extend(all([
        logs::Answer::Lines(lines()),
        logs::Answer::Live,
        logs::Answer::Refused("why".to_owned()),
    ]));
    some
}

fn searches() -> Vec<Message> {
    use log_search::Place;
    let search = |place| log_search::Search {
        deployment: "api".parse().unwrap(),
        tail: 10,
        follow: false,
        place,
        filter: log_search::Filter {
            instance: None,
            release: Some(ReleaseNumber(4)),
            source: Some(logs::Source::Stderr),
            level: Some(nebula_domain::loglevel::Level::Warn),
            since: Some("2026-01-01T00:00:00.000Z".to_owned()),
            until: None,
            grep: Some("a.*b".to_owned()),
            past: true,
        },
    };
    let places = [
        Place::Own,
        Place::CopiesBut(vec![NodeId(1), NodeId(2)]),
        Place::CopiesOf(NodeId(3)),
    ];
    let mut some = all(places.map(search));
    some.extend(all([
        log_search::Found::Lines(lines()),
        log_search::Found::Copied {
            owner: NodeId(1),
            name: "n1".to_owned(),
            lines: lines(),
        },
        log_search::Found::Searching,
        log_search::Found::Cut,
        log_search::Found::Live,
        log_search::Found::Refused("why".to_owned()),
    ]));
    some
}

fn copies() -> Vec<Message> {
    let at = log_copy::Position {
        segment: 1 << 24,
        offset: 100,
    };
    let mut some = all([
        log_copy::Offer::What {
            above: Some(InstanceId(7)),
        },
        log_copy::Offer::Piece(log_copy::Piece {
            instance: InstanceId(1),
            deployment: "api".parse().unwrap(),
            release: ReleaseNumber(1),
            node: "n1".to_owned(),
            at,
            plain_bytes: 1000,
            bytes: vec![7; 200],
        }),
    ]);
    some.extend(all([
        log_copy::Kept::Ends(vec![(InstanceId(1), at)]),
        log_copy::Kept::Until(at),
        log_copy::Kept::Refused("why".to_owned()),
    ]));
    some
}

fn healths() -> Vec<Message> {
    let mut some = all([health::Request {
        deployment: "api".parse().unwrap(),
        history: true,
        runs: true,
    }]);
    some.extend(all([health::Answer {
        instances: vec![probed()],
        runs: vec![running()],
    }]));
    some
}

fn tunnels() -> Vec<Message> {
    let mut some = all([tunnel::Open {
        instance: InstanceId(4),
        site: Some(tunnel::Site {
            artifact: Digest([3; 32]),
            spa: true,
        }),
    }]);
    some.extend(all([
        tunnel::Answer::Connected,
        tunnel::Answer::NoSuchInstance,
        tunnel::Answer::ConnectFailed,
    ]));
    some
}

/// Of volumes and secrets.
fn kept_values() -> Vec<Message> {
    let mut some = all([volumes::Request {
        deployment: Some("api".parse().unwrap()),
    }]);
    some.extend(all([volumes::Answer {
        volumes: vec![volumes::Volume {
            deployment: "api".parse().unwrap(),
            ordinal: 1,
            name: "data".parse().unwrap(),
            used_bytes: 4096,
        }],
    }]));
    some.extend(all([secrets::Request {
        instance: InstanceId(4),
    }]));
    let values = BTreeMap::from([("KEY".parse().unwrap(), "value".to_owned())]);
    some.extend(all([
        secrets::Answer::Values(secrets::Values(values)),
        secrets::Answer::NoKey,
        secrets::Answer::Unknown,
        secrets::Answer::Refused("why".to_owned()),
    ]));
    some
}
