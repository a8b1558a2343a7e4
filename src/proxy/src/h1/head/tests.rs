//! Heads as they come: what is read of them, and what is refused.

use super::*;

const LIMITS: HeadLimits = HeadLimits {
    fields: 100,
    target_bytes: 8192,
};

fn parse(text: &str) -> Result<RequestHead, Refusal> {
    let mut head = RequestHead::default();
    let mut inbox = Inbox::from(text.as_bytes().to_vec());
    match find_end(&inbox, 0)? {
        End::At(end) => head.take(&mut inbox, end, LIMITS)?,
        End::After(_) => panic!("no end: {text:?}"),
    }
    Ok(head)
}

#[test]
fn a_head_is_read_in_place() {
    let text =
        "POST /a?b=c HTTP/1.1\r\nHost: api.example.test\r\nContent-Length: 3\r\nX: y\r\n\r\nabc";
    let mut head = RequestHead::default();
    let mut inbox = Inbox::from(text.as_bytes().to_vec());
    let Ok(End::At(end)) = find_end(&inbox, 0) else {
        panic!()
    };
    head.take(&mut inbox, end, LIMITS).unwrap();
    assert_eq!(&inbox[..], b"abc");
    assert_eq!(head.target(), "/a?b=c");
    assert_eq!(head.host(), Some(&b"api.example.test"[..]));
    assert_eq!(head.length, Some(Length::Sized(3)));
    assert_eq!(head.fields().get("x"), Some(&b"y"[..]));
    assert!(head.persistent);
}

#[test]
fn an_absolute_target_names_the_host() {
    let head = parse("GET http://u@a.test:80/x?y HTTP/1.1\r\nHost: b.test\r\n\r\n").unwrap();
    assert_eq!(head.host(), Some(&b"a.test:80"[..]));
    assert_eq!(head.target(), "/x?y");
    let head = parse("GET HTTP://a.test HTTP/1.1\r\nHost: b.test\r\n\r\n").unwrap();
    assert_eq!(head.target(), "/");
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    for bad in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert!(
            matches!(parse(bad), Err(Refusal::Malformed(_))),
            "{bad:?} {:?}",
            parse(bad)
        );
    }
    for coding in [
        "gzip",
        "gzip, chunked",
        "chunked, chunked",
        "x",
        "\"chunked\"",
        "chunked;q=1",
    ] {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n");
        assert_eq!(parse(&text).unwrap_err(), Refusal::Coding, "{coding}");
    }
}

#[test]
fn a_host_is_named_once_and_is_one() {
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(parse(bad).unwrap().host(), None, "{bad:?}");
    }
}

#[test]
fn upgrades_are_for_bare_requests_to_other_protocols() {
    let ask = |head: &str| parse(head).unwrap().upgrade().map(<[u8]>::to_vec);
    let good = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(ask(good), Some(b"websocket".to_vec()));
    for bad in [
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: HTTP/2.0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\n",
    ] {
        assert_eq!(ask(bad), None, "{bad:?}");
    }
}

#[test]
fn a_head_in_drops_is_found_once_it_is_whole() {
    let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
    let mut from = 0;
    for end in 1..=text.len() {
        match find_end(&text[..end], from).unwrap() {
            End::After(next) => from = next,
            End::At(at) => {
                assert_eq!((at, end), (text.len() - 4, text.len() - 4));
                return;
            }
        }
    }
    panic!("never found");
}

#[test]
fn a_response_says_where_its_body_ends() {
    let read = |text: &str| {
        let mut head = ResponseHead::default();
        let mut inbox = Inbox::from(text.as_bytes().to_vec());
        let end = inbox.len();
        head.take(&mut inbox, end).map(|()| head)
    };
    let head = read("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n").unwrap();
    assert_eq!(head.body_length(&Method::GET), Length::Sized(3));
    assert_eq!(head.body_length(&Method::HEAD), Length::None);
    let head = read("HTTP/1.1 200\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(head.body_length(&Method::GET), Length::UntilClose);
    assert!(!head.persistent);
    let head = read("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n").unwrap();
    assert_eq!(head.body_length(&Method::GET), Length::None);
    for bad in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
    ] {
        assert!(read(bad).is_err(), "{bad:?}");
    }
}
