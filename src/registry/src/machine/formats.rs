//! What is in logs and snapshots keeps its form: bytes that were written at this level are read, and written the same, for as long as the
//! level stands. A test that fails here says that members of two versions would misread each other.
//!
//! What may change without a new level: nothing. With one ([`nebula_domain::level`]): a new kind of command, piece or other
//! enum at the end of its list, sent only once all members have reached the level; its line is added here. A field of something that
//! exists is a new kind beside the old one.
//!
//! `NEBULA_WRITE_FORMATS=1` writes the files anew; before a level is out for the first time that is all there is to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nebula_domain::command::Change;
use nebula_domain::events::{Sighting, Stamp};
use nebula_domain::http::HttpPolicy;
use nebula_domain::ids::RunNumber;
use nebula_domain::level::LEVEL;
use nebula_domain::rollout::{Order, Step};
use nebula_domain::runs::{Come, Exit, How, RunStep, Schedule};
use nebula_domain::secret::Sealed;
use nebula_domain::spec::{
    Concurrency, Cron, Kind, RunLimits, Service, Spec, StaticSite, Takeover, VolumeSpec, Workload,
};
use nebula_domain::state::{Addresses, Cluster, JoinToken, Origin, Role};
use nebula_domain::time::Millis;
use nebula_domain::{
    ClusterId, Command, Digest, InstanceId, NodeId, ReleaseNumber, Request, RequestId, State,
    TokenId, apply,
};
use nebula_testkit::forms;
use nebula_testkit::fuzz;
use nebula_wire::codec;

use super::pieces;

const NOW: Millis = Millis(1_700_000_000_000);

fn addresses(node: u16) -> Addresses {
    let at = |port| ([127, 0, 0, 1], port + node).into();
    Addresses {
        quic: at(1000),
        api: at(2000),
        edge: at(3000),
    }
}

fn origin() -> Origin {
    Origin {
        author: "ann".to_owned(),
        message: "louder".to_owned(),
    }
}

fn create(name: &str, workload: Workload) -> Command {
    let mut spec = Spec::new(workload, "example.test".parse().unwrap());
    // What runs to its end is sent no requests.
    if !matches!(spec.kind(), Some(Kind::Job(_) | Kind::Cron(_))) {
        spec.http = Arc::new(HttpPolicy {
            names: vec![format!("{name}.shop.test").parse().unwrap()],
            ..HttpPolicy::default()
        });
    }
    if !spec.volumes().is_empty() {
        spec.strategy.takeover = Takeover::Recreate;
    }
    Command::CreateDeployment {
        name: name.parse().unwrap(),
        spec,
        scale: 1,
        artifact: Digest([5; 32]),
        artifact_bytes: 10,
        origin: origin(),
        now: NOW,
    }
}

