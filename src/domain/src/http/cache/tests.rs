use std::time::Duration;

use proptest::prelude::*;

use super::control::members;
use super::*;
use crate::http::Cache;
use crate::traffic::Nanos;

type Fields<'a> = [(&'a str, &'a str)];

const SECOND: Nanos = 1_000_000_000;
/// Sun, 06 Nov 1994 08:49:37 GMT
const THEN: u64 = 784_111_777;

fn lines<'a>(fields: &'a Fields<'a>) -> impl Lines<'a> {
    |name: &str| {
        let of = fields.iter().filter(|(known, _)| *known == name);
        of.map(|(_, value)| value.as_bytes()).collect()
    }
}

fn on() -> Cache {
    Cache {
        on: true,
        ..Cache::default()
    }
}

fn at(seconds: u64) -> Times {
    Times {
        asked: seconds * SECOND,
        received: seconds * SECOND,
        date: THEN + seconds,
    }
}

fn kept(fields: &Fields<'_>) -> Result<Freshness, Refusal> {
    keep(&on(), Asker::default(), 200, lines(fields), at(0))
}

fn use_at(fields: &Fields<'_>, seconds: u64) -> Use {
    let asked = RequestControl::default();
    kept(fields).unwrap().decide(&asked, seconds * SECOND)
}

fn control(value: &str) -> ResponseControl {
    ResponseControl::read(&[value.as_bytes()])
}

#[test]
fn directives_are_read() {
    let read = control("Public, MAX-AGE=60 , s-maxage=\"30\", x=\"a, no-store\", foo");
    let expected = ResponseControl {
        public: true,
        max_age: Some(60),
        s_maxage: Some(30),
        ..ResponseControl::default()
    };
    assert_eq!(read, expected);
    // Of those that contradict each other the strictest.
    assert_eq!(control("max-age=60, max-age=10").max_age, Some(10));
    for nonsense in [
        "max-age=-1",
        "max-age",
        "max-age=1.5",
        "max-age=+1",
        "max-age=",
    ] {
        assert_eq!(control(nonsense).max_age, Some(0), "{nonsense}");
    }
    assert_eq!(control("max-age=99999999999999").max_age, Some(1 << 31));
    assert!(control("private=\"set-cookie\"").private);
    assert!(control("no-cache=\"set-cookie, x\"").no_cache);
    // What cannot be read allows nothing.
    assert!(control("private=\"x, max-age=60").no_store);
    assert!(ResponseControl::read(&[b"max-age=60, \xff"]).no_store);
    let lines: [&[u8]; 2] = [b"max-age=60", b"no-store"];
    assert!(ResponseControl::read(&lines).no_store);
}

#[test]
fn requests_are_read() {
    let of = |control: &[&[u8]], pragma: &[&[u8]]| RequestControl::read(control, pragma);
    assert!(of(&[], &[b"no-cache"]).no_cache);
    assert!(!of(&[b"max-age=60"], &[b"no-cache"]).no_cache);
    let read = of(
        &[b"only-if-cached, min-fresh=5, min-fresh=9, max-age=3"],
        &[],
    );
    assert!(read.only_if_cached);
    assert_eq!((read.max_age, read.min_fresh), (Some(3), Some(9)));
}

#[test]
fn what_says_its_lifetime_is_kept() {
    for (fields, lifetime) in [
        (vec![("cache-control", "max-age=60")], 60),
        (vec![("cache-control", "max-age=60, s-maxage=10")], 10),
        (vec![("cache-control", "max-age=60"), ("expires", "0")], 60),
        (
            vec![
                ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
                ("expires", "Sun, 06 Nov 1994 08:50:37 GMT"),
            ],
            60,
        ),
    ] {
        assert_eq!(
            kept(&fields).unwrap().lifetime.as_secs(),
            lifetime,
            "{fields:?}"
        );
    }
}

