//! One fetch for many who wait, and how much is kept: bounds, those who leave, answers that break.

use std::net::SocketAddr;
use std::time::Duration;

use crate::common;
use crate::common::apps::{raw, read_head, text};
use crate::common::client::{Answer, get, get_with, request, send};
use crate::common::counting::{Counting, numbered, with_fields};
use crate::common::{Node, Routes, single, single_with, until};
use http::Method;
use http_body_util::{BodyExt, Empty};
use nebula_domain::http::{ByteSize, HttpPolicy};
use nebula_proxy::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const API: &str = "api.example.test";
const MINUTE: &[(&str, &str)] = &[("cache-control", "max-age=60")];

fn on(policy: &mut HttpPolicy) {
    policy.cache.on = true;
}

fn cached(address: SocketAddr, adjust: impl FnOnce(&mut Limits)) -> Node {
    let node = single_with(adjust);
    node.route_api_by(&[address], on);
    node
}

/// So many requests at once.
fn crowd(edge: SocketAddr, size: usize) -> JoinSet<Answer> {
    let mut crowd = JoinSet::new();
    for _ in 0..size {
        crowd.spawn(get(edge, API, "/"));
    }
    crowd
}

fn figure(node: &Node, result: &str) -> u64 {
    node.metric(&format!(
        "nebula_http_cache_requests_total{{deployment=\"api\",result=\"{result}\"}}"
    ))
}

fn in_flight(node: &Node) -> u64 {
    node.metric("nebula_http_requests_in_flight{deployment=\"api\"}")
}

#[tokio::test]
async fn a_hundred_clients_make_one_request() {
    let app = Counting::held(|number, _| numbered(number, MINUTE)).await;
    let node = cached(app.address, |_| {});
    let crowd = crowd(node.edge, 100);
    until("all wait", || in_flight(&node) == 100).await;
    app.gate.add_permits(1);
    for answer in crowd.join_all().await {
        assert_eq!(answer.text(), "answer 1");
    }
    assert_eq!(app.asked(), 1);
    assert_eq!(figure(&node, "miss"), 1);
    assert_eq!(figure(&node, "hit") + figure(&node, "collapsed"), 99);
}

#[tokio::test]
async fn what_is_for_one_lets_all_others_go_at_once() {
    let app = Counting::held(|number, _| numbered(number, &[("set-cookie", "a=b")])).await;
    let node = cached(app.address, |_| {});
    let crowd = crowd(node.edge, 20);
    until("all wait", || app.asked() == 1 && in_flight(&node) == 20).await;
    app.gate.add_permits(1);
    until("all ask", || app.asked() == 20).await;
    app.gate.add_permits(20);
    let mut answers: Vec<_> = crowd.join_all().await;
    answers.sort_by_key(|answer| answer.text().to_owned());
    answers.dedup_by_key(|answer| answer.text().to_owned());
    assert_eq!(answers.len(), 20);
    // For a while nobody waits for such a one.
    let more = self::crowd(node.edge, 5);
    until("they ask", || app.asked() == 25).await;
    app.gate.add_permits(5);
    for answer in more.join_all().await {
        let said = answer.header("cache-status");
        assert_eq!(said, "Nebula; fwd=uri-miss; detail=uncacheable");
    }
}

#[tokio::test]
async fn what_was_for_one_is_looked_at_again_after_a_while() {
    let app = Counting::new(|number, _| match number {
        1 => numbered(1, &[]),
        _ => numbered(number, MINUTE),
    })
    .await;
    let node = cached(app.address, |limits| {
        limits.cache_pass = Duration::from_millis(50);
    });
    let mut last = String::new();
    loop {
        let answer = get(node.edge, API, "/").await.text().to_owned();
        if answer == last {
            break;
        }
        last = answer;
    }
}

#[tokio::test]
async fn nobody_waits_for_ever() {
    let app = Counting::held(|number, _| numbered(number, MINUTE)).await;
    let node = cached(app.address, |limits| {
        limits.cache_wait = Duration::from_millis(50);
    });
    let crowd = crowd(node.edge, 3);
    // The others ask by themselves in the end.
    until("all ask", || app.asked() == 3).await;
    app.gate.add_permits(3);
    let mut detail: Vec<_> = crowd.join_all().await;
    detail.sort_by_key(|answer| answer.header("cache-status").to_owned());
    let said = detail.iter().map(|answer| answer.header("cache-status"));
    assert_eq!(
        said.filter(|said| said.contains("detail=waited")).count(),
        2
    );
}

#[tokio::test]
async fn who_wants_to_be_sure_waits_for_nobody() {
    let app = Counting::held(|number, _| numbered(number, MINUTE)).await;
    let node = cached(app.address, |_| {});
    let edge = node.edge;
    let crowd = crowd(edge, 2);
    until("they wait", || app.asked() == 1 && in_flight(&node) == 2).await;
    let sure = [("cache-control", "no-cache")];
    let sure = tokio::spawn(async move { get_with(edge, API, "/", &sure).await });
    until("it is asked for", || app.asked() == 2).await;
    app.gate.add_permits(2);
    assert_eq!(sure.await.unwrap().text(), "answer 2");
    for answer in crowd.join_all().await {
        let text = answer.text();
        // One of them may have come late, when both were there.
        assert!(["answer 1", "answer 2"].contains(&text), "{text}");
    }
    assert_eq!(app.asked(), 2);
}