/// At least one of every kind, in an order in which most are accepted.
fn commands() -> Vec<Command> {
    let name = |text: &str| text.parse().unwrap();
    let token = TokenId("token".to_owned());
    let service = Service {
        env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
        secrets: BTreeMap::from([("PASSWORD".to_owned(), "KEY".parse().unwrap())]),
        ..Service::new("./serve")
    };
    let keeping = Service {
        volumes: vec![VolumeSpec {
            name: "data".parse().unwrap(),
            path: "/data".to_owned(),
        }],
        ..Service::new("./keep")
    };
    let job = Service {
        kind: Kind::Job(RunLimits::default()),
        ..Service::new("./once")
    };
    let cron = Service {
        kind: Kind::Cron(Cron {
            schedule: Schedule {
                cron: "0 3 * * *".to_owned(),
                time_zone: "Europe/Berlin".to_owned(),
            },
            concurrency: Concurrency::Replace,
            starting_deadline: Duration::from_secs(600),
            limits: RunLimits::default(),
        }),
        ..job.clone()
    };
    let start = |deployment: &str, node| Change::Start {
        deployment: name(deployment),
        release: ReleaseNumber(1),
        node: NodeId(node),
    };
    vec![
        Command::Init {
            cluster: Cluster {
                id: ClusterId("test".to_owned()),
                ca_pem: "ca".to_owned(),
            },
            name: "n1".parse().unwrap(),
            addresses: addresses(1),
            api_token_sha256: [1; 32],
        },
        Command::CreateJoinToken {
            token: JoinToken {
                id: token.clone(),
                secret_sha256: [2; 32],
                role: Role::Voter,
                created_at: NOW,
                expires_at: Millis(NOW.0 * 2),
                reusable: true,
                used: 0,
            },
            now: NOW,
        },
        Command::Join {
            token: token.clone(),
            secret_sha256: [2; 32],
            now: NOW,
            name: "n2".parse().unwrap(),
            addresses: addresses(2),
            level: 1,
        },
        Command::SetAddresses {
            node: NodeId(2),
            addresses: addresses(3),
        },
        Command::SetLevel {
            node: NodeId(2),
            level: 2,
        },
        Command::SetLabels {
            node: NodeId(2),
            set: [("disk".parse().unwrap(), "ssd".parse().unwrap())].into(),
            remove: vec!["zone".parse().unwrap()],
        },
        Command::SetDraining {
            node: NodeId(2),
            draining: true,
        },
        Command::SetLeaving {
            node: NodeId(2),
            leaving: true,
        },
        Command::SetSecret {
            name: "KEY".parse().unwrap(),
            sealed: Sealed(vec![7; 40]),
            author: "ann".to_owned(),
            now: NOW,
        },
        create("api", Workload::Service(service)),
        create("site", Workload::Static(StaticSite::default())),
        create("db", Workload::Service(keeping)),
        create("job", Workload::Service(job)),
        create("cron", Workload::Service(cron)),
        Command::Assign {
            plan_revision: 12,
            changes: vec![start("api", 1), start("db", 1)],
        },
        Command::Assign {
            plan_revision: 13,
            changes: vec![
                Change::Move {
                    instance: InstanceId(1),
                },
                Change::Stay {
                    instance: InstanceId(9),
                },
                Change::Forget {
                    instance: InstanceId(9),
                },
                Change::Stop {
                    instance: InstanceId(9),
                },
            ],
        },
        Command::UpdateDeployment {
            name: name("api"),
            based_on: None,
            spec: None,
            artifact: Digest([6; 32]),
            artifact_bytes: 11,
            origin: origin(),
            now: NOW,
        },
        Command::OrderRollout {
            name: name("api"),
            order: Order::Pause,
            now: NOW,
        },
        Command::StepRollout {
            name: name("api"),
            release: ReleaseNumber(2),
            seq: 1,
            step: Step::Fail {
                why: "it ended".to_owned(),
            },
            now: NOW,
        },
        Command::RollBack {
            name: name("api"),
            to: Some(ReleaseNumber(1)),
            now: NOW,
        },
        Command::ScaleDeployment {
            name: name("api"),
            scale: 3,
            based_on: None,
        },
        Command::RestartDeployment {
            name: name("api"),
            now: NOW,
        },
        Command::PurgeCache { name: name("api") },
        Command::StartRun {
            name: name("job"),
            now: NOW,
        },
        Command::StepRun {
            name: name("job"),
            run: RunNumber(1),
            seq: 0,
            step: RunStep::Start { node: NodeId(1) },
            now: NOW,
        },
        Command::StepRun {
            name: name("job"),
            run: RunNumber(1),
            seq: 1,
            step: RunStep::Ended(Exit {
                how: How::Code(0),
                said: "it ended".to_owned(),
            }),
            now: NOW,
        },
        Command::CancelRun {
            name: name("job"),
            run: RunNumber(2),
            now: NOW,
        },
        Command::TickCron {
            name: name("cron"),
            release: ReleaseNumber(1),
            seen_until: NOW,
            come: Come {
                due: Some(NOW),
                missed: None,
                next: Some(NOW),
            },
            now: NOW,
        },
        Command::Record {
            sightings: vec![Sighting::Node {
                node: NodeId(2),
                alive: false,
            }],
        },
        Command::SetSetting {
            key: "user.note".to_owned(),
            value: "a note".to_owned(),
        },
        Command::UnsetSetting {
            key: "user.other".to_owned(),
        },
        Command::RemoveDeployment { name: name("site") },
        Command::DeleteVolumes { name: name("gone") },
        Command::VolumesGone {
            node: NodeId(1),
            name: name("gone"),
            ordinal: 0,
        },
        Command::DeleteSecret {
            name: "OTHER".parse().unwrap(),
        },
        Command::ForgetJoiner { node: NodeId(8) },
        Command::RemoveNode { node: NodeId(9) },
        Command::RevokeJoinToken {
            token: TokenId("other".to_owned()),
        },
    ]
}