#[test]
fn what_is_not_kept() {
    for (status, fields, why) in [
        (200, vec![], Refusal::NoLifetime),
        (200, vec![("etag", "\"a\"")], Refusal::NoLifetime),
        (200, vec![("cache-control", "public")], Refusal::NoLifetime),
        (
            200,
            vec![("cache-control", "max-age=60, private")],
            Refusal::Private,
        ),
        (
            200,
            vec![("cache-control", "max-age=60, no-store")],
            Refusal::NoStore,
        ),
        (
            200,
            vec![("cache-control", "max-age=60"), ("set-cookie", "a=b")],
            Refusal::SetCookie,
        ),
        (200, vec![("cache-control", "max-age=0")], Refusal::Expired),
        (200, vec![("expires", "0")], Refusal::Expired),
        (
            200,
            vec![("cache-control", "max-age=60"), ("age", "60")],
            Refusal::Expired,
        ),
        (200, vec![("cache-control", "no-cache")], Refusal::Expired),
        (206, vec![("cache-control", "max-age=60")], Refusal::Status),
        (304, vec![("cache-control", "max-age=60")], Refusal::Status),
        (500, vec![("cache-control", "max-age=60")], Refusal::Status),
        (400, vec![("cache-control", "max-age=60")], Refusal::Status),
        (302, vec![], Refusal::NoLifetime),
    ] {
        let refused = keep(&on(), Asker::default(), status, lines(&fields), at(0));
        assert_eq!(refused, Err(why), "{status} {fields:?}");
    }
}

#[test]
fn a_policy_may_say_a_lifetime_for_those_that_do_not() {
    let policy = Cache {
        default_ttl: Duration::from_secs(30),
        ..on()
    };
    let keep = |asker, status| keep(&policy, asker, status, lines(&[]), at(0));
    let plain = keep(Asker::default(), 200).unwrap();
    assert_eq!(plain.lifetime.as_secs(), 30);
    let cookies = Asker {
        cookies: true,
        authorized: false,
    };
    assert!(!plain.is_for(cookies));
    assert_eq!(keep(cookies, 200), Err(Refusal::NoLifetime));
    assert_eq!(keep(Asker::default(), 302), Err(Refusal::NoLifetime));
}

#[test]
fn answers_for_those_who_authenticate_have_to_say_so() {
    let asker = Asker {
        authorized: true,
        cookies: false,
    };
    let keep = |value| {
        let fields = [("cache-control", value)];
        keep(&on(), asker, 200, lines(&fields), at(0))
    };
    assert_eq!(keep("max-age=60"), Err(Refusal::Authorized));
    for said in [
        "max-age=60, public",
        "s-maxage=60",
        "max-age=60, must-revalidate",
    ] {
        assert!(keep(said).unwrap().is_for(asker), "{said}");
    }
    assert!(
        !kept(&[("cache-control", "max-age=60")])
            .unwrap()
            .is_for(asker)
    );
}

#[test]
fn age_is_what_was_said_and_what_has_passed() {
    let fields = [("cache-control", "max-age=60"), ("age", "10")];
    let fresh = kept(&fields).unwrap();
    assert_eq!(fresh.age(5 * SECOND).as_secs(), 15);
    assert_eq!(fresh.ttl(5 * SECOND), 45);
    // The way here counts, and so does a date long gone.
    let slow = Times {
        asked: 0,
        received: 4 * SECOND,
        date: THEN,
    };
    let slow = keep(&on(), Asker::default(), 200, lines(&fields), slow).unwrap();
    assert_eq!(slow.age(4 * SECOND).as_secs(), 14);
    let fields = [
        ("cache-control", "max-age=60"),
        ("date", "Sun, 06 Nov 1994 08:49:07 GMT"),
    ];
    assert_eq!(kept(&fields).unwrap().age(0).as_secs(), 30);
}

#[test]
fn what_is_old_is_asked_about() {
    let fields = [("cache-control", "max-age=10"), ("etag", "\"a\"")];
    assert_eq!(use_at(&fields, 9), Use::Fresh);
    assert_eq!(use_at(&fields, 10), Use::Validate { if_error: false });
    let stale = [(
        "cache-control",
        "max-age=10, stale-while-revalidate=5, stale-if-error=20",
    )];
    assert_eq!(use_at(&stale, 14), Use::Stale);
    assert_eq!(use_at(&stale, 15), Use::Validate { if_error: true });
    assert_eq!(use_at(&stale, 30), Use::Validate { if_error: false });
    let strict = [
        (
            "cache-control",
            "max-age=10, must-revalidate, stale-while-revalidate=5, stale-if-error=20",
        ),
        ("etag", "\"a\""),
    ];
    assert_eq!(use_at(&strict, 12), Use::Validate { if_error: false });
    let always = [("cache-control", "no-cache, max-age=10"), ("etag", "\"a\"")];
    assert_eq!(use_at(&always, 0), Use::Validate { if_error: false });
}

