//! Which instance answers, what is tried again, and what is sent away: a deployment's policy, carried out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::common::apps::{app, held, named, raw, read_head, text, verbatim};
use crate::common::client::{get, get_with, post};
use crate::common::{Cluster, Node, PATIENCE, Routes, refusing, single, single_with, until};
use http::StatusCode;
use nebula_domain::http::{AccessLog, HttpPolicy};
use nebula_domain::traffic::balance::Balance;
use nebula_domain::traffic::sticky::StickyPolicy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

const API: &str = "api.example.test";

/// So many requests are under way. One counts until a moment after its answer can be seen.
async fn under_way(node: &Node, requests: u64) {
    let in_flight = "nebula_http_requests_in_flight{deployment=\"api\"}";
    until("requests end", || node.metric(in_flight) == requests).await;
}

/// Who answers so many requests.
async fn tally(node: &Node, requests: usize) -> BTreeMap<String, usize> {
    tally_beside(node, requests, 0).await
}

/// The same while `others` are under way.
async fn tally_beside(node: &Node, requests: usize, others: u64) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..requests {
        under_way(node, others).await;
        let answer = get(node.edge, API, "/").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        *tally.entry(answer.text().to_owned()).or_default() += 1;
    }
    tally
}

fn counts(of: &[(&str, usize)]) -> BTreeMap<String, usize> {
    of.iter()
        .map(|(name, n)| ((*name).to_owned(), *n))
        .collect()
}

fn in_turn(policy: &mut HttpPolicy) {
    policy.balance = Balance::RoundRobin;
}

#[tokio::test]
async fn turns_are_even() {
    let node = single();
    let apps = [named("a").await, named("b").await, named("c").await];
    node.route_api_by(&apps, in_turn);
    assert_eq!(
        tally(&node, 30).await,
        counts(&[("a", 10), ("b", 10), ("c", 10)])
    );
}

#[tokio::test]
async fn all_of_those_that_are_equally_good_get_some() {
    let node = single();
    node.route_api(&[named("a").await, named("b").await, named("c").await]);
    let tally = tally(&node, 60).await;
    assert_eq!(tally.len(), 3, "{tally:?}");
}

#[tokio::test]
async fn the_one_with_fewest_requests_is_chosen() {
    let node = single();
    let (slow, gate, asked) = held().await;
    node.route_api_by(&[slow, named("quick").await], |policy| {
        policy.balance = Balance::LeastConnections;
    });
    let edge = node.edge;
    let waiting = tokio::spawn(async move {
        // Until one of them is held.
        loop {
            if get(edge, API, "/").await.text() == "held" {
                return;
            }
        }
    });
    until("a request is held", || asked.load(Ordering::SeqCst) == 1).await;
    let seen = tally_beside(&node, 20, 1).await;
    assert_eq!(seen, counts(&[("quick", 20)]));
    gate.add_permits(1);
    waiting.await.unwrap();
}

