//! Every link loses a share of its packets.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{judge, summary};
use crate::lab::history::Clock;
use crate::lab::links::Links;
use crate::lab::load::{Load, Plan};
use crate::lab::wait::{ASK, DEADLINE, until};
use crate::lab::{Lab, Run, wait};

pub async fn loss(lab: &mut dyn Lab, run: &mut Run, percent: u8, lasts: Duration) {
    wait::all_ready(lab).await;
    let before = term(lab).await;
    let clock = Clock::default();
    let load = Load::start(lab, &clock, &Plan::new(run.part()));
    lab.set_links(&Links::lossy(lab.nodes(), percent)).await;
    sleep(lasts).await;
    lab.set_links(&Links::open(lab.nodes())).await;
    let history = load.stop().await;
    wait::all_ready(lab).await;
    let elections = term(lab).await - before;
    let failed = history.ops.iter().filter(|o| o.has_failed()).count();
    let figures = json!({ "percent": percent, "lasted_s": lasts.as_secs(), "elections": elections, "failed": failed,
        "load": summary(&history) });
    run.report(lab.kind(), &figures);
    judge(lab, run, &clock, history).await;
}

/// The highest term that a node knows.
async fn term(lab: &dyn Lab) -> u64 {
    let mut highest = 0;
    for node in 0..lab.nodes() {
        let mut api = lab.api(node);
        let list: Value = until(DEADLINE, "the term", async || {
            let asked = api.look("/v1/members", ASK).await;
            asked.map_err(|e| e.to_string())
        })
        .await;
        highest = highest.max(list["term"].as_u64().unwrap_or(0));
    }
    highest
}
