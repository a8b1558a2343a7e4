//! One stream of HTTP/2 as more than a request and an answer: trailers, messages, other protocols, and its untimely end.

use std::sync::Arc;

use crate::common::apps::{echo, named, raw, read_head, verbatim};
use crate::common::http2::{Session, answered, piece, request, whole};
use crate::common::{Cluster, PATIENCE, Routes, single};
use bytes::Bytes;
use h2::Reason;
use h2::ext::Protocol;
use http::{HeaderMap, Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

#[tokio::test]
async fn trailers_pass_both_ways() {
    let node = single();
    let (heard, mut hears) = mpsc::unbounded_channel();
    let address = raw(move |mut socket| {
        let heard = heard.clone();
        async move {
            read_head(&mut socket).await;
            let mut body = Vec::new();
            while !body.ends_with(b"\r\n\r\n") {
                body.push(socket.read_u8().await.unwrap());
            }
            heard.send(String::from_utf8(body).unwrap()).unwrap();
            let answer =
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n\
                           2\r\nok\r\n0\r\nGrpc-Status: 0\r\nGrpc-Message: fine\r\n\r\n";
            socket.write_all(answer).await.unwrap();
        }
    })
    .await;
    node.route_api(&[address]);
    let mut session = Session::open(node.edge).await;
    for (fields, passed) in [(&[("te", "trailers")][..], true), (&[], false)] {
        let (response, mut stream) = session
            .send(request(Method::POST, "/", fields), false)
            .await;
        stream.send_data(Bytes::from_static(b"abc"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
        let (answer, trailers) = whole(answered(response).await).await;
        assert_eq!(answer.text(), "ok");
        let status = trailers.map(|trailers| trailers["grpc-status"].clone());
        assert_eq!(status.is_some(), passed);
        assert_eq!(
            hears.recv().await.unwrap(),
            "3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"
        );
    }
}

#[tokio::test]
async fn messages_go_to_and_fro_as_they_come() {
    let node = single();
    // Answers each message when it has come, and says how it went at the end.
    let address = raw(|mut socket| async move {
        read_head(&mut socket).await;
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n";
        socket.write_all(head).await.unwrap();
        let (mut heard, mut answered) = (String::new(), 0);
        while !heard.ends_with("0\r\n\r\n") {
            heard.push(char::from(socket.read_u8().await.unwrap()));
            if heard.matches("ping").count() > answered {
                answered += 1;
                socket.write_all(b"4\r\npong\r\n").await.unwrap();
            }
        }
        let _ = socket.write_all(b"0\r\ngrpc-status: 0\r\n\r\n").await;
    })
    .await;
    node.route_api(&[address]);
    let mut session = Session::open(node.edge).await;
    let fields = [("te", "trailers"), ("content-type", "application/grpc")];
    let (response, mut stream) = session
        .send(request(Method::POST, "/", &fields), false)
        .await;
    let mut body = answered(response).await.into_body();
    for _ in 0..20 {
        stream
            .send_data(Bytes::from_static(b"ping"), false)
            .unwrap();
        assert_eq!(piece(&mut body).await.unwrap().unwrap(), "pong");
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert!(piece(&mut body).await.is_none());
    let trailers = timeout(PATIENCE, body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn what_is_said_before_an_answer_is_passed_on() {
    let node = single();
    let address = raw(|mut socket| async move {
        let head = read_head(&mut socket).await;
        assert!(!head.to_ascii_lowercase().contains("expect"), "{head}");
        let hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
        socket.write_all(hint).await.unwrap();
        let mut body = [0; 3];
        socket.read_exact(&mut body).await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
        socket.write_all(answer).await.unwrap();
    })
    .await;
    node.route_api(&[address]);
    let mut session = Session::open(node.edge).await;
    let fields = [("expect", "100-continue"), ("content-length", "3")];
    let (mut response, mut stream) = session
        .send(request(Method::POST, "/", &fields), false)
        .await;
    for status in [100, 103] {
        let interim = std::future::poll_fn(|cx| response.poll_informational(cx));
        let interim = timeout(PATIENCE, interim).await.unwrap().unwrap().unwrap();
        assert_eq!(interim.status(), status);
        assert_eq!(interim.headers().contains_key("link"), status == 103);
    }
    stream.send_data(Bytes::from_static(b"abc"), true).unwrap();
    assert_eq!(whole(answered(response).await).await.0.text(), "done");
}

async fn chat(session: &mut Session) {
    let mut connect = request(Method::CONNECT, "/chat", &[("sec-websocket-version", "13")]);
    connect
        .extensions_mut()
        .insert(Protocol::from_static("websocket"));
    let (response, mut stream) = session.send(connect, false).await;
    let response = answered(response).await;
    assert_eq!(response.status(), StatusCode::OK);
    for gone in ["upgrade", "connection", "sec-websocket-accept"] {
        assert!(!response.headers().contains_key(gone), "{gone}");
    }
    let mut body = response.into_body();
    let mut said = Vec::new();
    let mut heard = async |said: &mut Vec<u8>, text: &str| {
        while said.len() < text.len() {
            said.extend_from_slice(&piece(&mut body).await.unwrap().unwrap());
        }
        assert_eq!(std::mem::take(said), text.as_bytes());
    };
    heard(&mut said, "hello").await;
    for word in ["one", "two", "three"] {
        stream
            .send_data(Bytes::from_static(word.as_bytes()), false)
            .unwrap();
        heard(&mut said, &word.repeat(2)).await;
    }
    // One direction ends, the other goes on to its own end.
    stream.send_data(Bytes::new(), true).unwrap();
    heard(&mut said, "bye").await;
    assert!(piece(&mut body).await.is_none());
}

#[tokio::test]
async fn a_websocket_is_opened_on_a_stream() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    a.route_api(&[echo().await]);
    let mut session = Session::open(a.edge).await;
    assert_eq!(session.get("/").await.status, StatusCode::UPGRADE_REQUIRED);
    assert!(session.sender.is_extended_connect_protocol_enabled());
    chat(&mut session).await;
    b.run(&[(2, echo().await)]);
    let routes = Routes::new().service("api", &[(2, 2)]);
    a.table.send_replace(Arc::new(routes.table()));
    chat(&mut session).await;
}

#[tokio::test]
async fn a_websocket_whose_client_speaks_first_is_heard() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    // Says nothing of its own accord, like most servers.
    let silent = || {
        raw(|mut socket| async move {
            if !read_head(&mut socket).await.contains("websocket") {
                let no = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                let _ = socket.write_all(no).await;
                return;
            }
            let yes = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            socket.write_all(yes).await.unwrap();
            let mut heard = [0; 16];
            while let Ok(bytes @ 1..) = socket.read(&mut heard).await {
                socket.write_all(&heard[..bytes]).await.unwrap();
            }
        })
    };
    a.route_api(&[silent().await]);
    b.run(&[(2, silent().await)]);
    let mut session = Session::open(a.edge).await;
    // The settings that allow it have come by then.
    session.get("/").await;
    for remote in [false, true] {
        if remote {
            let routes = Routes::new().service("api", &[(2, 2)]);
            a.table.send_replace(Arc::new(routes.table()));
        }
        let mut connect = request(Method::CONNECT, "/chat", &[]);
        connect
            .extensions_mut()
            .insert(Protocol::from_static("websocket"));
        let (response, mut stream) = session.send(connect, false).await;
        let response = answered(response).await;
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = response.into_body();
        for word in ["one", "two"] {
            stream
                .send_data(Bytes::from_static(word.as_bytes()), false)
                .unwrap();
            assert_eq!(piece(&mut body).await.unwrap().unwrap(), word);
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert!(piece(&mut body).await.is_none());
    }
}

#[tokio::test]
async fn a_websocket_that_is_refused_is_not_open() {
    let node = single();
    let mut session = Session::open(node.edge).await;
    for (answer, status) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
        // An answer to a GET; what was asked for is not there.
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 502),
    ] {
        node.route_api(&[verbatim(answer).await]);
        // The settings have come by then.
        session.get("/").await;
        let mut connect = request(Method::CONNECT, "/chat", &[]);
        connect
            .extensions_mut()
            .insert(Protocol::from_static("websocket"));
        let (response, _stream) = session.send(connect, false).await;
        assert_eq!(answered(response).await.status(), status);
    }
}

#[tokio::test]
async fn a_client_that_cancels_ends_the_exchange() {
    let node = single();
    let (say, mut said) = mpsc::unbounded_channel();
    let address = raw(move |mut socket| {
        let say = say.clone();
        async move {
            let head = read_head(&mut socket).await;
            if head.contains("/begun") {
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n";
                socket.write_all(head).await.unwrap();
            }
            say.send("asked").unwrap();
            let _ = socket.read_to_end(&mut Vec::new()).await;
            say.send("gone").unwrap();
        }
    })
    .await;
    node.route_api(&[address]);
    let mut session = Session::open(node.edge).await;
    for path in ["/", "/begun"] {
        for ended in [true, false] {
            let (_response, mut stream) =
                session.send(request(Method::POST, path, &[]), ended).await;
            assert_eq!(timeout(PATIENCE, said.recv()).await.unwrap(), Some("asked"));
            stream.send_reset(Reason::CANCEL);
            assert_eq!(timeout(PATIENCE, said.recv()).await.unwrap(), Some("gone"));
        }
    }
    // So does one that goes altogether.
    let (_response, _stream) = session.send(request(Method::GET, "/", &[]), true).await;
    assert_eq!(timeout(PATIENCE, said.recv()).await.unwrap(), Some("asked"));
    session.connection.abort();
    assert_eq!(timeout(PATIENCE, said.recv()).await.unwrap(), Some("gone"));
}

#[tokio::test]
async fn an_answer_that_is_cut_off_does_not_look_whole() {
    let node = single();
    let mut session = Session::open(node.edge).await;
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
    ] {
        let address = raw(move |mut socket| async move {
            read_head(&mut socket).await;
            socket.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        node.route_api(&[address]);
        let (response, _) = session.send(request(Method::GET, "/", &[]), true).await;
        let error = match timeout(PATIENCE, response).await.unwrap() {
            Err(error) => error,
            Ok(response) => {
                let mut body = response.into_body();
                loop {
                    match piece(&mut body).await {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => break error,
                        None => panic!("it looks whole: {answer}"),
                    }
                }
            }
        };
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR), "{answer}");
    }
    node.route_api(&[named("up").await]);
    assert_eq!(session.get("/").await.text(), "up");
}
