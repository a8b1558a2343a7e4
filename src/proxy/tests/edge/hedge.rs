//! A second copy of a slow request: who gets it, which answer wins, and what is heard of the one that loses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::apps::{held, named, raw, read_head, verbatim};
use crate::common::client::{get, post};
use crate::common::{Node, PATIENCE, refusing, single, single_with, until};
use http::StatusCode;
use nebula_domain::http::HttpPolicy;
use nebula_domain::traffic::balance::Balance;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

const API: &str = "api.example.test";

/// So many requests are under way. One counts until a moment after its answer can be seen.
async fn under_way(node: &Node, requests: u64) {
    let in_flight = "nebula_http_requests_in_flight{deployment=\"api\"}";
    until("requests end", || node.metric(in_flight) == requests).await;
}

/// Who answers so many requests.
async fn tally(node: &Node, requests: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..requests {
        under_way(node, 0).await;
        let answer = get(node.edge, API, "/").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        *tally.entry(answer.text().to_owned()).or_default() += 1;
    }
    tally
}

fn only(name: &str, requests: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([(name.to_owned(), requests)])
}

fn hedged(policy: &mut HttpPolicy) {
    policy.balance = Balance::RoundRobin;
    policy.hedge = Some("after=1ms".parse().unwrap());
}

const HEDGES: &str = "nebula_http_retries_total{deployment=\"api\",reason=\"hedge\"}";

#[tokio::test]
async fn a_slow_answer_is_overtaken() {
    let node = single();
    let (slow, _gate, asked) = held().await;
    node.route_api_by(&[slow, named("quick").await], hedged);
    assert_eq!(tally(&node, 10).await, only("quick", 10));
    let asked = asked.load(Ordering::SeqCst);
    assert!(asked > 0);
    assert!(node.metric(HEDGES) >= asked as u64);
}

