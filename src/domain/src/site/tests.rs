use proptest::prelude::*;

use super::*;

fn redirects(text: &str) -> Redirects {
    let (redirects, problems) = Redirects::parse(text);
    assert_eq!(problems, [], "{text}");
    redirects
}

fn to(status: u16, location: &str) -> Option<Action> {
    Some(Action::Redirect {
        status,
        location: location.to_owned(),
    })
}

fn shows(status: u16, path: &str) -> Option<Action> {
    Some(Action::Show {
        status,
        path: path.to_owned(),
    })
}

#[test]
fn redirects_as_documented() {
    let rules = redirects(
        "# A comment\n\
         /home /\n\
         /blog/my-post.php /blog/my-post # and one behind\n\
         /google https://www.google.test 302\n\
         /news/:month/:day/:slug /blog/:day-:month/:slug.html?m=:month 302\n\
         \t/old/*\t/new/:splat\n\
         /pass-through /index.html 200\n\
         /ecommerce/* /store-closed 404\n\
         /authors/c%C3%A9line /authors/about-c%C3%A9line\n\
         /wiki/* https://en.wiki.test:8080/wiki/Category:Rust#top\n",
    );
    for (path, query, expected) in [
        ("home", None, to(301, "/")),
        ("blog/my-post.php", None, to(301, "/blog/my-post")),
        (
            "google",
            Some("q=1"),
            to(302, "https://www.google.test?q=1"),
        ),
        (
            "news/02/12/a b",
            Some("x"),
            to(302, "/blog/12-02/a%20b.html?m=02"),
        ),
        (
            "old/a/b?&",
            Some("x=1&y=%20"),
            to(301, "/new/a/b%3F%26?x=1&y=%20"),
        ),
        ("old", None, to(301, "/new/")),
        ("older", None, None),
        ("pass-through", Some("a"), shows(200, "/index.html")),
        ("ecommerce/x/y", None, shows(404, "/store-closed")),
        (
            "authors/céline",
            None,
            to(301, "/authors/about-c%C3%A9line"),
        ),
        ("news/02/12", None, None),
        (
            "wiki/x",
            Some("a"),
            to(301, "https://en.wiki.test:8080/wiki/Category:Rust?a#top"),
        ),
    ] {
        assert_eq!(rules.find(path, query, false), expected, "{path}");
    }
}

#[test]
fn parameters_must_match_exactly() {
    let rules = redirects(
        "/path/* param1=:value1 /otherpath/:value1/:splat 301\n\
         /path/* param2=:value2 /otherpath/:value2/:splat 301\n\
         /path/* param1=:value1 param2=:value2 /both/:value1/:value2/:splat 301\n\
         /path/* kind=a+b /kind 301\n\
         /path/* /none/:splat 301\n",
    );
    for (query, expected) in [
        (Some("param1=a%2Fb"), "/otherpath/a%2Fb/x"),
        (Some("param2=b"), "/otherpath/b/x"),
        (Some("param2=b&param1=a"), "/both/a/b/x"),
        (Some("kind=a%20b"), "/kind"),
        (Some("param1=a&other=1"), "/none/x?param1=a&other=1"),
        (Some("param1=%ff"), "/none/x?param1=%ff"),
        (None, "/none/x"),
    ] {
        assert_eq!(
            rules.find("path/x", query, false),
            to(301, expected),
            "{query:?}"
        );
    }
}

#[test]
fn what_exists_is_served_unless_forced() {
    let rules = redirects("/a /b\n/a /c 302!\n/* /index.html 200");
    assert_eq!(rules.find("a", None, false), to(301, "/b"));
    assert_eq!(rules.find("a", None, true), to(302, "/c"));
    assert_eq!(rules.find("d", None, true), None);
    assert_eq!(rules.find("d", None, false), shows(200, "/index.html"));
    assert!(rules.has_forced());
    // The first in the file decides, whichever kind it is.
    let rules = redirects("/x/* /one\n/x/y /two\n/x/:z /three");
    assert_eq!(rules.find("x/y", None, false), to(301, "/one"));
    let rules = redirects("/x/y /two\n/x/* /one");
    assert_eq!(rules.find("x/y", None, false), to(301, "/two"));
    assert_eq!(rules.find("x/z", None, false), to(301, "/one"));
}

