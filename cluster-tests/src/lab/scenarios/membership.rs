//! The cluster grows from three voters to five and shrinks again, under load, and daemons are killed meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{goes_on, judge, summary};
use crate::lab::history::Clock;
use crate::lab::load::{Load, Plan};
use crate::lab::run::spread;
use crate::lab::wait::{ASK, DEADLINE, ids, until};
use crate::lab::{Lab, Run, wait};

const FEWEST: usize = 3;
const MOST: usize = 5;
/// One change in so many finds a daemon dead, which is started again after it.
const KILLED_IN: usize = 2;

/// `rounds` times up and down. Each round draws which nodes will go, the leader and the first ones among them; clients
/// work through those of the others that are there all the time.
pub async fn up_and_down(lab: &mut dyn Lab, run: &mut Run, rounds: u64) {
    let clock = Clock::default();
    let (mut grown, mut shrunk, mut kills) = (Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        wait::all_ready(lab).await;
        voters(lab, FEWEST).await;
        // By ids: indexes move when a node goes.
        let mut goes: BTreeSet<usize> = BTreeSet::new();
        while goes.len() < MOST - FEWEST {
            goes.insert(run.pick(MOST));
        }
        let stay: Vec<usize> = (0..FEWEST).filter(|node| !goes.contains(node)).collect();
        let mut plan = Plan::new(run.part());
        plan.clients_per_node = 6 / stay.len();
        let load = Load::start_at(lab, &clock, &plan, &stay);
        while lab.nodes() < MOST {
            let victim = kill_perhaps(lab, run).await;
            let begun = Instant::now();
            lab.join().await;
            kills += start_again(lab, victim).await;
            wait::ready(lab, lab.nodes() - 1).await;
            voters(lab, largest_odd(lab.nodes())).await;
            grown.push(begun.elapsed());
        }
        goes_on(&load, clock.now()).await;
        // From behind, so that the others' indexes stay.
        for node in goes.into_iter().rev() {
            let victim = kill_perhaps(lab, run).await.filter(|v| *v != node);
            let begun = Instant::now();
            lab.remove(node).await;
            let moved = victim.map(|v| if v > node { v - 1 } else { v });
            kills += start_again(lab, moved).await;
            voters(lab, lab.nodes()).await;
            shrunk.push(begun.elapsed());
        }
        goes_on(&load, clock.now()).await;
        let history = load.stop().await;
        run.report(
            lab.kind(),
            &json!({ "stayed": stay, "load": summary(&history) }),
        );
        judge(lab, run, &clock, history).await;
    }
    let figures = json!({ "rounds": rounds, "kills": kills, "grown": spread(&grown), "shrunk": spread(&shrunk) });
    run.report(lab.kind(), &figures);
}

fn largest_odd(nodes: usize) -> usize {
    nodes - usize::from(nodes.is_multiple_of(2))
}

/// Now and then a daemon dies before a change.
async fn kill_perhaps(lab: &mut dyn Lab, run: &mut Run) -> Option<usize> {
    let victim = (run.pick(KILLED_IN) == 0).then(|| run.pick(lab.nodes()))?;
    lab.kill(victim).await;
    sleep(run.between(Duration::ZERO, Duration::from_secs(1))).await;
    Some(victim)
}

async fn start_again(lab: &mut dyn Lab, victim: Option<usize>) -> u64 {
    let Some(victim) = victim else { return 0 };
    lab.restart(victim).await;
    wait::ready(lab, victim).await;
    1
}

/// Waits until so many vote, none of them a stranger, by the word of every node.
async fn voters(lab: &dyn Lab, count: usize) {
    let ids: BTreeSet<u64> = ids(lab).into_iter().collect();
    for node in 0..lab.nodes() {
        let mut api = lab.api(node);
        until(DEADLINE, &format!("{count} voters"), async || {
            let asked = api.look("/v1/members?consistency=linearizable", ASK).await;
            let list: Value = asked.map_err(|e| e.to_string())?;
            let members = || list["members"].as_array().into_iter().flatten();
            let id = |member: &Value| member["id"].as_u64();
            let all: BTreeSet<u64> = members().filter_map(id).collect();
            let voters = members().filter(|m| m["role"] == "voter").count();
            if all == ids && voters == count {
                Ok(())
            } else {
                Err(list.to_string())
            }
        })
        .await;
    }
}