#[tokio::test]
async fn one_that_hangs_is_left_out_though_others_answer_in_its_place() {
    let node = single();
    let (hangs, _gate, asked) = held().await;
    node.route_api_by(&[hangs, named("quick").await], |policy| {
        hedged(policy);
        policy.ejection = Some("max_fails=2 fail_timeout=1h".parse().unwrap());
        policy.retry = "tries=3 budget=100% min_per_second=10000".parse().unwrap();
    });
    let ejected = "nebula_http_ejections_total{deployment=\"api\"}";
    let deadline = Instant::now() + PATIENCE;
    while node.metric(ejected) == 0 {
        assert!(Instant::now() < deadline, "it stays in the choice");
        assert_eq!(get(node.edge, API, "/").await.text(), "quick");
    }
    let before = asked.load(Ordering::SeqCst);
    assert_eq!(tally(&node, 10).await, only("quick", 10));
    assert_eq!(asked.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn one_failure_of_two_is_no_failure_and_two_are() {
    let node = single();
    let broken = raw(|mut socket| async move {
        read_head(&mut socket).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    });
    let (broken, (slow, gate, asked)) = (broken.await, held().await);
    node.route_api_by(&[broken, slow], |policy| {
        hedged(policy);
        policy.retry.tries = 1;
    });
    let edge = node.edge;
    let waiting = tokio::spawn(async move { get(edge, API, "/").await });
    until("the other was asked", || asked.load(Ordering::SeqCst) == 1).await;
    gate.add_permits(1);
    assert_eq!(waiting.await.unwrap().text(), "held");

    let node = single();
    node.route_api_by(&[broken, broken], |policy| {
        hedged(policy);
        policy.retry.tries = 1;
    });
    assert_eq!(
        get(node.edge, API, "/").await.status,
        StatusCode::BAD_GATEWAY
    );
}

#[tokio::test]
async fn only_what_may_be_sent_twice_is_and_only_within_the_budget() {
    let node = single();
    let (slow, gate, asked) = held().await;
    node.route_api_by(&[slow, slow], hedged);
    let edge = node.edge;
    let posted = tokio::spawn(async move { post(edge, API, "/", "once").await });
    until("it was asked", || asked.load(Ordering::SeqCst) == 1).await;
    // What comes later and may be sent twice is by then.
    let got = tokio::spawn(async move { get(edge, API, "/").await });
    until("two more were asked", || {
        asked.load(Ordering::SeqCst) == 3 && node.metric(HEDGES) == 1
    })
    .await;
    gate.add_permits(3);
    assert_eq!(posted.await.unwrap().text(), "held");
    assert_eq!(got.await.unwrap().text(), "held");
    assert_eq!((asked.load(Ordering::SeqCst), node.metric(HEDGES)), (3, 1));

    let (slow, gate, asked) = held().await;
    node.route_api_by(&[slow, slow], |policy| {
        hedged(policy);
        policy.retry = "tries=3 budget=0% min_per_second=0 window=10s"
            .parse()
            .unwrap();
    });
    let asking = tokio::spawn(async move { get(edge, API, "/").await });
    until("it was asked", || asked.load(Ordering::SeqCst) == 1).await;
    let spent = "nebula_http_retry_budget_spent_total{deployment=\"api\"}";
    until("the budget was asked", || node.metric(spent) == 1).await;
    gate.add_permits(1);
    assert_eq!(asking.await.unwrap().text(), "held");
    assert_eq!((asked.load(Ordering::SeqCst), node.metric(HEDGES)), (1, 1));
}

#[tokio::test]
async fn the_place_of_a_copy_that_lost_is_for_who_waits() {
    let node = single();
    let (slow, gate, asked) = held().await;
    let (begin, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let its = (Arc::clone(&begin), Arc::clone(&begun));
    // Its answer begins when it is let, and goes on for ever.
    let endless = raw(move |mut socket: TcpStream| {
        let (begin, begun) = its.clone();
        async move {
            read_head(&mut socket).await;
            begun.fetch_add(1, Ordering::SeqCst);
            begin.acquire().await.unwrap().forget();
            let half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
            let _ = socket.write_all(half).await;
            let _ = socket.read(&mut [0]).await;
        }
    })
    .await;
    node.route_api_by(&[slow, endless], |policy| {
        hedged(policy);
        policy.capacity = "per_instance=1 total=4 queue=1 wait=30s".parse().unwrap();
    });
    let edge = node.edge;
    let mut first = TcpStream::connect(edge).await.unwrap();
    let ask = format!("GET / HTTP/1.1\r\nHost: {API}\r\n\r\n");
    first.write_all(ask.as_bytes()).await.unwrap();
    until("both are asked", || {
        asked.load(Ordering::SeqCst) == 1 && begun.load(Ordering::SeqCst) == 1
    })
    .await;
    let waits = tokio::spawn(async move { get(edge, API, "/").await });
    under_way(&node, 2).await;
    begin.add_permits(1);
    until("the other has its place", || {
        asked.load(Ordering::SeqCst) == 2
    })
    .await;
    gate.add_permits(2);
    assert_eq!(waits.await.unwrap().text(), "held");
}

#[tokio::test]
async fn an_error_that_comes_first_does_not_win() {
    let node = single();
    let failing = verbatim("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await;
    let (slow, gate, asked) = held().await;
    node.route_api_by(&[slow, failing], hedged);
    let edge = node.edge;
    // In turn, so that one of two begins at the slow one.
    let both = [(); 2].map(|()| tokio::spawn(async move { get(edge, API, "/").await }));
    until("both ask the slow one", || {
        asked.load(Ordering::SeqCst) >= 1
    })
    .await;
    until("the other was asked as well", || node.metric(HEDGES) >= 1).await;
    gate.add_permits(2);
    let mut statuses = Vec::new();
    for answer in both {
        statuses.push(answer.await.unwrap().status);
    }
    assert!(statuses.contains(&StatusCode::OK), "{statuses:?}");
}

#[tokio::test]
async fn what_is_left_out_gets_no_second_copy() {
    let node = single_with(|limits| limits.ejection = Duration::ZERO);
    let (slow, gate, asked) = held().await;
    node.route_api_by(&[slow, refusing()], |policy| {
        hedged(policy);
        policy.ejection = Some("max_fails=1 fail_timeout=1h".parse().unwrap());
    });
    gate.add_permits(2);
    for _ in 0..2 {
        assert_eq!(get(node.edge, API, "/").await.status, StatusCode::OK);
        under_way(&node, 0).await;
    }
    let before = node.metric(HEDGES);
    let edge = node.edge;
    let slow = tokio::spawn(async move { get(edge, API, "/").await.status });
    until("it is asked", || asked.load(Ordering::SeqCst) == 3).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    gate.add_permits(1);
    assert_eq!(slow.await.unwrap(), StatusCode::OK);
    assert_eq!(node.metric(HEDGES), before);
}
