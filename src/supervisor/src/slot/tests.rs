//! The stages of an instance, step by step.

use nebula_domain::ids::ReleaseNumber;
use nebula_domain::time::Millis;
use nebula_drivers::Exit;
use nebula_drivers::confine::Controls;

use super::*;

fn run(number: u64, ended: Option<Exit>) -> Run {
    let status = ended.map_or(RunStatus::Running, |exit| RunStatus::Ended {
        exit,
        at: Millis(1_000),
    });
    Run {
        run: number,
        deployment: "api".parse().unwrap(),
        release: ReleaseNumber(1),
        port: Some(20_000),
        started_at: Millis(0),
        status,
        isolation: Controls::default(),
    }
}

const WAITS: Want = Want::Stop(Farewell {
    let_go: false,
    ..Farewell::NOW
});
const LET_GO: Want = Want::Stop(Farewell::NOW);

#[test]
fn a_program_is_fetched_started_and_started_again_after_a_pause() {
    let now = Instant::now();
    let mut slot = Slot::new(None, now);
    assert_eq!(slot.phase(), Phase::Pending);
    assert_eq!(slot.step(Want::Program, None, now), Some(Effect::Fetch));
    assert_eq!(
        slot.fetched(Want::Program, Ok(()), now),
        Some(Effect::Start(1))
    );
    assert_eq!(slot.step(Want::Program, Some(&run(1, None)), now), None);
    assert_eq!((slot.phase(), slot.restarts()), (Phase::Running, 0));

    let ended = run(1, Some(Exit::Code(1)));
    let note = slot.step(Want::Program, Some(&ended), now);
    assert!(matches!(note, Some(Effect::Note(text)) if text.contains("exited with code 1")));
    assert_eq!(slot.phase(), Phase::Backoff);
    assert_eq!(
        slot.step(Want::Program, Some(&ended), now),
        None,
        "the pause is kept"
    );
    let later = slot.due().unwrap();
    assert!(later > now);
    assert_eq!(
        slot.step(Want::Program, Some(&ended), later),
        Some(Effect::Fetch)
    );
    assert_eq!(
        slot.fetched(Want::Program, Ok(()), later),
        Some(Effect::Start(2))
    );
    slot.step(Want::Program, Some(&run(2, None)), later);
    assert_eq!(
        (slot.restarts(), slot.reason.as_str()),
        (1, "exited with code 1")
    );
}

#[test]
fn a_stop_waits_for_every_proxy_but_not_for_ever() {
    let now = Instant::now();
    let running = run(1, None);
    for (want, at) in [(LET_GO, now), (WAITS, now + ACK_DEADLINE)] {
        let mut slot = Slot::new(Some(&running), now);
        assert_eq!(slot.step(WAITS, Some(&running), now), None);
        assert_eq!(slot.phase(), Phase::Stopping);
        assert_eq!(slot.step(want, Some(&running), at), Some(Effect::Stop));
        assert_eq!(slot.step(want, Some(&running), at), None, "asked once");
        let ended = run(1, Some(Exit::Signal(15)));
        assert!(matches!(
            slot.step(want, Some(&ended), at),
            Some(Effect::Note(_))
        ));
        assert_eq!(slot.step(want, Some(&ended), at), None);
        assert_eq!(slot.phase(), Phase::Stopped);
    }
}

#[test]
fn a_stop_waits_for_what_is_under_way_and_for_sockets_in_their_own_time() {
    let now = Instant::now();
    let running = run(1, None);
    let after = |seconds| now + Duration::from_secs(seconds);
    let busy = |busy| {
        Want::Stop(Farewell {
            let_go: true,
            busy,
            drain: Duration::from_secs(30),
            socket_grace: Duration::from_secs(10),
        })
    };
    let mut slot = Slot::new(Some(&running), now);
    assert_eq!(slot.step(WAITS, Some(&running), now), None);
    let requests = busy(Some(Busy::Requests));
    assert_eq!(slot.step(requests, Some(&running), after(9)), None);
    assert_eq!(slot.due(), Some(after(30)));
    let sockets = busy(Some(Busy::Sockets));
    assert_eq!(slot.step(sockets, Some(&running), after(9)), None);
    assert_eq!(slot.due(), Some(after(10)));
    let mut late = Slot::new(Some(&running), now);
    late.step(requests, Some(&running), now);
    for (want, slot, at) in [
        (sockets, &mut slot, after(10)),
        (requests, &mut late, after(30)),
    ] {
        assert_eq!(slot.step(want, Some(&running), at), Some(Effect::Stop));
    }
    let mut quiet = Slot::new(Some(&running), now);
    quiet.step(requests, Some(&running), now);
    let nothing = quiet.step(busy(None), Some(&running), after(1));
    assert_eq!(nothing, Some(Effect::Stop));
}

