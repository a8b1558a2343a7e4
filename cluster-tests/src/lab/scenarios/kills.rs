//! kill -9 of random nodes under load, now and then of several at once.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{judge, must, summary};
use crate::lab::history::Clock;
use crate::lab::load::{Load, Plan};
use crate::lab::oracles::{exclusive, orphans, proxies};
use crate::lab::run::spread;
use crate::lab::{Lab, Run, wait};

const DEPLOYMENT: &str = "api";
/// Of so many cycles one kills more than one node.
const SEVERAL_IN: usize = 5;

/// `kills` daemons are killed and started again; instances go on, acknowledged writes are kept.
pub async fn random(lab: &mut dyn Lab, run: &mut Run, kills: u64) {
    lab.deploy_echo(DEPLOYMENT, lab.nodes()).await;
    wait::all_ready(lab).await;
    let clock = Clock::default();
    let watch = exclusive::Watch::start(lab);
    let load = Load::start(lab, &clock, &Plan::new(run.part()));
    let (mut alone, mut together, mut done) = (Vec::new(), Vec::new(), 0);
    while done < kills {
        let first = run.pick(lab.nodes());
        let several = run.pick(SEVERAL_IN) == 0;
        let count = if several {
            2 + run.pick(lab.nodes() - 1)
        } else {
            1
        };
        let victims: Vec<usize> = (0..count).map(|i| (first + i) % lab.nodes()).collect();
        sleep(run.between(Duration::ZERO, Duration::from_millis(600))).await;
        for victim in &victims {
            lab.kill(*victim).await;
        }
        sleep(run.between(Duration::ZERO, Duration::from_millis(600))).await;
        let begun = Instant::now();
        for victim in &victims {
            lab.restart(*victim).await;
        }
        for victim in &victims {
            wait::ready(lab, *victim).await;
            let times = if count == 1 {
                &mut alone
            } else {
                &mut together
            };
            times.push(begun.elapsed());
        }
        done += count as u64;
    }
    let history = load.stop().await;
    let figures = json!({ "kills": done, "back_alone": spread(&alone), "back_together": spread(&together),
        "load": summary(&history) });
    run.report(lab.kind(), &figures);
    judge(lab, run, &clock, history).await;
    let converged = must(proxies::check(lab, DEPLOYMENT).await);
    must(orphans::check(lab).await);
    must(watch.check().await);
    run.report(
        lab.kind(),
        &json!({ "proxies_converged_s": converged.as_secs_f64() }),
    );
}
