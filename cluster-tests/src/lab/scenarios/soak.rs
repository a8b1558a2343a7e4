//! Faults of all kinds, drawn at random, for as long as one likes.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{judge, must, summary};
use crate::lab::history::Clock;
use crate::lab::links::{Links, Shape};
use crate::lab::load::{Load, Plan};
use crate::lab::oracles::{exclusive, orphans, proxies};
use crate::lab::{Lab, Run, wait};

const DEPLOYMENT: &str = "api";
/// The load is judged and begun anew after this, so that a long run does not grow without bound.
const ROUND: Duration = Duration::from_secs(60);

pub async fn soak(lab: &mut dyn Lab, run: &mut Run, lasts: Duration) {
    lab.deploy_echo(DEPLOYMENT, lab.nodes()).await;
    let begun = Instant::now();
    // One clock for all rounds: values are never written twice.
    let clock = Clock::default();
    let mut round = 0;
    while begun.elapsed() < lasts {
        wait::all_ready(lab).await;
        let watch = exclusive::Watch::start(lab);
        let load = Load::start(lab, &clock, &Plan::new(run.part()));
        let until = Instant::now() + ROUND.min(lasts.saturating_sub(begun.elapsed()));
        let mut faults = Vec::new();
        while Instant::now() < until {
            faults.push(fault(lab, run).await);
            wait::all_ready(lab).await;
        }
        let history = load.stop().await;
        run.report(
            lab.kind(),
            &json!({ "round": round, "faults": faults, "load": summary(&history) }),
        );
        judge(lab, run, &clock, history).await;
        must(proxies::check(lab, DEPLOYMENT).await);
        must(orphans::check(lab).await);
        must(watch.check().await);
        round += 1;
    }
}

/// One fault and its end; its name.
async fn fault(lab: &mut dyn Lab, run: &mut Run) -> String {
    let nodes = lab.nodes();
    let victim = run.pick(nodes);
    let lasts = run.between(Duration::from_millis(100), Duration::from_secs(5));
    let seconds = lasts.as_secs_f64();
    sleep(run.between(Duration::ZERO, Duration::from_secs(1))).await;
    match run.pick(if lab.has_links() { 5 } else { 3 }) {
        0 => {
            lab.kill(victim).await;
            sleep(lasts).await;
            lab.restart(victim).await;
            format!("kill {victim} {seconds:.1}")
        }
        1 => {
            for node in 0..nodes {
                lab.kill(node).await;
            }
            for node in 0..nodes {
                lab.restart(node).await;
            }
            "kill all".to_owned()
        }
        2 => {
            lab.pause(victim).await;
            sleep(lasts).await;
            lab.resume(victim).await;
            format!("pause {victim} {seconds:.1}")
        }
        3 => {
            let shape = Shape::ALL[run.pick(Shape::ALL.len())];
            lab.set_links(&shape.links(nodes, victim)).await;
            sleep(lasts).await;
            lab.set_links(&Links::open(nodes)).await;
            format!("{} {victim} {seconds:.1}", shape.name())
        }
        _ => {
            let percent = [1, 5, 30][run.pick(3)];
            lab.set_links(&Links::lossy(nodes, percent)).await;
            sleep(lasts).await;
            lab.set_links(&Links::open(nodes)).await;
            format!("loss {percent} {seconds:.1}")
        }
    }
}
