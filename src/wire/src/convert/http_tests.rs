//! Policies there and back: as JSON, as they are told, and as the registry holds them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nebula_domain::http::HttpPolicy;
use nebula_domain::spec::{Service, Spec, StaticSite, Workload};
use proptest::prelude::*;

use super::{Passwords, policy, told_policy};
use crate::api::{Http, HttpRateLimit, HttpRule};
use crate::codec;

const ANN: &str = "ann:$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i";

/// A policy that says something in each of its fields.
const FULL: &str = r#"{
    "names": ["shop.a.test", "*.shop.a.test", "a.test/shop"],
    "rules": [
        {"host": "shop.a.test", "path": "/old", "redirect": "https://a.test/shop{rest}{query}", "code": 301},
        {"path": "/api", "methods": ["GET", "POST"], "headers": ["x-beta: on", "x-key"], "to": "api", "strip_prefix": true},
        {"path": "/gone", "status": 410, "body": "gone"},
        {"path": "/v1", "strip_prefix": true}
    ],
    "weights": {"r3": 90, "r4": 10},
    "https": "both",
    "limits": {"body": "10MiB", "head": "16KiB", "uri": "4KiB", "idle": "1m"},
    "deadlines": "per_try=10s whole=30s",
    "capacity": "per_instance=10 total=20 queue=5 wait=500ms",
    "rate_limits": [
        {"limit": "10r/s burst=20 nodelay"},
        {"limit": "60r/m burst=5", "key": "header x-api-key", "exempt": ["/health"], "cluster": true}
    ],
    "retry": "tries=2 budget=10% min_per_second=1 window=5s",
    "hedge": "after=200ms",
    "upstream": "h2c",
    "balance": "hash cookie sid",
    "sticky": "cookie=seat max_age=1h",
    "ejection": "max_fails=3 fail_timeout=30s max_ejected=50%",
    "breaker": "failures=40% window=10s min_requests=20 open=5s probes=3",
    "slow_start": "window=30s from=20%",
    "security": {"frame_options": "DENY", "xss_protection": "off", "hsts": "730d include_subdomains preload"},
    "cors": {"origins": ["https://app.test"], "methods": ["PUT"], "headers": ["x-key"], "expose": ["etag"],
        "credentials": true, "max_age": "1h"},
    "maintenance": {"on": true, "page": "<p>soon</p>", "retry_after": "1m", "exempt": ["10.0.0.0/8"]},
    "basic_auth": {"realm": "Staging", "users": ["ann:$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i"]},
    "addresses": {"allow": ["10.0.0.0/8", "2001:db8::/32"], "deny": ["10.1.2.3"]},
    "cache": {"on": true, "max_response": "2MiB", "default_ttl": "10s", "stale_while_revalidate": "1m",
        "stale_if_error": "1h"},
    "access_log": "json",
    "response_headers": ["x-team: shop"]
}"#;

fn full() -> Http {
    serde_json::from_str(FULL).unwrap()
}

fn read(wire: &Http) -> HttpPolicy {
    policy(wire, Passwords::Stored(&[])).unwrap()
}

fn spec(http: HttpPolicy, workload: Workload) -> Spec {
    Spec {
        http: Arc::new(http),
        ..Spec::new(workload, "a.test".parse().unwrap())
    }
}

fn site() -> Workload {
    Workload::Static(StaticSite { spa: true })
}

fn service() -> Workload {
    Workload::Service(Service {
        env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
        stop_grace: Duration::from_secs(1),
        ..Service::new("serve")
    })
}

#[test]
fn every_field_survives_being_told() {
    let wire = full();
    let read = read(&wire);
    let mut told = told_policy(&read);
    assert_eq!(told.basic_auth.users, ["ann"]);
    let stored = Passwords::Stored(&read.basic_auth.users);
    assert_eq!(policy(&told, stored).unwrap(), read);
    told.basic_auth.users = vec![ANN.to_owned()];
    assert_eq!(told, wire);
    let given: serde_json::Value = serde_json::from_str(FULL).unwrap();
    assert_eq!(serde_json::to_value(&wire).unwrap(), given);
    // Each field of the full policy differs from its default, so none was left out here.
    let empty = serde_json::to_value(Http::default()).unwrap();
    assert_eq!(empty, serde_json::json!({}));
}

#[test]
fn nothing_said_is_the_default() {
    assert_eq!(read(&Http::default()), HttpPolicy::default());
    assert!(told_policy(&HttpPolicy::default()).is_empty());
}