#[test]
fn what_never_ran_is_gone_at_once() {
    let now = Instant::now();
    let mut slot = Slot::new(None, now);
    assert_eq!(slot.step(WAITS, None, now), None);
    assert_eq!(slot.phase(), Phase::Stopped);
}

#[test]
fn a_stop_during_the_start_stops_what_was_started() {
    let now = Instant::now();
    let mut slot = Slot::new(None, now);
    slot.step(Want::Program, None, now);
    slot.fetched(Want::Program, Ok(()), now);
    assert_eq!(slot.step(LET_GO, None, now), None);
    assert_eq!(
        slot.phase(),
        Phase::Starting,
        "the start is under way and will show"
    );
    assert_eq!(
        slot.step(LET_GO, Some(&run(1, None)), now),
        Some(Effect::Stop)
    );
}

#[test]
fn what_runs_already_is_taken_over() {
    let now = Instant::now();
    let running = run(3, None);
    let mut slot = Slot::new(Some(&running), now);
    assert_eq!(slot.step(Want::Program, Some(&running), now), None);
    assert_eq!((slot.phase(), slot.restarts()), (Phase::Running, 2));
}

#[test]
fn a_run_of_another_number_is_taken_over_and_its_end_seen() {
    let now = Instant::now();
    let mut slot = Slot::new(None, now);
    slot.step(Want::Program, None, now);
    slot.fetched(Want::Program, Ok(()), now);
    slot.not_started("i-1 already runs".into(), now);
    slot.step(Want::Program, None, now + RETRY);
    assert_eq!(
        slot.fetched(Want::Program, Ok(()), now),
        Some(Effect::Start(2))
    );
    assert_eq!(slot.step(Want::Program, Some(&run(1, None)), now), None);
    assert_eq!((slot.phase(), slot.run), (Phase::Running, 1));
    let ended = run(1, Some(Exit::Code(1)));
    assert!(slot.step(Want::Program, Some(&ended), now).is_some());
    assert_eq!(slot.phase(), Phase::Backoff);
}

#[test]
fn a_run_that_ended_while_nobody_looked_is_told_of() {
    let now = Instant::now();
    let ended = run(3, Some(Exit::Code(1)));
    let mut slot = Slot::new(Some(&ended), now);
    let note = slot.step(Want::Program, Some(&ended), now);
    assert!(matches!(note, Some(Effect::Note(text)) if text.contains("exited with code 1")));
    assert_eq!(slot.reason, "exited with code 1");
    let mut slot = Slot::new(Some(&ended), now);
    assert_eq!(slot.step(LET_GO, Some(&ended), now), None);
    assert_eq!(slot.phase(), Phase::Stopped);
}

#[test]
fn a_program_that_ended_during_a_stop_of_its_start_is_gone() {
    let now = Instant::now();
    let mut slot = Slot::new(None, now);
    slot.step(Want::Program, None, now);
    slot.fetched(Want::Program, Ok(()), now);
    let ended = run(1, Some(Exit::Code(1)));
    assert!(slot.step(LET_GO, Some(&ended), now).is_some());
    assert_eq!(slot.step(LET_GO, Some(&ended), now), None);
    assert_eq!(slot.phase(), Phase::Stopped);
}