#[test]
fn the_policys_times_are_for_what_says_none() {
    let policy = Cache {
        stale_while_revalidate: Duration::from_secs(5),
        stale_if_error: Duration::from_secs(20),
        ..on()
    };
    let use_of = |value| {
        let fields = [("cache-control", value)];
        let kept = keep(&policy, Asker::default(), 200, lines(&fields), at(0)).unwrap();
        kept.decide(&RequestControl::default(), 12 * SECOND)
    };
    assert_eq!(use_of("max-age=10"), Use::Stale);
    let own = use_of("max-age=10, stale-while-revalidate=1");
    assert_eq!(own, Use::Validate { if_error: true });
    assert_eq!(use_of("s-maxage=10"), Use::Validate { if_error: false });
    assert_eq!(use_of("s-maxage=10, stale-while-revalidate=5"), Use::Stale);
    assert_eq!(
        use_of("max-age=10, proxy-revalidate"),
        Use::Validate { if_error: false }
    );
}

#[test]
fn a_client_may_ask_for_something_younger() {
    let kept = kept(&[("cache-control", "max-age=60")]).unwrap();
    let asked = |value: &str| {
        let asked = RequestControl::read(&[value.as_bytes()], &[]);
        kept.decide(&asked, 30 * SECOND)
    };
    let not = Use::Validate { if_error: false };
    assert_eq!(asked("max-age=30"), Use::Fresh);
    assert_eq!(asked("max-age=29"), not);
    assert_eq!(asked("min-fresh=30"), Use::Fresh);
    assert_eq!(asked("min-fresh=31"), not);
    assert_eq!(asked("no-cache"), not);
    assert_eq!(asked("max-stale"), Use::Fresh);
}

#[test]
fn variants_are_told_by_the_fields_that_count() {
    let vary = Vary::read(&[b"Accept-Encoding, Host", b"accept-language,"]).unwrap();
    let key = |fields: &Fields<'_>| vary.key(lines(fields));
    let one = key(&[("accept-encoding", "gzip,br")]);
    assert_eq!(one, key(&[("accept-encoding", "gzip , br"), ("x", "y")]));
    assert_eq!(
        one,
        key(&[("accept-encoding", "gzip"), ("accept-encoding", "br")])
    );
    assert_ne!(one, key(&[("accept-encoding", "gzip")]));
    assert_ne!(one, key(&[("accept-language", "gzip,br")]));
    assert_ne!(key(&[]), key(&[("accept-encoding", "")]));
    for refused in [
        "*",
        "accept, *",
        "x-forwarded-for",
        "X-Real-IP",
        "range",
        "a b",
        "x_y",
    ] {
        assert_eq!(
            Vary::read(&[refused.as_bytes()]),
            Err(Refusal::Vary),
            "{refused}"
        );
    }
    assert_eq!(Vary::read(&[b"a,b,c,d,e,f,g,h,i"]), Err(Refusal::Vary));
    assert!(
        Vary::read(&[b"host, x-forwarded-proto"])
            .unwrap()
            .is_empty()
    );
}

#[test]
fn conditions_are_answered() {
    let fields = [
        ("etag", "W/\"a,b\""),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ];
    let fields = lines(&fields);
    let kept = Validators::of(&fields);
    let by_tag = |value: &str| kept.is_known(&[value.as_bytes()], &[]);
    for known in ["\"a,b\"", "W/\"a,b\"", "\"x\", W/\"a,b\"", "*"] {
        assert!(by_tag(known), "{known}");
    }
    for other in ["\"a\"", "a,b", "\"a", "w/\"a,b\""] {
        assert!(!by_tag(other), "{other}");
    }
    let since = |value: &str| kept.is_known(&[], &[value.as_bytes()]);
    assert!(since("Sun, 06 Nov 1994 08:49:37 GMT"));
    assert!(!since("Sun, 06 Nov 1994 08:49:36 GMT"));
    assert!(!since("yesterday"));
    // The tag decides where there is one.
    assert!(!kept.is_known(&[b"\"x\""], &[b"Sun, 06 Nov 1994 08:49:37 GMT"]));
    assert!(kept.has_range(&[]) && !kept.has_range(&[b"W/\"a,b\""]));
    let strong = [("etag", "\"a\"")];
    let strong = lines(&strong);
    let strong = Validators::of(&strong);
    assert!(strong.has_range(&[b"\"a\""]) && !strong.has_range(&[b"\"b\""]));
    let twice = [("etag", "\"a\""), ("etag", "\"b\"")];
    assert!(!Validators::of(&lines(&twice)).is_there());
}

