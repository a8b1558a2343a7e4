//! What a deployment says of its HTTP is what the edge does.

use std::time::Duration;

use crate::common::apps::{app, mirror, text};
use crate::common::client::{ask, get, get_with, post, say};
use crate::common::{Routes, single};
use http::{HeaderValue, Method, StatusCode};
use nebula_domain::Digest;
use nebula_domain::http::{Action, AddressRules};
use nebula_domain::http::{ByteSize, Origin, PasswordHash, RateRule, Rule, User};

const API: &str = "api.example.test";

fn rule(path: &str, action: Action) -> Rule {
    Rule {
        path: path.parse().unwrap(),
        host: None,
        methods: Vec::new(),
        headers: Vec::new(),
        action,
    }
}

#[tokio::test]
async fn rules_lead_elsewhere() {
    let node = single();
    let other = app(|request| async move { text(format!("other {}", request.uri())) }).await;
    node.run(&[(1, mirror().await), (2, other)]);
    let routes = Routes::new()
        .service("other", &[(2, 1)])
        .policy(|policy| {
            let to_other = Action::Forward {
                to: Some("other".parse().unwrap()),
                strip_prefix: true,
            };
            policy.rules = vec![
                rule("/api", to_other),
                rule(
                    "/old",
                    Action::Redirect {
                        to: "https://new.test/n{rest}{query}".parse().unwrap(),
                        code: 308.try_into().unwrap(),
                    },
                ),
                rule(
                    "/gone",
                    Action::Status {
                        code: 410.try_into().unwrap(),
                        body: "no more".to_owned(),
                    },
                ),
            ];
        })
        .service("api", &[(1, 1)]);
    node.table.send_replace(std::sync::Arc::new(routes.table()));

    assert!(
        get(node.edge, API, "/apis")
            .await
            .text()
            .starts_with("GET /apis\n")
    );
    assert_eq!(
        get(node.edge, API, "/api/v1?q=1").await.text(),
        "other /v1?q=1"
    );
    assert_eq!(get(node.edge, API, "/%61pi/x").await.text(), "other /x");
    assert_eq!(get(node.edge, API, "/api").await.text(), "other /");
    let moved = get(node.edge, API, "/old/a?b").await;
    assert_eq!(moved.status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(moved.header("location"), "https://new.test/n/a?b");
    let gone = get(node.edge, API, "/gone/x").await;
    assert_eq!((gone.status, gone.text()), (StatusCode::GONE, "no more"));
}

#[tokio::test]
async fn addresses_maintenance_and_passwords_keep_out() {
    let node = single();
    let app = mirror().await;
    node.route_api_by(&[app], |policy| {
        policy.addresses = AddressRules {
            allow: vec!["192.0.2.0/24".parse().unwrap()],
            ..AddressRules::default()
        };
    });
    assert_eq!(get(node.edge, API, "/").await.status, StatusCode::FORBIDDEN);

    node.route_api_by(&[app], |policy| {
        policy.maintenance.on = true;
        policy.maintenance.page = "<h1>soon</h1>".to_owned();
    });
    let page = get_with(node.edge, API, "/", &[("accept", "text/html")]).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        (page.text(), page.header("retry-after")),
        ("<h1>soon</h1>", "300")
    );
    node.route_api_by(&[app], |policy| {
        policy.maintenance.on = true;
        policy.maintenance.exempt = vec!["127.0.0.0/8".parse().unwrap()];
    });
    assert_eq!(get(node.edge, API, "/").await.status, StatusCode::OK);

    node.route_api_by(&[app], |policy| {
        policy.basic_auth.users = vec![User {
            name: "ann".parse().unwrap(),
            hash: PasswordHash::new("secret", 4, [7; 16]).unwrap(),
        }];
    });
    let asked = get(node.edge, API, "/").await;
    assert_eq!(asked.status, StatusCode::UNAUTHORIZED);
    assert!(
        asked
            .header("www-authenticate")
            .starts_with("Basic realm=\"Restricted\"")
    );
    // ann:secret, twice, and ann:wrong.
    for (given, status) in [
        ("Basic YW5uOnNlY3JldA==", StatusCode::OK),
        ("Basic YW5uOnNlY3JldA==", StatusCode::OK),
        ("Basic YW5uOndyb25n", StatusCode::UNAUTHORIZED),
    ] {
        let answer = get_with(node.edge, API, "/", &[("authorization", given)]).await;
        assert_eq!(answer.status, status, "{given}");
    }

    // A browser sends no password when it asks whether a script may ask.
    let users = vec![User {
        name: "ann".parse().unwrap(),
        hash: PasswordHash::new("secret", 4, [7; 16]).unwrap(),
    }];
    node.route_api_by(&[app], |policy| {
        policy.basic_auth.users = users;
        policy.cors.origins = vec!["https://a.test".parse().unwrap()];
    });
    let asks = [
        ("origin", "https://a.test"),
        ("access-control-request-method", "GET"),
    ];
    let preflight = ask(node.edge, Method::OPTIONS, API, "/", &asks).await;
    assert_eq!(preflight.status, StatusCode::NO_CONTENT);
    let plain = ask(node.edge, Method::OPTIONS, API, "/", &[]).await;
    assert_eq!(plain.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_rate_is_kept_except_for_exempt_paths() {
    let node = single();
    node.route_api_by(&[mirror().await], |policy| {
        let mut rule = RateRule::by_address("1r/m burst=2 nodelay".parse().unwrap());
        rule.exempt = vec!["/health".parse().unwrap()];
        policy.rate_limits = vec![rule];
    });
    for _ in 0..3 {
        assert_eq!(get(node.edge, API, "/").await.status, StatusCode::OK);
    }
    let over = get(node.edge, API, "/").await;
    assert_eq!(over.status, StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = over.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(get(node.edge, API, "/health").await.status, StatusCode::OK);
}

#[tokio::test]
async fn requests_over_a_size_are_refused() {
    let node = single();
    node.route_api_by(&[mirror().await], |policy| {
        policy.limits.body = Some(ByteSize(4));
        policy.limits.head = ByteSize::kib(1);
        policy.limits.uri = ByteSize(100);
    });
    assert_eq!(
        post(node.edge, API, "/", "four").await.status,
        StatusCode::OK
    );
    let five = post(node.edge, API, "/", "fiver").await;
    assert_eq!(five.status, StatusCode::PAYLOAD_TOO_LARGE);
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: {API}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    );
    assert!(say(node.edge, &chunked).await.starts_with("HTTP/1.1 413"));
    let long = format!("/{}", "x".repeat(100));
    assert_eq!(
        get(node.edge, API, &long).await.status,
        StatusCode::URI_TOO_LONG
    );
    let large = "x".repeat(1024);
    let large = get_with(node.edge, API, "/", &[("x-large", &large)]).await;
    assert_eq!(large.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test]
async fn answers_carry_what_browsers_should_know() {
    let node = single();
    let careless = app(|_| async {
        let mut answer = text("x");
        let headers = answer.headers_mut();
        headers.insert("x-frame-options", HeaderValue::from_static("DENY"));
        headers.insert("server", HeaderValue::from_static("mine"));
        headers.insert("access-control-allow-origin", HeaderValue::from_static("*"));
        answer
    })
    .await;
    node.route_api_by(&[careless], |policy| {
        policy.response_headers = vec!["server: none".parse().unwrap()];
        policy.cors.origins = vec!["https://a.test".parse::<Origin>().unwrap()];
        policy.cors.methods = vec!["PUT".parse().unwrap()];
        policy.cors.max_age = Duration::from_secs(60);
    });
    let plain = get(node.edge, API, "/").await;
    assert_eq!(
        plain.header("x-frame-options"),
        "DENY",
        "the application's goes first"
    );
    assert_eq!(plain.header("x-content-type-options"), "nosniff");
    assert_eq!(plain.header("server"), "none");
    assert_eq!(plain.header("access-control-allow-origin"), "");
    assert_eq!(plain.header("vary"), "Origin");
    let allowed = get_with(node.edge, API, "/", &[("origin", "https://a.test")]).await;
    assert_eq!(
        allowed.header("access-control-allow-origin"),
        "https://a.test"
    );
    let asks = [
        ("origin", "https://a.test"),
        ("access-control-request-method", "PUT"),
    ];
    let preflight = ask(node.edge, Method::OPTIONS, API, "/", &asks).await;
    assert_eq!(preflight.status, StatusCode::NO_CONTENT);
    assert_eq!(
        preflight.header("access-control-allow-methods"),
        "GET, HEAD, POST, PUT"
    );
    assert_eq!(preflight.header("access-control-max-age"), "60");
    let asks = [("origin", "https://b.test"), asks[1]];
    let stranger = ask(node.edge, Method::OPTIONS, API, "/", &asks).await;
    assert_eq!(stranger.header("access-control-allow-methods"), "");

    // A site's answers and the edge's own pages too.
    let artifact = Digest([7; 32]);
    node.unpack(artifact, &[("index.html", b"home")]);
    let routes = Routes::new().site("docs", artifact, false, &[(1, 1)]);
    node.table.send_replace(std::sync::Arc::new(routes.table()));
    for path in ["/", "/none"] {
        let answer = get(node.edge, "docs.example.test", path).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
}
