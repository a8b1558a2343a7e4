//! The leader is lost: stopped in its tracks for a while, or killed.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::{goes_on, judge, summary};
use crate::lab::api::Api;
use crate::lab::history::{Clock, Moment};
use crate::lab::load::{Load, Plan};
use crate::lab::run::spread;
use crate::lab::wait::{DEADLINE, ids, leader, leader_by, until};
use crate::lab::{Lab, Run, wait};

/// The leader stops for up to `longest`, `pauses` times, and goes on believing that it leads. Whatever it answers then
/// to those who were waiting must be true, and linearizable reads are waiting all the time.
pub async fn paused(lab: &mut dyn Lab, run: &mut Run, pauses: u64, longest: Duration) {
    wait::all_ready(lab).await;
    let clock = Clock::default();
    let mut plan = Plan::new(run.part());
    // They wait for longer than the pause.
    plan.deadline = longest + Duration::from_secs(6);
    plan.writes = 35;
    let load = Load::start(lab, &clock, &plan);
    let (mut resumed, mut again) = (Vec::new(), Vec::new());
    for _ in 0..pauses {
        let led = leader(lab).await;
        let pause = run.between(Duration::from_secs(1).min(longest), longest);
        sleep(run.between(Duration::from_millis(100), Duration::from_millis(500))).await;
        let stopped = clock.now();
        lab.pause(led).await;
        sleep(pause).await;
        lab.resume(led).await;
        again.push(wait::ready(lab, led).await);
        resumed.push(writes_resumed(&load, stopped).await);
    }
    let history = load.stop().await;
    let reads = history
        .ops
        .iter()
        .filter(|o| !o.is_write() && !o.has_failed());
    let figures = json!({ "pauses": pauses, "writes_resumed": spread(&resumed), "answers_again": spread(&again),
        "reads": reads.count(), "load": summary(&history) });
    run.report(lab.kind(), &figures);
    judge(lab, run, &clock, history).await;
}

/// The leader is killed under about 100 writes a second, `kills` times: when are writes acknowledged again?
pub async fn killed(lab: &mut dyn Lab, run: &mut Run, kills: u64) {
    wait::all_ready(lab).await;
    let clock = Clock::default();
    let mut plan = Plan::new(run.part());
    plan.clients_per_node = 4;
    plan.every = Duration::from_millis(100);
    plan.writes = 90;
    plan.stale_reads = 0;
    let load = Load::start(lab, &clock, &plan);
    let (mut elected, mut resumed, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..kills {
        let led = leader(lab).await;
        sleep(run.between(Duration::from_millis(500), Duration::from_millis(1500))).await;
        let killed = clock.now();
        lab.kill(led).await;
        elected.push(another_leads(lab, &clock, led, killed).await);
        resumed.push(writes_resumed(&load, killed).await);
        lab.restart(led).await;
        back.push(wait::ready(lab, led).await);
    }
    let history = load.stop().await;
    let figures = json!({ "kills": kills, "another_leads": spread(&elected), "writes_resumed": spread(&resumed),
        "back": spread(&back), "load": summary(&history) });
    run.report(lab.kind(), &figures);
    judge(lab, run, &clock, history).await;
}

/// From `since` until a node that lives names another leader.
async fn another_leads(lab: &dyn Lab, clock: &Clock, old: usize, since: Moment) -> Duration {
    let ids = ids(lab);
    let living = (0..lab.nodes()).filter(|node| *node != old);
    let mut apis: Vec<Box<dyn Api>> = living.map(|node| lab.api(node)).collect();
    until(DEADLINE, "another leader", async || {
        let mut heard = Vec::new();
        for api in &mut apis {
            match leader_by(api.as_mut(), &ids).await {
                Ok(leader) if leader != old => return Ok(()),
                said => heard.push(said),
            }
        }
        Err(format!("{heard:?}"))
    })
    .await;
    clock.now().at - since.at
}

/// From `since` until a write that began later was acknowledged.
async fn writes_resumed(load: &Load, since: Moment) -> Duration {
    goes_on(load, since).await;
    let resumed = load.so_far().resumed(since);
    resumed.expect("a write that was just seen")
}
