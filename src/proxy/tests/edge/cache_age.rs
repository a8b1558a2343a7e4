//! What becomes of answers that are kept: they grow old, are asked about, and are let go (RFC 9111 section 4, RFC 5861).

use crate::common::client::{Answer, ask, get, get_with, post};
use crate::common::counting::{Counting, numbered, status};
use crate::common::{Node, Routes, single, until};
use http::{Method, StatusCode};
use nebula_domain::http::HttpPolicy;

const API: &str = "api.example.test";
const MINUTE: &[(&str, &str)] = &[("cache-control", "max-age=60")];

fn on(policy: &mut HttpPolicy) {
    policy.cache.on = true;
}

/// A node with an application behind a cache.
fn cached(app: &Counting) -> Node {
    let node = single();
    node.route_api_by(&[app.address], on);
    node
}

async fn given(node: &Node, path: &str) -> String {
    get(node.edge, API, path).await.text().to_owned()
}

async fn with(node: &Node, fields: &[(&str, &str)]) -> Answer {
    get_with(node.edge, API, "/", fields).await
}

#[track_caller]
fn said(answer: &Answer, expected: &str) {
    let said = answer.header("cache-status");
    assert!(said.starts_with(expected), "{said}");
}

#[tokio::test]
async fn what_is_old_is_asked_about() {
    let app = Counting::new(|number, request| {
        let etag = request.headers().get("if-none-match");
        match number {
            1 => numbered(
                1,
                &[
                    ("cache-control", "max-age=1"),
                    ("age", "9"),
                    ("etag", "\"a\""),
                    ("x-n", "1"),
                ],
            ),
            2 => {
                assert_eq!(etag.unwrap(), "\"a\"");
                status(304, &[("cache-control", "max-age=60"), ("x-n", "2")])
            }
            _ => numbered(number, MINUTE),
        }
    })
    .await;
    let node = cached(&app);
    assert_eq!(given(&node, "/").await, "answer 1");
    let renewed = with(&node, &[]).await;
    said(&renewed, "Nebula; fwd=stale; fwd-status=304");
    assert_eq!((renewed.text(), renewed.header("x-n")), ("answer 1", "2"));
    let hit = with(&node, &[]).await;
    said(&hit, "Nebula; hit; ttl=");
    assert_eq!((hit.text(), hit.header("x-n")), ("answer 1", "2"));
    // A client may want it asked about all the same.
    let again = with(&node, &[("cache-control", "no-cache")]).await;
    said(&again, "Nebula; fwd=request; fwd-status=200; stored");
    assert_eq!(again.text(), "answer 3");
    assert_eq!(given(&node, "/").await, "answer 3");
}

#[tokio::test]
async fn what_is_always_asked_about_is_given_to_nobody_else() {
    let app = Counting::new(
        |number, request| match request.headers().get("if-none-match") {
            Some(_) => status(304, &[]),
            None => numbered(number, &[("cache-control", "no-cache"), ("etag", "\"a\"")]),
        },
    )
    .await;
    let node = cached(&app);
    for asked in 1..4 {
        assert_eq!(given(&node, "/").await, "answer 1");
        assert_eq!(app.asked(), asked);
    }
}

#[tokio::test]
async fn something_old_is_given_while_a_new_one_is_fetched() {
    let app = Counting::held(|number, _| match number {
        1 => numbered(
            1,
            &[
                ("cache-control", "max-age=1, stale-while-revalidate=600"),
                ("age", "60"),
            ],
        ),
        _ => numbered(number, MINUTE),
    })
    .await;
    app.gate.add_permits(1);
    let node = cached(&app);
    assert_eq!(given(&node, "/").await, "answer 1");
    for _ in 0..5 {
        let stale = with(&node, &[]).await;
        said(&stale, "Nebula; hit; ttl=-");
        assert_eq!(stale.text(), "answer 1");
    }
    until("a new one is fetched", || app.asked() == 2).await;
    app.gate.add_permits(1);
    let mut new = String::new();
    while new != "answer 2" {
        new = given(&node, "/").await;
    }
    assert_eq!(app.asked(), 2);
}

