//! One stream of HTTP/3 as more than a request and an answer: trailers, pieces in their own time, and its untimely end.

use crate::common;
use crate::common::PATIENCE;
use crate::common::apps::{named, raw, read_head, verbatim};
use crate::common::http3::{Session, answered, cancel, piece, request, whole};
use crate::common::tls::Certificates;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use quinn::VarInt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

#[tokio::test]
async fn trailers_pass_both_ways() {
    let certificates = Certificates::usual();
    let node = certificates.node();
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
    let mut session = Session::open(&certificates, &node).await;
    for (fields, passed) in [(&[("te", "trailers")][..], true), (&[], false)] {
        let mut stream = session.begin(request(Method::POST, "/", fields)).await;
        stream.send_data(Bytes::from_static(b"abc")).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        stream.send_trailers(trailers).await.unwrap();
        stream.finish().await.unwrap();
        let (answer, trailers) = whole(&mut stream).await;
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
async fn a_client_that_cancels_ends_the_exchange() {
    let certificates = Certificates::usual();
    let node = certificates.node();
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
    let mut session = Session::open(&certificates, &node).await;
    for path in ["/", "/begun"] {
        for ended in [true, false] {
            let mut stream = session.begin(request(Method::POST, path, &[])).await;
            if ended {
                stream.finish().await.unwrap();
            }
            assert_eq!(timeout(PATIENCE, said.recv()).await.unwrap(), Some("asked"));
            cancel(&mut stream);
            assert_eq!(timeout(PATIENCE, said.recv()).await.unwrap(), Some("gone"));
        }
    }
    // So does one that goes altogether.
    let mut stream = session.begin(request(Method::GET, "/", &[])).await;
    stream.finish().await.unwrap();
    assert_eq!(timeout(PATIENCE, said.recv()).await.unwrap(), Some("asked"));
    session.quic.close(VarInt::from_u32(0x100), b"");
    assert_eq!(timeout(PATIENCE, said.recv()).await.unwrap(), Some("gone"));
}

#[tokio::test]
async fn an_answer_that_is_cut_off_does_not_look_whole() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    let mut session = Session::open(&certificates, &node).await;
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
        let mut stream = session.begin(request(Method::GET, "/", &[])).await;
        stream.finish().await.unwrap();
        let error = match timeout(PATIENCE, stream.recv_response()).await.unwrap() {
            Err(error) => error,
            Ok(_) => loop {
                match piece(&mut stream).await {
                    Ok(Some(_)) => {}
                    Err(error) => break error,
                    Ok(None) => panic!("it looks whole: {answer}"),
                }
            },
        };
        assert!(error.to_string().contains("H3_INTERNAL_ERROR"), "{error}");
    }
    node.route_api(&[named("up").await]);
    assert_eq!(session.get("/").await.text(), "up");
}

#[tokio::test]
async fn what_an_instance_says_in_its_own_time_comes_as_it_is_said() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    let (go, may_go) = watch::channel(0);
    let address = raw(move |mut socket| {
        let mut may_go = may_go.clone();
        async move {
            read_head(&mut socket).await;
            let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                         Transfer-Encoding: chunked\r\n\r\n";
            socket.write_all(head).await.unwrap();
            for event in 1..=3 {
                may_go.wait_for(|go| *go >= event).await.unwrap();
                socket.write_all(b"3\r\nhi\n\r\n").await.unwrap();
            }
            socket.write_all(b"0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    node.route_api(&[address]);
    let mut session = Session::open(&certificates, &node).await;
    let mut stream = session.begin(request(Method::GET, "/", &[])).await;
    stream.finish().await.unwrap();
    // The head as well, while there is nothing behind it.
    assert_eq!(answered(&mut stream).await.status(), StatusCode::OK);
    for event in 1..=3 {
        go.send_replace(event);
        assert_eq!(piece(&mut stream).await.unwrap().unwrap(), "hi\n");
    }
    assert!(piece(&mut stream).await.unwrap().is_none());
}

#[tokio::test]
async fn an_answer_longer_than_its_client_takes_is_none() {
    let certificates = Certificates::usual();
    let node = certificates.node();
    let long: &'static str = format!(
        "HTTP/1.1 200 OK\r\nX-Long: {}\r\nContent-Length: 0\r\n\r\n",
        "x".repeat(5000)
    )
    .leak();
    node.route_api(&[verbatim(long).await]);
    let quic = common::http3::connect(&certificates, &node).await;
    let mut builder = h3::client::builder();
    builder.max_field_section_size(4000);
    let built = builder.build(h3_quinn::Connection::new(quic)).await;
    let (mut connection, mut sender) = built.unwrap();
    tokio::spawn(async move { connection.wait_idle().await });
    let sent = sender.send_request(request(Method::GET, "/", &[])).await;
    let mut stream: common::http3::Stream = sent.unwrap();
    stream.finish().await.unwrap();
    let answered = timeout(PATIENCE, stream.recv_response()).await.unwrap();
    let error = answered.unwrap_err().to_string();
    assert!(error.contains("H3_INTERNAL_ERROR"), "{error}");
}
