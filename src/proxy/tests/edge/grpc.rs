//! gRPC through the edge, by a client and a server that know nothing of it: calls, streams of both sides, statuses.

use std::sync::Arc;
use std::time::Duration;

use crate::common;
use crate::common::grpc::{Answered, Client, instance};
use crate::common::tls::Certificates;
use crate::common::{Cluster, Node, PATIENCE, Routes, refusing, single};
use bytes::Bytes;
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt, TryStreamExt};
use nebula_domain::http::{ByteSize, Upstream};
use tokio::sync::mpsc as events;
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, Streaming};

const API: &str = "api.example.test";

fn route(node: &Node, endpoints: &[(u64, u64)]) {
    let routes = Routes::new().policy(|policy| policy.upstream = Upstream::H2c);
    let routes = routes.service("api", endpoints);
    node.table.send_replace(Arc::new(routes.table()));
}

/// Says everything back, with what came beside it; or fails in one of several ways.
async fn echo(path: String, request: Request<Streaming<Bytes>>) -> Answered {
    let word = request.metadata().get("x-word").cloned();
    let messages = request.into_inner();
    let messages = match path.as_str() {
        "/test.Echo/Say" => messages.boxed(),
        // Fails at once, with nothing else: the status is in the head.
        "/test.Echo/Refuse" => return Err(Status::failed_precondition("not today: 50%")),
        // Fails after an answer has begun.
        "/test.Echo/Break" => {
            let broken = futures::stream::iter([Err(Status::data_loss("gone"))]);
            messages.chain(broken).boxed()
        }
        _ => return Err(Status::unimplemented("no such call")),
    };
    let mut response = Response::new(messages);
    if let Some(word) = word {
        response.metadata_mut().insert("x-word", word);
    }
    Ok(response)
}

/// Everything that a client may want of a server, through this edge.
async fn speak(mut client: Client) {
    let mut request = Request::new(Bytes::from_static(b"hello"));
    request
        .metadata_mut()
        .insert("x-word", "w".parse().unwrap());
    let answer = client.call("/test.Echo/Say", request).await.unwrap();
    assert_eq!(answer.get_ref(), "hello");
    assert_eq!(answer.metadata().get("x-word").unwrap(), "w");

    // Each message is answered before the next is said.
    let (mut say, said) = mpsc::channel(0);
    let answer = client.stream("/test.Echo/Say", said);
    let answer = timeout(PATIENCE, answer).await.expect("no head");
    let mut heard = answer.unwrap().into_inner();
    for turn in 0..50 {
        let message = Bytes::from(format!("turn {turn}"));
        say.send(message.clone()).await.unwrap();
        let back = timeout(PATIENCE, heard.message()).await.expect("held back");
        assert_eq!(back.unwrap(), Some(message));
    }
    say.close_channel();
    assert_eq!(heard.message().await.unwrap(), None);

    let large = Bytes::from(vec![7; 5 << 20]);
    let answer = client
        .call("/test.Echo/Say", Request::new(large.clone()))
        .await;
    assert!(answer.unwrap().into_inner() == large);
    let many: Vec<_> = (0..300).map(|n| Bytes::from(vec![1; n * 10])).collect();
    let answer = client.stream("/test.Echo/Say", futures::stream::iter(many.clone()));
    let back: Vec<Bytes> = answer
        .await
        .unwrap()
        .into_inner()
        .try_collect()
        .await
        .unwrap();
    assert!(back == many);

    let refused = client
        .call("/test.Echo/Refuse", Request::new(Bytes::new()))
        .await;
    let status = refused.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::FailedPrecondition, "not today: 50%")
    );
    let answer = client.stream(
        "/test.Echo/Break",
        futures::stream::iter(many[..2].to_vec()),
    );
    let mut heard = answer.await.unwrap().into_inner();
    for message in &many[..2] {
        assert_eq!(heard.message().await.unwrap().as_ref(), Some(message));
    }
    let status = heard.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DataLoss, "gone"));
    let missing = client
        .call("/test.Echo/Nothing", Request::new(Bytes::new()))
        .await;
    assert_eq!(missing.unwrap_err().code(), Code::Unimplemented);

    let calls = (0..60).map(|n| {
        let mut client = client.clone();
        async move {
            let message = Bytes::from(format!("call {n}"));
            let answer = client.call("/test.Echo/Say", Request::new(message.clone()));
            assert_eq!(answer.await.unwrap().into_inner(), message);
        }
    });
    futures::future::join_all(calls).await;
}

