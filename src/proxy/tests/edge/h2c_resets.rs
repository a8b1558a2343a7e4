//! Streams to instances of HTTP/2 that fail, or that say little in many frames: what others on their connection notice of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common;
use crate::common::Cluster;
use crate::common::client::get;
use crate::common::h2c::{self, instance, ok, trailers, usual};
use crate::common::http2::{Session, answered, request, whole};
use bytes::Bytes;
use h2::Reason;
use http::{Method, StatusCode};

const API: &str = "api.example.test";

/// With one thread, so that connections can be counted.
fn node(instance: &h2c::Instance) -> common::Node {
    let node = Cluster::new().node_with(1, |config| config.threads = 1);
    node.route_h2c(&[instance.address]);
    node
}

#[tokio::test]
async fn a_stream_that_fails_is_not_taken_for_an_old_connection() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let instance = instance(usual, move |request, mut respond| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            match request.uri().path() {
                "/fails" => respond.send_reset(Reason::INTERNAL_ERROR),
                _ => h2c::say(&mut respond, format!("answer {number}")),
            }
        }
    })
    .await;
    let node = node(&instance);
    let edge = node.edge;
    assert_eq!(get(edge, API, "/").await.text(), "answer 1");
    for number in 2..5 {
        let failed = get(edge, API, "/fails").await;
        assert_eq!(failed.status, StatusCode::BAD_GATEWAY);
        assert_eq!(asked.load(Ordering::SeqCst), number);
    }
    assert_eq!(get(edge, API, "/").await.text(), "answer 5");
    assert_eq!(instance.begun(), 1);
    let stale = "nebula_http_retries_total{deployment=\"api\",reason=\"stale\"}";
    assert_eq!(node.metric(stale), 0);
}

#[tokio::test]
async fn frames_without_content_break_nobodys_answer() {
    const FRAMES: usize = 10;
    let instance = instance(usual, |_, mut respond| async move {
        let mut stream = respond.send_response(ok(&[]), false).unwrap();
        for _ in 0..FRAMES {
            stream.send_data(Bytes::new(), false).unwrap();
            // Each in a frame of its own.
            tokio::task::yield_now().await;
        }
        stream.send_data(Bytes::from_static(b"ok"), true).unwrap();
    })
    .await;
    let node = node(&instance);
    for number in 0..40 {
        let answer = get(node.edge, API, "/").await;
        assert_eq!(answer.text(), "ok", "{number}");
    }
    let begun = instance.begun();
    // Each connection has carried as much as it bears, and no more.
    assert_eq!(begun, 40 * FRAMES / 50);
}

#[tokio::test]
async fn trailers_may_be_as_large_as_heads() {
    let names: Vec<&'static str> = (0..60)
        .map(|number| &*format!("x-detail-{number}").leak())
        .collect();
    let value = "v".repeat(400);
    let (said, expected) = (names.clone(), value.clone());
    let instance = instance(usual, move |_, mut respond| {
        let fields: Vec<_> = said.iter().map(|name| (*name, &*value)).collect();
        let fields = trailers(&fields);
        async move {
            let head = ok(&[("content-type", "application/grpc")]);
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data(Bytes::from_static(b"ok"), false).unwrap();
            stream.send_trailers(fields).unwrap();
        }
    })
    .await;
    let node = node(&instance);
    let mut session = Session::open(node.edge).await;
    let (response, _) = session
        .send(request(Method::GET, "/", &[("te", "trailers")]), true)
        .await;
    let (answer, fields) = whole(answered(response).await).await;
    assert_eq!(answer.text(), "ok");
    let fields = fields.unwrap();
    for name in names {
        assert_eq!(fields[name], expected);
    }
}
