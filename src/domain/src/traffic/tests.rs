//! The settings' text forms: what they read, that they read back what they show, and what they refuse.

use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::time::Duration;

use proptest::prelude::*;

use super::balance::{Balance, HashKey};
use super::breaker::BreakerPolicy;
use super::ejection::EjectionPolicy;
use super::rate::{Per, RateKey, RateLimit};
use super::retry::{Deadlines, Hedge, RetryPolicy};
use super::shed::Capacity;
use super::slow_start::SlowStart;
use super::sticky::StickyPolicy;
use super::{TrafficError, parse_switch, retry_after_seconds, show_switch};
use crate::text::Percent;

#[track_caller]
fn reads_back<T>(value: T)
where
    T: Display + FromStr<Err = TrafficError> + PartialEq + Debug,
{
    assert_eq!(value.to_string().parse().as_ref(), Ok(&value));
}

#[track_caller]
fn refused<T: FromStr<Err = TrafficError> + Debug>(text: &str, reason: &str) {
    let error = text.parse::<T>().unwrap_err().to_string();
    assert!(error.contains(reason), "{text}: {error}");
}

#[test]
fn defaults_are_legal_and_read_back() {
    reads_back(EjectionPolicy::default());
    reads_back(BreakerPolicy::default());
    reads_back(SlowStart::default());
    reads_back(RetryPolicy::default());
    reads_back(Deadlines::default());
    reads_back(Balance::default());
    reads_back(StickyPolicy::default());
    reads_back(Capacity::default());
    reads_back(RateKey::default());
}

#[test]
fn rates_are_read_as_nginx_writes_them() {
    let limit = |requests, per, burst, nodelay| RateLimit {
        requests,
        per,
        burst,
        nodelay,
    };
    assert_eq!("10r/s".parse(), Ok(limit(10, Per::Second, 0, false)));
    assert_eq!(
        "10r/s burst=20 nodelay".parse(),
        Ok(limit(10, Per::Second, 20, true))
    );
    assert_eq!(
        "  60r/m\tburst=5 ".parse(),
        Ok(limit(60, Per::Minute, 5, false))
    );
    refused::<RateLimit>("", "'10r/s burst=20 nodelay'");
    refused::<RateLimit>("10/s", "is not a rate limit");
    refused::<RateLimit>("10r/d", "is not a rate limit");
    refused::<RateLimit>("0r/s", "at least 1");
    refused::<RateLimit>("2000000r/s", "traffic_count");
    refused::<RateLimit>("10r/s busrt=20", "did you mean 'burst'?");
    refused::<RateLimit>("10r/s burst=x", "a whole number");
    refused::<RateLimit>("10r/s nodelay=1", "it takes none");
    refused::<RateLimit>("10r/s burst=1 burst=2", "twice");
    refused::<RateLimit>("1r/m burst=100", "add 'nodelay'");
    reads_back(limit(1, Per::Minute, 100, true));
}

#[test]
fn words_and_times_are_read() {
    let ejection: EjectionPolicy = "max_fails=3 fail_timeout=30s".parse().unwrap();
    assert_eq!(ejection.fail_timeout, Duration::from_secs(30));
    assert_eq!(ejection.max_ejected, EjectionPolicy::default().max_ejected);
    refused::<EjectionPolicy>("max_fails=0", "at least 1");
    refused::<EjectionPolicy>("maxfails=3", "did you mean 'max_fails'?");
    refused::<EjectionPolicy>("fail_timeout=30", "a time");
    refused::<EjectionPolicy>("fail_timeout=2h", "traffic_window");
    refused::<EjectionPolicy>("max_ejected=101%", "0% to 100%");
    refused::<BreakerPolicy>("failures=0%", "at least 1");
    refused::<SlowStart>("30s", "window=30s");
    refused::<RetryPolicy>("tries=11", "tries");
    refused::<Deadlines>("whole=0", "at least 1ms");
    refused::<Deadlines>("whole=2d", "request_time");
    assert!("whole=12h".parse::<Deadlines>().is_ok());
    refused::<Hedge>("after=0", "at least 1ms");
    refused::<Capacity>("per_instance=0", "at least 1");
    refused::<Capacity>("wait=2m", "queue_wait");
    refused::<StickyPolicy>("cookie=a;b", "RFC 9110");
    refused::<StickyPolicy>("max_age=1ms", "at least 1s");
    refused::<StickyPolicy>(&"x".repeat(10_000), "traffic_setting_bytes");
}