/// A kind that is missing here does not compile, and one that is missing above fails the test.
fn kind(command: &Command) -> usize {
    match command {
        Command::Init { .. } => 0,
        Command::Join { .. } => 1,
        Command::SetAddresses { .. } => 2,
        Command::SetLevel { .. } => 3,
        Command::SetDraining { .. } => 4,
        Command::SetLeaving { .. } => 5,
        Command::RemoveNode { .. } => 6,
        Command::ForgetJoiner { .. } => 7,
        Command::CreateJoinToken { .. } => 8,
        Command::RevokeJoinToken { .. } => 9,
        Command::CreateDeployment { .. } => 10,
        Command::UpdateDeployment { .. } => 11,
        Command::RollBack { .. } => 12,
        Command::OrderRollout { .. } => 13,
        Command::StepRollout { .. } => 14,
        Command::ScaleDeployment { .. } => 15,
        Command::RestartDeployment { .. } => 16,
        Command::RemoveDeployment { .. } => 17,
        Command::SetSetting { .. } => 18,
        Command::UnsetSetting { .. } => 19,
        Command::Assign { .. } => 20,
        Command::PurgeCache { .. } => 21,
        Command::DeleteVolumes { .. } => 22,
        Command::VolumesGone { .. } => 23,
        Command::SetSecret { .. } => 24,
        Command::DeleteSecret { .. } => 25,
        Command::StartRun { .. } => 26,
        Command::CancelRun { .. } => 27,
        Command::StepRun { .. } => 28,
        Command::TickCron { .. } => 29,
        Command::Record { .. } => 30,
        Command::SetLabels { .. } => 31,
    }
}
const KINDS: usize = 32;

/// They follow one another: plans are made for the state that they find. Some are refused, which is remembered.
fn story() -> (Vec<Request>, State) {
    let (mut requests, mut state) = (Vec::new(), State::default());
    for (id, mut command) in (1..).zip(commands()) {
        if let Command::Assign { plan_revision, .. } = &mut command {
            *plan_revision = state.plan_revision;
        }
        let stamp = Stamp {
            at: NOW,
            node: Some(NodeId(1)),
            who: "ann".to_owned(),
        };
        let id = RequestId(id);
        let request = Request { id, command, stamp };
        let _ = apply(&mut state, &request);
        requests.push(request);
    }
    (requests, state)
}

fn keep(name: &str, lines: &[(String, Vec<u8>)]) -> Vec<Vec<u8>> {
    forms::keep(env!("CARGO_MANIFEST_DIR"), LEVEL, name, lines)
}

#[test]
fn requests_keep_their_form() {
    let (requests, _) = story();
    let mut seen: Vec<usize> = requests.iter().map(|r| kind(&r.command)).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (0..KINDS).collect::<Vec<_>>(), "a kind is missing");
    let line = |request: &Request| {
        let what = format!("{:02}", kind(&request.command));
        (what, codec::encode(request).unwrap())
    };
    let lines: Vec<_> = requests.iter().map(line).collect();
    let kept = keep("requests.txt", &lines);
    let read = |bytes: &Vec<u8>| codec::decode::<Request>(bytes).unwrap();
    assert_eq!(kept.iter().map(read).collect::<Vec<_>>(), requests);
}

#[test]
fn snapshots_keep_their_form() {
    let (_, state) = story();
    assert!(!state.instances.is_empty() && !state.moving.is_empty());
    assert!(!state.volumes.is_empty() && !state.secrets.is_empty());
    assert!(!state.work.is_empty(), "{:?}", state.work);
    assert!(state.events.last() > 0, "{:?}", state.events);
    let lines = [("state".to_owned(), pieces::encode(&state).unwrap())];
    let kept = keep("snapshot.txt", &lines);
    assert_eq!(pieces::decode(&kept[0]).unwrap(), state);
}

#[test]
fn raft_messages_keep_their_form() {
    let messages = super::fuzz::raft_messages();
    let line = |(kind, bytes): &(fuzz::Kind, Vec<u8>)| (kind.name.to_owned(), bytes.clone());
    let lines: Vec<_> = messages.iter().map(line).collect();
    for ((kind, _), bytes) in messages.iter().zip(keep("raft.txt", &lines)) {
        assert!((kind.read)(&bytes), "{}", kind.name);
    }
}
