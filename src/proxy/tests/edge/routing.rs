//! From a host to an instance, and what happens to the head on the way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::common::apps::{mirror, named, verbatim};
use crate::common::client::{ask, get, get_with, post, say};
use crate::common::{Routes, single, single_with};
use http::{Method, StatusCode};
use nebula_domain::traffic::balance::Balance;

const API: &str = "api.example.test";

#[tokio::test]
async fn a_host_leads_to_its_deployment_and_to_each_instance_in_turn() {
    let node = single();
    node.run(&[
        (1, named("one").await),
        (2, named("two").await),
        (3, named("web").await),
    ]);
    let routes = Routes::new()
        .policy(|policy| policy.balance = Balance::RoundRobin)
        .service("api", &[(1, 1), (2, 1)])
        .service("web", &[(3, 1)]);
    node.table.send_replace(Arc::new(routes.table()));

    let mut counts = BTreeMap::new();
    for host in [API, "API.Example.Test:8080", "api.example.test."] {
        for _ in 0..4 {
            let answer = get(node.edge, host, "/").await;
            assert_eq!(answer.status, StatusCode::OK);
            *counts.entry(answer.text().to_owned()).or_insert(0) += 1;
        }
    }
    assert_eq!(
        counts,
        BTreeMap::from([("one".to_owned(), 6), ("two".to_owned(), 6)])
    );
    assert_eq!(get(node.edge, "web.example.test", "/").await.text(), "web");
    assert_eq!(
        node.metric("nebula_http_requests_total{deployment=\"api\",code=\"2xx\"}"),
        12
    );
}