#[tokio::test]
async fn a_fetch_goes_on_when_its_client_leaves() {
    let app = Counting::held(|number, _| numbered(number, MINUTE)).await;
    let node = cached(app.address, |_| {});
    let first = tokio::spawn(get(node.edge, API, "/"));
    until("it is fetched", || app.asked() == 1).await;
    let second = tokio::spawn(get(node.edge, API, "/"));
    until("both wait", || in_flight(&node) == 2).await;
    first.abort();
    until("one has left", || in_flight(&node) == 1).await;
    app.gate.add_permits(1);
    assert_eq!(second.await.unwrap().text(), "answer 1");
    assert_eq!(get(node.edge, API, "/").await.text(), "answer 1");
    assert_eq!(app.asked(), 1);
}

#[tokio::test]
async fn variants_do_not_wait_for_each_other_for_long() {
    let app = Counting::held(|number, _| {
        numbered(
            number,
            &[("cache-control", "max-age=60"), ("vary", "x-lang")],
        )
    })
    .await;
    let node = cached(app.address, |_| {});
    let edge = node.edge;
    let mut crowd = JoinSet::new();
    for lang in ["de", "en", "de", "en", "fr"] {
        crowd.spawn(async move {
            let answer = get_with(edge, API, "/", &[("x-lang", lang)]).await;
            (lang, answer.text().to_owned())
        });
    }
    until("all wait", || app.asked() == 1 && in_flight(&node) == 5).await;
    app.gate.add_permits(1);
    until("the others are fetched, one of each", || app.asked() == 3).await;
    app.gate.add_permits(2);
    let answers: std::collections::BTreeSet<_> = crowd.join_all().await.into_iter().collect();
    assert_eq!(answers.len(), 3, "{answers:?}");
    assert_eq!(app.asked(), 3);
}

/// Answers with a head and then with what it is given, piece by piece: until nothing, or until nobody takes it, and then no more.
async fn in_pieces(head: &'static str) -> (SocketAddr, mpsc::UnboundedSender<Vec<u8>>) {
    let (pieces, given) = mpsc::unbounded_channel::<Vec<u8>>();
    let given = std::sync::Arc::new(tokio::sync::Mutex::new(given));
    let address = raw(move |mut socket| {
        let given = std::sync::Arc::clone(&given);
        async move {
            read_head(&mut socket).await;
            socket.write_all(head.as_bytes()).await.unwrap();
            let mut given = given.lock().await;
            while let Some(piece) = given.recv().await {
                if piece.is_empty() {
                    return;
                }
                if socket.write_all(&piece).await.is_err() {
                    return given.close();
                }
            }
        }
    })
    .await;
    (address, pieces)
}

async fn open(node: &Node) -> hyper::body::Incoming {
    let request = request(Method::GET, API, "/", &[]).body(Empty::<bytes::Bytes>::new());
    send(node.edge, request.unwrap()).await.into_body()
}

async fn next(body: &mut hyper::body::Incoming) -> Option<bytes::Bytes> {
    let frame = tokio::time::timeout(common::PATIENCE, body.frame()).await;
    let frame = frame.expect("nothing comes")?;
    Some(frame.ok()?.into_data().unwrap())
}

#[tokio::test]
async fn an_answer_is_given_to_all_as_it_comes() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nCache-Control: max-age=60\r\n\r\n";
    let (address, pieces) = in_pieces(head).await;
    let node = cached(address, |_| {});
    let mut first = open(&node).await;
    pieces.send(b"abc".to_vec()).unwrap();
    assert_eq!(next(&mut first).await.unwrap(), "abc");
    let mut second = open(&node).await;
    assert_eq!(next(&mut second).await.unwrap(), "abc");
    pieces.send(b"def".to_vec()).unwrap();
    for body in [&mut first, &mut second] {
        assert_eq!(next(body).await.unwrap(), "def");
        assert_eq!(next(body).await, None);
    }
    assert_eq!(get(node.edge, API, "/").await.text(), "abcdef");
}

#[tokio::test]
async fn what_comes_in_chunks_reaches_the_first_at_once() {
    for fields in ["Cache-Control: max-age=60", "Cache-Control: no-store"] {
        let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{fields}\r\n\r\n");
        let (address, pieces) = in_pieces(head.leak()).await;
        let node = cached(address, |_| {});
        let mut body = open(&node).await;
        for _ in 0..3 {
            pieces.send(b"3\r\nabc\r\n".to_vec()).unwrap();
            assert_eq!(next(&mut body).await.unwrap(), "abc");
        }
        pieces.send(b"0\r\n\r\n".to_vec()).unwrap();
        assert_eq!(next(&mut body).await, None);
    }
}