#[tokio::test]
async fn what_is_hashed_stays_where_it_is() {
    let node = single();
    let apps = [named("a").await, named("b").await, named("c").await];
    node.route_api_by(&apps, |policy| {
        policy.balance = "hash header x-user".parse().unwrap();
    });
    let mut seen = BTreeMap::new();
    for user in 0..30 {
        let user = format!("user {user}");
        let first = get_with(node.edge, API, "/", &[("x-user", &user)]).await;
        let again = get_with(node.edge, API, "/", &[("x-user", &user)]).await;
        assert_eq!(first.text(), again.text());
        *seen.entry(first.text().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[tokio::test]
async fn an_instance_that_does_not_answer_is_left_out() {
    // What a policy says, without the moment for which an instance that refuses is avoided anyway.
    let node = single_with(|limits| limits.ejection = Duration::ZERO);
    node.route_api_by(&[named("up").await, refusing()], |policy| {
        in_turn(policy);
        policy.ejection = Some("max_fails=2 fail_timeout=1h".parse().unwrap());
    });
    assert_eq!(tally(&node, 40).await, counts(&[("up", 40)]));
    let ejected = "nebula_http_ejections_total{deployment=\"api\"}";
    assert_eq!(node.metric(ejected), 1);
    let retries = "nebula_http_retries_total{deployment=\"api\",reason=\"connect\"}";
    assert_eq!(node.metric(retries), 2);

    // With nobody else it is asked all the same.
    node.route_api(&[refusing()]);
    for _ in 0..5 {
        let answer = get(node.edge, API, "/").await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    }
}

#[tokio::test]
async fn a_breaker_opens_on_errors() {
    let node = single();
    let ill = app(|_| async {
        let mut response = text("ill");
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
    .await;
    node.route_api_by(&[named("well").await, ill], |policy| {
        in_turn(policy);
        policy.breaker = Some("min_requests=4 open=1h".parse().unwrap());
    });
    let mut errors = 0;
    for _ in 0..20 {
        errors += usize::from(get(node.edge, API, "/").await.status != StatusCode::OK);
    }
    assert_eq!(errors, 4);
    let opened = "nebula_http_breaker_changes_total{deployment=\"api\",state=\"open\"}";
    assert_eq!(node.metric(opened), 1);
    let half_open = opened.replace("open\"", "half-open\"");
    assert_eq!(node.metric(&half_open), 0);
}

#[tokio::test]
async fn a_breaker_that_was_open_long_enough_tries_again() {
    let node = single();
    let error = verbatim("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").await;
    node.route_api_by(&[error], |policy| {
        policy.breaker = Some("min_requests=1 open=10ms".parse().unwrap());
    });
    let half_open = "nebula_http_breaker_changes_total{deployment=\"api\",state=\"half-open\"}";
    let deadline = Instant::now() + PATIENCE;
    while node.metric(half_open) == 0 {
        assert!(Instant::now() < deadline, "it stays open");
        get(node.edge, API, "/").await;
    }
}

#[tokio::test]
async fn more_than_fits_waits_and_more_than_waits_is_sent_away() {
    let node = single();
    let (slow, gate, asked) = held().await;
    node.route_api_by(&[slow], |policy| {
        policy.capacity = "per_instance=1 total=4 queue=1 wait=30s".parse().unwrap();
    });
    let edge = node.edge;
    let first = tokio::spawn(async move { get(edge, API, "/").await.status });
    until("one is under way", || asked.load(Ordering::SeqCst) == 1).await;
    // Of two more one waits, whichever comes first, and the other is sent away.
    let both = [(); 2].map(|()| {
        tokio::spawn(async move {
            let answer = get(edge, API, "/").await;
            (answer.status, answer.headers.get("retry-after").cloned())
        })
    });
    let (sent_away, _, mut waits) = futures::future::select_all(both).await;
    let (status, retry_after) = sent_away.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(retry_after.unwrap(), "30");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "the other one waits");
    gate.add_permits(2);
    assert_eq!(first.await.unwrap(), StatusCode::OK);
    assert_eq!(waits.pop().unwrap().await.unwrap().0, StatusCode::OK);
}

#[tokio::test]
async fn whoever_leaves_the_queue_gives_its_place_back() {
    let node = single();
    let (slow, gate, asked) = held().await;
    node.route_api_by(&[slow], |policy| {
        policy.capacity = "per_instance=1 queue=1 wait=100ms".parse().unwrap();
    });
    let edge = node.edge;
    let first = tokio::spawn(async move { get(edge, API, "/").await.status });
    until("one is under way", || asked.load(Ordering::SeqCst) == 1).await;
    for _ in 0..3 {
        let answer = get(edge, API, "/").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    gate.add_permits(2);
    assert_eq!(first.await.unwrap(), StatusCode::OK);
    assert_eq!(get(edge, API, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_is_left_out_gets_no_overflow() {
    let node = single_with(|limits| limits.ejection = Duration::ZERO);
    let (slow, gate, asked) = held().await;
    node.route_api_by(&[slow, refusing()], |policy| {
        in_turn(policy);
        policy.capacity = "per_instance=1 queue=0".parse().unwrap();
        policy.ejection = Some("max_fails=1 fail_timeout=1h".parse().unwrap());
    });
    let edge = node.edge;
    gate.add_permits(2);
    // Both are asked, and the one that refuses is left out from then on.
    for _ in 0..2 {
        assert_eq!(get(edge, API, "/").await.status, StatusCode::OK);
        under_way(&node, 0).await;
    }
    let first = tokio::spawn(async move { get(edge, API, "/").await.status });
    until("one is under way", || asked.load(Ordering::SeqCst) == 3).await;
    let sent_away = get(edge, API, "/").await;
    assert_eq!(sent_away.status, StatusCode::SERVICE_UNAVAILABLE);
    gate.add_permits(1);
    assert_eq!(first.await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn a_spent_budget_ends_retries() {
    let node = single();
    let breaking = raw(|mut socket| async move { drop(read_head(&mut socket).await) }).await;
    node.route_api_by(&[breaking, breaking], |policy| {
        policy.retry = "tries=3 budget=0% min_per_second=0".parse().unwrap();
    });
    let answer = get(node.edge, API, "/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(
        node.metric("nebula_http_retry_budget_spent_total{deployment=\"api\"}"),
        1
    );
    let broken = "nebula_http_retries_total{deployment=\"api\",reason=\"broken\"}";
    assert_eq!(node.metric(broken), 0);
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_made_elsewhere() {
    let node = single();
    let (silent, _gate, asked) = held().await;
    let apps = [silent, named("up").await];
    node.route_api_by(&apps, |policy| {
        in_turn(policy);
        policy.deadlines = "per_try=100ms whole=30s".parse().unwrap();
        policy.ejection = None;
    });
    assert_eq!(tally(&node, 4).await, counts(&[("up", 4)]));
    assert!(asked.load(Ordering::SeqCst) > 0);
    // What may have had its effect is not sent twice.
    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(post(node.edge, API, "/", "x").await.status);
    }
    statuses.sort();
    assert_eq!(statuses, [StatusCode::OK, StatusCode::GATEWAY_TIMEOUT]);
}

#[tokio::test]
async fn requests_are_written_down_when_they_are_wanted() {
    let node = single();
    let up = [named("up").await];
    node.route_api(&up);
    get(node.edge, API, "/unwanted").await;
    node.route_api_by(&up, |policy| policy.access_log = AccessLog::Json);
    get_with(node.edge, API, "/a?b=%22c%22", &[("referer", "there")]).await;
    node.route_api_by(&[], |policy| policy.access_log = AccessLog::Combined);
    get(node.edge, API, "/b").await;
    let path = node.trees.path().join("access.log");
    let lines = || std::fs::read_to_string(&path).unwrap_or_default();
    until("both lines are there", || lines().lines().count() == 2).await;
    let lines = lines();
    let (json, combined) = lines.trim_end().split_once('\n').unwrap();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    for (field, value) in [
        ("deployment", "api"),
        ("client", "127.0.0.1"),
        ("method", "GET"),
        ("host", API),
        ("target", "/a?b=%22c%22"),
        ("protocol", "HTTP/1.1"),
        ("referer", "there"),
    ] {
        assert_eq!(json[field], value, "{field} of {json}");
    }
    assert_eq!(json["status"], 200);
    assert!(json["instance"].is_string() && json["sent_bytes"].as_u64() > Some(2));
    assert!(combined.contains("\"GET /b HTTP/1.1\" 503 "), "{combined}");
    let sent = node.metric("nebula_http_sent_bytes_total{deployment=\"api\"}");
    assert!(sent > 0 && sent >= json["sent_bytes"].as_u64().unwrap());
}

#[tokio::test]
async fn an_answer_in_which_nothing_moves_is_cut_off() {
    let node = single();
    let stalled = raw(|mut socket: TcpStream| async move {
        read_head(&mut socket).await;
        let half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
        socket.write_all(half).await.unwrap();
        // Until the edge has had enough.
        assert_eq!(socket.read(&mut [0]).await.unwrap_or(0), 0);
    })
    .await;
    node.route_api_by(&[stalled], |policy| {
        policy.limits.idle = Duration::from_secs(1);
    });
    let mut socket = TcpStream::connect(node.edge).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: {API}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset is as good an end as any.
    let _ = socket.read_to_end(&mut answer).await;
    assert!(
        answer.ends_with(b"half"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

#[tokio::test]
async fn a_client_with_a_cookie_stays_while_its_instance_is_there() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node(1), cluster.node(2));
    let apps = [named("a").await, named("b").await, named("c").await];
    let route = |endpoints: &[(u64, u64)]| {
        let routes = Routes::new()
            .policy(|policy| policy.sticky = Some(StickyPolicy::default()))
            .service("api", endpoints);
        Arc::new(routes.table())
    };
    one.run(&[(1, apps[0]), (2, apps[1]), (3, apps[2])]);
    let all = [(1, 1), (2, 1), (3, 1)];
    for node in [&one, &two] {
        node.table.send_replace(route(&all));
    }
    let first = get(one.edge, API, "/").await;
    let cookie = first.header("set-cookie").to_owned();
    assert!(
        cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap();
    let fields = [("cookie", cookie)];
    // Through whichever node it comes.
    for edge in [one.edge, two.edge].repeat(8) {
        let answer = get_with(edge, API, "/", &fields).await;
        assert_eq!(answer.text(), first.text());
        assert!(answer.headers.get("set-cookie").is_none());
    }
    // Of another's making, or of an instance that is gone: it gets a new one.
    let index = ["a", "b", "c"]
        .iter()
        .position(|name| *name == first.text());
    let gone = index.unwrap() as u64 + 1;
    let rest: Vec<_> = all.into_iter().filter(|(id, _)| *id != gone).collect();
    one.table.send_replace(route(&rest));
    let moved = get_with(one.edge, API, "/", &fields).await;
    assert_ne!(moved.text(), first.text());
    let forged = cookie.replace('.', ".0");
    for cookie in [moved.header("set-cookie"), &forged] {
        assert!(cookie.starts_with("nebula_instance="), "{cookie}");
    }
    let answer = get_with(one.edge, API, "/", &[("cookie", &forged)]).await;
    assert!(answer.headers.get("set-cookie").is_some());
}

#[tokio::test]
async fn who_waits_for_a_place_is_given_one_at_a_new_instance() {
    let node = single();
    let (slow, gate, asked) = held().await;
    let full = |policy: &mut HttpPolicy| {
        policy.capacity = "per_instance=1 total=4 queue=1 wait=30s".parse().unwrap();
    };
    node.route_api_by(&[slow], full);
    let edge = node.edge;
    let first = tokio::spawn(async move { get(edge, API, "/").await.status });
    until("one is under way", || asked.load(Ordering::SeqCst) == 1).await;
    let waits = tokio::spawn(async move { get(edge, API, "/").await });
    until("the other waits", || {
        node.metric("nebula_http_requests_in_flight{deployment=\"api\"}") == 2
    })
    .await;
    node.route_api_by(&[slow, named("new").await], full);
    assert_eq!(waits.await.unwrap().text(), "new");
    gate.add_permits(1);
    assert_eq!(first.await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn who_has_waited_for_what_is_gone_is_told_so() {
    let node = single();
    let (slow, gate, asked) = held().await;
    let full = |policy: &mut HttpPolicy| {
        policy.capacity = "per_instance=1 total=4 queue=1 wait=30s".parse().unwrap();
    };
    node.route_api_by(&[slow], full);
    let edge = node.edge;
    let first = tokio::spawn(async move { get(edge, API, "/").await.status });
    until("one is under way", || asked.load(Ordering::SeqCst) == 1).await;
    let waits = tokio::spawn(async move { get(edge, API, "/").await });
    under_way(&node, 2).await;
    node.route_api_by(&[], full);
    let told = waits.await.unwrap();
    assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
    // As one that comes now is, and not as if there were too many.
    assert!(told.text().contains("\"not_ready\""), "{}", told.text());
    gate.add_permits(1);
    assert_eq!(first.await.unwrap(), StatusCode::OK);
}
