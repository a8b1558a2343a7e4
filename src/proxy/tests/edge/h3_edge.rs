//! HTTP/3 as a part of the edge: how clients hear of it, who is let in, and with which certificate.

use std::num::NonZeroU16;
use std::time::Duration;

use crate::common;
use crate::common::apps::{mirror, named, raw, read_head, verbatim};
use crate::common::http3::{HOST, Session, connect, endpoint, try_connect};
use crate::common::tls::Certificates;
use crate::common::{Node, client, until};
use http::{Method, Request, StatusCode};
use nebula_domain::http::AccessLog;
use nebula_proxy::Http3Config;
use quinn::ConnectionError;
use rustls::pki_types::CertificateDer;

/// What a client hears of HTTP/3 over TLS, by HTTP/1.1 and by HTTP/2.
async fn told(certificates: &Certificates, node: &Node) -> [String; 2] {
    let caller = certificates.caller();
    let first = caller.get(node, HOST, "/").await;
    let mut caller = certificates.caller();
    caller.0.alpn_protocols = vec![b"h2".to_vec()];
    let stream = caller.connect(node, HOST).await;
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().uri(format!("https://{HOST}/"));
    let (response, _) = sender
        .send_request(request.body(()).unwrap(), true)
        .unwrap();
    let second = response.await.unwrap();
    let second = second.headers().get("alt-svc");
    let second = second.map_or("", |value| value.to_str().unwrap());
    [first.header("alt-svc").to_owned(), second.to_owned()]
}

#[tokio::test]
async fn clients_are_told_where_it_is() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    node.route_api_by(&[named("up").await], |policy| {
        policy.https = nebula_domain::http::Https::Both;
    });
    let port = node.tls.unwrap().port();
    let expected = format!("h3=\":{port}\"; ma=86400");
    assert_eq!(told(&certificates, &node).await, [expected.as_str(); 2]);
    // Not in the clear, and not those who have found it.
    let plain = client::get(node.edge, HOST, "/").await;
    assert_eq!((plain.text(), plain.header("alt-svc")), ("up", ""));
    let mut session = Session::open(&certificates, &node).await;
    let answer = session.get("/").await;
    assert_eq!((answer.text(), answer.header("alt-svc")), ("up", ""));
    // What an application says of itself stays.
    let own = "HTTP/1.1 200 OK\r\nAlt-Svc: clear\r\nContent-Length: 0\r\n\r\n";
    node.route_api(&[verbatim(own).await]);
    assert_eq!(told(&certificates, &node).await, ["clear"; 2]);
}

#[tokio::test]
async fn another_port_may_be_the_public_one() {
    let certificates = Certificates::usual();
    let node = certificates.node_with(|config| {
        config.tls.as_mut().unwrap().http3 = Some(Http3Config {
            public_port: NonZeroU16::new(443),
        });
    });
    node.route_api(&[named("up").await]);
    assert_eq!(
        told(&certificates, &node).await,
        ["h3=\":443\"; ma=86400"; 2]
    );
}

#[tokio::test]
async fn nobody_is_told_of_what_is_not_there() {
    let certificates = Certificates::usual();
    let node = certificates.node_with(|config| config.tls.as_mut().unwrap().http3 = None);
    node.route_api(&[named("up").await]);
    assert_eq!(told(&certificates, &node).await, [""; 2]);
    // Its port is free.
    std::net::UdpSocket::bind(node.tls.unwrap()).unwrap();
    // Nor is a proxy in front, which would pass it on.
    let node = certificates
        .node_with(|config| config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]);
    node.route_api(&[named("up").await]);
    assert_eq!(told(&certificates, &node).await, [""; 2]);
}

fn shown(connection: &quinn::Connection) -> CertificateDer<'static> {
    let chain = connection.peer_identity().unwrap();
    let chain = chain.downcast::<Vec<CertificateDer<'static>>>().unwrap();
    chain[0].clone()
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_by_new_connections() {
    let certificates = Certificates::new();
    let old = certificates.put("example", &[HOST], 30);
    let node = certificates.node();
    node.route_api(&[named("up").await]);
    let mut session = Session::open(&certificates, &node).await;
    assert_eq!(shown(&session.quic), old);
    let new = certificates.put("example", &[HOST], 60);
    let changed = async {
        loop {
            let connection = connect(&certificates, &node).await;
            if shown(&connection) == new {
                return;
            }
        }
    };
    let changed = tokio::time::timeout(common::PATIENCE, changed).await;
    changed.expect("the old one is still in use");
    assert_eq!(session.get("/").await.text(), "up");
}

