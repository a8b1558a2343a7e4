//! Connections of HTTP/2 in the clear to instances: how many there are, what goes over which, and how they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common;
use crate::common::client::{get, post};
use crate::common::h2c::{self, instance, say, usual};
use crate::common::http2::{
    GOAWAY, HEADERS, PREFACE, SETTINGS, Session, answered, frame, frames, request, whole,
};
use crate::common::{Cluster, PATIENCE, single, single_with, until};
use bytes::Bytes;
use h2::Reason;
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

const API: &str = "api.example.test";

#[tokio::test]
async fn many_requests_share_a_connection_and_a_full_one_gets_a_second() {
    let turns = Arc::new(Semaphore::new(0));
    let (asked, is_asked) = (Arc::new(AtomicUsize::new(0)), turns.clone());
    let count = asked.clone();
    let instance = instance(
        |builder| {
            builder.max_concurrent_streams(3);
        },
        move |_, mut respond| {
            let (count, turns) = (count.clone(), is_asked.clone());
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                let _turn = turns.acquire().await.unwrap();
                say(&mut respond, "ok");
            }
        },
    )
    .await;
    // One thread, so that connections can be counted.
    let node = Cluster::new().node_with(1, |config| {
        config.threads = 1;
        config.limits.h2c_connections_per_instance = 2;
    });
    node.route_h2c(&[instance.address]);
    let edge = node.edge;
    let ask = || tokio::spawn(async move { get(edge, API, "/").await.text().to_owned() });
    let six: Vec<_> = (0..6).map(|_| ask()).collect();
    until("all are asked", || asked.load(Ordering::SeqCst) == 6).await;
    assert_eq!(instance.begun(), 2);
    // No place is left, and none becomes free.
    let refused = get(edge, API, "/").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_ne!(refused.header("retry-after"), "");
    // One waits for a place.
    let seventh = ask();
    turns.add_permits(1000);
    for asked in six {
        assert_eq!(asked.await.unwrap(), "ok");
    }
    assert_eq!(seventh.await.unwrap(), "ok");
    for _ in 0..20 {
        assert_eq!(get(edge, API, "/").await.text(), "ok");
    }
    assert_eq!(instance.begun(), 2);
    assert_eq!(node.metric("nebula_h2c_connections"), 2);
}

#[tokio::test]
async fn a_burst_waits_for_one_connection() {
    let instance = h2c::named("up").await;
    let node = Cluster::new().node_with(1, |config| config.threads = 1);
    node.route_h2c(&[instance.address]);
    let edge = node.edge;
    let burst: Vec<_> = (0..60)
        .map(|_| tokio::spawn(async move { get(edge, API, "/").await.status }))
        .collect();
    for asked in burst {
        assert_eq!(asked.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(instance.begun(), 1);
}

#[tokio::test]
async fn connections_that_nobody_uses_are_closed() {
    let instance = h2c::named("up").await;
    let node = single_with(|limits| limits.upstream_idle = Duration::from_millis(300));
    node.route_h2c(&[instance.address]);
    assert_eq!(get(node.edge, API, "/").await.text(), "up");
    assert!(instance.begun() >= 1);
    until("they are closed", || instance.open() == 0).await;
    until("none is counted", || {
        node.metric("nebula_h2c_connections") == 0
    })
    .await;
    assert_eq!(get(node.edge, API, "/").await.text(), "up");
}

#[tokio::test]
async fn an_instance_of_another_protocol_is_told_by_its_greeting() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let http1 = common::apps::app(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async { common::apps::text("http1") }
    })
    .await;
    let node = single();
    node.route_h2c(&[http1]);
    let answer = get(node.edge, API, "/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(answer.text().contains("\"not_http2\""), "{}", answer.text());
    assert!(answer.text().contains("upstream"), "{}", answer.text());
    // One that closes at once, and one that says nothing.
    let closing = common::apps::raw(|socket| async move { drop(socket) }).await;
    node.route_h2c(&[closing]);
    let answer = post(node.edge, API, "/", "x").await;
    assert!(answer.text().contains("\"not_http2\""), "{}", answer.text());
    let mute = common::apps::raw(|socket| async move {
        let _open = socket;
        std::future::pending().await
    })
    .await;
    node.route_h2c(&[mute]);
    let answer = get(node.edge, API, "/").await;
    assert!(
        answer.text().contains("\"unreachable\""),
        "{}",
        answer.text()
    );
    // Nobody has seen the request, so that another instance gets it.
    let up = h2c::named("up").await;
    node.route_h2c(&[http1, up.address]);
    for _ in 0..6 {
        assert_eq!(post(node.edge, API, "/", "x").await.text(), "up");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_was_refused_goes_elsewhere() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    let refusing = instance(usual, move |_, mut respond| {
        count.fetch_add(1, Ordering::SeqCst);
        async move { respond.send_reset(Reason::REFUSED_STREAM) }
    })
    .await;
    let up = h2c::named("up").await;
    let node = single();
    node.route_h2c(&[refusing.address, up.address]);
    for _ in 0..8 {
        // Not even a POST has begun, when its body has not.
        let mut session = Session::open(node.edge).await;
        let answer = session.ask(request(Method::POST, "/", &[])).await;
        assert_eq!(
            (answer.status, answer.text()),
            (StatusCode::OK, "up"),
            "{}",
            answer.text()
        );
    }
    assert!(refused.load(Ordering::SeqCst) > 0);
    // A body that has begun is gone.
    node.route_h2c(&[refusing.address]);
    let before = refused.load(Ordering::SeqCst);
    let answer = post(node.edge, API, "/", "x").await;
    assert!(answer.text().contains("\"broken\""), "{}", answer.text());
    assert_eq!(refused.load(Ordering::SeqCst), before + 1);
    // A goodbye that the request has crossed says as much.
    let leaving = common::apps::raw(|mut socket| async move {
        let greeting = frame(SETTINGS, 0, 0, &[]);
        socket.write_all(&greeting).await.unwrap();
        let (mut heard, mut piece) = (Vec::new(), [0; 1024]);
        let asked = |heard: &[u8]| {
            let frames = frames(heard.get(PREFACE.len()..).unwrap_or_default());
            frames.iter().any(|frame| frame.kind == HEADERS)
        };
        while !asked(&heard) {
            match socket.read(&mut piece).await {
                Ok(read @ 1..) => heard.extend_from_slice(&piece[..read]),
                _ => return,
            }
        }
        let goodbye = frame(GOAWAY, 0, 0, &[0; 8]);
        socket.write_all(&goodbye).await.unwrap();
    })
    .await;
    node.route_h2c(&[leaving, up.address]);
    for _ in 0..8 {
        let mut session = Session::open(node.edge).await;
        let answer = session.ask(request(Method::POST, "/", &[])).await;
        assert_eq!(answer.text(), "up");
    }
    // One that takes less than it says by its settings: a crowd finds room on other connections.
    let calm = h2c::connections(usual, move |mut connection| async move {
        let room = Arc::new(Semaphore::new(4));
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            match room.clone().try_acquire_owned() {
                Ok(place) => drop(tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    say(&mut respond, "calm");
                    drop(place);
                })),
                Err(_) => respond.send_reset(Reason::ENHANCE_YOUR_CALM),
            }
        }
    })
    .await;
    let node = Cluster::new().node_with(1, |config| config.threads = 1);
    node.route_h2c(&[calm.address]);
    let edge = node.edge;
    let crowd: Vec<_> = (0..7)
        .map(|_| tokio::spawn(async move { get(edge, API, "/").await.text().to_owned() }))
        .collect();
    for asked in crowd {
        assert_eq!(asked.await.unwrap(), "calm");
    }
    assert!(calm.begun() <= 3, "{}", calm.begun());
    // A stream that is broken in another way may have been carried out.
    let breaking = instance(usual, |_, mut respond| async move {
        respond.send_reset(Reason::INTERNAL_ERROR);
    })
    .await;
    node.route_h2c(&[breaking.address]);
    let answer = post(node.edge, API, "/", "x").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(answer.text().contains("\"broken\""), "{}", answer.text());
}

