//! Static sites over HTTP.

use std::io::Read;
use std::sync::Arc;

use crate::common;
use crate::common::client::{ask, get, get_with, say};
use crate::common::{Node, Routes, single};
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

fn css() -> String {
    "body { color: black }\n".repeat(200)
}

/// Compressed forms, as the artifact store makes them in the background.
fn pack(node: &Node, forms: &[(&[u8], &str, &[u8])]) {
    let packed = node.trees.path().join(format!("{SITE}.packed"));
    let unfinished = node.trees.path().join("unfinished");
    std::fs::create_dir(&unfinished).unwrap();
    let mut files = serde_json::Map::new();
    for (file, coding, form) in forms {
        let of = blake3::hash(file).to_hex().to_string();
        std::fs::write(unfinished.join(format!("{of}.{coding}")), form).unwrap();
        let hash = blake3::hash(form).to_hex().to_string();
        let entry = serde_json::json!({"size": form.len(), "blake3": hash});
        let file = files.entry(of).or_insert_with(|| serde_json::json!({}));
        file[coding] = entry;
    }
    let index = serde_json::json!({"files": files});
    std::fs::write(unfinished.join("index.json"), index.to_string()).unwrap();
    std::fs::rename(unfinished, packed).unwrap();
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, content).unwrap();
    encoder.finish().unwrap()
}

