//! What is kept of a deployment's answers, for whom, and what is sent of it (RFC 9111): by real requests over real sockets.

use crate::common::apps::text;
use crate::common::client::{Answer, ask, get, get_with};
use crate::common::counting::{Counting, with_fields};
use crate::common::http2::Session;
use crate::common::{Cluster, Node, single};
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
async fn what_is_fresh_is_given_without_asking() {
    let app = Counting::with(&[("cache-control", "max-age=60"), ("x-app", "1")]).await;
    let node = cached(&app);
    let first = with(&node, &[("x-request-id", "one")]).await;
    said(&first, "Nebula; fwd=uri-miss; fwd-status=200; stored");
    assert!(!first.headers.contains_key("age"));
    let second = with(&node, &[("x-request-id", "two")]).await;
    said(&second, "Nebula; hit; ttl=");
    assert_eq!(second.text(), "answer 1");
    assert_eq!(second.header("x-app"), "1");
    // What is of one request, and what the policy adds, are of this one.
    assert_eq!(second.header("x-request-id"), "two");
    assert_eq!(second.header("x-content-type-options"), "nosniff");
    assert_eq!(second.header("date"), first.header("date"));
    assert_eq!(second.headers.get_all("date").iter().count(), 1);
    assert!(second.header("age").parse::<u64>().unwrap() < 60);
    assert_eq!(second.header("content-length"), "8");
    let head = ask(node.edge, Method::HEAD, API, "/", &[]).await;
    assert_eq!((head.header("content-length"), head.text()), ("8", ""));
    let mut session = Session::open(node.edge).await;
    assert_eq!(session.get("/").await.text(), "answer 1");
    assert_eq!(app.asked(), 1);
    assert_ne!(given(&node, "/?other").await, "answer 1");
    let figure = |result: &str| {
        node.metric(&format!(
            "nebula_http_cache_requests_total{{deployment=\"api\",result=\"{result}\"}}"
        ))
    };
    assert_eq!((figure("hit"), figure("miss")), (3, 2));
    assert!(node.metric("nebula_http_cache_bytes") > 16);
}

#[tokio::test]
async fn a_deployment_without_a_cache_has_none() {
    let app = Counting::with(MINUTE).await;
    let node = single();
    node.route_api(&[app.address]);
    for _ in 0..2 {
        assert_eq!(with(&node, &[]).await.header("cache-status"), "");
    }
    assert_eq!(app.asked(), 2);
}

#[tokio::test]
async fn what_is_not_for_everybody_is_not_kept() {
    for fields in [
        &[][..],
        &[("cache-control", "max-age=60, private")],
        &[("cache-control", "no-store")],
        &[("cache-control", "max-age=60"), ("set-cookie", "a=b")],
        &[("cache-control", "max-age=60"), ("vary", "*")],
        &[("cache-control", "max-age=60"), ("vary", "x-forwarded-for")],
    ] {
        let app = Counting::with(fields).await;
        let node = cached(&app);
        for number in 1..4 {
            let answer = with(&node, &[]).await;
            assert_eq!(answer.text(), format!("answer {number}"), "{fields:?}");
            assert!(answer.header("cache-status").contains("fwd="));
        }
    }
}

#[tokio::test]
async fn who_authenticates_is_not_given_what_others_were() {
    let app = Counting::with(MINUTE).await;
    let node = cached(&app);
    let ann = [("authorization", "Basic YW5uOng=")];
    assert_eq!(with(&node, &ann).await.text(), "answer 1");
    assert_eq!(with(&node, &[]).await.text(), "answer 2");
    assert_eq!(with(&node, &[]).await.text(), "answer 2");
    assert_eq!(with(&node, &ann).await.text(), "answer 3");
    let public = Counting::with(&[("cache-control", "public, max-age=60")]).await;
    let node = cached(&public);
    assert_eq!(given(&node, "/public").await, "answer 1");
    let again = get_with(node.edge, API, "/public", &ann).await;
    assert_eq!(again.text(), "answer 1");
}