#[tokio::test]
async fn pages_of_the_edge_say_what_to_look_at() {
    let node = single();
    let routes = Routes::new().service("api", &[]);
    node.table.send_replace(Arc::new(routes.table()));

    let html = [("accept", "text/html")];
    let answer = get_with(node.edge, "nowhere.test", "/", &html).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert!(answer.text().contains("nowhere.test"), "{}", answer.text());

    let answer = get_with(node.edge, API, "/", &[("x-request-id", "mine-1")]).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("x-request-id"), "mine-1");
    for part in [
        "No instance of 'api' is ready.",
        "nebula deploy status api",
        "mine-1",
    ] {
        assert!(answer.text().contains(part), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_request_names_exactly_one_host() {
    let node = single();
    node.route_api(&[mirror().await]);
    for bad in [
        "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ] {
        let answer = say(node.edge, bad).await;
        assert!(
            answer.starts_with("HTTP/1.") && answer[8..].starts_with(" 400"),
            "{answer}"
        );
    }
    // An absolute target outweighs the field, and reaches the instance without its authority.
    let absolute = "GET http://api.example.test/p?q=1 HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n";
    let answer = say(node.edge, absolute).await;
    assert!(answer.contains("GET /p?q=1\n"), "{answer}");
    assert!(answer.contains("host: api.example.test"), "{answer}");

    let tunnel = "CONNECT api.example.test:443 HTTP/1.1\r\nHost: api.example.test:443\r\nConnection: close\r\n\r\n";
    assert!(say(node.edge, tunnel).await.contains("501"));
    let old = say(
        node.edge,
        "GET /old HTTP/1.0\r\nHost: api.example.test\r\n\r\n",
    )
    .await;
    assert!(old.contains("GET /old\n"), "{old}");
}

#[tokio::test]
async fn a_request_cannot_be_read_in_two_ways() {
    let node = single();
    node.route_api(&[mirror().await]);
    for (status, refused) in [
        (400, "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        (400, "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        (400, "Content-Length: +5\r\n\r\nhello"),
        (400, "Content-Length: 5\nX: y\r\n\r\nhello"),
        (400, "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        (400, "X: y\r\n Content-Length: 5\r\n\r\nhello"),
        (501, "Transfer-Encoding: gzip\r\n\r\nhello"),
        (501, "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: {API}\r\n{refused}");
        let answer = say(node.edge, &head).await;
        let expected = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&expected), "{refused}: {answer}");
        assert!(answer.contains("Connection: close"), "{refused}: {answer}");
    }
    // Both at once may be read by the chunks or by the length, and is refused; what either would have made of the rest is
    // never a request.
    for both in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    ] {
        let second = format!("GET /second HTTP/1.1\r\nHost: {API}\r\n\r\n");
        let text = format!("POST / HTTP/1.1\r\nHost: {API}\r\n{both}\r\n0\r\n\r\n{second}");
        let answer = say(node.edge, &text).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 4").count(), 1, "{answer}");
    }
}

#[tokio::test]
async fn what_belongs_to_one_connection_stays_there() {
    let node = single();
    node.route_api(&[mirror().await]);
    let head = format!(
        "GET / HTTP/1.1\r\nHost: {API}\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\n\
         Keep-Alive: timeout=9\r\nProxy-Authorization: Basic eA==\r\nUpgrade: websocket\r\n\
         TE: trailers, deflate\r\nX-Kept: 1\r\n\r\n"
    );
    let answer = say(node.edge, &head).await;
    for gone in [
        "x-secret",
        "keep-alive",
        "proxy-authorization",
        "upgrade",
        "deflate",
    ] {
        assert!(!answer.to_lowercase().contains(gone), "{gone}: {answer}");
    }
    assert!(answer.contains("te: trailers"), "{answer}");
    assert!(answer.contains("x-kept: 1"), "{answer}");
    assert!(answer.contains("via: 1.1 nebula"), "{answer}");

    node.route_api(&[verbatim(
        "HTTP/1.1 200 OK\r\nConnection: X-Inner\r\nX-Inner: 1\r\nKeep-Alive: timeout=9\r\n\
         Proxy-Authenticate: Basic\r\nServer: theirs\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
         Content-Length: 2\r\n\r\nok",
    )
    .await]);
    let answer = get(node.edge, API, "/").await;
    assert_eq!(answer.text(), "ok");
    for gone in ["x-inner", "keep-alive", "proxy-authenticate"] {
        assert_eq!(answer.header(gone), "", "{gone}");
    }
    assert_eq!(answer.header("server"), "theirs");
    assert_eq!(answer.header("date"), "Thu, 01 Jan 1970 00:00:00 GMT");
}

#[tokio::test]
async fn the_instance_learns_who_asks_and_by_which_id() {
    let node = single();
    node.route_api(&[mirror().await]);
    let lies = [
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("x-request-id", "spaces are not sane"),
    ];
    let answer = get_with(node.edge, API, "/a/b?c=d", &lies).await;
    let text = answer.text();
    assert!(text.starts_with("GET /a/b?c=d\n"), "{text}");
    assert!(text.contains("x-forwarded-for: 127.0.0.1"), "{text}");
    assert!(text.contains("x-forwarded-proto: http\n"), "{text}");
    assert!(
        text.contains("x-forwarded-host: api.example.test"),
        "{text}"
    );
    assert!(!text.contains("6.6.6.6"), "{text}");
    let id = answer.header("x-request-id");
    assert_eq!(id.len(), 32);
    assert!(text.contains(&format!("x-request-id: {id}")), "{text}");

    let answer = get_with(node.edge, API, "/", &[("x-request-id", "abc-123")]).await;
    assert_eq!(answer.header("x-request-id"), "abc-123");
    assert!(answer.text().contains("x-request-id: abc-123"));
}

#[tokio::test]
async fn heads_are_bounded_in_size_number_and_time() {
    let node = single_with(|limits| limits.header_read_timeout = Duration::from_millis(200));
    node.route_api(&[mirror().await]);
    let large = format!(
        "GET / HTTP/1.1\r\nHost: {API}\r\nX-Large: {}\r\n\r\n",
        "a".repeat(64 * 1024)
    );
    let answer = say(node.edge, &large).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = format!(
        "GET / HTTP/1.1\r\nHost: {API}\r\n{}\r\n",
        "X-A: 1\r\n".repeat(200)
    );
    let answer = say(node.edge, &many).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    // Neither a slow head nor an idle connection is kept: `say` returns because the edge closes.
    say(node.edge, "GET / HTTP/1.1\r\nHost: api.exam").await;
    let idle = say(node.edge, &format!("GET / HTTP/1.1\r\nHost: {API}\r\n\r\n")).await;
    assert!(idle.starts_with("HTTP/1.1 200"), "{idle}");
}

#[tokio::test]
async fn methods_pass_through() {
    let node = single();
    node.route_api(&[mirror().await]);
    for method in [Method::OPTIONS, Method::DELETE, Method::PATCH] {
        let answer = ask(node.edge, method.clone(), API, "/x", &[]).await;
        assert!(answer.text().starts_with(&format!("{method} /x\n")));
    }
    let answer = post(node.edge, API, "/x", "hello").await;
    assert!(
        answer.text().contains("content-length: 5"),
        "{}",
        answer.text()
    );
}
