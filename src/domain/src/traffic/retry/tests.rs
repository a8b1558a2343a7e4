//! What may be repeated, until when, and that retries stay within their budget.

use proptest::prelude::*;

use super::*;

const SECOND: Nanos = 1_000_000_000;

#[test]
fn what_may_be_repeated() {
    use Failure::{Broken, Connect, Refused, Silent};
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
        assert!(is_repeatable(method.as_bytes(), || false), "{method}");
        let changes = ["PUT", "DELETE"].contains(&method);
        assert_eq!(is_safe(method.as_bytes()), !changes, "{method}");
    }
    for method in ["POST", "PATCH", "CONNECT", "get", "QUERY", ""] {
        assert!(!is_repeatable(method.as_bytes(), || false), "{method}");
        assert!(is_repeatable(method.as_bytes(), || true), "{method}");
        assert!(!is_safe(method.as_bytes()), "{method}");
    }
    for failure in [Connect, Refused, Broken, Silent] {
        assert!(may_repeat(true, Body::Whole, failure));
        assert!(!may_repeat(true, Body::Gone, failure));
        let did_nothing = matches!(failure, Connect | Refused);
        assert_eq!(may_repeat(false, Body::Whole, failure), did_nothing);
        assert!(!may_repeat(false, Body::Gone, failure));
    }
}

#[test]
fn tries_end_by_number_time_or_budget() {
    let policy: RetryPolicy = "tries=2 budget=0% min_per_second=1 window=1s"
        .parse()
        .unwrap();
    let deadlines: Deadlines = "per_try=2s whole=3s".parse().unwrap();
    let budget = Budget::default();
    let again = |tries: &Tries, now| tries.again(&policy, &deadlines, &budget, true, now);

    let mut tries = Tries::new(10 * SECOND);
    assert_eq!(tries.begin(&deadlines, 10 * SECOND), Some(12 * SECOND));
    assert_eq!(
        tries.again(&policy, &deadlines, &budget, false, 11 * SECOND),
        Err(GiveUp::NotRepeatable)
    );
    assert_eq!(again(&tries, 13 * SECOND), Err(GiveUp::TimeOver));
    assert_eq!(again(&tries, 12 * SECOND), Ok(()));
    // What is left of the whole time is less than that of a try.
    assert_eq!(tries.begin(&deadlines, 12 * SECOND), Some(13 * SECOND));
    assert_eq!(again(&tries, 12 * SECOND), Err(GiveUp::TriesOver));
    assert_eq!(tries.begin(&deadlines, 13 * SECOND), None);
    assert_eq!(tries.begun(), 2);

    let mut other = Tries::new(12 * SECOND);
    assert!(other.begin(&deadlines, 12 * SECOND).is_some());
    assert_eq!(again(&other, 12 * SECOND), Err(GiveUp::BudgetSpent));
    assert_eq!(again(&other, 13 * SECOND), Ok(()));
}

#[test]
fn one_hangs_that_is_unheard_of_for_far_more_than_the_wait() {
    let unheard = |after: &str, deadlines: &str| {
        let hedge: Hedge = after.parse().unwrap();
        hedge.unheard_max(&deadlines.parse().unwrap())
    };
    let seconds = Duration::from_secs;
    assert_eq!(unheard("after=200ms", "per_try=60s whole=2m"), seconds(2));
    assert_eq!(unheard("after=1ms", "per_try=60s whole=2m"), seconds(1));
    assert_eq!(unheard("after=20s", "per_try=60s whole=2m"), seconds(60));
    let short = unheard("after=20ms", "per_try=100ms whole=2s");
    assert_eq!(short, Duration::from_millis(100));
}

#[test]
fn requests_earn_retries_for_a_while() {
    let policy: RetryPolicy = "budget=20% min_per_second=0 window=10s".parse().unwrap();
    let budget = Budget::default();
    assert!(!budget.withdraw(&policy, 0));
    (0..100).for_each(|_| budget.deposit(&policy, 0));
    let granted = (0..100)
        .filter(|_| budget.withdraw(&policy, SECOND))
        .count();
    assert_eq!(granted, 20);
    (0..100).for_each(|_| budget.deposit(&policy, 20 * SECOND));
    assert!(budget.withdraw(&policy, 20 * SECOND));
    assert!(
        !budget.withdraw(&policy, 40 * SECOND),
        "what was earned is over"
    );
}

proptest! {
    /// When everything fails and all ask for a retry, load grows by the budget and no more.
    #[test]
    fn a_storm_of_retries_is_bounded(
        per_second in 1u64..500,
        percent in 0u8..=100,
        reserve in 0u32..20,
    ) {
        let policy = RetryPolicy { tries: 10, budget: Percent::capped(percent), min_per_second: reserve, ..RetryPolicy::default() };
        let budget = Budget::default();
        let (mut requests, mut retries) = (0u64, 0u64);
        for step in 0..60 * per_second {
            let now = step * SECOND / per_second;
            requests += 1;
            budget.deposit(&policy, now);
            while budget.withdraw(&policy, now) {
                retries += 1;
            }
        }
        // Of each window's ten parts the oldest is dropped as a whole: a ninth more can be granted.
        let most = (policy.budget.of(requests) + 70 * u64::from(reserve)) * 10 / 9 + 10;
        prop_assert!(retries <= most, "{retries} of {requests}, at most {most}");
    }
}
