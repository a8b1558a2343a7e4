//! Static sites over HTTP.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::sync::Arc;

use common::client::{ask, get, get_with, say};
use common::{Node, Routes, single};
use http::{Method, StatusCode};
use nebula_domain::Digest;

const DOCS: &str = "docs.example.test";
const SITE: Digest = Digest([7; 32]);

fn large() -> Vec<u8> {
    (0..3_000_000u32)
        .flat_map(|n| (n % 251).to_le_bytes())
        .take(3_000_000)
        .collect()
}

fn site(spa: bool, more: &[(&str, &[u8])]) -> Node {
    let node = single();
    let css = "body { color: black }\n".repeat(200);
    let large = large();
    let mut files: Vec<(&str, &[u8])> = vec![
        ("index.html", b"<h1>home</h1>"),
        ("docs/index.html", b"<h1>docs</h1>"),
        ("style.css", css.as_bytes()),
        ("app.3f2a9c1b.js", b"let a = 1;"),
        ("img/a b.png", b"png"),
        ("empty.txt", b""),
        ("large.bin", &large),
        ("large.txt", &large),
        (".env", b"SECRET=1"),
        (".well-known/security.txt", b"contact"),
    ];
    files.extend(more);
    node.unpack(SITE, &files);
    // As long as the page that a link will stand for, so that only where it lies gives it away.
    std::fs::write(node.trees.path().join("outside.txt"), "outside files").unwrap();
    let routes = Routes::new().site("docs", SITE, spa, &[(1, 1)]);
    node.table.send_replace(Arc::new(routes.table()));
    node
}

#[tokio::test]
async fn files_folders_and_what_is_neither() {
    let node = site(false, &[]);
    let home = get(node.edge, DOCS, "/").await;
    assert_eq!(
        (home.status, home.text()),
        (StatusCode::OK, "<h1>home</h1>")
    );
    assert_eq!(home.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(home.header("content-length"), "13");
    assert_eq!(home.header("accept-ranges"), "bytes");
    assert_eq!(home.header("x-request-id").len(), 32);
    assert_eq!(
        get(node.edge, DOCS, "/docs/?x=1").await.text(),
        "<h1>docs</h1>"
    );
    assert_eq!(get(node.edge, DOCS, "/img/a%20b.png").await.text(), "png");
    assert_eq!(
        get(node.edge, DOCS, "/empty.txt")
            .await
            .header("content-length"),
        "0"
    );
    assert_eq!(
        get(node.edge, DOCS, "/.well-known/security.txt")
            .await
            .text(),
        "contact"
    );

    let moved = get(node.edge, DOCS, "/docs?x=1").await;
    assert_eq!(moved.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(moved.header("location"), "/docs/?x=1");

    for missing in [
        "/nothing",
        "/img/",
        "/index.html/",
        "/.env",
        "/docs/../.env",
    ] {
        let answer = get(node.edge, DOCS, missing).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{missing}");
        assert!(answer.text().contains("no_such_file"), "{}", answer.text());
    }
}

#[tokio::test]
async fn nothing_outside_the_site_can_be_reached() {
    let node = site(true, &[("404.html", b"not here")]);
    for path in [
        "/../outside.txt",
        "/..%2foutside.txt",
        "/%2e%2e/outside.txt",
        "/%2e%2e%2foutside.txt",
        "/docs/../../outside.txt",
        "/docs/%2e%2e/%2e%2e/outside.txt",
        "//outside.txt",
        "/..\\outside.txt",
        "/%252e%252e/outside.txt",
        "/..%c0%afoutside.txt",
        "/.%2e/outside.txt",
        "/%00",
        "/docs/..;/..;/outside.txt",
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {DOCS}\r\nConnection: close\r\n\r\n");
        let answer = say(node.edge, &head).await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{path}: {answer}");
        assert!(!answer.contains("outside"), "{path}: {answer}");
    }
    // A link that somebody put there afterwards leads nowhere either.
    let tree = node.trees.path().join(SITE.to_string());
    std::os::unix::fs::symlink("../outside.txt", tree.join("link.txt")).unwrap();
    std::fs::remove_file(tree.join("docs/index.html")).unwrap();
    std::os::unix::fs::symlink("../../outside.txt", tree.join("docs/index.html")).unwrap();
    assert_eq!(get(node.edge, DOCS, "/link.txt").await.text(), "not here");
    let replaced = get(node.edge, DOCS, "/docs/").await;
    assert_eq!(replaced.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        !replaced
            .text()
            .contains(node.trees.path().to_str().unwrap())
    );
}

#[tokio::test]
async fn links_inside_the_site_are_followed() {
    let node = site(false, &[("v2/index.html", b"two"), ("v2/a.txt", b"a")]);
    let tree = node.trees.path().join(SITE.to_string());
    std::os::unix::fs::symlink("v2", tree.join("latest")).unwrap();
    assert_eq!(get(node.edge, DOCS, "/latest/").await.text(), "two");
    assert_eq!(get(node.edge, DOCS, "/latest/a.txt").await.text(), "a");
    assert_eq!(
        get(node.edge, DOCS, "/latest").await.header("location"),
        "/latest/"
    );
}

#[tokio::test]
async fn only_get_and_head_are_answered() {
    let node = site(false, &[]);
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let answer = ask(node.edge, method, DOCS, "/", &[]).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.header("allow"), "GET, HEAD");
    }
    for path in ["/", "/large.bin", "/style.css"] {
        let got = get(node.edge, DOCS, path).await;
        let head = ask(node.edge, Method::HEAD, DOCS, path, &[]).await;
        assert_eq!(head.status, StatusCode::OK);
        assert!(head.body.is_empty());
        for field in ["content-length", "content-type", "etag", "cache-control"] {
            assert_eq!(head.header(field), got.header(field), "{path} {field}");
        }
    }
}

