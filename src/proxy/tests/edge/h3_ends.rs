//! How long the edge stays with clients of HTTP/3 that take nothing, and what it tells those that come when it leaves.

use std::time::Duration;

use crate::common;
use crate::common::apps::{app, text};
use crate::common::http3::{Session, connect, endpoint, request, try_connect};
use crate::common::tls::Certificates;
use crate::common::{PATIENCE, until};
use http::Method;
use nebula_proxy::Limits;
use quinn::VarInt;
use tokio::time::{Instant, timeout};

#[tokio::test]
async fn an_answer_that_was_cut_off_is_not_waited_for() {
    const STALL: Duration = Duration::from_secs(2);
    let certificates = Certificates::usual();
    let node = certificates.node_with(|config| {
        config.limits = Limits {
            client_stall: STALL,
            header_read_timeout: Duration::from_millis(100),
            ..config.limits.clone()
        };
    });
    let large = app(|_| async { text("x".repeat(4_000_000)) }).await;
    node.route_api(&[large]);
    let client = endpoint(&certificates, |transport| {
        transport.stream_receive_window(VarInt::from_u32(1000));
    });
    let mut session = Session::over(try_connect(&client, &node).await.unwrap()).await;
    let begun = Instant::now();
    // Nothing of it is taken.
    let mut stream = session.begin(request(Method::GET, "/", &[])).await;
    stream.finish().await.unwrap();
    session.ended().await;
    let took = begun.elapsed();
    assert!(STALL <= took && took < 2 * STALL, "{took:?}");
}

#[tokio::test]
async fn whoever_comes_while_it_leaves_is_told_so() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    let (hold, held) = tokio::sync::watch::channel(false);
    let slow = app(move |_| {
        let mut held = held.clone();
        async move {
            held.wait_for(|go| *go).await.unwrap();
            text("held")
        }
    });
    node.route_api(&[slow.await]);
    let mut session = Session::over(connect(&certificates, &node).await).await;
    let in_flight = r#"nebula_http_requests_in_flight{deployment="api"}"#;
    let asking = tokio::spawn(async move { session.get("/").await.text().to_owned() });
    until("it is asked", || node.metric(in_flight) == 1).await;
    let client = endpoint(&certificates, |_| {});
    let connecting = |address| client.connect(address, common::http3::HOST).unwrap();
    let address = node.tls.unwrap();
    let draining = tokio::spawn(node.proxy.drain(PATIENCE));
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        assert!(Instant::now() < deadline, "it goes on");
        // Until the word to leave has come.
        match timeout(PATIENCE, connecting(address))
            .await
            .expect("silence")
        {
            Ok(connection) => connection.close(VarInt::from_u32(0), b""),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(refused, quinn::ConnectionError::ConnectionClosed(_)),
        "{refused:?}"
    );
    hold.send_replace(true);
    assert_eq!(asking.await.unwrap(), "held");
    draining.await.unwrap();
}