#[test]
fn switches_and_words_have_their_short_forms() {
    let wire: Http = serde_json::from_str(
        r#"{"sticky": "on", "breaker": "on", "slow_start": "on", "ejection": "off", "hedge": "off",
            "limits": {"body": "unlimited"}, "security": {"defaults": "off"}, "balance": "round-robin"}"#,
    )
    .unwrap();
    let read = read(&wire);
    assert!(read.sticky.is_some() && read.breaker.is_some() && read.slow_start.is_some());
    assert!(read.ejection.is_none() && read.hedge.is_none() && read.limits.body.is_none());
    assert_eq!(read.security.fields().count(), 0);
    let told = told_policy(&read);
    assert_eq!(told.security.defaults.as_deref(), Some("off"));
    assert_eq!(policy(&told, Passwords::Unseen).unwrap(), read);
}

#[test]
fn passwords_are_kept_and_never_told() {
    let mut wire = full();
    let read = read(&wire);
    let text = serde_json::to_string(&told_policy(&read)).unwrap();
    assert!(!text.contains("$2"), "{text}");
    assert!(!format!("{read:?}{wire:?}").contains("$2"));
    assert!(!wire.keeps_passwords());
    wire.basic_auth.users = vec!["ann".to_owned(), "bob".to_owned()];
    assert!(wire.keeps_passwords());
    let error = policy(&wire, Passwords::Stored(&read.basic_auth.users)).unwrap_err();
    assert_eq!(error.field, "basic_auth.users[1]");
    assert!(error.reason.contains("'bob'"), "{error}");
    assert!(policy(&wire, Passwords::Unseen).is_ok());
}