#[test]
fn no_rule_leads_back_to_where_it_was_asked_or_to_another_host() {
    let rules = redirects("/a /a/\n/b/* /b/:splat\n/* /:splat 301\n");
    for path in ["a", "b", "b/c", "x", ""] {
        assert_eq!(rules.find(path, None, false), None, "{path}");
    }
    let rules = redirects(
        "/go/* /:splat\n/out/* https://example.test/:splat\n/in/* /:splat/x\n\
         /by a=:a b=:b /:a/:b\n/back a=:a /:a\\x",
    );
    for (path, query, expected) in [
        ("in", "", "/x"),
        ("by", "a=&b=evil.test", "/evil.test"),
        ("by", "a=/&b=evil.test", "/%2F/evil.test"),
        ("back", "a=", "/x"),
    ] {
        assert_eq!(rules.find(path, Some(query), false), to(301, expected));
    }
    for (path, expected) in [
        ("go//evil.test", "/evil.test"),
        ("go/\\evil.test", "/%5Cevil.test"),
        ("out/@evil.test", "https://example.test/@evil.test"),
    ] {
        let found = rules.find(path, None, false);
        assert_eq!(found, to(301, expected), "{path}");
    }
}

#[test]
fn lines_without_effect_are_named() {
    for (line, expected) in [
        ("/a", "leads nowhere"),
        ("a /b", "begins with a path"),
        ("http://a.test/* /b", "rules for a host"),
        ("/a b /c", "neither a target nor a parameter"),
        ("/a /b 418", "418 is not supported"),
        ("/a /b soon", "'soon' is not a status"),
        ("/a /b 302 Country=de,at", "condition 'Country'"),
        ("/a /b Role=admin", "condition 'Role'"),
        ("/a /b 302 Language=de", "condition 'Language'"),
        (
            "/api/* https://api.test/:splat 200",
            "another host's content",
        ),
        ("/a/*/b /c", "'*' is only understood"),
        ("/a* /c", "'*' is only understood"),
        ("/a?x=1 /c", "holds no '?'"),
        ("/a/:x/:x /c", "stands for two things"),
        ("/a/:x /c/:y", "is called ':y'"),
        ("/a /c/:splat", "is called ':splat'"),
        ("/a/* https://:splat/", "host must be plain"),
        ("/a/* https://x.test:splat/", "host must be plain"),
        ("/a/* https://x@y.test/", "host must be plain"),
        ("/a //evil.test", "must begin with '/'"),
        ("/a /\\evil.test", "must begin with '/'"),
        ("/a http:b", "must begin with '/'"),
        ("/%ff /b", "not UTF-8"),
    ] {
        let (rules, problems) = Redirects::parse(&format!("# one\n{line}\n/x /y\n"));
        assert_eq!(problems.len(), 1, "{line}");
        let shown = problems[0].to_string();
        assert!(shown.starts_with("_redirects line 2: "), "{shown}");
        assert!(shown.contains(expected), "{line}: {shown}");
        assert_eq!(rules.find("x", None, false), to(301, "/y"), "{line}");
        assert_eq!(rules.find("a", None, false), None, "{line}");
    }
    let (_, problems) = Redirects::parse(&"nonsense\n".repeat(1000));
    assert_eq!(problems.len(), PROBLEMS_MAX + 1);
    let (rules, problems) = Redirects::parse(&"/a/* /b\n".repeat(501));
    assert!(
        problems[0].what.contains("redirect_patterns"),
        "{problems:?}"
    );
    assert_eq!(rules.find("a", None, false), to(301, "/b"));
}

#[test]
fn fields_by_path() {
    let (headers, problems) = Headers::parse(
        "# a path:\n\
         /*\n\
         \x20 X-Frame-Options: DENY\n\
         \x20 cache-control: max-age=0\n\
         \x20 Cache-Control: no-store\n\
         /embed/:id/\n\
         \x20 # inside\n\
         \x20 X-Frame-Options: SAMEORIGIN\n\
         \x20 Link: <https://a.test/>; rel=preload\n",
    );
    assert_eq!(problems, []);
    let plain = [
        ("x-frame-options", "DENY"),
        ("cache-control", "max-age=0, no-store"),
    ];
    assert_eq!(headers.of("a/b"), plain);
    let embedded = [
        ("x-frame-options", "SAMEORIGIN"),
        plain[1],
        ("link", "<https://a.test/>; rel=preload"),
    ];
    assert_eq!(headers.of("embed/7"), embedded);

    for (text, line, expected) in [
        ("X-A: 1", 1, "before any path"),
        ("/a\n X-A", 2, "neither a path nor"),
        ("/a\n X A: 1", 2, "not a field's name"),
        ("/a\n X-A:", 2, "no value"),
        ("/a\n Content-Length: 5", 2, "set by the proxy"),
        ("/a\n Set-Cookie: a=b", 2, "set by the proxy"),
        ("/a\n X-A: ä", 2, "plain ASCII"),
        ("/a\n X-A: a\u{1}b", 2, "plain ASCII"),
        ("https://a.test/*\n X-A: 1", 1, "rules for a host"),
    ] {
        let (headers, problems) = Headers::parse(text);
        assert!(headers.is_empty(), "{text}");
        assert_eq!((problems.len(), problems[0].line), (1, line), "{text}");
        let shown = problems[0].to_string();
        assert!(shown.contains(expected), "{text}: {shown}");
    }
    let (_, problems) = Headers::parse("/a\n Basic-Auth: me:secret");
    assert!(!problems[0].to_string().contains("secret"), "{problems:?}");
}