fn site(spa: bool, more: &[(&str, &[u8])]) -> Node {
    let node = single();
    let css = css();
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
async fn several_parts_of_a_file() {
    let node = site(false, &[]);
    let large = large();
    for path in ["/large.bin", "/style.css"] {
        let whole = get(node.edge, DOCS, path).await;
        let size = whole.body.len();
        // Two that overlap, and one that lies outside.
        let range = ("range", "bytes=4000-4099,0-9,5-20,90000000-");
        let answer = get_with(node.edge, DOCS, path, &[range]).await;
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(answer.header("etag"), whole.header("etag"));
        assert_eq!(
            answer.header("content-length"),
            answer.body.len().to_string()
        );
        let content_type = answer.header("content-type");
        let boundary = content_type
            .strip_prefix("multipart/byteranges; boundary=")
            .unwrap();
        let mut expected = Vec::new();
        for (n, (first, last)) in [(4000, 4099), (0, 20)].into_iter().enumerate() {
            let line = if n == 0 { "" } else { "\r\n" };
            expected.extend(
                format!(
                    "{line}--{boundary}\r\nContent-Type: {}\r\nContent-Range: bytes {first}-{last}/{size}\r\n\r\n",
                    whole.header("content-type")
                )
                .into_bytes(),
            );
            expected.extend(&whole.body[first..=last]);
        }
        expected.extend(format!("\r\n--{boundary}--\r\n").into_bytes());
        assert_eq!(answer.body, expected, "{path}");
    }
    // Longer than what is read at a time.
    let range = ("range", "bytes=0-199999,300000-499999");
    let answer = get_with(node.edge, DOCS, "/large.bin", &[range]).await;
    let parts = answer.body.windows(100_000);
    assert!(parts.clone().any(|part| part == &large[90_000..190_000]));
    assert!(parts.clone().any(|part| part == &large[390_000..490_000]));

    let many: Vec<_> = (0..17).map(|n| format!("{0}-{0}", n * 1000)).collect();
    let many = format!("bytes={}", many.join(","));
    let answer = get_with(node.edge, DOCS, "/large.bin", &[("range", &many)]).await;
    assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test]
async fn text_is_sent_compressed_once_the_forms_are_made() {
    let (css, large) = (css(), large());
    let own = b"the author's own".repeat(70);
    let node = site(false, &[("own.js", css.as_bytes()), ("own.js.br", &own)]);
    let get_as =
        async |path: &str, fields: &[(&str, &str)]| get_with(node.edge, DOCS, path, fields).await;
    let all = [("accept-encoding", "gzip, deflate, br, zstd")];
    let plain = get_as("/style.css", &all).await;
    assert_eq!(plain.header("content-encoding"), "");
    assert_eq!(plain.header("vary"), "accept-encoding");
    let brought = get_as("/own.js", &all).await;
    assert_eq!(brought.header("content-encoding"), "br");
    assert_eq!(brought.body, own);

    let (packed_css, packed_large) = (gzip(css.as_bytes()), gzip(&large));
    pack(
        &node,
        &[
            (css.as_bytes(), "gz", &packed_css),
            (css.as_bytes(), "zst", b"shortest"),
            (&large, "gz", &packed_large),
            (&large, "br", b"never sent"),
        ],
    );
    // They are looked for now and then.
    let deadline = tokio::time::Instant::now() + common::PATIENCE;
    while get_as("/style.css", &all).await.header("content-encoding") != "zstd" {
        assert!(tokio::time::Instant::now() < deadline, "never compressed");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(get_as("/style.css", &all).await.body, "shortest");
    for (path, content) in [("/style.css", css.as_bytes()), ("/large.txt", &large)] {
        let answer = get_as(
            path,
            &[("accept-encoding", "br;q=0, gzip;q=0.8, zstd;q=0.5")],
        )
        .await;
        assert_eq!(answer.header("content-encoding"), "gzip");
        assert_eq!(answer.header("vary"), "accept-encoding");
        assert_eq!(
            answer.header("content-length"),
            answer.body.len().to_string()
        );
        let mut unpacked = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(&answer.body[..]);
        decoder.read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, content);
    }

    let gzip = ("accept-encoding", "gzip");
    let packed = get_as("/style.css", &[gzip]).await;
    assert_ne!(packed.header("etag"), plain.header("etag"));
    assert_eq!(packed.header("content-type"), plain.header("content-type"));
    for has in [packed.header("etag"), plain.header("etag")] {
        let answer = get_as("/style.css", &[gzip, ("if-none-match", has)]).await;
        assert_eq!(answer.status, StatusCode::NOT_MODIFIED);
        assert_eq!(answer.header("etag"), has);
        assert_eq!(answer.header("content-encoding"), "");
    }
    // A range is one of the file, unless it goes on with what the client has.
    let range = ("range", "bytes=0-9");
    let answer = get_as("/style.css", &[gzip, range]).await;
    assert_eq!(answer.body, css.as_bytes()[..10]);
    let answer = get_as(
        "/style.css",
        &[gzip, range, ("if-range", packed.header("etag"))],
    )
    .await;
    assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(answer.header("content-encoding"), "gzip");
    assert_eq!(answer.body, packed_css[..10]);

    for (path, fields) in [
        ("/style.css", [("accept-encoding", "gzip;q=0")]),
        ("/", [gzip]),
        ("/large.bin", [gzip]),
        ("/own.js.br", [gzip]),
    ] {
        let answer = get_as(path, &fields).await;
        assert_eq!(answer.header("content-encoding"), "", "{path}");
    }
    // Without the forms the file itself is enough.
    let folder = node.trees.path().join(format!("{SITE}.packed"));
    std::fs::remove_dir_all(folder).unwrap();
    let answer = get_as("/large.txt", &[("accept-encoding", "br")]).await;
    assert_eq!(
        (answer.status, answer.body.len()),
        (StatusCode::OK, large.len())
    );
    assert_eq!(answer.header("content-encoding"), "");
}

#[tokio::test]
async fn pages_are_found_without_their_extension() {
    let node = site(false, &[("about.html", b"<h1>about</h1>")]);
    for path in ["/about", "/about.html", "/about?x=1"] {
        for _ in 0..2 {
            let answer = get(node.edge, DOCS, path).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}");
            assert_eq!(answer.text(), "<h1>about</h1>");
            assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
        }
    }
    assert_eq!(
        get(node.edge, DOCS, "/about/").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_site_s_redirects_are_followed() {
    let rules = "\
        /old/* /new/:splat\n\
        /store id=:id /products/:id 302\n\
        /app/* /docs 200\n\
        /gone/* /sorry 404\n\
        /style.css /other.css\n\
        /empty.txt https://example.org/ 307!\n\
        /broken /x 302 Country=de\n\
        /hole /nowhere 200\n\
        /secret /.env 200\n\
        /rules /_redirects 200\n";
    let node = site(
        false,
        &[
            ("_redirects", rules.as_bytes()),
            ("_headers", b"/*\n  X-A: 1\n"),
            ("sorry.html", b"<h1>sorry</h1>"),
        ],
    );
    for (path, status, location) in [
        ("/old/a%20b/c?x=1", 301, "/new/a%20b/c?x=1"),
        ("/store?id=7%2f8", 302, "/products/7%2F8"),
        ("/empty.txt", 307, "https://example.org/"),
    ] {
        let answer = get(node.edge, DOCS, path).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert_eq!(answer.header("location"), location, "{path}");
        assert_eq!(answer.header("x-a"), "", "{path}");
        assert_eq!(answer.header("content-length"), "0", "{path}");
    }
    let shown = get(node.edge, DOCS, "/app/some/page").await;
    assert_eq!(
        (shown.status, shown.text()),
        (StatusCode::OK, "<h1>docs</h1>")
    );
    assert_eq!(shown.header("x-a"), "1");
    let same = [("if-none-match", shown.header("etag"))];
    let again = get_with(node.edge, DOCS, "/app/other", &same).await;
    assert_eq!(again.status, StatusCode::NOT_MODIFIED);
    let sorry = get(node.edge, DOCS, "/gone/x").await;
    assert_eq!(
        (sorry.status, sorry.text()),
        (StatusCode::NOT_FOUND, "<h1>sorry</h1>")
    );
    assert_eq!(sorry.header("etag"), "");
    assert_eq!(
        get(node.edge, DOCS, "/style.css").await.status,
        StatusCode::OK
    );
    for missing in [
        "/store?id=1&x=2",
        "/broken",
        "/hole",
        "/secret",
        "/rules",
        "/_redirects",
        "/_headers",
        "/%5fheaders",
    ] {
        let answer = get(node.edge, DOCS, missing).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{missing}");
    }
    // Nothing that a client sends makes another header, or another host.
    for path in [
        "/old//evil.test",
        "/old/%0d%0aX-A:%20b",
        "/old/%5cevil.test",
    ] {
        let answer = get(node.edge, DOCS, path).await;
        let location = answer.header("location");
        assert!(
            location.is_empty() || location.starts_with("/new/%"),
            "{location}"
        );
    }
}

#[tokio::test]
async fn a_site_s_headers_are_sent() {
    let rules = "\
        /*\n\
          X-Frame-Options: DENY\n\
          Vary: Origin\n\
        /docs/*\n\
          Cache-Control: private\n\
          Content-Type: text/plain\n\
          X-Frame-Options: SAMEORIGIN\n\
          Content-Length: 7\n\
          X-Many: a\n\
          X-Many: b\n";
    let node = site(true, &[("_headers", rules.as_bytes()), ("404.html", b"no")]);
    for _ in 0..2 {
        let home = get(node.edge, DOCS, "/").await;
        assert_eq!(home.header("x-frame-options"), "DENY");
        assert_eq!(home.header("cache-control"), "no-cache");
        assert_eq!(home.header("vary"), "Origin");
        let docs = get(node.edge, DOCS, "/docs/").await;
        assert_eq!(docs.header("x-frame-options"), "SAMEORIGIN");
        assert_eq!(docs.header("cache-control"), "private");
        assert_eq!(docs.header("content-type"), "text/plain");
        assert_eq!(docs.header("content-length"), "13");
        assert_eq!(docs.header("x-many"), "a, b");
        let missing = get(node.edge, DOCS, "/nothing.png").await;
        assert_eq!(missing.status, StatusCode::NOT_FOUND);
        assert_eq!(missing.header("x-frame-options"), "DENY");
    }
    let css = get(node.edge, DOCS, "/style.css").await;
    assert_eq!(css.header("vary"), "accept-encoding, Origin");
    let html = [("accept", "text/html")];
    let page = get_with(node.edge, DOCS, "/users/7", &html).await;
    assert_eq!(page.header("vary"), "Origin, accept");
    let same = [("if-none-match", css.header("etag"))];
    let same = get_with(node.edge, DOCS, "/style.css", &same).await;
    assert_eq!(same.status, StatusCode::NOT_MODIFIED);
    assert_eq!(same.header("x-frame-options"), "DENY");
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
