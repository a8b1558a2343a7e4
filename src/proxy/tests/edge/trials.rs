//! Two releases at once: whose requests are counted for which, and who stays with which.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::common::apps::{app, named, read_head, text, verbatim};
use crate::common::client::{Answer, get, request, send_on, whole};
use crate::common::{Cluster, Node, refusing, single, single_with, until};
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::Empty;
use nebula_domain::http::HttpPolicy;
use nebula_domain::observed::{Health, InstanceFacts, NodeView, Phase};
use nebula_domain::rollout::{Pair, Rollout, Stage, Trial};
use nebula_domain::routes::{RouteTable, build};
use nebula_domain::spec::{CanaryStep, Service, Spec, Strategy, Takeover, Workload};
use nebula_domain::state::{Deployment, Desired, Instance, Release};
use nebula_domain::time::Millis;
use nebula_domain::traffic::balance::Balance;
use nebula_domain::traffic::sticky::StickyPolicy;
use nebula_domain::{Digest, InstanceId, NodeId, ReleaseNumber, State, View};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

const API: &str = "api.example.test";
const RELEASES: [ReleaseNumber; 2] = [ReleaseNumber(1), ReleaseNumber(2)];

/// `api.example.test` with release 2 on its way, in a state of its own.
struct Rolling {
    state: State,
    view: View,
    policy: HttpPolicy,
    stage: Option<Stage>,
    percent: u8,
    began_at: Millis,
}

impl Rolling {
    /// Instances `(number, release, node)`, all ready.
    fn new(instances: &[(u64, u32, u64)]) -> Rolling {
        let (mut state, mut view) = (State::default(), View::default());
        state.api_tokens.extend([([7; 32], "init".to_owned())]);
        for (id, release, node) in instances {
            let (id, node) = (InstanceId(*id), NodeId(*node));
            let instance = Instance {
                id,
                deployment: "api".parse().unwrap(),
                release: ReleaseNumber(*release),
                epoch: 1,
                node,
                desired: Desired::Run,
                since_revision: 1,
                secrets: Default::default(),
                run: None,
            };
            state.instances.insert(id, instance);
            let facts = InstanceFacts {
                phase: Phase::Running,
                health: Health::Healthy,
                restarts: 0,
                reason: String::new(),
                exit: None,
                last_end: None,
            };
            let seen = view.nodes.entry(node).or_insert_with(NodeView::unheard);
            seen.instances.insert(id, facts);
        }
        Rolling {
            state,
            view,
            policy: HttpPolicy {
                balance: Balance::RoundRobin,
                ..HttpPolicy::default()
            },
            stage: Some(Stage::Replacing),
            percent: 50,
            began_at: Millis(1),
        }
    }

    /// So many of a hundred visitors have the new release.
    fn canary(self, percent: u8) -> Rolling {
        let since = Some(Millis(1));
        Rolling {
            stage: Some(Stage::Canary { step: 0, since }),
            percent,
            ..self
        }
    }

    fn deployment(&self) -> Deployment {
        let step = CanaryStep {
            percent: self.percent,
            pause: Duration::from_secs(60),
        };
        let spec = Spec {
            http: Arc::new(self.policy.clone()),
            strategy: Strategy {
                takeover: Takeover::Canary { steps: vec![step] },
                ..Strategy::default()
            },
            ..Spec::new(
                Workload::Service(Service::new("serve")),
                "example.test".parse().unwrap(),
            )
        };
        let [old, new] = RELEASES.map(|number| {
            let artifact = (Digest([number.0 as u8; 32]), 1);
            Release::new(number, spec.clone(), artifact, Millis(0))
        });
        let mut deployment = Deployment::new("api".parse().unwrap(), 1, old);
        deployment.releases.push_back(Arc::new(new));
        deployment.target = RELEASES[1];
        deployment.rollout = self.stage.map(|stage| Rollout {
            from: Some(RELEASES[0]),
            from_epoch: 1,
            since_revision: 0,
            stage,
            seq: 0,
            began_at: self.began_at,
            progress_at: self.began_at,
            ready: 0,
            restarts: 0,
            paused: None,
        });
        deployment
    }

    fn number(&self) -> u64 {
        Trial::of(&self.deployment()).unwrap().number
    }

    fn table(&self) -> Arc<RouteTable> {
        let mut state = self.state.clone();
        let deployment = self.deployment();
        state
            .deployments
            .insert(deployment.name.clone(), deployment);
        Arc::new(build(&state, &self.view))
    }
}

/// Requests and failures, of the old release and of the new one.
fn counts(pair: &Pair) -> [(u64, u64); 2] {
    [&pair.old, &pair.new].map(|figures| (figures.requests, figures.failed))
}

fn counted(node: &Node, rolling: &Rolling) -> [(u64, u64); 2] {
    let pair = node.trials.pair(rolling.number());
    counts(&pair.unwrap_or_default())
}

async fn ask(node: &Node, times: usize) {
    for _ in 0..times {
        get(node.edge, API, "/").await;
    }
}

