//! Promise: a process that ends anywhere between two writes to the disk loses nothing that was acknowledged, and is back
//! soon.

use std::collections::BTreeMap;
use std::time::Duration;

use nebula_cluster_tests::binaries;
use nebula_cluster_tests::disk::model::{Model, judge};
use nebula_cluster_tests::disk::points;
use nebula_cluster_tests::disk::store::{Writer, check};
use nebula_cluster_tests::lab::history::Clock;
use nebula_cluster_tests::lab::load::{Load, Plan};
use nebula_cluster_tests::lab::run::{block_on, spread};
use nebula_cluster_tests::lab::scenarios::{judge as judge_all, summary};
use nebula_cluster_tests::lab::{Lab, Processes, Run, wait};
use nebula_cluster_tests::{eventually, process};
use serde_json::json;
use tokio::time::Instant;

/// Within this a store or a daemon at work comes to every point that it comes to at all.
const REACHED: Duration = Duration::from_secs(120);

#[test]
fn a_store_ends_at_every_named_point() {
    let mut run = Run::new("disk_points a_store_ends_at_every_named_point");
    let times = run.count("POINTS", 2);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut confirmed = 0;
    for point in points::STORES {
        // Each goes on from what the one before has left.
        let dir = folder.path().join(point);
        let mut before = Model::default();
        for round in 0..times {
            let seed = u64::from(run.part());
            let hit = 1 + run.pick(if point.starts_with("journal") { 60 } else { 3 });
            let end = format!("{point}={hit}");
            let which = format!("{end}, seed {seed}, round {round}");
            let mut writer = Writer::start_until(&dir, seed, &end);
            eventually(REACHED, &which, || match writer.has_ended() {
                true => Ok(()),
                false => Err(format!("{} operations", writer.confirmed())),
            });
            let life = writer.end();
            let found = check(&dir).unwrap_or_else(|e| panic!("{which}: {e}"));
            judge(&before, &life.done, life.begun.as_ref(), &found)
                .unwrap_or_else(|e| panic!("{which}: {e}"));
            confirmed += life.done.len();
            before = found;
        }
    }
    let ends = times * points::STORES.len() as u64;
    run.report(
        "store",
        &json!({ "ends": ends, "confirmed": confirmed, "lost": 0 }),
    );
}

#[test]
fn a_daemon_ends_at_every_named_point() {
    let mut run = Run::new("disk_points a_daemon_ends_at_every_named_point");
    let kills = run.count("POINT_KILLS", points::DAEMON.len() as u64);
    let program = binaries::with_fault_points("nodectl-fault-points");
    let mut lab = Processes::start(3);
    block_on(async {
        let clock = Clock::default();
        let load = Load::start(&lab, &clock, &Plan::new(run.part()));
        let (mut back, mut at) = (Vec::new(), BTreeMap::new());
        for (kill, point) in (0..kills).zip(points::DAEMON.iter().cycle()) {
            let node = run.pick(lab.nodes());
            // A restart has at least one of everything.
            let hit = match *point {
                "journal-before-write" | "journal-before-sync" | "journal-after-sync" => {
                    1 + run.pick(40)
                }
                "apply-begin" | "apply-end" => 1 + run.pick(40),
                _ => 1,
            };
            lab.kill(node).await;
            let end = format!("{point}={hit}");
            let env = [("NEBULA_FAULT_POINT", end.as_str())];
            lab.cluster_mut().restart_as(node, &program, &env);
            let pid = lab.cluster().members[node].pid;
            // Nobody votes while there is a leader.
            let led = match point.starts_with("vote") {
                true => Some(wait::leader(&lab).await),
                false => None,
            };
            if let Some(led) = led {
                lab.kill(led).await;
            }
            wait::until(
                REACHED,
                &format!("kill {kill}: {end}"),
                async || match process::is_running(pid) {
                    false => Ok(()),
                    true => Err(String::from("it runs")),
                },
            )
            .await;
            if let Some(led) = led.filter(|led| *led != node) {
                lab.restart(led).await;
            }
            let begun = Instant::now();
            lab.restart(node).await;
            wait::ready(&lab, node).await;
            back.push(begun.elapsed());
            *at.entry(*point).or_insert(0) += 1;
        }
        let history = load.stop().await;
        run.report(
            lab.kind(),
            &json!({ "kills": at, "back": spread(&back), "load": summary(&history) }),
        );
        judge_all(&lab, &run, &clock, history).await;
    });
}
