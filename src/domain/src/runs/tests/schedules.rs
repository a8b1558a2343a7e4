//! When schedules are due, and that no due time is lost.

use proptest::prelude::*;

use super::*;
use crate::runs::{COUNTED_MAX, Cause, RUNS_OPEN_MAX, RunState, Schedule, Verdict, told};
use crate::spec::{Concurrency, Cron};

fn schedule(cron: &str, zone: &str) -> Schedule {
    Schedule {
        cron: cron.to_owned(),
        time_zone: zone.to_owned(),
    }
}

fn at(text: &str) -> Millis {
    let time = chrono::DateTime::parse_from_rfc3339(text).unwrap();
    Millis(u64::try_from(time.timestamp_millis()).unwrap())
}

fn next(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let read = schedule(cron, zone).read().unwrap();
    let mut after = at(after);
    let mut found = Vec::new();
    for _ in 0..count {
        after = read.next(after).unwrap();
        found.push(told(after));
    }
    found
}

#[test]
fn the_syntax_of_cron_is_read() {
    let first = |cron| next(cron, "UTC", "2026-01-31T10:00:00Z", 1).remove(0);
    for (cron, expected) in [
        ("0 3 * * *", "2026-02-01T03:00:00Z"),
        ("*/15 * * * *", "2026-01-31T10:15:00Z"),
        ("5,10-12/2 * * * *", "2026-01-31T10:05:00Z"),
        ("0 0 * * mon", "2026-02-02T00:00:00Z"),
        ("0 0 1 feb *", "2026-02-01T00:00:00Z"),
        ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
        ("0 0 L * *", "2026-02-28T00:00:00Z"),
        ("@hourly", "2026-01-31T11:00:00Z"),
        ("@daily", "2026-02-01T00:00:00Z"),
        ("@weekly", "2026-02-01T00:00:00Z"),
        ("@monthly", "2026-02-01T00:00:00Z"),
        ("@yearly", "2027-01-01T00:00:00Z"),
        ("*/20 * * * * *", "2026-01-31T10:00:20Z"),
    ] {
        assert_eq!(first(cron), expected, "{cron}");
        schedule(cron, "UTC").check().unwrap();
    }
    for bad in [
        "",
        "0 3 * *",
        "60 * * * *",
        "0 24 * * *",
        "0 0 30 2 *",
        "0 0 * * someday",
        "@reboot",
        "@never",
        "1 2 3 4 5 6 7",
        &"0,".repeat(200),
    ] {
        assert!(schedule(bad, "UTC").check().is_err(), "{bad}");
    }
    assert!(schedule("@daily", "Mars/Olympus").check().is_err());
}

