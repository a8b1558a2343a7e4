//! Whose a fetch is and for how long, and what ends what is kept: those who leave, slow clients, releases, purges.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common;
use crate::common::apps::{raw, read_head, text};
use crate::common::client::{get, get_with};
use crate::common::counting::{Counting, numbered, with_fields};
use crate::common::http2::{answered, request};
use crate::common::{Node, Routes, single, single_with, until};
use http::Method;
use nebula_domain::http::{HttpPolicy, RateRule};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const API: &str = "api.example.test";
const MINUTE: &[(&str, &str)] = &[("cache-control", "max-age=60")];

fn on(policy: &mut HttpPolicy) {
    policy.cache.on = true;
}

fn cached(address: SocketAddr) -> Node {
    let node = single();
    node.route_api_by(&[address], on);
    node
}

fn in_flight(node: &Node) -> u64 {
    node.metric("nebula_http_requests_in_flight{deployment=\"api\"}")
}

#[tokio::test]
async fn a_fetch_ends_when_the_last_has_left_and_nothing_has_come() {
    let (asked, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let its = (Arc::clone(&asked), Arc::clone(&left));
    // It never answers, and sees who goes.
    let silent = raw(move |mut socket| {
        let (asked, left) = its.clone();
        async move {
            read_head(&mut socket).await;
            asked.fetch_add(1, Ordering::SeqCst);
            let _ = socket.read(&mut [0]).await;
            left.fetch_add(1, Ordering::SeqCst);
        }
    });
    let node = cached(silent.await);
    let edge = node.edge;
    let mut first = JoinSet::new();
    first.spawn(get(edge, API, "/"));
    until("it is asked for", || asked.load(Ordering::SeqCst) == 1).await;
    let second = tokio::spawn(get(edge, API, "/"));
    until("both wait", || in_flight(&node) == 2).await;
    first.shutdown().await;
    until("one has left", || in_flight(&node) == 1).await;
    let counts = || {
        let asked = asked.load(Ordering::SeqCst);
        (asked, left.load(Ordering::SeqCst))
    };
    // It is for the one who still waits.
    assert_eq!(counts(), (1, 0));
    second.abort();
    until("the instance is let go", || counts() == (1, 1)).await;
    // Whoever comes then has one of their own.
    let third = tokio::spawn(get(edge, API, "/"));
    until("it is asked for again", || counts() == (2, 1)).await;
    third.abort();
}

#[tokio::test]
async fn a_deployment_has_a_part_of_all_fetches() {
    let (held, quick) = (
        Counting::held(|number, _| numbered(number, MINUTE)).await,
        Counting::with(MINUTE).await,
    );
    let node = single_with(|limits| limits.cache_fetches = 4);
    node.run(&[(1, held.address), (2, quick.address)]);
    let routes = Routes::new().policy(on);
    let routes = routes.service("api", &[(1, 1)]).service("other", &[(2, 1)]);
    node.table.send_replace(routes.table().into());
    let edge = node.edge;
    let first = tokio::spawn(get(edge, API, "/1"));
    until("it is fetched", || held.asked() == 1).await;
    let second = tokio::spawn(get(edge, API, "/2"));
    until("the second is asked for", || held.asked() == 2).await;
    let other = get(edge, "other.example.test", "/").await;
    let stored = "Nebula; fwd=uri-miss; fwd-status=200; stored";
    assert_eq!(other.header("cache-status"), stored);
    held.gate.add_permits(2);
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!(first.header("cache-status"), stored);
    assert_eq!(
        second.header("cache-status"),
        "Nebula; fwd=uri-miss; detail=busy"
    );
}

#[tokio::test]
async fn who_waits_is_told_why_there_was_nothing() {
    let fields = [("cache-control", "max-age=60"), ("vary", "x-lang")];
    let app = Counting::held(move |number, _| numbered(number, &fields)).await;
    let node = cached(app.address);
    let edge = node.edge;
    app.gate.add_permits(1);
    get_with(edge, API, "/", &[("x-lang", "en")]).await;
    let mut both = JoinSet::new();
    for _ in 0..2 {
        both.spawn(async move {
            let answer = get_with(edge, API, "/", &[("x-lang", "de")]).await;
            answer.header("cache-status").to_owned()
        });
    }
    until("both wait", || in_flight(&node) == 2 && app.asked() == 2).await;
    app.gate.add_permits(1);
    let mut said = both.join_all().await;
    said.sort();
    let expected = [
        "Nebula; fwd=vary-miss; collapsed",
        "Nebula; fwd=vary-miss; fwd-status=200; stored",
    ];
    assert_eq!(said, expected);
}

#[tokio::test]
async fn an_answer_of_very_many_fields_is_asked_for_twice_only_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let fields: String = (0..126)
        .map(|number| format!("X-{number}: 1\r\n"))
        .collect();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{fields}\r\nok");
    let many = raw(move |mut socket| {
        let (count, answer) = (Arc::clone(&count), answer.clone());
        async move {
            while !read_head(&mut socket).await.is_empty() {
                count.fetch_add(1, Ordering::SeqCst);
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    let node = cached(many.await);
    for asked_then in 2..6 {
        // More than the usual client takes.
        let mut socket = TcpStream::connect(node.edge).await.unwrap();
        let ask = format!("GET / HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n");
        socket.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"),
            "{answer}"
        );
        assert_eq!(asked.load(Ordering::SeqCst), asked_then);
    }
}

/// Its windows are those of its client, so that little is taken of an answer at once and nothing lies anywhere on the way.
#[tokio::test]
async fn a_client_that_takes_an_answer_slowly_gets_all_of_it() {
    const STEP_BYTES: usize = 500;
    let large = "x".repeat(110_000);
    let body = large.clone();
    let app = Counting::new(move |_, _| {
        with_fields(text(body.clone()), &[("cache-control", "no-store")])
    })
    .await;
    // What the pipe of a fetch holds takes this client longer.
    let node = single_with(|limits| limits.client_stall = Duration::from_secs(1));
    node.route_api_by(&[app.address], on);
    let socket = TcpStream::connect(node.edge).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let mut client = h2::client::Builder::new();
    client.initial_window_size(STEP_BYTES as u32);
    let (mut sender, connection) = client.handshake::<_, bytes::Bytes>(socket).await.unwrap();
    tokio::spawn(connection);
    let (response, _) = sender
        .send_request(request(Method::GET, "/", &[]), true)
        .unwrap();
    let mut body = answered(response).await.into_body();
    let mut taken = 0;
    while let Some(piece) = timeout(common::PATIENCE, body.data()).await.unwrap() {
        let bytes = piece.expect("it is cut off").len();
        taken += bytes;
        sleep(Duration::from_millis(20)).await;
        body.flow_control().release_capacity(bytes).unwrap();
    }
    assert_eq!(taken, large.len());
}

#[tokio::test]
async fn what_comes_late_of_an_older_release_undoes_nothing() {
    let app = Counting::with(MINUTE).await;
    let node = single();
    node.run(&[(1, app.address)]);
    let route = |release: u32, limited: bool| {
        let policy = |policy: &mut HttpPolicy| {
            on(policy);
            policy.rate_limits = Vec::new();
            if limited {
                let limit = "1r/s burst=5".parse().unwrap();
                policy.rate_limits.push(RateRule::by_address(limit));
            }
        };
        let routes = Routes::new().policy(policy).release(release);
        let routes = routes.service("api", &[(1, 1)]);
        node.table.send_replace(routes.table().into());
    };
    route(1, true);
    let edge = node.edge;
    get(edge, API, "/first").await;
    until("it is through", || in_flight(&node) == 0).await;
    // Held back for a second.
    let late = tokio::spawn(get(edge, API, "/late"));
    until("it waits", || in_flight(&node) == 1).await;
    route(2, false);
    let new = get(edge, API, "/").await;
    assert_eq!(app.asked(), 2, "what was held back has not been asked for");
    let late = late.await.unwrap();
    assert_eq!(
        late.header("cache-status"),
        "Nebula; fwd=bypass; detail=outdated"
    );
    assert_eq!(get(edge, API, "/").await.text(), new.text());
    assert_eq!(app.asked(), 3);
}

#[tokio::test]
async fn a_purge_lets_go_of_all_that_is_kept_and_of_what_comes_in() {
    let app = Counting::held(|number, _| numbered(number, MINUTE)).await;
    let node = single();
    node.run(&[(1, app.address), (2, app.address)]);
    let route = |purged_at: u64| {
        let routes = Routes::new().policy(on).purged("api", purged_at);
        let routes = routes.service("api", &[(1, 1)]).service("other", &[(2, 1)]);
        node.table.send_replace(routes.table().into());
    };
    let edge = node.edge;
    let text = async |host: &str, path: &str| get(edge, host, path).await.text().to_owned();
    let other = "other.example.test";
    route(0);
    app.gate.add_permits(2);
    assert_eq!(text(API, "/").await, "answer 1");
    assert_eq!(text(other, "/").await, "answer 2");
    let coming = tokio::spawn(get(edge, API, "/coming"));
    until("it is asked for", || app.asked() == 3).await;
    route(7);
    // Nobody waits for what was asked for before.
    let anew = tokio::spawn(get(edge, API, "/coming"));
    until("it is asked for again", || app.asked() == 4).await;
    app.gate.add_permits(3);
    let mut both =
        [coming.await.unwrap(), anew.await.unwrap()].map(|answer| answer.text().to_owned());
    both.sort();
    assert_eq!(both, ["answer 3", "answer 4"]);
    assert_eq!(text(API, "/").await, "answer 5");
    assert_eq!(text(API, "/coming").await, "answer 4");
    // Of another deployment's nothing goes.
    assert_eq!(text(other, "/").await, "answer 2");
    assert_eq!(app.asked(), 5);
}