#[test]
fn what_is_wanted_after_all_goes_on() {
    let now = Instant::now();
    let running = run(1, None);
    let mut slot = Slot::new(Some(&running), now);
    slot.step(WAITS, Some(&running), now);
    assert_eq!(slot.step(Want::Program, Some(&running), now), None);
    assert_eq!(slot.phase(), Phase::Running);
    let mut gone = Slot::new(None, now);
    gone.step(LET_GO, None, now);
    assert_eq!(gone.step(Want::Program, None, now), Some(Effect::Fetch));
}

#[test]
fn files_are_served_once_they_are_here() {
    let now = Instant::now();
    let mut slot = Slot::new(None, now);
    assert_eq!(slot.step(Want::Files, None, now), Some(Effect::Fetch));
    assert_eq!(
        slot.fetched(Want::Files, Err("no source".into()), now),
        None
    );
    assert_eq!(slot.reason, "no source");
    assert_eq!(
        slot.step(Want::Files, None, now + RETRY),
        Some(Effect::Fetch)
    );
    assert_eq!(slot.fetched(Want::Files, Ok(()), now), None);
    assert_eq!(slot.step(Want::Files, None, now), Some(Effect::Check));
    slot.checked(true, now, now + RETRY);
    assert_eq!((slot.phase(), slot.reason.as_str()), (Phase::Running, ""));
    assert_eq!(slot.health(), Some(Health::Healthy));
    slot.step(WAITS, None, now);
    assert_eq!(slot.phase(), Phase::Stopping);
    slot.step(LET_GO, None, now);
    assert_eq!(slot.phase(), Phase::Stopped);
}

#[test]
fn files_that_vanish_are_fetched_again() {
    let now = Instant::now();
    let mut slot = Slot::new(None, now);
    slot.step(Want::Files, None, now);
    slot.fetched(Want::Files, Ok(()), now);
    slot.step(Want::Files, None, now);
    slot.checked(true, now, now + RETRY);
    assert_eq!(slot.step(Want::Files, None, now), None);
    let next = slot.due().unwrap();
    assert_eq!(slot.step(Want::Files, None, next), Some(Effect::Check));
    slot.checked(false, next, next);
    assert_eq!(slot.phase(), Phase::Pending);
    assert_eq!(slot.health(), Some(Health::Unhealthy));
    assert!(slot.reason.contains("missing"));
    let due = slot.due().unwrap();
    assert_eq!(slot.step(Want::Files, None, due), Some(Effect::Fetch));
    slot.fetched(Want::Files, Ok(()), due);
    assert_eq!(slot.health(), Some(Health::Healthy));
}

#[test]
fn what_is_held_is_neither_stopped_nor_begun() {
    let now = Instant::now();
    let running = run(1, None);
    let mut slot = Slot::new(Some(&running), now);
    assert_eq!(slot.step(Want::Hold, Some(&running), now), None);
    assert_eq!(slot.phase(), Phase::Running);
    slot.step(WAITS, Some(&running), now);
    let late = now + ACK_DEADLINE;
    assert_eq!(slot.step(Want::Hold, Some(&running), late), None);
    assert_eq!(slot.step(WAITS, Some(&running), late), Some(Effect::Stop));
    let ended = run(1, Some(Exit::Signal(15)));
    slot.step(Want::Hold, Some(&ended), late);
    assert_eq!(slot.step(Want::Hold, Some(&ended), late), None);
    assert_eq!(slot.phase(), Phase::Stopped, "what was asked for ends");
    let mut new = Slot::new(None, now);
    assert_eq!(new.step(Want::Hold, None, now), None);
}

#[test]
fn a_program_that_cannot_be_started_is_tried_again() {
    let now = Instant::now();
    let mut slot = Slot::new(None, now);
    slot.step(Want::Program, None, now);
    slot.fetched(Want::Program, Ok(()), now);
    slot.not_started("no space".into(), now);
    assert_eq!(slot.step(Want::Program, None, now), None);
    assert_eq!(
        slot.step(Want::Program, None, now + RETRY),
        Some(Effect::Fetch)
    );
    assert_eq!(slot.reason, "no space");
}

