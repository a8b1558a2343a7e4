//! Instances on other nodes, over real meshes on loopback.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::apps::{app, mirror, named, text};
use crate::common::client::{get, get_with, post, request, send, whole};
use crate::common::relay::Relay;
use crate::common::{Cluster, Node, Routes, refusing, until};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use nebula_domain::Digest;
use nebula_domain::traffic::balance::Balance;
use tokio::sync::mpsc;

const API: &str = "api.example.test";
const DOCS: &str = "docs.example.test";

fn route(node: &Node, endpoints: &[(u64, u64)]) {
    let routes = Routes::new().service("api", endpoints);
    node.table.send_replace(Arc::new(routes.table()));
}

#[tokio::test]
async fn instances_of_all_nodes_answer_in_turn() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    a.run(&[(1, named("one").await)]);
    b.run(&[(2, named("two").await)]);
    let mut seen = Vec::new();
    for node in [&a, &b] {
        let in_turn = Routes::new().policy(|policy| policy.balance = Balance::RoundRobin);
        let routes = in_turn.service("api", &[(1, 1), (2, 2)]);
        node.table.send_replace(Arc::new(routes.table()));
        for _ in 0..4 {
            let answer = get(node.edge, API, "/").await;
            assert_eq!(answer.status, StatusCode::OK);
            seen.push(answer.text().to_owned());
        }
    }
    seen.sort();
    assert_eq!(
        seen,
        ["one", "one", "one", "one", "two", "two", "two", "two"]
    );
}

#[tokio::test]
async fn the_remote_instance_learns_who_asks() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    b.run(&[(2, mirror().await)]);
    route(&a, &[(2, 2)]);
    let answer = get_with(a.edge, API, "/p", &[("x-forwarded-for", "6.6.6.6")]).await;
    let text = answer.text();
    assert!(text.contains("x-forwarded-for: 127.0.0.1"), "{text}");
    assert!(text.contains("host: api.example.test"), "{text}");
    // One proxy on the way, not two.
    assert_eq!(text.matches("via: ").count(), 1, "{text}");
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    let echo = app(|request| async move { http::Response::new(request.into_body().boxed()) }).await;
    b.run(&[(2, echo)]);
    route(&a, &[(2, 2)]);
    let content = vec![42; 8 * 1024 * 1024];
    for _ in 0..2 {
        let body = http_body_util::Full::new(bytes::Bytes::from(content.clone()));
        let request = request(Method::POST, API, "/", &[]).body(body);
        let answer = whole(send(a.edge, request.unwrap()).await).await;
        assert_eq!(answer.body.len(), content.len());
        assert!(answer.body == content);
    }
}

#[tokio::test]
async fn a_tunnel_that_is_refused_leads_elsewhere() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    a.run(&[(1, named("up").await)]);
    // One that does not accept, and one that is not there at all.
    b.run(&[(2, refusing())]);
    route(&a, &[(1, 1), (2, 2), (3, 2)]);
    for _ in 0..6 {
        assert_eq!(get(a.edge, API, "/").await.text(), "up");
        assert_eq!(post(a.edge, API, "/", "x").await.text(), "up");
    }
    assert!(a.metric("nebula_http_retries_total{deployment=\"api\",reason=\"connect\"}") > 0);
    assert_eq!(
        a.metric("nebula_http_retries_total{deployment=\"api\",reason=\"tunnel\"}"),
        0
    );

    route(&a, &[(2, 2)]);
    let answer = get(a.edge, API, "/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn sites_are_served_from_another_node() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    let site = Digest([9; 32]);
    let large = vec![b'x'; 2_000_000];
    b.unpack(site, &[("index.html", b"home"), ("large.bin", &large)]);
    let table = || {
        let routes = Routes::new().site("docs", site, true, &[(2, 2)]);
        Arc::new(routes.table())
    };
    // Only the node that asks has to know the route by now.
    a.table.send_replace(table());
    let id = [("x-request-id", "r-1"), ("accept", "text/html")];
    for path in ["/", "/spa/page"] {
        let answer = get_with(a.edge, DOCS, path, &id).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "home"));
        assert_eq!(answer.header("x-request-id"), "r-1");
        let same = [("if-none-match", answer.header("etag"))];
        let again = get_with(a.edge, DOCS, "/", &same).await;
        assert_eq!(again.status, StatusCode::NOT_MODIFIED);
    }
    assert_eq!(get(a.edge, DOCS, "/large.bin").await.body, large);
    let missing = get(a.edge, DOCS, "/missing.js").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert!(missing.text().contains("'docs'"), "{}", missing.text());

    // Files that should be here and are not are asked of the other node.
    let routes = Routes::new().site("docs", site, true, &[(1, 1), (2, 2)]);
    a.table.send_replace(Arc::new(routes.table()));
    assert_eq!(get(a.edge, DOCS, "/").await.text(), "home");
}

/// Node 1 reaches node 2 over a wire that can be cut.
async fn wired() -> (Node, Node, Relay) {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    let relay = Relay::before(b.mesh.local_addr()).await;
    cluster.enter(2, relay.address);
    (a, b, relay)
}

