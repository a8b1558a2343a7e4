//! Bodies pass through as they come, in both directions.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::common::apps::{app, raw, read_head, text, verbatim};
use crate::common::client::{ask, get, post, request, say, send, whole};
use crate::common::{PATIENCE, single, until};
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

const API: &str = "api.example.test";

#[tokio::test]
async fn a_chunk_arrives_before_the_next_one_is_sent() {
    let node = single();
    let (chunks, source) = mpsc::channel::<&'static str>(1);
    let source = Arc::new(tokio::sync::Mutex::new(source));
    let address = app(move |_| {
        let source = Arc::clone(&source);
        async move {
            let pieces = futures::stream::unfold(source, |source| async move {
                let piece = source.lock().await.recv().await?;
                Some((Ok(Frame::data(Bytes::from(piece))), source))
            });
            Response::new(BodyExt::boxed(StreamBody::new(sync(pieces))))
        }
    })
    .await;
    node.route_api(&[address]);
    let request = request(Method::GET, API, "/", &[]).body(String::new());
    let mut response = send(node.edge, request.unwrap()).await;
    for piece in ["first", "second", "third"] {
        chunks.send(piece).await.unwrap();
        let frame = tokio::time::timeout(PATIENCE, response.frame()).await;
        let frame = frame.expect("the chunk is held back").unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
    drop(chunks);
    assert!(response.frame().await.is_none());
}

#[tokio::test]
async fn an_upload_waits_for_its_reader() {
    const PIECE: usize = 64 * 1024;
    const TOTAL: u64 = 256 * 1024 * 1024;
    let node = single();
    let (go, ready) = tokio::sync::watch::channel(false);
    let address = raw(move |mut socket: TcpStream| {
        let mut ready = ready.clone();
        async move {
            read_head(&mut socket).await;
            ready.wait_for(|ready| *ready).await.unwrap();
            let mut rest = TOTAL;
            let mut buffer = vec![0; PIECE];
            while rest > 0 {
                rest -= socket.read(&mut buffer).await.unwrap() as u64;
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nall";
            socket.write_all(answer).await.unwrap();
        }
    })
    .await;
    node.route_api(&[address]);

    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    let piece = Bytes::from(vec![7; PIECE]);
    let pieces = futures::stream::unfold(0, move |done: u64| {
        let (piece, counted) = (piece.clone(), Arc::clone(&counted));
        async move {
            counted.store(done, Ordering::SeqCst);
            let frame = Ok::<_, Infallible>(Frame::data(piece));
            (done < TOTAL).then_some((frame, done + PIECE as u64))
        }
    });
    let request = request(
        Method::POST,
        API,
        "/",
        &[("content-length", &TOTAL.to_string())],
    )
    .body(StreamBody::new(Box::pin(pieces)));
    let edge = node.edge;
    let answer = tokio::spawn(async move { whole(send(edge, request.unwrap()).await).await });

    // Nobody reads: the client comes to a halt once the kernel's and the edge's buffers are full.
    let mut last = (0, 0);
    until("the upload stands still", || {
        let now = sent.load(Ordering::SeqCst);
        last = if now == last.0 && now > 0 {
            (now, last.1 + 1)
        } else {
            (now, 0)
        };
        last.1 > 40
    })
    .await;
    let halted = sent.load(Ordering::SeqCst);
    assert!(halted < 64 * 1024 * 1024, "{halted} bytes were taken in");
    go.send_replace(true);
    assert_eq!(answer.await.unwrap().text(), "all");
}

#[tokio::test]
async fn a_body_arrives_whole_whatever_its_framing() {
    let node = single();
    let address = app(|request| async move {
        let method = request.method().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        text(format!("{method} {}", String::from_utf8_lossy(&body)))
    })
    .await;
    node.route_api(&[address]);
    assert_eq!(
        post(node.edge, API, "/", "sized").await.text(),
        "POST sized"
    );
    for method in ["POST", "GET", "DELETE"] {
        let chunked = format!(
            "{method} / HTTP/1.1\r\nHost: {API}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
             3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        );
        let answer = say(node.edge, &chunked).await;
        assert!(answer.ends_with(&format!("{method} abcde")), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_is_told_to_go_on() {
    let node = single();
    let address = app(|request| async move {
        assert!(!request.headers().contains_key("expect"));
        let body = request.into_body().collect().await.unwrap().to_bytes();
        text(String::from_utf8_lossy(&body).into_owned())
    })
    .await;
    node.route_api(&[address]);
    let mut socket = TcpStream::connect(node.edge).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {API}\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    assert!(read_head(&mut socket).await.starts_with("HTTP/1.1 100"));
    socket.write_all(b"hello").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn responses_without_a_body_end_where_they_should() {
    let node = single();
    node.route_api(&[verbatim("HTTP/1.1 204 No Content\r\n\r\n").await]);
    for _ in 0..3 {
        let answer = get(node.edge, API, "/").await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
        assert!(answer.headers.get("transfer-encoding").is_none());
    }
    node.route_api(&[verbatim("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n").await]);
    let answer = get(node.edge, API, "/").await;
    assert_eq!(answer.status, StatusCode::NOT_MODIFIED);
    assert_eq!(answer.header("etag"), "\"a\"");

    node.route_api(&[verbatim("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n").await]);
    for _ in 0..3 {
        let answer = ask(node.edge, Method::HEAD, API, "/", &[]).await;
        assert_eq!(answer.header("content-length"), "1234");
    }
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    node.route_api(&[verbatim(early).await]);
    assert_eq!(get(node.edge, API, "/").await.text(), "ok");

    // Ended by the connection's end (HTTP/1.0), and a switch of protocols that nobody asked for.
    let address = raw(|mut socket: TcpStream| async move {
        let head = read_head(&mut socket).await;
        let answer: &[u8] = match head.starts_with("GET /old") {
            true => b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
            false => {
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
            }
        };
        socket.write_all(answer).await.unwrap();
    })
    .await;
    node.route_api(&[address]);
    assert_eq!(get(node.edge, API, "/old").await.text(), "until the end");
    assert_eq!(
        get(node.edge, API, "/switch").await.status,
        StatusCode::BAD_GATEWAY
    );
}

#[tokio::test]
async fn a_cut_off_response_does_not_look_complete() {
    let node = single();
    let address = raw(|mut socket: TcpStream| async move {
        read_head(&mut socket).await;
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
        socket.write_all(answer).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    })
    .await;
    node.route_api(&[address]);
    let request = request(Method::GET, API, "/", &[]).body(String::new());
    let response = send(node.edge, request.unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.into_body().collect().await.is_err());

    // Where only the connection's end ends the body, that end is an error.
    let mut socket = TcpStream::connect(node.edge).await.unwrap();
    let head = format!("GET / HTTP/1.0\r\nHost: {API}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let cut = socket.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(cut.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn trailers_are_forwarded_to_those_who_want_them() {
    let node = single();
    node.route_api(&[verbatim(
        "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n",
    )
    .await]);
    let head =
        format!("GET / HTTP/1.1\r\nHost: {API}\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n");
    let answer = say(node.edge, &head).await;
    assert!(answer.contains("x-sum: 7"), "{answer}");
}

/// A stream that may be shared, as a boxed body has to be.
fn sync<S>(stream: S) -> impl futures::Stream<Item = S::Item> + Send + Sync
where
    S: futures::Stream + Send + 'static,
    S::Item: Send,
{
    let (to, mut from) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut stream = Box::pin(stream);
        while let Some(item) = futures::StreamExt::next(&mut stream).await {
            if to.send(item).await.is_err() {
                return;
            }
        }
    });
    futures::stream::poll_fn(move |cx| from.poll_recv(cx))
}