#[tokio::test]
async fn requests_are_counted_by_the_release_that_answers() {
    let node = single();
    let bad = app(|_| async {
        let mut response = text("bad");
        *response.status_mut() = StatusCode::NOT_IMPLEMENTED;
        response
    });
    let slow = app(|_| async {
        tokio::time::sleep(Duration::from_millis(40)).await;
        text("slow")
    });
    node.run(&[(1, slow.await), (2, bad.await)]);
    let mut rolling = Rolling::new(&[(1, 1, 1), (2, 2, 1)]);
    node.table.send_replace(rolling.table());
    ask(&node, 20).await;
    assert_eq!(counted(&node, &rolling), [(10, 0), (10, 10)]);
    let pair = node.trials.pair(rolling.number()).unwrap();
    assert_eq!((pair.old.times.count(), pair.new.times.count()), (10, 10));
    assert!(pair.old.p95() > Some(Duration::from_millis(40)));

    // The same two releases once more are another rollout.
    let first = rolling.number();
    rolling.began_at = Millis(2);
    node.table.send_replace(rolling.table());
    ask(&node, 2).await;
    assert_eq!(counted(&node, &rolling), [(1, 0), (1, 1)]);
    let tally = node.trials.take(&node.table.borrow());
    assert_eq!(tally.keys().collect::<Vec<_>>(), [&rolling.number()]);
    assert_ne!(first, rolling.number());

    // Then it is over.
    let last = rolling.number();
    rolling.stage = None;
    node.table.send_replace(rolling.table());
    ask(&node, 2).await;
    assert!(node.trials.take(&node.table.borrow()).is_empty());
    assert_eq!(node.trials.pair(last), None);
}

#[tokio::test]
async fn who_does_not_answer_has_failed_although_another_does() {
    let node = single_with(|limits| limits.ejection = Duration::ZERO);
    node.run(&[(1, named("up").await), (2, refusing())]);
    let mut rolling = Rolling::new(&[(1, 1, 1), (2, 2, 1)]);
    rolling.policy.ejection = None;
    rolling.policy.retry = "tries=3 budget=100% min_per_second=10 window=10s"
        .parse()
        .unwrap();
    node.table.send_replace(rolling.table());
    for _ in 0..10 {
        assert_eq!(get(node.edge, API, "/").await.status, StatusCode::OK);
    }
    let [old, (asked, failed)] = counted(&node, &rolling);
    assert_eq!(old, (10, 0));
    assert!(failed >= 4 && failed == asked, "{failed} of {asked}");
    let pair = node.trials.pair(rolling.number()).unwrap();
    assert_eq!(pair.new.times.count(), 0);
}

#[tokio::test]
async fn what_says_nothing_of_a_release_is_not_counted() {
    let node = single();
    let hangs = app(|_| std::future::pending());
    node.run(&[(1, named("other").await), (2, hangs.await)]);
    // One of a release that is neither.
    let mut rolling = Rolling::new(&[(1, 3, 1)]);
    let other = Release::new(
        ReleaseNumber(3),
        rolling.deployment().current().spec.clone(),
        (Digest([3; 32]), 1),
        Millis(0),
    );
    let mut deployment = rolling.deployment();
    deployment.releases.push_back(Arc::new(other));
    let mut state = rolling.state.clone();
    state
        .deployments
        .insert(deployment.name.clone(), deployment);
    node.table
        .send_replace(Arc::new(build(&state, &rolling.view)));
    ask(&node, 3).await;
    assert_eq!(counted(&node, &rolling), [(0, 0), (0, 0)]);

    // A client that leaves.
    rolling = Rolling::new(&[(2, 2, 1)]);
    node.table.send_replace(rolling.table());
    let in_flight = "nebula_http_requests_in_flight{deployment=\"api\"}";
    let mut leaving = TcpStream::connect(node.edge).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: {API}\r\n\r\n");
    leaving.write_all(head.as_bytes()).await.unwrap();
    until("it is under way", || node.metric(in_flight) == 1).await;
    drop(leaving);
    until("it is over", || node.metric(in_flight) == 0).await;

    // A change of the protocol.
    let switching =
        verbatim("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n");
    node.run(&[(2, switching.await)]);
    let head =
        format!("GET / HTTP/1.1\r\nHost: {API}\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n");
    let mut switched = TcpStream::connect(node.edge).await.unwrap();
    switched.write_all(head.as_bytes()).await.unwrap();
    let answer = read_head(&mut switched).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");

    // And no instance at all.
    rolling.view = View::default();
    node.table.send_replace(rolling.table());
    ask(&node, 1).await;
    assert_eq!(counted(&node, &rolling), [(0, 0), (0, 0)]);
}

#[tokio::test]
async fn a_remote_instance_is_counted_where_the_client_came_in() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node(1), cluster.node(2));
    two.run(&[(2, named("there").await)]);
    let rolling = Rolling::new(&[(2, 2, 2)]);
    for node in [&one, &two] {
        node.table.send_replace(rolling.table());
    }
    ask(&one, 5).await;
    assert_eq!(counted(&one, &rolling), [(0, 0), (5, 0)]);
    assert_eq!(counted(&two, &rolling), [(0, 0), (0, 0)]);
}

