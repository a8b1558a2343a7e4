//! Policies as wholes: their defaults, their checks.

use std::time::Duration;

use super::*;

fn refused(field: &str, change: impl FnOnce(&mut HttpPolicy)) {
    let mut policy = HttpPolicy::default();
    change(&mut policy);
    match policy.check() {
        Ok(()) => panic!("{field} is taken"),
        Err(error) => assert_eq!(error.field, field, "{error}"),
    }
}

fn forward() -> Rule {
    Rule::default()
}

#[test]
fn the_default_policy_is_legal_and_shared() {
    assert_eq!(HttpPolicy::default().check(), Ok(()));
    assert!(Arc::ptr_eq(&HttpPolicy::shared(), &HttpPolicy::shared()));
    assert_eq!(*HttpPolicy::shared(), HttpPolicy::default());
}

#[test]
fn errors_name_the_field() {
    refused("names[1]", |p| p.names = vec!["a.test".parse().unwrap(); 2]);
    refused("names", |p| {
        p.names = (0..129)
            .map(|i| format!("a{i}.test").parse().unwrap())
            .collect();
    });
    refused("rules", |p| p.rules = vec![forward(); 129]);
    refused("rules[1].strip_prefix", |p| {
        let strip = Rule {
            action: Action::Forward {
                to: None,
                strip_prefix: true,
            },
            ..forward()
        };
        p.rules = vec![forward(), strip];
    });
    refused("weights.r1", |p| {
        p.weights.0 = [(crate::ReleaseNumber(1), 99_999)].into()
    });
    refused("limits.head", |p| p.limits.head = ByteSize::mib(1));
    refused("limits.head", |p| p.limits.head = ByteSize(100));
    refused("limits.uri", |p| p.limits.uri = ByteSize::kib(33));
    refused("limits.idle", |p| p.limits.idle = Duration::ZERO);
    refused("deadlines", |p| {
        p.deadlines.per_try = Duration::from_secs(121)
    });
    refused("capacity", |p| p.capacity.total = 0);
    refused("retry", |p| p.retry.tries = 0);
    let limit = || RateRule::by_address("10r/s".parse().unwrap());
    refused("rate_limits", |p| p.rate_limits = vec![limit(); 9]);
    refused("rate_limits[0].exempt", |p| {
        p.rate_limits = vec![RateRule {
            exempt: vec![PathPrefix::root()],
            ..limit()
        }];
    });
    refused("rate_limits[1].limit", |p| {
        let mut never = limit();
        never.limit.requests = 0;
        p.rate_limits = vec![limit(), never];
    });
    refused("security.hsts", |p| {
        p.security.hsts = Some(Hsts {
            preload: true,
            ..Hsts::default()
        });
    });
    refused("cors.credentials", |p| {
        p.cors.origins = vec![Origin::Any];
        p.cors.credentials = true;
    });
    refused("maintenance.page", |p| {
        p.maintenance.page = "x".repeat(17_000)
    });
    refused("maintenance.retry_after", |p| {
        p.maintenance.retry_after = Duration::ZERO
    });
    refused("basic_auth.realm", |p| {
        p.basic_auth.realm = "a \"b\"".parse().unwrap()
    });
    refused("addresses.deny", |p| {
        p.addresses.deny = vec!["10.0.0.0/8".parse().unwrap(); 257];
    });
    refused("cache.max_response", |p| {
        p.cache.max_response = ByteSize::gib(1)
    });
    refused("response_headers", |p| {
        p.response_headers = vec!["x-a: b".parse().unwrap(); 33];
    });
}

#[test]
fn all_texts_together_are_bounded() {
    let page = Rule {
        action: Action::Status {
            code: 410.try_into().unwrap(),
            body: "x".repeat(16_000),
        },
        ..forward()
    };
    let mut policy = HttpPolicy {
        rules: vec![page.clone(); 3],
        ..HttpPolicy::default()
    };
    assert_eq!(policy.check(), Ok(()));
    policy.rules.push(page);
    let error = policy.check().unwrap_err().to_string();
    assert!(error.contains("http_bytes"), "{error}");
}

#[test]
fn maintenance_lets_some_through() {
    let maintenance = Maintenance {
        on: true,
        exempt: vec!["10.0.0.0/8".parse().unwrap()],
        ..Maintenance::default()
    };
    assert!(maintenance.stops("192.0.2.1".parse().unwrap()));
    assert!(!maintenance.stops("10.1.1.1".parse().unwrap()));
    assert!(!Maintenance::default().stops("192.0.2.1".parse().unwrap()));
}

#[test]
fn exempt_paths_do_not_count() {
    let limit = RateRule {
        exempt: vec!["/health".parse().unwrap()],
        ..RateRule::by_address("1r/s".parse().unwrap())
    };
    assert!(limit.counts("/") && limit.counts("/healthy"));
    assert!(!limit.counts("/health") && !limit.counts("/health/db"));
}
