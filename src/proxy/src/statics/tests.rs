//! What a request costs, and what is kept.

use nebula_testkit::allocations;
use tempfile::TempDir;

use super::ask::Fields;
use super::*;

const SITE: tunnel::Site = tunnel::Site {
    artifact: Digest([7; 32]),
    spa: true,
};

fn sites(files: &[(&str, &str)]) -> (TempDir, Sites) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join(SITE.artifact.to_string());
    std::fs::create_dir(&root).unwrap();
    let mut listed = serde_json::Map::new();
    for (path, content) in files {
        std::fs::write(root.join(path), content).unwrap();
        let hash = blake3::hash(content.as_bytes()).to_hex().to_string();
        let entry = serde_json::json!({"size": content.len(), "blake3": hash});
        listed.insert((*path).to_owned(), entry);
    }
    let manifest = serde_json::json!({"files": listed, "links": false});
    let path = dir.path().join(format!("{}.manifest", SITE.artifact));
    std::fs::write(path, manifest.to_string()).unwrap();
    let sites = Sites::new(dir.path().to_owned(), &Limits::default());
    (dir, sites)
}

fn ask<'a>(path: &'a str, fields: &[(&str, &'a str)]) -> Ask<'a> {
    Ask {
        method: &Method::GET,
        path,
        query: None,
        fields: Fields::from_pairs(fields),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_file_in_memory_costs_hardly_any_allocation() {
    let (dir, sites) = sites(&[
        ("index.html", "<h1>home</h1>"),
        ("app.js", &"let a = 1;\n".repeat(200)),
        ("_headers", "/*\n  X-Frame-Options: DENY\n"),
    ]);
    // So that nothing is looked for meanwhile.
    let packed = dir.path().join(format!("{}.packed", SITE.artifact));
    std::fs::create_dir(&packed).unwrap();
    std::fs::write(packed.join("index.json"), r#"{"files": {}}"#).unwrap();
    let runtime = runtime();
    for path in ["/app.js", "/"] {
        let fields = [("accept-encoding", "gzip, br"), ("accept", "*/*")];
        let once = || runtime.block_on(sites.answer(SITE, "docs", &ask(path, &fields)));
        for _ in 0..3 {
            assert_eq!(once().unwrap().status(), StatusCode::OK);
        }
        let mut answer = None;
        let count = allocations(|| answer = Some(once()));
        // A copy of the header map takes two.
        assert!(count <= 2, "{count} for {path}");
        let body = runtime.block_on(answer.unwrap().unwrap().into_body().collect());
        assert!(!body.unwrap().is_empty());
    }
}

#[test]
fn paths_without_a_file_of_their_own_share_what_was_prepared() {
    let (_dir, sites) = sites(&[("index.html", "home"), ("404.html", "lost")]);
    let runtime = runtime();
    let kept = || {
        let site = runtime.block_on(sites.loaded.get(SITE.artifact)).unwrap();
        ["/a", "/b", "/c.png", "\0index.html", "\x00404.html"].map(|path| site.page(path).is_some())
    };
    for path in ["/a", "/b", "/c.png"] {
        let ask = ask(path, &[("accept", "text/html")]);
        let answer = runtime.block_on(sites.answer(SITE, "docs", &ask)).unwrap();
        let status = if path == "/c.png" { 404 } else { 200 };
        assert_eq!(answer.status().as_u16(), status, "{path}");
    }
    assert_eq!(kept(), [false, false, false, true, true]);
}