/// A request from one of the loopback's many addresses.
async fn from(client: u8, edge: SocketAddr, cookie: Option<&str>) -> Answer {
    let socket = TcpSocket::new_v4().unwrap();
    let address = Ipv4Addr::new(127, 0, 7, client);
    socket.bind((address, 0).into()).unwrap();
    let stream = socket.connect(edge).await.unwrap();
    let fields: Vec<_> = cookie
        .map(|cookie| ("cookie", cookie))
        .into_iter()
        .collect();
    let request = request(Method::GET, API, "/", &fields).body(Empty::<Bytes>::new());
    whole(send_on(stream, request.unwrap()).await).await
}

/// Who of the clients 1 to 40 has the new release.
async fn new_ones(node: &Node) -> BTreeSet<u8> {
    let mut new = BTreeSet::new();
    for client in 1..=40 {
        if from(client, node.edge, None).await.text() == "new" {
            new.insert(client);
        }
    }
    new
}

async fn two_releases() -> (Cluster, Node, [SocketAddr; 2]) {
    let cluster = Cluster::new();
    let node = cluster.node(1);
    let apps = [named("old").await, named("new").await];
    node.run(&[(1, apps[0]), (2, apps[1])]);
    (cluster, node, apps)
}

const BOTH: [(u64, u32, u64); 2] = [(1, 1, 1), (2, 2, 1)];

#[tokio::test]
async fn a_visitor_stays_with_a_release_and_keeps_the_new_one_as_it_grows() {
    let (_cluster, node, _) = two_releases().await;
    let mut had = BTreeSet::new();
    for percent in [10, 50, 90] {
        node.table
            .send_replace(Rolling::new(&BOTH).canary(percent).table());
        let have = new_ones(&node).await;
        assert_eq!(new_ones(&node).await, have, "it changes at {percent} %");
        assert!(have.is_superset(&had), "{had:?} then {have:?}");
        had = have;
    }
    assert!((25..=40).contains(&had.len()), "{had:?}");
    // Others are first the next time.
    node.table
        .send_replace(Rolling::new(&BOTH).canary(50).table());
    let first = new_ones(&node).await;
    let mut next = Rolling::new(&BOTH).canary(50);
    next.began_at = Millis(2);
    node.table.send_replace(next.table());
    assert_ne!(new_ones(&node).await, first);
}

#[tokio::test]
async fn a_cookie_goes_before_the_address_and_through_every_node() {
    let (cluster, one, apps) = two_releases().await;
    let two = cluster.node(2);
    let rolling = Rolling::new(&BOTH).canary(50);
    for node in [&one, &two] {
        node.table.send_replace(rolling.table());
    }
    one.run(&[(1, apps[0]), (2, apps[1])]);
    let new = new_ones(&one).await;
    let client = *new.first().unwrap();
    let other = (1..=40).find(|client| !new.contains(client)).unwrap();
    let set = from(client, one.edge, None)
        .await
        .header("set-cookie")
        .to_owned();
    assert!(set.starts_with("nebula_visitor="), "{set}");
    assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
    let cookie = set.split(';').next().unwrap();
    let many = format!("a=b; {cookie}");
    for edge in [one.edge, two.edge] {
        let kept = from(other, edge, Some(&many)).await;
        assert_eq!(kept.text(), "new");
        assert_eq!(kept.header("set-cookie"), "", "they have it");
        assert_eq!(from(other, edge, None).await.text(), "old");
    }
    // One that we did not sign is none.
    let forged = cookie.replace('.', ".0");
    let answer = from(other, one.edge, Some(&forged[..cookie.len()])).await;
    assert_eq!(answer.text(), "old");
    assert!(answer.header("set-cookie").starts_with("nebula_visitor="));
}

#[tokio::test]
async fn nobody_gets_a_cookie_without_a_canary_or_where_another_one_decides() {
    let (_cluster, node, _) = two_releases().await;
    let cookies = async |rolling: Rolling| {
        node.table.send_replace(rolling.table());
        from(1, node.edge, None)
            .await
            .header("set-cookie")
            .to_owned()
    };
    assert_eq!(cookies(Rolling::new(&BOTH)).await, "");
    // One release alone has a share.
    assert_eq!(cookies(Rolling::new(&BOTH[..1]).canary(50)).await, "");
    let mut hashed = Rolling::new(&BOTH).canary(50);
    hashed.policy.balance = "hash header x-user".parse().unwrap();
    assert_eq!(cookies(hashed).await, "");
    let mut sticky = Rolling::new(&BOTH).canary(50);
    sticky.policy.sticky = Some(StickyPolicy::default());
    let cookie = cookies(sticky).await;
    assert!(cookie.starts_with("nebula_instance="), "{cookie}");
    let mut over = Rolling::new(&BOTH);
    over.stage = None;
    assert_eq!(cookies(over).await, "");
}