#[tokio::test]
async fn in_the_clear() {
    let node = single();
    node.route_h2c(&[instance(echo).await]);
    speak(Client::open(node.edge, API).await).await;
}

#[tokio::test]
async fn over_tls() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    node.route_h2c(&[instance(echo).await]);
    let client = Client::open_tls(node.tls.unwrap(), API, certificates.caller()).await;
    speak(client).await;
}

#[tokio::test]
async fn through_another_node() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    b.run(&[(2, instance(echo).await)]);
    route(&a, &[(2, 2)]);
    speak(Client::open(a.edge, API).await).await;
}

#[tokio::test]
async fn a_deadline_goes_along_and_ends_the_call_everywhere() {
    let (event, mut events) = events::unbounded_channel();
    let waiting = instance(move |_, request: Request<Streaming<Bytes>>| {
        let event = event.clone();
        async move {
            let deadline = request.metadata().get("grpc-timeout").cloned();
            event.send(deadline.is_some()).unwrap();
            // Goes with the call.
            let _dropped = Dropped(event);
            std::future::pending().await
        }
    })
    .await;
    let node = single();
    node.route_h2c(&[waiting]);
    let mut client = Client::open(node.edge, API).await;
    let mut request = Request::new(Bytes::new());
    request.set_timeout(Duration::from_millis(300));
    let status = client.call("/test.Echo/Say", request).await.unwrap_err();
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status:?}"
    );
    assert_eq!(events.recv().await, Some(true), "it was not told");
    let dropped = timeout(PATIENCE, events.recv()).await;
    assert_eq!(dropped.expect("it goes on"), Some(false));
}

#[tokio::test]
async fn a_call_that_its_server_gives_up_is_cancelled() {
    let giving_up = common::h2c::instance(common::h2c::usual, |_, mut respond| async move {
        respond.send_reset(h2::Reason::CANCEL);
    })
    .await;
    let node = single();
    node.route_h2c(&[giving_up.address]);
    let mut client = Client::open(node.edge, API).await;
    // Often enough to leave out an instance that is broken.
    for _ in 0..5 {
        let message = Request::new(Bytes::from_static(b"x"));
        let status = client.call("/test.Echo/Say", message).await.unwrap_err();
        assert_eq!(status.code(), Code::Cancelled, "{status:?}");
    }
    assert_eq!(
        node.metric("nebula_http_ejections_total{deployment=\"api\"}"),
        0
    );
}

struct Dropped(events::UnboundedSender<bool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(false);
    }
}

#[tokio::test]
async fn what_the_edge_answers_itself_is_a_status() {
    let node = single();
    let call = async |host: &str| {
        let mut client = Client::open(node.edge, host).await;
        let message = Bytes::from(vec![0; 2000]);
        let status = client.call("/test.Echo/Say", Request::new(message)).await;
        status.unwrap_err()
    };
    let unknown = call("nobody.test").await;
    assert_eq!(unknown.code(), Code::Unimplemented);
    assert!(unknown.message().contains("'nobody.test'"), "{unknown:?}");
    node.route_h2c(&[refusing()]);
    let unreachable = call(API).await;
    assert_eq!(unreachable.code(), Code::Unavailable);
    assert!(unreachable.message().contains("'api'"), "{unreachable:?}");
    assert!(unreachable.metadata().contains_key("x-request-id"));
    // An instance of another protocol.
    node.route_h2c(&[common::apps::named("http1").await]);
    let other = call(API).await;
    assert_eq!(other.code(), Code::Unavailable);
    assert!(other.message().contains("HTTP/2"), "{other:?}");
    let echo = instance(echo).await;
    node.route_api_by(&[echo], |policy| {
        policy.upstream = Upstream::H2c;
        policy.limits.body = Some(ByteSize(100));
    });
    assert_eq!(call(API).await.code(), Code::Unknown);
    node.route_api_by(&[echo], |policy| policy.maintenance.on = true);
    assert_eq!(call(API).await.code(), Code::Unavailable);
    // They are counted as what they are.
    assert_eq!(
        node.metric("nebula_http_requests_total{deployment=\"api\",code=\"5xx\"}"),
        3
    );
    assert_eq!(
        node.metric("nebula_http_requests_total{deployment=\"api\",code=\"2xx\"}"),
        0
    );
    // Nobody else is answered so.
    let answer = common::client::get(node.edge, "nobody.test", "/").await;
    assert_eq!(answer.status, http::StatusCode::NOT_FOUND);
}
