//! Links are cut in every shape, around the leader and around a follower, and healed.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{judge, summary};
use crate::lab::history::{Action, Clock, History, Moment, Op};
use crate::lab::links::{Links, Shape};
use crate::lab::load::{Load, Plan, Retry};
use crate::lab::wait::{ASK, DEADLINE, leader, until};
use crate::lab::{Consistency, Lab, Run, wait};

/// How long the links stay cut: longer than the longest answer.
const CUT_FOR: Duration = Duration::from_secs(7);

/// One partition: those who can reach a majority go on, whoever is left out answers with errors, and after healing all
/// take part again.
pub async fn cut(lab: &mut dyn Lab, run: &mut Run, shape: Shape, around_leader: bool) {
    wait::all_ready(lab).await;
    let clock = Clock::default();
    let mut plan = Plan::new(run.part());
    // Each client stays with its node, so that what one side answers is not mixed with what the other does.
    plan.retry = Retry::No;
    let load = Load::start(lab, &clock, &plan);
    sleep(Duration::from_secs(1)).await;
    let led = leader(lab).await;
    let around = if around_leader {
        led
    } else {
        (led + 1 + run.pick(lab.nodes() - 1)) % lab.nodes()
    };

    let cut = clock.now();
    lab.set_links(&shape.links(lab.nodes(), around)).await;
    let (applied, begun) = (clock.now(), Instant::now());
    let out = shape.left_out(around);
    until(DEADLINE, "a majority acknowledges writes", async || {
        let goes_on = load.has(|op| {
            op.is_acknowledged_write() && op.invoked.order > cut.order && Some(op.node) != out
        });
        if goes_on {
            Ok(())
        } else {
            Err("none yet".to_owned())
        }
    })
    .await;
    sleep(CUT_FOR.saturating_sub(begun.elapsed())).await;
    let ended = clock.now();
    assert_left_out(&load.so_far(), out, applied, ended);
    lab.set_links(&Links::open(lab.nodes())).await;
    let healed = all_write(lab, run).await;

    let history = load.stop().await;
    let resumed = History {
        ops: history
            .ops
            .iter()
            .filter(|o| Some(o.node) != out)
            .cloned()
            .collect(),
    }
    .resumed(applied);
    let figures = json!({ "shape": shape.name(), "around_leader": around_leader,
        "majority_writes_after_s": resumed.map(|t| t.as_secs_f64()), "healed_after_s": healed.as_secs_f64(),
        "left_out": out.map(|node| answers(&history, node, applied, ended)), "load": summary(&history) });
    run.report(lab.kind(), &figures);
    judge(lab, run, &clock, history).await;
}

/// What a node that was left out was asked, by operations that began while it was.
fn asked(history: &History, node: usize, from: Moment, to: Moment) -> impl Iterator<Item = &Op> {
    let during = move |order: u64| order > from.order && order < to.order;
    let ops = history.ops.iter();
    ops.filter(move |o| o.node == node && during(o.invoked.order))
}

fn is_stale_read(op: &Op) -> bool {
    op.action == Action::Read(Consistency::Stale)
}

/// Without a majority nothing can be acknowledged, and nothing read but what is marked as stale.
fn assert_left_out(history: &History, node: Option<usize>, from: Moment, to: Moment) {
    let asked = node
        .into_iter()
        .flat_map(|node| asked(history, node, from, to));
    let claimed = asked.filter(|o| !o.has_failed() && !is_stale_read(o));
    let claimed: Vec<_> = claimed.collect();
    assert!(claimed.is_empty(), "without a majority: {claimed:?}");
}

/// How long a node that was left out took to say so, and whether stale reads went on.
fn answers(history: &History, node: usize, from: Moment, to: Moment) -> Value {
    let (stale, strict): (Vec<_>, Vec<_>) =
        asked(history, node, from, to).partition(|o| is_stale_read(o));
    let longest = |writes: bool| {
        let errors = strict
            .iter()
            .filter(|o| o.has_failed() && o.is_write() == writes);
        errors.map(|o| o.took().as_secs_f64()).reduce(f64::max)
    };
    let failed = stale.iter().filter(|o| o.has_failed()).count();
    json!({ "longest_write_error_s": longest(true), "longest_read_error_s": longest(false),
        "stale_reads": stale.len(), "stale_reads_failed": failed })
}

/// Until every node takes a write of its own.
async fn all_write(lab: &dyn Lab, run: &mut Run) -> Duration {
    let begun = Instant::now();
    for node in 0..lab.nodes() {
        let mut api = lab.api(node);
        let request = format!("{:032x}", rand::Rng::random::<u128>(&mut run.rng));
        until(
            DEADLINE,
            &format!("node {node} takes a write"),
            async || {
                let put = api.put("user.lab.healed", "1", &request, ASK);
                put.await.map_err(|e| e.to_string())
            },
        )
        .await;
    }
    begun.elapsed()
}