#[tokio::test]
async fn a_machine_that_dies_costs_no_get_more_than_a_second() {
    let (a, b, relay) = wired().await;
    a.run(&[(1, named("one").await)]);
    b.run(&[(2, named("two").await)]);
    route(&a, &[(1, 1), (2, 2)]);
    for _ in 0..4 {
        assert_eq!(get(a.edge, API, "/").await.status, StatusCode::OK);
    }
    relay.cut();
    for _ in 0..8 {
        let started = Instant::now();
        let answer = get(a.edge, API, "/").await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "one"));
        let took = started.elapsed();
        assert!(took < Duration::from_millis(1500), "{took:?}");
    }
}

#[tokio::test]
async fn a_get_under_way_on_a_machine_that_dies_is_answered_by_another() {
    let (a, b, relay) = wired().await;
    let (instance, mut is_asked) = hanging().await;
    a.run(&[(1, named("one").await)]);
    b.run(&[(2, instance)]);
    // One of two goes to the machine that dies.
    let in_turn = Routes::new().policy(|policy| policy.balance = Balance::RoundRobin);
    let routes = in_turn.service("api", &[(1, 1), (2, 2)]);
    a.table.send_replace(Arc::new(routes.table()));
    let edge = a.edge;
    let gets = [(); 2].map(|()| tokio::spawn(async move { get(edge, API, "/").await }));
    is_asked.recv().await.unwrap();
    relay.cut();
    let started = Instant::now();
    for get in gets {
        assert_eq!(get.await.unwrap().text(), "one");
    }
    let took = started.elapsed();
    assert!(took < Duration::from_millis(2000), "{took:?}");
    assert!(a.metric("nebula_http_retries_total{deployment=\"api\",reason=\"suspect\"}") == 1);
}

/// An instance that says when it has a request and answers none.
async fn hanging() -> (std::net::SocketAddr, mpsc::UnboundedReceiver<()>) {
    let (asked, is_asked) = mpsc::unbounded_channel();
    let address = app(move |_| {
        asked.send(()).unwrap();
        std::future::pending()
    });
    (address.await, is_asked)
}

#[tokio::test]
async fn a_post_under_way_on_a_machine_that_dies_fails_within_about_a_second_and_is_sent_once() {
    let (a, b, relay) = wired().await;
    let (instance, mut is_asked) = hanging().await;
    b.run(&[(2, instance)]);
    route(&a, &[(2, 2)]);
    let edge = a.edge;
    let post = tokio::spawn(async move { post(edge, API, "/", "order").await });
    is_asked.recv().await.unwrap();
    // There is somewhere else to go by now, and it must not go there.
    a.run(&[(1, named("one").await)]);
    route(&a, &[(1, 1), (2, 2)]);
    relay.cut();
    let started = Instant::now();
    let answer = post.await.unwrap();
    let took = started.elapsed();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(answer.text().contains("\"lost\""), "{}", answer.text());
    assert!(took < Duration::from_millis(2000), "{took:?}");
    assert!(is_asked.try_recv().is_err(), "it was sent once");
}

#[tokio::test]
async fn a_long_post_on_a_machine_that_lives_is_waited_for() {
    let (a, b, relay) = wired().await;
    let (release, wait) = tokio::sync::watch::channel(false);
    let slow = app(move |_| {
        let mut wait = wait.clone();
        async move {
            wait.wait_for(|go| *go).await.unwrap();
            text("done")
        }
    });
    b.run(&[(2, slow.await)]);
    route(&a, &[(2, 2)]);
    let edge = a.edge;
    let post = tokio::spawn(async move { post(edge, API, "/", "order").await });
    // Longer than a dead machine is given, and with a hiccup on the way that is shorter than that.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    relay.cut();
    until("the other node is suspect", || {
        !a.mesh.suspects().borrow().is_empty()
    })
    .await;
    relay.heal();
    until("it is heard again", || {
        a.mesh.suspects().borrow().is_empty()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    release.send_replace(true);
    let answer = post.await.unwrap();
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "done"));
}

#[tokio::test]
async fn tunnels_end_with_the_requests_that_opened_them() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    b.run(&[(2, named("two").await)]);
    route(&a, &[(2, 2)]);
    assert_eq!(get(a.edge, API, "/").await.text(), "two");
    assert_eq!(b.metric("nebula_tunnels"), 1);
    // The pool lets the unused connection go, and with it the tunnel.
    until("the tunnel is closed", || b.metric("nebula_tunnels") == 0).await;
}

#[tokio::test]
async fn a_node_that_drains_takes_no_more_tunnels() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    b.run(&[(2, named("two").await)]);
    a.run(&[(1, named("one").await)]);
    b.proxy.drain(Duration::from_millis(100)).await;
    route(&a, &[(1, 1), (2, 2)]);
    for _ in 0..4 {
        assert_eq!(get(a.edge, API, "/").await.text(), "one");
    }
}