#[test]
fn errors_name_the_field_and_the_nearest_word() {
    for (json, field, word) in [
        (r#"{"names": ["a.test", "A.test"]}"#, "names[1]", "'a.test'"),
        (
            r#"{"rules": [{"methods": ["get"]}]}"#,
            "rules[0].methods[0]",
            "'GET'",
        ),
        (
            r#"{"rules": [{"to": "x", "status": 404}]}"#,
            "rules[0].status",
            "'to' already",
        ),
        (
            r#"{"rules": [{"code": 301}]}"#,
            "rules[0].code",
            "'redirect'",
        ),
        (r#"{"rules": [{"body": "x"}]}"#, "rules[0].body", "'status'"),
        (
            r#"{"rules": [{"status": 404, "strip_prefix": true}]}"#,
            "rules[0].strip_prefix",
            "'to'",
        ),
        (
            r#"{"rules": [{"redirect": "/x", "code": 303}]}"#,
            "rules[0].code",
            "301",
        ),
        (
            r#"{"rules": [{"status": 301}]}"#,
            "rules[0].status",
            "'redirect'",
        ),
        (r#"{"weights": {"3": 1}}"#, "weights", "r3"),
        (r#"{"https": "onn"}"#, "https", "'on'"),
        (r#"{"limits": {"body": "10MB"}}"#, "limits.body", "'10MiB'"),
        (r#"{"limits": {"idle": "5"}}"#, "limits.idle", "30s"),
        (
            r#"{"rate_limits": [{"limit": "10r/s bust=2"}]}"#,
            "rate_limits[0].limit",
            "'burst'",
        ),
        (r#"{"balance": "roundrobin"}"#, "balance", "'round-robin'"),
        (r#"{"ejection": "maxfails=3"}"#, "ejection", "'max_fails'"),
        (
            r#"{"security": {"hsts": "180d preloaded"}}"#,
            "security.hsts",
            "'preload'",
        ),
        (
            r#"{"security": {"defaults": "no"}}"#,
            "security.defaults",
            "'off'",
        ),
        (
            r#"{"cors": {"origins": ["https://a.test/"]}}"#,
            "cors.origins[0]",
            "'https://a.test'",
        ),
        (
            r#"{"basic_auth": {"users": ["ann:secret"]}}"#,
            "basic_auth.users[0]",
            "bcrypt",
        ),
        (
            r#"{"addresses": {"allow": ["10.1.1.1/8"]}}"#,
            "addresses.allow[0]",
            "'10.0.0.0/8'",
        ),
        (r#"{"access_log": "jsn"}"#, "access_log", "'json'"),
        (
            r#"{"response_headers": ["x-a"]}"#,
            "response_headers[0]",
            "Name: value",
        ),
    ] {
        let wire: Http = serde_json::from_str(json).unwrap();
        let error = policy(&wire, Passwords::Stored(&[])).expect_err(json);
        assert_eq!(error.field, field, "{json}: {error}");
        assert!(error.reason.contains(word), "{json}: {error}");
        assert!(!error.reason.contains("secret"), "{error}");
    }
    let unknown = serde_json::from_str::<Http>(r#"{"nmaes": []}"#).unwrap_err();
    assert!(
        unknown.to_string().contains("unknown field `nmaes`"),
        "{unknown}"
    );
}

#[test]
fn what_has_its_default_takes_a_byte_and_is_shared() {
    for workload in [site(), service()] {
        let plain = spec(HttpPolicy::default(), workload.clone());
        let alone = codec::encode(&(workload, &plain.tld)).unwrap();
        let bytes = codec::encode(&plain).unwrap();
        // The policy, the strategy and the hooks.
        assert_eq!(bytes.len(), alone.len() + 3);
        let again: Spec = codec::decode(&bytes).unwrap();
        assert_eq!(again, plain);
        assert!(Arc::ptr_eq(&again.http, &HttpPolicy::shared()));
    }
}

#[test]
fn stored_policies_are_read_again() {
    for workload in [site(), service()] {
        let spec = spec(read(&full()), workload);
        let bytes = codec::encode(&spec).unwrap();
        assert_eq!(codec::decode::<Spec>(&bytes).unwrap(), spec);
    }
}

fn pick(values: &'static [&'static str]) -> impl Strategy<Value = Option<String>> {
    prop::option::of(prop::sample::select(values).prop_map(str::to_owned))
}

fn some(values: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::sample::subsequence(values, 0..=values.len())
        .prop_map(|some| some.into_iter().map(str::to_owned).collect())
}

fn any_rule() -> impl Strategy<Value = HttpRule> {
    let conditions = (
        pick(&["a.test", "*.a.test"]),
        pick(&["/a", "/a/b/", "/"]),
        some(&["GET", "PURGE"]),
        some(&["x-a", "X-B: c"]),
    );
    let action = prop_oneof![
        (pick(&["api"]), any::<bool>()).prop_map(|(to, strip_prefix)| HttpRule {
            to,
            strip_prefix,
            ..HttpRule::default()
        }),
        (prop::option::of(prop::sample::select(vec![301, 302, 307, 308]))).prop_map(|code| {
            HttpRule {
                redirect: Some("/x{rest}{query}".to_owned()),
                code,
                ..HttpRule::default()
            }
        }),
        pick(&["", "gone"]).prop_map(|body| HttpRule {
            status: Some(410),
            body,
            ..HttpRule::default()
        }),
    ];
    (conditions, action).prop_map(|((host, path, methods, headers), action)| HttpRule {
        host,
        path,
        methods,
        headers,
        ..action
    })
}

proptest! {
    /// Whatever is taken is told so that it is taken again, and is stored and read again.
    #[test]
    fn policies_read_back_what_they_tell(
        names in some(&["a.test", "*.a.test", "b.test/x/y", "b.test/"]),
        rules in prop::collection::vec(any_rule(), 0..4),
        (deadlines, capacity, retry, hedge) in (
            pick(&["per_try=1s", "whole=61s"]), pick(&["queue=0"]), pick(&["tries=1"]), pick(&["off", "after=1ms"])),
        (balance, sticky, ejection, breaker, slow_start) in (
            pick(&["power-of-two", "hash address"]), pick(&["on", "off"]), pick(&["on", "off", "max_fails=1"]),
            pick(&["on", "off"]), pick(&["on", "off"])),
        (body, idle) in (pick(&["unlimited", "0", "5KiB", "1024m"]), pick(&["1h", "10m"])),
        (defaults, frame, hsts) in (pick(&["on", "off"]), pick(&["off", "DENY", "SAMEORIGIN"]), pick(&["off", "1d", "180d"])),
        limits in some(&["1r/s", "5r/h burst=9 nodelay"]),
        (https, upstream, access_log) in (pick(&["on", "off"]), pick(&["h2c"]), pick(&["combined"])),
    ) {
        let limit = |limit: String| HttpRateLimit { limit, ..HttpRateLimit::default() };
        let mut wire = Http {
            names, rules, deadlines, capacity, retry, hedge, balance, sticky, ejection, breaker, slow_start,
            https, upstream, access_log, rate_limits: limits.into_iter().map(limit).collect(),
            ..Http::default()
        };
        wire.limits.body = body;
        wire.limits.idle = idle;
        wire.security.defaults = defaults;
        wire.security.frame_options = frame;
        wire.security.hsts = hsts;
        if let Ok(read) = policy(&wire, Passwords::Stored(&[])) {
            let told = told_policy(&read);
            prop_assert_eq!(policy(&told, Passwords::Stored(&[])).unwrap(), read.clone());
            let json = serde_json::to_string(&told).unwrap();
            prop_assert_eq!(serde_json::from_str::<Http>(&json).unwrap(), told);
            let spec = spec(read, site());
            prop_assert_eq!(codec::decode::<Spec>(&codec::encode(&spec).unwrap()).unwrap(), spec);
        }
    }
}