#[tokio::test]
async fn what_a_client_has_is_not_sent_again() {
    let node = site(false, &[]);
    let etag = get(node.edge, DOCS, "/").await.header("etag").to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    let same = [("if-none-match", etag.as_str())];
    let answer = get_with(node.edge, DOCS, "/", &same).await;
    assert_eq!(answer.status, StatusCode::NOT_MODIFIED);
    assert_eq!(answer.header("etag"), etag);
    assert!(answer.body.is_empty());

    // The ETag decides, whatever a date says.
    let date = ("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT");
    let other = [("if-none-match", "\"other\""), date];
    assert_eq!(
        get_with(node.edge, DOCS, "/", &other).await.status,
        StatusCode::OK
    );
    assert_eq!(
        get_with(node.edge, DOCS, "/", &[date]).await.status,
        StatusCode::OK
    );
    let unmet = [("if-match", "\"other\"")];
    let answer = get_with(node.edge, DOCS, "/", &unmet).await;
    assert_eq!(answer.status, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn parts_of_files() {
    let node = site(false, &[]);
    let large = large();
    for path in ["/large.bin", "/large.txt"] {
        for (range, from, to) in [
            ("bytes=0-9", 0, 10),
            ("bytes=2999990-", 2_999_990, 3_000_000),
            ("bytes=-3", 2_999_997, 3_000_000),
            ("bytes=70000-200000", 70_000, 200_001),
        ] {
            let fields = [("range", range), ("accept-encoding", "gzip")];
            let answer = get_with(node.edge, DOCS, path, &fields).await;
            assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
            assert_eq!(
                answer.header("content-range"),
                format!("bytes {from}-{}/3000000", to - 1)
            );
            assert_eq!(answer.header("content-encoding"), "");
            assert_eq!(answer.body, &large[from..to], "{range}");
        }
    }
    let part = get_with(node.edge, DOCS, "/", &[("range", "bytes=4-7")]).await;
    assert_eq!(
        (part.status, part.text()),
        (StatusCode::PARTIAL_CONTENT, "home")
    );
    let none = get_with(node.edge, DOCS, "/", &[("range", "bytes=13-")]).await;
    assert_eq!(none.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(none.header("content-range"), "bytes */13");
    let several = get_with(node.edge, DOCS, "/", &[("range", "bytes=0-1,4-5")]).await;
    assert_eq!(
        (several.status, several.text()),
        (StatusCode::OK, "<h1>home</h1>")
    );

    let etag = part.header("etag").to_owned();
    for (condition, status) in [
        (etag.as_str(), StatusCode::PARTIAL_CONTENT),
        ("\"old\"", StatusCode::OK),
    ] {
        let fields = [("range", "bytes=4-7"), ("if-range", condition)];
        assert_eq!(get_with(node.edge, DOCS, "/", &fields).await.status, status);
    }
}

#[tokio::test]
async fn text_is_compressed_for_those_who_take_it() {
    let node = site(false, &[]);
    let plain = get(node.edge, DOCS, "/style.css").await;
    assert_eq!(plain.header("vary"), "accept-encoding");
    let large = large();
    for (path, content) in [("/style.css", &plain.body[..]), ("/large.txt", &large)] {
        for _ in 0..2 {
            let fields = [("accept-encoding", "br;q=1, gzip;q=0.8")];
            let answer = get_with(node.edge, DOCS, path, &fields).await;
            assert_eq!(answer.header("content-encoding"), "gzip");
            assert_eq!(answer.header("vary"), "accept-encoding");
            assert!(answer.body.len() < content.len() / 2);
            let mut unpacked = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(&answer.body[..]);
            decoder.read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, content);
        }
    }
    let gzip = ("accept-encoding", "gzip");
    let packed = get_with(node.edge, DOCS, "/style.css", &[gzip]).await;
    assert_ne!(packed.header("etag"), plain.header("etag"));
    let again = [gzip, ("if-none-match", packed.header("etag"))];
    let answer = get_with(node.edge, DOCS, "/style.css", &again).await;
    assert_eq!(answer.status, StatusCode::NOT_MODIFIED);

    for (path, fields) in [
        ("/style.css", [("accept-encoding", "gzip;q=0")]),
        ("/", [gzip]),
        ("/large.bin", [gzip]),
    ] {
        let answer = get_with(node.edge, DOCS, path, &fields).await;
        assert_eq!(answer.header("content-encoding"), "", "{path}");
    }
}

#[tokio::test]
async fn caches_are_told_how_long() {
    let node = site(false, &[]);
    for (path, expected) in [
        ("/", "no-cache"),
        ("/app.3f2a9c1b.js", "public, max-age=31536000, immutable"),
        ("/style.css", "public, max-age=0, must-revalidate"),
    ] {
        let answer = get(node.edge, DOCS, path).await;
        assert_eq!(answer.header("cache-control"), expected, "{path}");
    }
}

#[tokio::test]
async fn single_page_applications_answer_their_own_paths() {
    let node = site(true, &[]);
    let html = [("accept", "text/html,*/*;q=0.8")];
    for page in ["/users/7", "/login", "/img/"] {
        let answer = get_with(node.edge, DOCS, page, &html).await;
        assert_eq!(
            (answer.status, answer.text()),
            (StatusCode::OK, "<h1>home</h1>"),
            "{page}"
        );
        assert_eq!(answer.header("cache-control"), "no-cache");
        assert_eq!(answer.header("vary"), "accept");
    }
    for (path, fields) in [
        ("/app.js", &html[..]),
        ("/users/7", &[("accept", "application/json")]),
        ("/users/7", &[]),
    ] {
        let answer = get_with(node.edge, DOCS, path, fields).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_site_may_bring_its_own_404() {
    let node = site(false, &[("404.html", b"<h1>lost</h1>")]);
    let answer = get(node.edge, DOCS, "/nothing").await;
    assert_eq!(
        (answer.status, answer.text()),
        (StatusCode::NOT_FOUND, "<h1>lost</h1>")
    );
    assert_eq!(answer.header("etag"), "");
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
}

#[tokio::test]
async fn a_site_that_is_not_unpacked_says_so() {
    let node = single();
    let routes = Routes::new().site("docs", SITE, false, &[(1, 1)]);
    node.table.send_replace(Arc::new(routes.table()));
    let answer = get(node.edge, DOCS, "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        answer.text().contains("nebula deploy status docs"),
        "{}",
        answer.text()
    );
}
