//! Every link loses a share of its packets, or is slow.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{judge, summary};
use crate::lab::history::Clock;
use crate::lab::links::{Link, Links};
use crate::lab::load::{Load, Plan};
use crate::lab::stalls::Stalls;
use crate::lab::wait::{ASK, DEADLINE, until};
use crate::lab::{Lab, Run, wait};

/// A machine that stands still for so long makes elections of its own: a third of a leader's lease.
const STALLED: Duration = Duration::from_millis(130);

/// What a bad network did to leadership.
pub struct Elections {
    pub count: u64,
    /// The longest time in which this machine ran nothing of what was due.
    pub stalled: Duration,
}

impl Elections {
    /// # Panics
    /// When there were any, and the machine was not to blame.
    pub fn must_be_none(&self) {
        if self.stalled >= STALLED {
            eprintln!(
                "elections are not judged: this machine stood still for {:?}",
                self.stalled
            );
            return;
        }
        assert!(self.count == 0, "{} needless elections", self.count);
    }
}

/// All links are like this while clients work.
pub async fn everywhere(
    lab: &mut dyn Lab,
    run: &mut Run,
    link: Link,
    plan: Plan,
    lasts: Duration,
) -> Elections {
    wait::all_ready(lab).await;
    let before = term(lab).await;
    let clock = Clock::default();
    let load = Load::start(lab, &clock, &plan);
    lab.set_links(&Links::all(lab.nodes(), link)).await;
    let stalls = Stalls::watch();
    sleep(lasts).await;
    let stalled = stalls.longest();
    lab.set_links(&Links::open(lab.nodes())).await;
    let history = load.stop().await;
    wait::all_ready(lab).await;
    let count = term(lab).await - before;
    let failed = history.ops.iter().filter(|o| o.has_failed()).count();
    let figures = json!({ "link": format!("{link:?}"), "lasted_s": lasts.as_secs(), "elections": count, "failed": failed,
        "stalled_s": stalled.as_secs_f64(), "load": summary(&history) });
    run.report(lab.kind(), &figures);
    judge(lab, run, &clock, history).await;
    Elections { count, stalled }
}

/// The highest term that a node knows.
pub async fn term(lab: &dyn Lab) -> u64 {
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
