//! Clocks are wrong: wall clocks jump back and forth, and all clocks of a node run fast or slow. Nothing that is
//! promised may hang on them.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use tokio::time::sleep;

use super::loss::term;
use super::{goes_on, judge, summary};
use crate::lab::clocks::lives_in;
use crate::lab::history::Clock;
use crate::lab::load::{Load, Plan};
use crate::lab::wait::leader;
use crate::lab::{Lab, Processes, Run, Time, wait};

/// Wall clocks are wrong by so much at most.
const HOUR: i64 = 3600;
/// They jump at least so far: less could not be told from what a look is late.
const SHORTEST: i64 = 60;

/// `jumps` times a node's wall clock jumps while clients work: the leader's every other time, by an hour or by less.
pub async fn jump(lab: &mut Processes, run: &mut Run, jumps: u64) {
    wait::all_ready(lab).await;
    let before = term(lab).await;
    let clock = Clock::default();
    let load = Load::start(lab, &clock, &Plan::new(run.part()));
    let mut done = Vec::new();
    let mut off = vec![0; lab.nodes()];
    for jump in 0..jumps {
        let node = if jump % 2 == 0 {
            leader(lab).await
        } else {
            run.pick(lab.nodes())
        };
        let mut seconds = match jump % 4 {
            0 => HOUR,
            1 => -HOUR,
            _ => run.pick(2 * HOUR as usize) as i64 - HOUR,
        };
        if (seconds - off[node]).abs() < SHORTEST {
            // It is there already.
            seconds = if off[node] > 0 { -HOUR } else { HOUR };
        }
        off[node] = seconds;
        lab.set_clock(node, Time::Off(seconds)).await;
        lives_in(lab, node, Time::Off(seconds)).await;
        let jumped = clock.now();
        done.push((node, seconds));
        sleep(run.between(Duration::from_secs(1), Duration::from_secs(3))).await;
        goes_on(&load, jumped).await;
    }
    for node in 0..lab.nodes() {
        lab.set_clock(node, Time::Right).await;
    }
    let history = load.stop().await;
    wait::all_ready(lab).await;
    let figures =
        json!({ "jumps": done, "elections": term(lab).await - before, "load": summary(&history) });
    run.report(lab.kind(), &figures);
    judge(lab, run, &clock, history).await;
}

/// One node is a tenth fast, another a tenth slow, for good; and the leader is stopped or killed, `times` times, so that
/// leases are counted by clocks that disagree.
pub async fn pace(lab: &mut Processes, run: &mut Run, times: u64) {
    let paces = [(0, 110), (1, 90)];
    for (node, percent) in paces {
        lab.kill(node).await;
        lab.set_clock(node, Time::Pace(percent)).await;
        lab.restart(node).await;
    }
    wait::all_ready(lab).await;
    let all = paces.into_iter().chain([(2, 100)]);
    join_all(all.map(|(node, percent)| lives_in(lab, node, Time::Pace(percent)))).await;
    let clock = Clock::default();
    let mut plan = Plan::new(run.part());
    plan.writes = 35;
    let load = Load::start(lab, &clock, &plan);
    let mut led = Vec::new();
    for round in 0..times {
        sleep(run.between(Duration::from_millis(500), Duration::from_secs(3))).await;
        let (node, since) = (leader(lab).await, clock.now());
        led.push(node);
        if round % 2 == 0 {
            lab.pause(node).await;
            sleep(run.between(Duration::from_secs(1), Duration::from_secs(3))).await;
            lab.resume(node).await;
        } else {
            lab.kill(node).await;
            sleep(run.between(Duration::from_millis(500), Duration::from_secs(2))).await;
            lab.restart(node).await;
        }
        wait::ready(lab, node).await;
        goes_on(&load, since).await;
    }
    let history = load.stop().await;
    let figures = json!({ "times": times, "led": led, "load": summary(&history) });
    run.report(lab.kind(), &figures);
    judge(lab, run, &clock, history).await;
}