#[tokio::test]
async fn a_name_without_a_certificate_gets_no_connection() {
    let certificates = Certificates::new();
    certificates.put("other", &["other.test"], 30);
    let node = certificates.node();
    let client = endpoint(&certificates, |_| {});
    let refused = try_connect(&client, &node).await.unwrap_err();
    assert!(
        matches!(refused, ConnectionError::ConnectionClosed(_)),
        "{refused}"
    );
    until("it is counted", || {
        node.metric(r#"nebula_edge_http3_attempts_total{result="failed"}"#) == 1
    })
    .await;
}

#[tokio::test]
async fn connections_are_bounded_in_all_and_by_address() {
    for (all, of_address, reason) in [(2, 9, "full"), (9, 2, "crowded")] {
        let certificates = Certificates::usual();
        let node = certificates.node_with(|config| {
            config.limits.http3_connections = all;
            config.limits.http3_connections_per_address = of_address;
        });
        node.route_api(&[named("up").await]);
        let mut first = Session::open(&certificates, &node).await;
        let second = Session::open(&certificates, &node).await;
        let client = endpoint(&certificates, |_| {});
        let refused = try_connect(&client, &node).await.unwrap_err();
        assert!(
            matches!(refused, ConnectionError::ConnectionClosed(_)),
            "{refused}"
        );
        let counted = format!("nebula_edge_http3_attempts_total{{result=\"{reason}\"}}");
        assert_eq!(node.metric(&counted), 1);
        assert_eq!(first.get("/").await.text(), "up");
        second.quic.close(0u32.into(), b"");
        until("its place is free", || {
            node.metric("nebula_http_connections") == 1
        })
        .await;
        assert_eq!(
            Session::open(&certificates, &node)
                .await
                .get("/")
                .await
                .text(),
            "up"
        );
    }
}

#[tokio::test]
async fn under_load_a_client_shows_its_address_first() {
    let certificates = Certificates::usual();
    let node = certificates.node_with(|config| config.limits.http3_unvalidated_handshakes = 0);
    node.route_api(&[named("up").await]);
    let mut session = Session::open(&certificates, &node).await;
    assert_eq!(session.get("/").await.text(), "up");
    let counted = |result: &str| {
        node.metric(&format!(
            "nebula_edge_http3_attempts_total{{result=\"{result}\"}}"
        ))
    };
    assert_eq!((counted("retried"), counted("accepted")), (1, 1));
}

#[tokio::test]
async fn nothing_is_taken_from_who_has_to_say_whom_it_speaks_for() {
    let certificates = Certificates::usual();
    let node = certificates
        .node_with(|config| config.proxy_protocol_from = vec!["127.0.0.1".parse().unwrap()]);
    let client = endpoint(&certificates, |_| {});
    assert!(try_connect(&client, &node).await.is_err());
    let counted = r#"nebula_edge_http3_attempts_total{result="unnamed"}"#;
    assert_eq!(node.metric(counted), 1);
}

#[tokio::test]
async fn a_client_may_change_its_address() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    node.route_api(&[mirror().await]);
    let client = endpoint(&certificates, |_| {});
    let mut session = Session::over(try_connect(&client, &node).await.unwrap()).await;
    session.get("/").await;
    let socket = std::net::UdpSocket::bind("127.0.0.2:0").unwrap();
    client.rebind(socket).unwrap();
    // It stays who it was: the new address could be anybody's yet.
    for _ in 0..3 {
        let answer = session.get("/").await;
        let seen = answer.text();
        assert!(seen.contains("x-forwarded-for: 127.0.0.1\n"), "{seen}");
    }
    assert_eq!(node.metric("nebula_http_connections"), 1);
}

#[tokio::test]
async fn a_client_that_is_gone_without_a_word_is_noticed() {
    let certificates = Certificates::usual();
    let node = certificates.node_with(|config| {
        config.limits.http3_silence = Duration::from_millis(500);
    });
    let silent = raw(|mut socket| async move { while !read_head(&mut socket).await.is_empty() {} });
    node.route_api(&[silent.await]);
    // A machine of its own, which is switched off.
    let elsewhere = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let client = {
        let _there = elsewhere.enter();
        endpoint(&certificates, |_| {})
    };
    let connecting = client.connect(node.tls.unwrap(), HOST).unwrap();
    let asking = elsewhere.spawn(async move {
        let mut session = Session::over(connecting.await.unwrap()).await;
        session.get("/").await
    });
    let in_flight = r#"nebula_http_requests_in_flight{deployment="api"}"#;
    until("it has asked", || node.metric(in_flight) == 1).await;
    elsewhere.shutdown_background();
    drop((asking, client));
    until("it is missed", || {
        node.metric("nebula_http_connections") == 0 && node.metric(in_flight) == 0
    })
    .await;
}

#[tokio::test]
async fn the_access_log_names_it() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    node.route_api_by(&[named("up").await], |policy| {
        policy.access_log = AccessLog::Combined;
    });
    let mut session = Session::open(&certificates, &node).await;
    let answer = session
        .ask(common::http3::request(Method::GET, "/seen", &[]))
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    let log = node.trees.path().join("access.log");
    until("it is written", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("\"GET /seen HTTP/3.0\" 200")
    })
    .await;
}

#[tokio::test]
async fn a_thread_that_breaks_takes_connections_again() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    node.route_api(&[named("up").await]);
    assert_eq!(
        Session::open(&certificates, &node)
            .await
            .get("/")
            .await
            .text(),
        "up"
    );
    node.proxy.kill_thread(0);
    until("it has begun anew", || {
        node.metric("nebula_edge_thread_restarts_total") == 1
    })
    .await;
    assert_eq!(
        Session::open(&certificates, &node)
            .await
            .get("/")
            .await
            .text(),
        "up"
    );
}