#[tokio::test]
async fn variants_are_told_apart() {
    let app = Counting::with(&[("cache-control", "max-age=60"), ("vary", "Accept-Language")]).await;
    let node = cached(&app);
    let lang = async |lang: &str| with(&node, &[("accept-language", lang)]).await;
    assert_eq!(lang("de").await.text(), "answer 1");
    let other = lang("en").await;
    said(&other, "Nebula; fwd=vary-miss");
    assert_eq!(other.text(), "answer 2");
    assert_eq!(with(&node, &[]).await.text(), "answer 3");
    for (given, answer) in [("de", "answer 1"), ("en", "answer 2")] {
        assert_eq!(lang(given).await.text(), answer);
    }
    // A field that stays at the edge is none for the application.
    let hidden = [("connection", "accept-language"), ("accept-language", "de")];
    assert_eq!(with(&node, &hidden).await.text(), "answer 3");
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again() {
    let app = Counting::with(&[
        ("cache-control", "max-age=60"),
        ("etag", "\"a\""),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("content-type", "text/plain"),
    ])
    .await;
    let node = cached(&app);
    // Also when it is fetched for this: the instance is asked for all of it.
    let first = with(&node, &[("if-none-match", "\"x\", W/\"a\"")]).await;
    assert_eq!(first.status, StatusCode::NOT_MODIFIED);
    assert!(!app.head(1).contains_key("if-none-match"));
    let since = with(
        &node,
        &[("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")],
    )
    .await;
    assert_eq!((since.status, since.text()), (StatusCode::NOT_MODIFIED, ""));
    assert_eq!(since.header("etag"), "\"a\"");
    assert_eq!(since.header("cache-control"), "max-age=60");
    assert!(!since.headers.contains_key("content-type"));
    let other = with(&node, &[("if-none-match", "\"b\"")]).await;
    assert_eq!((other.status, other.text()), (StatusCode::OK, "answer 1"));
    assert_eq!(app.asked(), 1);
}

#[tokio::test]
async fn conditions_hold_for_what_is_not_kept() {
    let app = Counting::with(&[("cache-control", "private"), ("etag", "\"a\"")]).await;
    let node = cached(&app);
    for path in ["/", "/", "/other"] {
        let answer = get_with(node.edge, API, path, &[("if-none-match", "\"b\"")]).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    let known = get_with(node.edge, API, "/third", &[("if-none-match", "\"a\"")]).await;
    assert_eq!((known.status, known.text()), (StatusCode::NOT_MODIFIED, ""));
    assert_eq!(known.header("etag"), "\"a\"");
}

#[tokio::test]
async fn parts_come_out_of_the_whole() {
    let app = Counting::with(&[("cache-control", "max-age=60"), ("etag", "\"a\"")]).await;
    let node = cached(&app);
    // What is not there is not fetched for a part of it.
    said(
        &with(&node, &[("range", "bytes=0-1")]).await,
        "Nebula; fwd=partial",
    );
    assert_eq!(with(&node, &[]).await.text(), "answer 2");
    let part = with(&node, &[("range", "bytes=1-3")]).await;
    assert_eq!(
        (part.status, part.text()),
        (StatusCode::PARTIAL_CONTENT, "nsw")
    );
    assert_eq!(part.header("content-range"), "bytes 1-3/8");
    let none = with(&node, &[("range", "bytes=8-")]).await;
    assert_eq!(none.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(none.header("content-range"), "bytes */8");
    let other = with(&node, &[("range", "bytes=1-3"), ("if-range", "\"b\"")]).await;
    assert_eq!((other.status, other.text()), (StatusCode::OK, "answer 2"));
    assert_eq!(app.asked(), 2);
}

#[tokio::test]
async fn no_client_decides_what_others_are_given() {
    let app = Counting::with(MINUTE).await;
    let node = cached(&app);
    // What a client claims of itself never reaches the application.
    let claims = [
        ("x-forwarded-host", "evil.test"),
        ("x-forwarded-proto", "https"),
    ];
    assert_eq!(with(&node, &claims).await.text(), "answer 1");
    assert_eq!(app.head(1)["x-forwarded-host"], API);
    assert_eq!(given(&node, "/").await, "answer 1");
    // What an application may take for another request goes by itself.
    for by in [
        ("x-original-url", "/admin"),
        ("x_http_method_override", "DELETE"),
        ("x-host", "evil.test"),
    ] {
        let passed = with(&node, &[by]).await;
        said(&passed, "Nebula; fwd=bypass");
        assert_ne!(passed.text(), "answer 1", "{by:?}");
    }
    // The host counts as it is written, because an application may show it.
    let shown = get(node.edge, "API.example.test", "/").await;
    assert_ne!(shown.text(), "answer 1");
    assert_eq!(given(&node, "/").await, "answer 1");
}

#[tokio::test]
async fn what_a_trusted_proxy_says_of_the_host_and_scheme_is_in_the_key() {
    let node = Cluster::new().node_with(1, |config| {
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    });
    let app = Counting::with(MINUTE).await;
    node.route_api_by(&[app.address], |policy| {
        on(policy);
        policy.https = "both".parse().unwrap();
    });
    let one = [("x-forwarded-host", "one.test")];
    assert_eq!(with(&node, &one).await.text(), "answer 1");
    assert_eq!(
        with(&node, &[("x-forwarded-host", "two.test")])
            .await
            .text(),
        "answer 2"
    );
    assert_eq!(
        with(&node, &[("x-forwarded-proto", "https")]).await.text(),
        "answer 3"
    );
    assert_eq!(with(&node, &[]).await.text(), "answer 4");
    assert_eq!(with(&node, &one).await.text(), "answer 1");
}

#[tokio::test]
async fn permissions_and_seats_are_of_each_request() {
    let node = single();
    let app = Counting::with(MINUTE).await;
    node.route_api_by(&[app.address], |policy| {
        on(policy);
        policy.cors.origins = vec!["https://a.test".parse().unwrap()];
        policy.sticky = Some(Default::default());
    });
    let allowed = with(&node, &[("origin", "https://a.test")]).await;
    assert_eq!(
        allowed.header("access-control-allow-origin"),
        "https://a.test"
    );
    let other = with(&node, &[("origin", "https://b.test")]).await;
    assert_eq!(other.text(), allowed.text());
    assert_eq!(other.header("access-control-allow-origin"), "");
    assert_eq!(other.header("vary"), "Origin");
    assert_eq!(other.header("set-cookie"), "");
    assert_eq!(app.asked(), 1);
}

#[tokio::test]
async fn a_policy_may_say_how_long() {
    let app = Counting::with(&[]).await;
    let node = single();
    node.route_api_by(&[app.address], |policy| {
        on(policy);
        policy.cache.default_ttl = std::time::Duration::from_secs(60);
    });
    assert_eq!(given(&node, "/").await, "answer 1");
    assert_eq!(given(&node, "/").await, "answer 1");
    // Who sends a cookie may be meant.
    let cookie = with(&node, &[("cookie", "a=b")]).await;
    assert_eq!(cookie.text(), "answer 2");
}

#[tokio::test]
async fn redirects_and_missing_pages_are_kept_when_they_say_so() {
    let app = Counting::new(|number, request| {
        let code = request.uri().path()[1..].parse().unwrap();
        let fields = [("cache-control", "max-age=60"), ("location", "/x")];
        let mut response = with_fields(text(number.to_string()), &fields);
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        response
    })
    .await;
    let node = cached(&app);
    for (code, kept) in [
        (301, true),
        (302, true),
        (404, true),
        (400, false),
        (500, false),
        (503, false),
    ] {
        let path = format!("/{code}");
        let first = get(node.edge, API, &path).await;
        let second = get(node.edge, API, &path).await;
        assert_eq!(
            (first.status.as_u16(), second.status.as_u16()),
            (code, code)
        );
        assert_eq!(first.text() == second.text(), kept, "{code}");
    }
}

#[tokio::test]
async fn releases_with_shares_share_no_answers() {
    let app = Counting::with(MINUTE).await;
    let node = single();
    node.route_api_by(&[app.address], |policy| {
        on(policy);
        policy.weights.0.insert("r1".parse().unwrap(), 1);
    });
    for number in 1..3 {
        let answer = with(&node, &[]).await;
        said(&answer, "Nebula; fwd=bypass; detail=weights");
        assert_eq!(answer.text(), format!("answer {number}"));
    }
}

#[tokio::test]
async fn a_field_that_some_read_as_another_is_no_way_into_the_cache() {
    let app = Counting::with(MINUTE).await;
    let node = cached(&app);
    let strange = with(&node, &[("accept_language", "de")]).await;
    said(&strange, "Nebula; fwd=bypass");
    said(&with(&node, &[]).await, "Nebula; fwd=uri-miss");
    said(&with(&node, &[]).await, "Nebula; hit");
}