#[tokio::test]
async fn an_instance_that_says_goodbye_finishes_and_gets_no_more() {
    let (leaving, _) = tokio::sync::broadcast::channel(4);
    let leave = leaving.clone();
    let instance = h2c::connections(usual, move |mut connection| {
        let mut leaves = leave.subscribe();
        async move {
            loop {
                tokio::select! {
                    accepted = connection.accept() => {
                        let Some(Ok((request, mut respond))) = accepted else { return };
                        tokio::spawn(async move {
                            // Goes on until the client has said all it has to say.
                            let mut body = request.into_body();
                            while let Some(Ok(_)) = body.data().await {}
                            say(&mut respond, "done");
                        });
                    }
                    _ = leaves.recv() => connection.graceful_shutdown(),
                }
            }
        }
    })
    .await;
    let node = Cluster::new().node_with(1, |config| config.threads = 1);
    node.route_h2c(&[instance.address]);
    let mut session = Session::open(node.edge).await;
    let (response, mut stream) = session.send(request(Method::POST, "/", &[]), false).await;
    stream
        .send_data(Bytes::from_static(b"some"), false)
        .unwrap();
    until("it is asked", || instance.begun() == 1).await;
    assert_eq!(get(node.edge, API, "/").await.text(), "done");
    leaving.send(()).unwrap();
    // Asked until the goodbye has arrived; none of the requests may fail for it.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while instance.begun() < 2 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "no second connection"
        );
        assert_eq!(get(node.edge, API, "/").await.text(), "done");
    }
    // What was under way on the first one is finished on it.
    stream.send_data(Bytes::from_static(b"rest"), true).unwrap();
    let (answer, _) = whole(answered(response).await).await;
    assert_eq!(answer.text(), "done");
    until("the first one is closed", || instance.open() == 1).await;
}

#[tokio::test]
async fn a_request_that_cannot_be_said_in_http_2_is_the_clients_fault() {
    let instance = instance(
        usual,
        |_, mut respond| async move { say(&mut respond, "ok") },
    )
    .await;
    let node = single();
    node.route_h2c(&[instance.address, instance.address]);
    let long = format!("/{}", "<".repeat(22_000));
    for _ in 0..10 {
        let said = common::client::say(
            node.edge,
            &format!("GET {long} HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n"),
        )
        .await;
        assert!(said.starts_with("HTTP/1.1 4"), "{said}");
    }
    assert_eq!(get(node.edge, API, "/").await.status, StatusCode::OK);
    let ejected = "nebula_http_ejections_total{deployment=\"api\"}";
    assert_eq!(node.metric(ejected), 0);
}
