//! TLS towards clients: which certificate they get, sessions, and what goes on while the folder changes.

use std::io;
use std::time::Duration;

use crate::common::apps::{mirror, named, read_head};
use crate::common::tls::{BOTH, Certificates, shown};
use crate::common::{PATIENCE, until};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, CipherSuite, HandshakeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const API: &str = "api.example.test";

/// The alert that a handshake ended with.
fn alert(error: &io::Error) -> AlertDescription {
    let error = error.get_ref().and_then(|e| e.downcast_ref());
    match error {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        other => panic!("no alert: {other:?}"),
    }
}

#[tokio::test]
async fn the_name_chooses_the_certificate() {
    let certificates = Certificates::new();
    let exact = certificates.put("a", &["a.example.test", "b.example.test"], 30);
    let wild = certificates.put("wild", &["*.example.test"], 90);
    let newer = certificates.put("newer", &["b.example.test"], 60);
    let node = certificates.node();
    let caller = certificates.caller();
    for (name, expected) in [
        ("a.example.test", &exact),
        ("b.example.test", &newer),
        ("c.example.test", &wild),
    ] {
        assert_eq!(shown(&caller.connect(&node, name).await), *expected);
    }
    let tls = node.tls.unwrap();
    let mut nameless = caller.clone();
    nameless.0.enable_sni = false;
    for (caller, name) in [(&caller, "a.b.example.test"), (&nameless, "a.example.test")] {
        let refused = caller.try_connect(tls, name).await.unwrap_err();
        assert_eq!(alert(&refused), AlertDescription::UnrecognisedName);
    }
    until("both are counted", || {
        node.metric("nebula_edge_tls_handshakes_total{result=\"unnamed\"}") == 2
    })
    .await;
    let default = certificates.put("default", &["other.test"], 30);
    until("the default is there", || {
        node.metric("nebula_edge_certificates{state=\"loaded\"}") == 4
    })
    .await;
    let stream = nameless.connect(&node, "other.test").await;
    assert_eq!(shown(&stream), default);
    assert_eq!(shown(&caller.connect(&node, "c.example.test").await), wild);
}