#[tokio::test]
async fn something_old_is_better_than_an_error() {
    let app = Counting::new(|number, _| match number {
        1 => numbered(
            1,
            &[
                ("cache-control", "max-age=1, stale-if-error=600"),
                ("age", "60"),
            ],
        ),
        _ => status(503, &[]),
    })
    .await;
    let node = cached(&app);
    assert_eq!(given(&node, "/").await, "answer 1");
    let stale = with(&node, &[]).await;
    said(&stale, "Nebula; hit; fwd-status=503; ttl=-");
    assert_eq!((stale.status, stale.text()), (StatusCode::OK, "answer 1"));
    // Also when there is no instance at all, but not for what was never kept.
    let routes = Routes::new().policy(on).service("api", &[]);
    node.table.send_replace(routes.table().into());
    assert_eq!(given(&node, "/").await, "answer 1");
    let missing = get(node.edge, API, "/other").await;
    assert_eq!(missing.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn errors_are_passed_on_where_nothing_else_was_said() {
    let app = Counting::new(|number, _| match number {
        1 => numbered(
            1,
            &[
                ("cache-control", "max-age=1"),
                ("age", "60"),
                ("etag", "\"a\""),
            ],
        ),
        2 => status(503, &[]),
        _ => numbered(number, MINUTE),
    })
    .await;
    let node = cached(&app);
    assert_eq!(given(&node, "/").await, "answer 1");
    assert_eq!(
        with(&node, &[]).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(given(&node, "/").await, "answer 3");
}

#[tokio::test]
async fn a_client_says_what_it_wants() {
    let app = Counting::with(MINUTE).await;
    let node = cached(&app);
    let only = [("cache-control", "only-if-cached")];
    assert_eq!(with(&node, &only).await.status, StatusCode::GATEWAY_TIMEOUT);
    let private = with(&node, &[("cache-control", "no-store")]).await;
    said(&private, "Nebula; fwd=request; detail=no-store");
    assert_eq!(private.text(), "answer 1");
    assert_eq!(given(&node, "/").await, "answer 2");
    assert_eq!(with(&node, &only).await.text(), "answer 2");
    let young = [("cache-control", "min-fresh=3600")];
    assert_eq!(with(&node, &young).await.text(), "answer 3");
}

#[tokio::test]
async fn a_change_makes_what_was_kept_useless() {
    let app = Counting::new(|number, request| match *request.method() {
        Method::DELETE => status(500, &[]),
        Method::POST => status(204, &[]),
        _ => numbered(number, MINUTE),
    })
    .await;
    let node = cached(&app);
    assert_eq!(given(&node, "/a").await, "answer 1");
    ask(node.edge, Method::DELETE, API, "/a", &[]).await;
    post(node.edge, API, "/b", "x").await;
    assert_eq!(given(&node, "/a").await, "answer 1");
    let changed = post(node.edge, API, "/a", "x").await;
    said(&changed, "Nebula; fwd=method");
    assert_eq!(given(&node, "/a").await, "answer 5");
}

#[tokio::test]
async fn what_was_fetched_before_a_change_is_not_kept() {
    let app = Counting::held(|number, _| numbered(number, MINUTE)).await;
    let node = cached(&app);
    let edge = node.edge;
    let early = tokio::spawn(async move { get(edge, API, "/").await });
    until("it is fetched", || app.asked() == 1).await;
    let change = tokio::spawn(async move { post(edge, API, "/", "x").await });
    until("it is changed", || app.asked() == 2).await;
    // Whichever of the two is answered first, the other follows.
    app.gate.add_permits(2);
    change.await.unwrap();
    early.await.unwrap();
    app.gate.add_permits(1);
    let late = tokio::spawn(async move { get(edge, API, "/").await });
    let late = late.await.unwrap();
    // Kept before the change was answered it was forgotten then, and after it, it was not kept.
    assert_eq!(late.text(), "answer 3");
}

#[tokio::test]
async fn a_new_release_begins_with_nothing() {
    let app = Counting::with(MINUTE).await;
    let node = cached(&app);
    assert_eq!(given(&node, "/").await, "answer 1");
    assert_eq!(given(&node, "/").await, "answer 1");
    let routes = Routes::new()
        .policy(on)
        .release(2)
        .service("api", &[(1, 1)]);
    node.table.send_replace(routes.table().into());
    assert_eq!(given(&node, "/").await, "answer 2");
    assert_eq!(given(&node, "/").await, "answer 2");
}