/// 2026 in Berlin: from 02:00 to 03:00 on 29 March, from 03:00 back to 02:00 on 25 October.
#[test]
fn a_time_that_the_clock_leaves_out_comes_right_after() {
    let found = next("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
    assert_eq!(found, ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
    // What follows the clock on the wall has no half past two on that day.
    let found = next("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:30:00Z", 2);
    assert_eq!(found, ["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]);
}

#[test]
fn due_times_are_whole_seconds_whenever_somebody_looks() {
    let read = schedule("0 3 * * *", "UTC").read().unwrap();
    let odd = Millis(at("2026-01-31T10:00:00Z").0 + 347);
    assert_eq!(read.next(odd), Some(at("2026-02-01T03:00:00Z")));
    let just_before = Millis(at("2026-02-01T03:00:00Z").0 - 1);
    assert_eq!(read.next(just_before), Some(at("2026-02-01T03:00:00Z")));
}

#[test]
fn a_time_that_comes_twice_counts_once() {
    let found = next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
    assert_eq!(found, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    let found = next("*/30 2 * * *", "Europe/Berlin", "2026-10-24T22:00:00Z", 4);
    assert_eq!(
        found,
        [
            "2026-10-25T00:00:00Z",
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T01:30:00Z"
        ]
    );
    // Whoever looks in the second pass sees what is left of it.
    let found = next("*/30 * * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 3);
    assert_eq!(
        found,
        [
            "2026-10-25T01:30:00Z",
            "2026-10-25T02:00:00Z",
            "2026-10-25T02:30:00Z"
        ]
    );
    let found = next("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1);
    assert_eq!(found, ["2026-10-26T01:30:00Z"]);
    // New York, with its own dates.
    let found = next("0 3 * * *", "America/New_York", "2026-03-07T12:00:00Z", 2);
    assert_eq!(found, ["2026-03-08T07:00:00Z", "2026-03-09T07:00:00Z"]);
}

fn cron(text: &str, concurrency: Concurrency, starting_deadline: u64) -> Spec {
    spec_of(Kind::Cron(Cron {
        schedule: schedule(text, "UTC"),
        concurrency,
        starting_deadline: Duration::from_secs(starting_deadline),
        limits: RunLimits::default(),
    }))
}

/// Every minute; the cluster's time begins at 00:16:40.
fn every_minute(concurrency: Concurrency, starting_deadline: u64) -> World {
    let mut world = World::new(3);
    world
        .sim
        .create("tick", cron("* * * * *", concurrency, starting_deadline), 1);
    world.now = NOW;
    world.settle();
    assert!(world.work("tick").runs.is_empty());
    world
}

fn states(world: &World) -> Vec<&'static str> {
    let of = |run: &Run| match &run.state {
        RunState::Pending { .. } => "pending",
        RunState::Running => "running",
        RunState::Ending(_) => "ending",
        RunState::Over { verdict, .. } => match verdict {
            Verdict::Succeeded => "succeeded",
            Verdict::Failed { .. } => "failed",
            Verdict::Missed { .. } => "missed",
            Verdict::Cancelled { .. } => "cancelled",
        },
    };
    world.work("tick").runs.iter().map(of).collect()
}

#[test]
fn it_runs_when_it_is_due_and_not_before() {
    let mut world = every_minute(Concurrency::Forbid, 60);
    let due = world.work("tick").cursor.unwrap().next.unwrap();
    assert_eq!(due, Millis(1_020_000));
    world.now = Millis(due.0 - 1);
    world.settle();
    assert!(world.programs.is_empty());
    world.now = due;
    world.settle();
    assert_eq!(states(&world), ["running"]);
    assert_eq!(world.run("tick", 1).cause, Cause::Cron { due });
    world.end("tick", 1, exit(0));
    world.settle();
    world.pass(Duration::from_secs(60));
    world.settle();
    assert_eq!(states(&world), ["succeeded", "running"]);
}

#[test]
fn forbid_leaves_out_allow_runs_beside_replace_ends_the_earlier() {
    for (concurrency, expected) in [
        (Concurrency::Forbid, vec!["running", "missed"]),
        (Concurrency::Allow, vec!["running", "running"]),
        (Concurrency::Replace, vec!["cancelled", "running"]),
    ] {
        let mut world = every_minute(concurrency, 60);
        for _ in 0..2 {
            world.pass(Duration::from_secs(60));
            world.settle();
        }
        assert_eq!(states(&world), expected, "{concurrency}");
    }
    let mut world = every_minute(Concurrency::Allow, 60);
    for _ in 0..RUNS_OPEN_MAX + 2 {
        world.pass(Duration::from_secs(60));
        world.settle();
    }
    assert_eq!(
        states(&world).iter().filter(|s| **s == "running").count(),
        RUNS_OPEN_MAX
    );
    assert_eq!(states(&world).last(), Some(&"missed"));
}

#[test]
fn after_an_outage_the_latest_runs_late_and_the_others_are_told() {
    let mut world = every_minute(Concurrency::Forbid, 30);
    // Ten minutes, the last of them 20 s ago.
    world.now = Millis(1_020_000 + 9 * 60_000 + 20_000);
    world.settle();
    assert_eq!(states(&world), ["missed", "running"]);
    let why = world
        .run("tick", 1)
        .verdict()
        .unwrap()
        .why()
        .unwrap()
        .to_owned();
    assert_eq!(
        why,
        "9 times passed from 1970-01-01T00:17:00Z to 1970-01-01T00:25:00Z"
    );
    // The next outage ends too late for any.
    world.end("tick", 2, exit(0));
    world.now = Millis(world.now.0 + 20_000 + 60_000 + 31_000 - 20_000);
    world.settle();
    let last = world.work("tick");
    let last = last.latest().unwrap().clone();
    assert!(
        matches!(last.verdict(), Some(Verdict::Missed { .. })),
        "{last:?}"
    );
}

#[test]
fn a_year_of_seconds_is_told_without_being_counted() {
    let read = schedule("* * * * * *", "UTC").read().unwrap();
    let first = at("2025-01-01T00:00:00Z");
    let now = at("2026-01-01T00:00:00Z");
    let come = read.come(first, now, Duration::from_secs(60));
    let missed = come.missed.unwrap();
    assert_eq!((missed.count, missed.first), (COUNTED_MAX, first));
    assert_eq!(come.due, Some(now));
    assert_eq!(missed.last, Millis(now.0 - 1_000));
    assert_eq!(come.next, Some(Millis(now.0 + 1_000)));
}

#[test]
fn a_newer_release_is_followed_from_its_own_beginning() {
    let mut world = every_minute(Concurrency::Forbid, 60);
    world.sim.ok(Command::UpdateDeployment {
        name: name("tick"),
        based_on: None,
        spec: Some(cron("30 * * * * *", Concurrency::Forbid, 60)),
        artifact: crate::Digest([3; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: world.now,
    });
    world.settle();
    let next = world.work("tick").cursor.unwrap().next.unwrap();
    assert_eq!(told(next), "1970-01-01T00:17:30Z");
    let refused = world.sim.run(Command::UpdateDeployment {
        name: name("tick"),
        based_on: None,
        spec: Some(crate::testing::service_spec()),
        artifact: crate::Digest([3; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: world.now,
    });
    assert!(matches!(refused, Err(Rejection::OtherType { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever leaders are lost and however late they look, each due time is run or told as missed, and once.
    #[test]
    fn no_due_time_is_lost(
        looks in prop::collection::vec((1u64..400_000, 0usize..3), 1..60),
        late in 0u64..300,
    ) {
        let mut world = World::new(3);
        world.sim.create("tick", cron("* * * * *", Concurrency::Allow, late), 1);
        let (mut run, mut told) = (0u64, 0u64);
        let account = |commands: Vec<Command>, run: &mut u64, told: &mut u64| {
            for command in commands {
                let Command::TickCron { come, .. } = command else { continue };
                *run += u64::from(come.due.is_some());
                *told += come.missed.map_or(0, |missed| u64::from(missed.count));
            }
        };
        for (pause, steps) in looks {
            world.pass(Duration::from_millis(pause));
            let taken = world.lead(steps);
            account(taken, &mut run, &mut told);
            world.sim.step();
            world.obey();
            for end in world.programs.values_mut() {
                end.get_or_insert(exit(0));
            }
        }
        for _ in 0..3 {
            let taken = world.lead(usize::MAX);
            account(taken, &mut run, &mut told);
        }
        let due = world.now.0 / 60_000 - NOW.0 / 60_000;
        prop_assert_eq!(run + told, due);
    }
}