#[test]
fn policies_and_keys_are_read() {
    let header = |name: &str| Balance::Hash(HashKey::Header(name.to_owned()));
    assert_eq!("hash header X-User".parse(), Ok(header("x-user")));
    assert_eq!("power-of-two".parse(), Ok(Balance::PowerOfTwo));
    reads_back(Balance::RoundRobin);
    reads_back(Balance::LeastConnections);
    reads_back(Balance::Hash(HashKey::Address));
    reads_back(Balance::Hash(HashKey::Cookie("SID".to_owned())));
    refused::<Balance>("round_robin", "did you mean 'round-robin'?");
    refused::<Balance>("hash heder X", "did you mean 'header'?");
    refused::<Balance>("hash header", "is not a balancing policy");
    refused::<Balance>("hash header a:b", "RFC 9110");
    refused::<Balance>("", "is not a balancing policy");
    reads_back(RateKey::Deployment);
    reads_back(RateKey::Header("x-api-key".to_owned()));
    refused::<RateKey>("adress", "did you mean 'address'?");
    refused::<RateKey>("header", "is not what a rate limit counts by");
}

#[test]
fn off_is_off() {
    assert_eq!(parse_switch::<BreakerPolicy>(" off "), Ok(None));
    let on = parse_switch::<BreakerPolicy>("probes=1").unwrap();
    assert_eq!(on.map(|policy| policy.probes), Some(1));
    assert_eq!(show_switch::<BreakerPolicy>(None), "off");
    assert_eq!(show_switch(Some(&Balance::RoundRobin)), "round-robin");
}

#[test]
fn retry_after_is_whole_seconds() {
    let seconds = |ms| retry_after_seconds(Duration::from_millis(ms));
    assert_eq!([0, 1, 1_000, 1_001].map(seconds), [1, 1, 1, 2]);
}

fn window() -> impl Strategy<Value = Duration> {
    (1u64..=3_600_000).prop_map(Duration::from_millis)
}

fn percent() -> impl Strategy<Value = Percent> {
    (1u8..=100).prop_map(Percent::capped)
}

proptest! {
    #[test]
    fn legal_settings_read_back(
        (count, small, other) in (1u32..=1_000_000, 1u32..=10, 0u32..=1_000_000),
        (a, b) in (window(), window()),
        share in percent(),
        nodelay: bool,
    ) {
        let rate = RateLimit { requests: count, per: Per::Hour, burst: other, nodelay };
        if rate.check().is_ok() {
            reads_back(rate);
        }
        reads_back(EjectionPolicy { max_fails: count, fail_timeout: a, max_ejected: share });
        reads_back(BreakerPolicy { failures: share, window: a, min_requests: count, open: b, probes: small });
        reads_back(SlowStart { window: a, from: share });
        reads_back(RetryPolicy { tries: small, budget: share, min_per_second: other, window: a });
        reads_back(Deadlines { per_try: a, whole: b });
        reads_back(Hedge { after: a });
        reads_back(Capacity { per_instance: count, total: count, queue: other, wait: a.min(Duration::from_secs(60)) });
        reads_back(StickyPolicy { cookie: "a".to_owned(), max_age: Duration::from_secs(u64::from(other)) });
    }

    #[test]
    fn no_text_breaks_a_reader(text in "([a-z_]{1,12}(=[0-9a-z%]{0,8})? ?){0,6}|\\PC{0,60}") {
        let _ = (text.parse::<RateLimit>(), text.parse::<RateKey>(), text.parse::<EjectionPolicy>());
        let _ = (text.parse::<BreakerPolicy>(), text.parse::<SlowStart>(), text.parse::<RetryPolicy>());
        let _ = (text.parse::<Deadlines>(), text.parse::<Hedge>(), text.parse::<Balance>());
        let _ = (text.parse::<StickyPolicy>(), text.parse::<Capacity>());
    }
}