#[tokio::test]
async fn both_versions_carry_requests_and_end_in_order() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    node.route_api(&[mirror().await]);
    for version in BOTH {
        let caller = certificates.caller_with(&[version]);
        let mut stream = caller.connect(&node, API).await;
        let connection = stream.get_ref().1;
        assert_eq!(connection.protocol_version(), Some(version.version));
        assert_eq!(connection.alpn_protocol(), Some(&b"http/1.1"[..]));
        for connection in ["keep-alive", "close"] {
            let ask = format!("GET /x HTTP/1.1\r\nHost: {API}\r\nConnection: {connection}\r\n\r\n");
            stream.write_all(ask.as_bytes()).await.unwrap();
            let head = timeout(PATIENCE, read_head(&mut stream)).await.unwrap();
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            if connection == "close" {
                break;
            }
            let length = head.to_lowercase();
            let length = length.split("content-length: ").nth(1).unwrap();
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            stream.read_exact(&mut vec![0; length]).await.unwrap();
        }
        // Without a close_notify this would be an error.
        let mut body = String::new();
        let ended = timeout(PATIENCE, stream.read_to_string(&mut body)).await;
        ended.unwrap().unwrap();
        assert!(body.contains("\nx-forwarded-proto: https\n"), "{body}");
        let forwarded = format!("forwarded: for=127.0.0.1;proto=https;host=\"{API}\"");
        assert!(body.contains(&forwarded), "{body}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_told_of_its_end() {
    let certificates = Certificates::usual();
    let node = certificates.node_with(|config| {
        config.limits.header_read_timeout = Duration::from_millis(100);
    });
    let mut stream = certificates.caller().connect(&node, API).await;
    let ended = timeout(PATIENCE, stream.read(&mut [0])).await.unwrap();
    assert_eq!(ended.unwrap(), 0);
    let node = certificates.node();
    let mut stream = certificates.caller().connect(&node, API).await;
    node.proxy.drain(PATIENCE).await;
    let ended = timeout(PATIENCE, stream.read(&mut [0])).await.unwrap();
    assert_eq!(ended.unwrap(), 0);
}

#[tokio::test]
async fn sessions_are_resumed_on_every_thread() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    node.route_api(&[named("up").await]);
    for version in BOTH {
        let caller = certificates.caller_with(&[version]);
        // Tickets come with the first answer.
        assert_eq!(caller.get(&node, API, "/").await.text(), "up");
        for _ in 0..8 {
            let mut stream = caller.connect(&node, API).await;
            let kind = stream.get_ref().1.handshake_kind();
            assert_eq!(kind, Some(HandshakeKind::Resumed), "{version:?}");
            let ask = format!("GET / HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n");
            stream.write_all(ask.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("up"), "{answer}");
        }
    }
    let count = |result| {
        node.metric(&format!(
            "nebula_edge_tls_handshakes_total{{result=\"{result}\"}}"
        ))
    };
    assert_eq!((count("full"), count("resumed")), (2, 16));
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_while_connections_go_on() {
    let certificates = Certificates::new();
    let old = certificates.put("api", &[API], 30);
    let node = certificates.node();
    node.route_api(&[named("up").await]);
    let caller = certificates.caller();
    let mut stream = caller.connect(&node, API).await;
    assert_eq!(shown(&stream), old);
    let expiry = node.metric("nebula_edge_certificates_expiry_timestamp_seconds");
    let new = certificates.put("api", &[API], 20);
    until("it is taken up", || {
        node.metric("nebula_edge_certificates_expiry_timestamp_seconds") < expiry
    })
    .await;
    assert_eq!(shown(&certificates.caller().connect(&node, API).await), new);
    let ask = format!("GET / HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("up"), "{answer}");
}

#[tokio::test]
async fn a_folder_that_is_wrong_changes_nothing() {
    let certificates = Certificates::new();
    let (old, old_key) = certificates.make(&[API], 30);
    let restore = || {
        certificates.write("api.key", &old_key.serialize_pem());
        certificates.write("api.crt", &old.pem());
    };
    restore();
    let node = certificates.node();
    let wrong = || node.metric("nebula_edge_certificates{state=\"wrong\"}");
    let loaded = || node.metric("nebula_edge_certificates{state=\"loaded\"}");
    let caller = certificates.caller();
    let (certificate, key) = certificates.make(&[API], 60);
    let path = |name: &str| certificates.folder.path().join(name);
    let open = || {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        std::fs::set_permissions(path("api.key"), open).unwrap();
    };
    // Half of a pair, a key that is open to others, no key, and none at all.
    let breaks: [&dyn Fn(); 4] = [
        &|| certificates.write("api.crt", &certificate.pem()),
        &open,
        &|| std::fs::remove_file(path("api.key")).unwrap(),
        &|| certificates.write("api.key", "nothing"),
    ];
    for break_it in breaks {
        break_it();
        // Beside one that is well, which is not taken up either.
        certificates.put("other", &["other.test"], 30);
        until("it is noticed", || wrong() == 1).await;
        assert_eq!(loaded(), 1);
        assert_eq!(shown(&caller.connect(&node, API).await), *old.der());
        for name in ["other.crt", "other.key"] {
            std::fs::remove_file(path(name)).unwrap();
        }
        restore();
        until("it is well again", || wrong() == 0).await;
    }
    certificates.write("api.key", &key.serialize_pem());
    certificates.write("api.crt", &certificate.pem());
    certificates.put("other", &["other.test"], 30);
    until("all is taken up", || wrong() == 0 && loaded() == 2).await;
    let shown_now = shown(&certificates.caller().connect(&node, API).await);
    assert_eq!(shown_now, *certificate.der());
    std::fs::remove_dir_all(certificates.folder.path()).unwrap();
    until("the folder is missed", || wrong() == 1).await;
    let shown_now = shown(&certificates.caller().connect(&node, API).await);
    assert_eq!(shown_now, *certificate.der());
}

#[tokio::test]
async fn an_edge_starts_with_what_can_be_used() {
    let certificates = Certificates::usual();
    certificates.write("bad.crt", "nothing");
    let node = certificates.node();
    assert_eq!(node.metric("nebula_edge_certificates{state=\"loaded\"}"), 1);
    assert_eq!(node.metric("nebula_edge_certificates{state=\"wrong\"}"), 1);
    certificates.caller().connect(&node, API).await;
}

#[tokio::test]
async fn the_edge_chooses_among_the_suites_of_its_client() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    for (version, expected) in [
        (&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
        (&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ] {
        let mut suites = rustls::crypto::ring::default_provider().cipher_suites;
        // What the edge likes best is what this one names last.
        suites.sort_by_key(|suite| suite.suite() == expected);
        let caller = certificates.caller_by(&[version], suites);
        let stream = caller.connect(&node, "api.example.test").await;
        let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap();
        assert_eq!(suite.suite(), expected);
    }
}

#[tokio::test]
async fn slow_handshakes_end_and_others_have_their_turn() {
    let certificates = Certificates::usual();
    let node = certificates.node_with(|config| {
        config.threads = 1;
        config.limits.tls_handshakes_per_thread = 1;
        config.limits.tls_handshake = Duration::from_millis(700);
    });
    let tls = node.tls.unwrap();
    let mut silent = TcpStream::connect(tls).await.unwrap();
    let mut slow = TcpStream::connect(tls).await.unwrap();
    slow.write_all(&[22, 3, 1]).await.unwrap();
    for socket in [&mut silent, &mut slow] {
        let ended = timeout(PATIENCE, socket.read(&mut [0])).await.unwrap();
        assert_eq!(ended.unwrap_or(0), 0);
    }
    certificates.caller().connect(&node, API).await;
    let mut noise = TcpStream::connect(tls).await.unwrap();
    noise.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, noise.read_to_end(&mut answer))
        .await
        .unwrap();
    let count = |result| {
        node.metric(&format!(
            "nebula_edge_tls_handshakes_total{{result=\"{result}\"}}"
        ))
    };
    until("all are counted", || {
        (count("timed_out"), count("full"), count("failed")) == (2, 1, 1)
    })
    .await;
}
