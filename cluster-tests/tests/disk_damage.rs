//! Promise: what a bad disk made of a node's log, journal or snapshot is never served: the node refuses it, or has lost
//! nothing of what it confirmed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use nebula_cluster_tests::disk::damage::inflict;
use nebula_cluster_tests::disk::model::{Model, judge, judge_damaged};
use nebula_cluster_tests::disk::store::{Writer, check, says_why};
use nebula_cluster_tests::lab::history::Clock;
use nebula_cluster_tests::lab::load::{Load, Plan};
use nebula_cluster_tests::lab::run::block_on;
use nebula_cluster_tests::lab::scenarios::{judge as judge_all, summary};
use nebula_cluster_tests::lab::{Lab, Processes, Run, wait};
use nebula_cluster_tests::process;
use serde_json::json;

/// Long enough for a few megabytes, so that files are used again and snapshots replaced.
const LIFE: Duration = Duration::from_millis(1200);
/// Copies of one store that are damaged, each in its own way.
const COPIES: u64 = 10;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a copy");
        }
    }
}

#[test]
fn a_damaged_store_is_refused_or_whole() {
    let mut run = Run::new("disk_damage a_damaged_store_is_refused_or_whole");
    let cycles = run.count("DAMAGES", 40);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut refused, mut whole) = (BTreeMap::<String, u64>::new(), BTreeMap::new());
    let mut cycle = 0;
    while cycle < cycles {
        let store = folder.path().join("store");
        let seed = u64::from(run.part());
        // Two lives: the second one begins with what the first one left in its journal.
        let mut before = Model::default();
        let mut life = Writer::start(&store, seed);
        std::thread::sleep(run.between(Duration::from_millis(300), LIFE));
        if run.pick(2) == 0 {
            let first = life.end();
            let again = folder.path().join("again");
            copy(&store, &again);
            let found = check(&again).expect("an undamaged store opens");
            judge(&before, &first.done, first.begun.as_ref(), &found).expect("a killed store");
            std::fs::remove_dir_all(&again).expect("a folder to remove");
            before = check(&store).expect("an undamaged store opens");
            life = Writer::start(&store, seed + 1);
            std::thread::sleep(run.between(Duration::ZERO, LIFE));
        }
        let life = life.end();
        for _ in 0..COPIES.min(cycles - cycle) {
            let damaged = folder.path().join("damaged");
            copy(&store, &damaged);
            let damage = inflict(&damaged, &mut run.rng);
            let name = damage.file.strip_prefix(&damaged).expect("below it");
            let name = format!("{} {:?}", name.display(), damage.kind);
            let verdict = match check(&damaged) {
                Ok(found) => {
                    *whole.entry(name).or_insert(0) += 1;
                    judge_damaged(&before, &life.done, life.begun.as_ref(), &found)
                }
                Err(error) if says_why(&error) => {
                    *refused.entry(name).or_insert(0) += 1;
                    Ok(())
                }
                Err(error) => Err(format!("it does not say why it does not open: {error}")),
            };
            if let Err(error) = verdict {
                panic!("cycle {cycle}, seed {seed}, {damage:?}: {error}");
            }
            std::fs::remove_dir_all(&damaged).expect("a folder to remove");
            cycle += 1;
        }
        std::fs::remove_dir_all(&store).expect("a folder to remove");
    }
    run.report(
        "store",
        &json!({ "damages": cycles, "refused": refused, "whole": whole, "served": 0 }),
    );
}

#[test]
fn a_node_whose_files_were_damaged_refuses_or_catches_up() {
    let test = "disk_damage a_node_whose_files_were_damaged_refuses_or_catches_up";
    let mut run = Run::new(test);
    let damages = run.count("CLUSTER_DAMAGES", 6);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut lab = Processes::start(3);
    block_on(async {
        let clock = Clock::default();
        let load = Load::start(&lab, &clock, &Plan::new(run.part()));
        let (mut refused, mut back) = (0, 0);
        for _ in 0..damages {
            let node = run.pick(lab.nodes());
            tokio::time::sleep(run.between(Duration::ZERO, Duration::from_secs(1))).await;
            lab.kill(node).await;
            let data = lab.cluster().members[node].data_dir.clone();
            let (registry, log) = (data.join("registry"), data.join("again.log"));
            let whole = folder.path().join("whole");
            copy(&registry, &whole);
            let damage = inflict(&registry, &mut run.rng);
            let _ = std::fs::remove_file(&log);
            lab.restart(node).await;
            let pid = lab.cluster().members[node].pid;
            let end = wait::until(wait::DEADLINE, "it is up or has ended", async || {
                if !process::is_running(pid) {
                    return Ok(true);
                }
                let looked = lab.api(node).look("/v1/status", wait::ASK).await;
                looked.map(|_| false).map_err(|e| e.to_string())
            });
            if !end.await {
                wait::ready(&lab, node).await;
                back += 1;
            } else {
                let said = std::fs::read_to_string(&log).expect("what it said");
                assert!(says_why(&said), "{damage:?}: {said}");
                // Its disk was as it is now all the time that it was down, so that this is no older node.
                std::fs::remove_dir_all(&registry).expect("a folder to remove");
                copy(&whole, &registry);
                lab.restart(node).await;
                wait::ready(&lab, node).await;
                refused += 1;
            }
            std::fs::remove_dir_all(&whole).expect("a folder to remove");
        }
        let history = load.stop().await;
        run.report(
            lab.kind(),
            &json!({ "damages": damages, "refused": refused, "back": back, "load": summary(&history) }),
        );
        judge_all(&lab, &run, &clock, history).await;
    });
}