#[tokio::test]
async fn what_breaks_is_not_kept() {
    for (head, piece) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nCache-Control: max-age=60\r\n\r\n",
            "abc",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nCache-Control: max-age=60\r\n\r\n",
            "3\r\nabc\r\n",
        ),
    ] {
        let (address, pieces) = in_pieces(head).await;
        let node = cached(address, |_| {});
        for _ in 0..2 {
            let mut socket = TcpStream::connect(node.edge).await.unwrap();
            let ask = format!("GET / HTTP/1.1\r\nHost: {API}\r\n\r\n");
            socket.write_all(ask.as_bytes()).await.unwrap();
            pieces.send(piece.into()).unwrap();
            pieces.send(Vec::new()).unwrap();
            let mut seen = Vec::new();
            // A reset is an end as well.
            let _ = socket.read_to_end(&mut seen).await;
            let seen = String::from_utf8(seen).unwrap();
            assert!(
                seen.contains("fwd=uri-miss") && !seen.ends_with("0\r\n\r\n"),
                "{seen}"
            );
        }
        until("nothing is held", || {
            node.metric("nebula_http_cache_bytes") == 0
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_too_large_is_passed_on_whole() {
    let large = "x".repeat(300_000);
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nCache-Control: max-age=60\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    let sized = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nCache-Control: max-age=60\r\n\r\n{large}",
        large.len()
    );
    for answer in [chunked, sized] {
        let address = common::apps::verbatim(answer.leak()).await;
        let node = single();
        node.route_api_by(&[address], |policy| {
            on(policy);
            policy.cache.max_response = ByteSize::kib(100);
        });
        let crowd = crowd(node.edge, 5);
        for answer in crowd.join_all().await {
            assert!(answer.text() == large);
        }
        let again = get(node.edge, API, "/").await;
        assert_eq!(
            again.header("cache-status"),
            "Nebula; fwd=uri-miss; detail=uncacheable"
        );
        until("nothing is held", || {
            node.metric("nebula_http_cache_bytes") == 0
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_kept_is_bounded_and_the_largest_gives_way() {
    let body = "x".repeat(4000);
    let app = Counting::new(move |_, _| with_fields(text(body.clone()), MINUTE)).await;
    let node = single_with(|limits| limits.cache_bytes = 64 * 1024);
    node.run(&[(1, app.address), (2, app.address)]);
    let routes = Routes::new().policy(on);
    let routes = routes.service("api", &[(1, 1)]).service("small", &[(2, 1)]);
    node.table.send_replace(routes.table().into());
    let small = async || get(node.edge, "small.example.test", "/").await;
    small().await;
    for number in 0..50 {
        get(node.edge, API, &format!("/{number}")).await;
    }
    assert_eq!(app.asked(), 51);
    let held = node.metric("nebula_http_cache_bytes");
    assert!((32 * 1024..=64 * 1024).contains(&held), "{held}");
    // The latest are there, the first are not, and the other deployment has what it had.
    get(node.edge, API, "/49").await;
    small().await;
    assert_eq!(app.asked(), 51);
    get(node.edge, API, "/0").await;
    assert_eq!(app.asked(), 52);
}

#[tokio::test]
async fn without_room_answers_are_passed_on() {
    let body = "x".repeat(10_000);
    let app = Counting::new(move |_, _| with_fields(text(body.clone()), MINUTE)).await;
    let node = cached(app.address, |limits| {
        (limits.cache_bytes, limits.cache_spare_bytes) = (4000, 4000);
    });
    for asked in 1..4 {
        let answer = get(node.edge, API, "/").await;
        assert_eq!(answer.body.len(), 10_000);
        let said = answer.header("cache-status");
        assert_eq!(said, "Nebula; fwd=uri-miss; fwd-status=200; detail=no-room");
        assert_eq!(app.asked(), asked);
    }
    let node = cached(app.address, |limits| limits.cache_fetches = 0);
    let answer = get(node.edge, API, "/").await;
    assert_eq!(
        answer.header("cache-status"),
        "Nebula; fwd=uri-miss; detail=busy"
    );
}

#[tokio::test]
async fn a_stream_without_end_is_no_fetch() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (address, pieces) = in_pieces(head).await;
    let node = single_with(|limits| limits.cache_fetches = 1);
    let app = Counting::new(|number, _| numbered(number, MINUTE)).await;
    node.run(&[(1, address), (2, app.address)]);
    let routes = Routes::new().policy(on);
    let routes = routes.service("api", &[(1, 1)]).service("other", &[(2, 1)]);
    node.table.send_replace(routes.table().into());
    let mut stream = open(&node).await;
    pieces.send(b"3\r\nabc\r\n".to_vec()).unwrap();
    assert_eq!(next(&mut stream).await.unwrap(), "abc");
    for _ in 0..2 {
        let other = get(node.edge, "other.example.test", "/").await;
        assert_eq!(other.text(), "answer 1");
    }
    // And it ends at the instance when its client leaves.
    drop(stream);
    until("the instance is let go", || {
        let _ = pieces.send(b"3\r\nabc\r\n".to_vec());
        in_flight(&node) == 0 && pieces.is_closed()
    })
    .await;
}
