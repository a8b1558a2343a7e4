//! Rules of sites that nobody meant: whatever they say, no answer leaves the site's own files, or its
//! head.

use std::collections::BTreeSet;

use http::{HeaderName, HeaderValue};
use nebula_domain::site::{Action, Headers, Redirects};
use nebula_testkit::fuzz::Target;

use super::path::SitePath;

#[test]
fn fuzz_rules_of_sites() {
    let corpus = [
        "/old/* /new/:splat\n/store id=:id x=1 /products/:id 302!\n/app/* /index.html 200 # all of it\n",
        "/news/:year/:slug https://example.test:8080/:year-:slug?x=:slug#top 301\n/gone /404.html 410\n",
        "# all\n/*\n  X-Frame-Options: DENY\n  Cache-Control: a\n  Cache-Control: b\n/*/:x/b*\n  Link: <https://a.test/>\n",
    ];
    let target = Target {
        name: "proxy: rules of sites",
        corpus: corpus.map(|text| text.as_bytes().to_vec()).to_vec(),
        words: &[
            "\n",
            "/",
            "/*",
            "*",
            ":splat",
            ":x",
            " 200",
            " 301!",
            " Country=de",
            "http://",
            "//",
            "\\",
            "%2f",
            "%00",
            "%ff",
            "?",
            "#",
            "=",
            ": ",
            "@",
            "ä",
            "X-A: 1",
            "/:x/:y",
        ],
        max_bytes: 16 * 1024,
        allocated_per_byte: 512,
        allocated_bytes: 64 * 1024,
        understood_percent: 20,
    };
    target.run(|input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return false;
        };
        let (redirects, _) = Redirects::parse(text);
        let (headers, _) = Headers::parse(text);
        for path in [
            "",
            "old//evil.test",
            "news/2024/\\a b",
            "store",
            "x/y/b\r\n",
        ] {
            let query = Some("id=&x=1");
            match redirects.find(path, query, false) {
                Some(Action::Redirect { location, .. }) => {
                    assert!(HeaderValue::try_from(&location).is_ok(), "{location:?}");
                    let elsewhere = ["//", "/\\"]
                        .iter()
                        .any(|begin| location.starts_with(begin));
                    assert!(!elsewhere, "{location:?}");
                }
                // It is looked up as a request's path is.
                Some(Action::Show { path, .. }) => drop(SitePath::parse(&path)),
                None => {}
            }
            let fields = headers.of(path);
            let names: BTreeSet<_> = fields.iter().map(|(name, _)| *name).collect();
            assert_eq!(names.len(), fields.len());
            for (name, value) in fields {
                assert!(HeaderName::from_bytes(name.as_bytes()).is_ok(), "{name:?}");
                assert!(HeaderValue::try_from(value).is_ok(), "{value:?}");
                assert!(!["content-length", "transfer-encoding"].contains(&name));
            }
        }
        !redirects.is_empty() || !headers.is_empty()
    });
}
