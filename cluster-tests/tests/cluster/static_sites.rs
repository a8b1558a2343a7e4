//! Promise: a folder is served as its own rules say, compressed before long, and what of its rules is not
//! followed is told when it is deployed.

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, eventually, http};

const HOST: &str = "docs.example.test";

#[test]
fn a_site_is_served_by_its_own_rules_and_compressed() {
    let cluster = Cluster::start(1);
    let site = cluster.site_folder("docs", "<h1>docs</h1>");
    let write = |name: &str, text: &str| std::fs::write(site.join(name), text).unwrap();
    let css = "body { color: black }\n".repeat(200);
    write("style.css", &css);
    write("about.html", "<h1>about</h1>");
    write("_redirects", "/old/* /new/:splat\n/a /b 302 Country=de\n");
    write("_headers", "/*\n  X-Frame-Options: DENY\n");
    let path = site.to_str().unwrap();
    let args = ["deploy", "create", "docs", "--path", path, "--wait"];
    let done = cluster
        .nebula(&[&args[..], &["--tld", "example.test"]].concat())
        .ok();
    let warning = "warning: _redirects line 2: the condition 'Country' is not supported";
    assert!(done.stderr.contains(warning), "{done}");

    let edge = cluster.edges()[0];
    assert_eq!(cluster.serves(edge, HOST).text(), "<h1>docs</h1>");
    let about = http::get(edge, HOST, "/about").unwrap();
    assert_eq!(about.text(), "<h1>about</h1>");
    assert_eq!(about.header("x-frame-options"), Some("DENY"));
    let moved = http::get(edge, HOST, "/old/page").unwrap();
    assert_eq!(moved.status, 301);
    assert_eq!(moved.header("location"), Some("/new/page"));
    for hidden in ["/_redirects", "/_headers", "/a"] {
        assert_eq!(http::get(edge, HOST, hidden).unwrap().status, 404);
    }

    for coding in ["br", "zstd", "gzip"] {
        let request = format!(
            "GET /style.css HTTP/1.1\r\nHost: {HOST}\r\nAccept-Encoding: {coding}\r\nConnection: close\r\n\r\n"
        );
        eventually(DEADLINE, "the style sheet comes compressed", || {
            let answer = http::send(edge, &request, http::DEADLINE);
            let small = answer.as_ref().is_ok_and(|answer| {
                answer.header("content-encoding") == Some(coding)
                    && answer.body.len() < css.len() / 10
            });
            holds(small, &answer)
        });
    }
}