#[test]
fn what_was_done_is_told() {
    let hit = CacheStatus {
        ttl: Some(-3),
        ..CacheStatus::default()
    };
    assert_eq!(hit.to_string(), "Nebula; hit; ttl=-3");
    let miss = CacheStatus {
        status: Some(200),
        stored: true,
        ..CacheStatus::forwarded(Forwarded::UriMiss)
    };
    assert_eq!(
        miss.to_string(),
        "Nebula; fwd=uri-miss; fwd-status=200; stored"
    );
}

/// Texts that look like directives.
fn directives() -> impl Strategy<Value = String> {
    let one = prop_oneof![
        Just("public".to_owned()),
        Just("private".to_owned()),
        Just("no-store".to_owned()),
        Just("no-cache".to_owned()),
        Just("must-revalidate".to_owned()),
        Just("foo=\"a, b\"".to_owned()),
        (0u64..200).prop_map(|s| format!("max-age={s}")),
        (0u64..200).prop_map(|s| format!("s-maxage={s}")),
        (0u64..200).prop_map(|s| format!("stale-while-revalidate={s}")),
        (0u64..200).prop_map(|s| format!("stale-if-error={s}")),
        "[a-z=\", ]{0,12}",
    ];
    prop::collection::vec(one, 0..5).prop_map(|all| all.join(", "))
}

proptest! {
    #[test]
    fn one_directive_more_never_allows_more_than_it_says(value in directives(), seconds in 0u64..500) {
        let with = |more: &str| {
            let fields = [("cache-control", format!("{value}, {more}"))];
            let fields: Vec<_> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
            keep(&on(), Asker::default(), 200, lines(&fields), at(0))
        };
        for never in ["no-store", "private"] {
            prop_assert!(with(never).is_err(), "{}", never);
        }
        if let Ok(kept) = with("must-revalidate") {
            let then = kept.decide(&RequestControl::default(), seconds * SECOND);
            let strict = then != Use::Stale && then != (Use::Validate { if_error: true });
            prop_assert!(strict);
        }
    }

    #[test]
    fn nothing_is_fresh_beyond_what_it_says(value in directives(), seconds in 0u64..500) {
        let fields = [("cache-control", value.as_str()), ("etag", "\"a\"")];
        let read = control(&value);
        if let Ok(kept) = kept(&fields) {
            let used = kept.decide(&RequestControl::default(), seconds * SECOND);
            let lifetime = read.s_maxage.or(read.max_age).unwrap_or(0);
            let longer = read.stale_while_revalidate.unwrap_or(0);
            match used {
                Use::Fresh => prop_assert!(seconds < u64::from(lifetime) && !read.no_cache),
                Use::Stale => prop_assert!(seconds < u64::from(lifetime) + u64::from(longer)),
                Use::Validate { if_error } => {
                    let longest = u64::from(lifetime) + u64::from(read.stale_if_error.unwrap_or(0));
                    prop_assert!(!if_error || seconds < longest);
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_taken(value in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = ResponseControl::read(&[&value]);
        let _ = RequestControl::read(&[&value], &[&value]);
        let _ = Vary::read(&[&value]);
        let fields = [("etag", "\"a\"")];
        let _ = Validators::of(&lines(&fields)).is_known(&[&value], &[&value]);
    }

    #[test]
    fn members_are_cut_at_commas_outside_of_quotes(parts in prop::collection::vec("[a-z]{1,5}(=\"[a-z, ]{0,5}\")?", 0..6)) {
        let text = parts.join(" , ");
        prop_assert_eq!(members(&text), Some(parts.iter().map(String::as_str).collect()));
    }

    #[test]
    fn keys_of_different_fields_differ(one in "[a-z]{0,4}", two in "[a-z]{0,4}", three in "[a-z]{0,4}", four in "[a-z]{0,4}") {
        let vary = Vary::read(&[b"a, b"]).unwrap();
        let key = |a: &str, b: &str| vary.key(lines(&[("a", a), ("b", b)]));
        prop_assert_eq!(key(&one, &two) == key(&three, &four), one == three && two == four);
    }
}
