//! Promise: what was acknowledged survives a power cut, and every store opens afterwards.

use std::time::Duration;

use nebula_cluster_tests::disk::model::{Model, Op, judge};
use nebula_cluster_tests::disk::store::{Writer, check};
use nebula_cluster_tests::disk::{Volume, volume};
use nebula_cluster_tests::lab::history::Clock;
use nebula_cluster_tests::lab::load::{Load, Plan};
use nebula_cluster_tests::lab::run::{block_on, spread};
use nebula_cluster_tests::lab::scenarios::{judge as judge_all, summary};
use nebula_cluster_tests::lab::{Lab, Processes, Run, wait};
use serde_json::json;
use tokio::time::{Instant, sleep};

/// A store's life until the power is cut.
const LIFE: Duration = Duration::from_millis(1500);
/// The file system takes this many stores before it is made anew.
const STORES: u64 = 10;
const VOLUME_MEGABYTES: u64 = 512;
/// Of so many cuts of a cluster one takes the power from all machines at once.
const ALL_IN: usize = 3;

#[test]
fn a_store_loses_its_power_at_any_moment() {
    if !volume::available() {
        return;
    }
    let mut run = Run::new("disk_power_cut a_store_loses_its_power_at_any_moment");
    let cuts = run.count("POWER_CUTS", 10);
    let mut volume = Volume::new(VOLUME_MEGABYTES);
    let (mut stores, mut young, mut confirmed, mut installs) = (0, 0, 0, 0);
    let mut before = Model::default();
    for cut in 0..cuts {
        // Every other store is a new one.
        if cut % 2 == 0 {
            if stores == STORES {
                volume = Volume::new(VOLUME_MEGABYTES);
                stores = 0;
            }
            stores += 1;
            young += 1;
            before = Model::default();
        }
        let dir = volume.dir().join(stores.to_string());
        let seed = u64::from(run.part());
        let writer = Writer::start(&dir, seed);
        std::thread::sleep(run.between(Duration::ZERO, LIFE));
        volume.cut();
        let life = writer.end();
        volume.restore_power();
        let found = check(&dir).unwrap_or_else(|e| panic!("cut {cut}, seed {seed}: {e}"));
        if let Err(error) = judge(&before, &life.done, life.begun.as_ref(), &found) {
            panic!("cut {cut}, seed {seed}: {error}");
        }
        confirmed += life.done.len();
        installs += usize::from(matches!(life.begun, Some(Op::Install { .. })));
        before = found;
    }
    run.report(
        "store",
        &json!({ "power_cuts": cuts, "new_stores": young, "cut_during_installs": installs,
            "confirmed": confirmed, "lost": 0, "not_opened": 0 }),
    );
}

#[test]
fn machines_of_a_cluster_lose_their_power() {
    if !volume::available() {
        return;
    }
    let mut run = Run::new("disk_power_cut machines_of_a_cluster_lose_their_power");
    let cuts = run.count("CLUSTER_POWER_CUTS", 4);
    // Gone after the cluster.
    let mut volumes: Vec<Volume> = (0..3).map(|_| Volume::new(VOLUME_MEGABYTES)).collect();
    let mut lab = Processes::start(volumes.len());
    for (node, volume) in volumes.iter().enumerate() {
        lab.cluster_mut().move_to(node, &volume.dir());
    }
    block_on(async {
        wait::all_ready(&lab).await;
        let clock = Clock::default();
        let load = Load::start(&lab, &clock, &Plan::new(run.part()));
        let (mut back, mut all) = (Vec::new(), 0);
        for _ in 0..cuts {
            sleep(run.between(Duration::from_millis(100), Duration::from_secs(2))).await;
            let victims: Vec<usize> = match run.pick(ALL_IN) {
                0 => (0..lab.nodes()).collect(),
                _ => vec![run.pick(lab.nodes())],
            };
            all += usize::from(victims.len() > 1);
            for victim in &victims {
                volumes[*victim].cut();
            }
            for victim in &victims {
                lab.kill(*victim).await;
                volumes[*victim].restore_power();
            }
            let begun = Instant::now();
            for victim in &victims {
                lab.restart(*victim).await;
            }
            for victim in &victims {
                wait::ready(&lab, *victim).await;
            }
            back.push(begun.elapsed());
        }
        let history = load.stop().await;
        run.report(
            lab.kind(),
            &json!({ "power_cuts": cuts, "of_all": all, "back": spread(&back), "load": summary(&history) }),
        );
        judge_all(&lab, &run, &clock, history).await;
    });
}