#[test]
fn what_is_text() {
    for yes in ["index.html", "a/b.JS", "data.json", "m.wasm", "x.svg"] {
        assert!(compresses(yes), "{yes}");
    }
    for no in ["a.png", "a.js.gz", "LICENSE", "a.js/b", "a.woff2", ""] {
        assert!(!compresses(no), "{no}");
    }
}

/// Names as paths hold them, and what people put into rules.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-c]{1,2}",
        "[ %&?#:*\\\\@+ä./]{1,3}".prop_map(|s| s.replace('/', "-"))
    ]
}

proptest! {
    #[test]
    fn any_text_is_taken(text in "([/:* a-c=#!?0-4\\\\\\n]|http://|:splat| 30[12]| 200!){0,60}", path in "[a-c/]{0,8}") {
        let (rules, _) = Redirects::parse(&text);
        for exists in [true, false] {
            rules.find(path.trim_matches('/'), Some("a=b"), exists);
        }
        let (headers, _) = Headers::parse(&text);
        headers.of(path.trim_matches('/'));
    }

    #[test]
    fn a_splat_takes_the_rest_whatever_it_holds(names in proptest::collection::vec(name(), 0..5)) {
        let rest = names.join("/");
        let rules = redirects("/from/* /to/:splat");
        let path = format!("from/{rest}");
        let found = rules.find(path.trim_matches('/'), None, false);
        let Some(Action::Redirect { location, .. }) = found else {
            panic!("no rule for {path}");
        };
        let filled = location.strip_prefix("/to/").unwrap();
        prop_assert!(!filled.contains(['?', '#', '\\', ' ', '&']), "{}", filled);
        let decoded = percent_encoding::percent_decode_str(filled).decode_utf8().unwrap();
        prop_assert_eq!(decoded, rest);
    }

    #[test]
    fn the_first_rule_of_all_decides(paths in proptest::collection::vec("/[ab](/[ab:x*]){0,2}", 1..12), asked in "[ab](/[ab]){0,2}") {
        let text: Vec<_> = paths.iter().enumerate().map(|(n, path)| format!("{path} /to{n}\n")).collect();
        let (rules, _) = Redirects::parse(&text.concat());
        // As slowly as possible: each line for itself.
        let slow = text.iter().find_map(|line| Redirects::parse(line).0.find(&asked, None, false));
        prop_assert_eq!(rules.find(&asked, None, false), slow);
    }

    #[test]
    fn globs_agree_with_a_slow_one(pattern in "/([ab*/]{0,6})", path in "([ab]{1,2}/){0,2}[ab]{0,2}") {
        let path = path.trim_matches('/');
        let glob = super::glob::Glob::parse(&pattern).unwrap();
        let mut items: Vec<char> = pattern.trim_matches('/').chars().collect();
        items.dedup_by(|a, b| *a == '*' && *b == '*');
        let text: Vec<char> = path.chars().collect();
        let mut expected = slow(&items, &text);
        if let [base @ .., '/', '*'] = items.as_slice() {
            expected |= slow(base, &text);
        }
        prop_assert_eq!(glob.matches(path), expected, "{} {}", pattern, path);
    }
}

fn slow(items: &[char], text: &[char]) -> bool {
    match items {
        [] => text.is_empty(),
        ['*', rest @ ..] => (0..=text.len()).any(|n| slow(rest, &text[n..])),
        [first, rest @ ..] => text.first() == Some(first) && slow(rest, &text[1..]),
    }
}