#[test]
fn a_run_is_given_up_once_and_comes_back_after_a_pause() {
    let now = Instant::now();
    let running = run(1, None);
    let mut slot = Slot::new(Some(&running), now);
    assert_eq!(slot.give_up(WAITS, 1, "ill"), None, "it stops anyway");
    assert_eq!(slot.give_up(Want::Program, 2, "ill"), None, "another run");
    assert_eq!(slot.give_up(Want::Program, 1, "ill"), Some(Effect::Stop));
    assert_eq!(slot.give_up(Want::Program, 1, "ill"), None, "asked once");
    assert_eq!(
        (slot.phase(), slot.reason.as_str()),
        (Phase::Backoff, "ill")
    );
    assert_eq!(slot.step(Want::Program, Some(&running), now), None);

    // A driver that could not be asked is asked again.
    slot.not_stopped(now);
    assert_eq!(slot.give_up(Want::Program, 1, "ill"), Some(Effect::Stop));

    let ended = run(1, Some(Exit::Signal(15)));
    let note = slot.step(Want::Program, Some(&ended), now);
    assert!(matches!(note, Some(Effect::Note(text)) if text.starts_with("ill; starting again")));
    let later = slot.due().unwrap();
    assert!(later > now);
    assert_eq!(
        slot.step(Want::Program, Some(&ended), later),
        Some(Effect::Fetch)
    );
}

#[test]
fn what_is_removed_while_it_is_given_up_stops_and_what_is_wanted_again_starts() {
    let now = Instant::now();
    let running = run(1, None);
    let given_up = || {
        let mut slot = Slot::new(Some(&running), now);
        slot.give_up(Want::Program, 1, "ill");
        slot
    };
    let mut slot = given_up();
    assert_eq!(slot.step(LET_GO, Some(&running), now), Some(Effect::Stop));
    assert_eq!(slot.phase(), Phase::Stopping);

    let mut slot = given_up();
    let ended = run(1, Some(Exit::Signal(15)));
    assert!(matches!(
        slot.step(Want::Hold, Some(&ended), now),
        Some(Effect::Note(_))
    ));
    assert_eq!(slot.step(Want::Hold, Some(&ended), now), None);
    assert_eq!(
        slot.step(Want::Program, Some(&ended), now),
        Some(Effect::Fetch)
    );
}

#[test]
fn what_is_to_run_once_runs_once() {
    let now = Instant::now();
    let mut slot = Slot::new(None, now);
    assert_eq!(slot.step(Want::Once, None, now), Some(Effect::Fetch));
    assert_eq!(
        slot.fetched(Want::Once, Ok(()), now),
        Some(Effect::Start(1))
    );
    slot.step(Want::Once, Some(&run(1, None)), now);
    assert_eq!((slot.phase(), slot.exit), (Phase::Running, None));
    let ended = run(1, Some(Exit::Code(3)));
    let note = slot.step(Want::Once, Some(&ended), now);
    assert_eq!(note, Some(Effect::Note("exited with code 3".to_owned())));
    for slot in [&mut slot, &mut Slot::new(Some(&ended), now)] {
        slot.step(Want::Once, Some(&ended), now);
        let later = now + Duration::from_secs(3600);
        assert_eq!(slot.step(Want::Once, Some(&ended), later), None);
        assert_eq!((slot.phase(), slot.due()), (Phase::Stopped, None));
        assert_eq!(slot.exit, Some(Exit::Code(3)));
        assert_eq!(slot.step(LET_GO, Some(&ended), later), None);
        assert_eq!(slot.stage, Stage::Gone);
    }
}

#[test]
fn what_ended_while_it_was_not_wanted_does_not_run_again() {
    let now = Instant::now();
    let mut slot = Slot::new(Some(&run(1, None)), now);
    assert_eq!(
        slot.step(LET_GO, Some(&run(1, None)), now),
        Some(Effect::Stop)
    );
    let ended = run(1, Some(Exit::Signal(15)));
    slot.step(LET_GO, Some(&ended), now);
    while slot.step(Want::Once, Some(&ended), now).is_some() {}
    assert_eq!(slot.stage, Stage::Over);
    assert_eq!(slot.exit, Some(Exit::Signal(15)));
}
