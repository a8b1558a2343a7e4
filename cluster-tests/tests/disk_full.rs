//! Promise: a full disk loses nothing that was acknowledged; the node says so, hands leadership on, and goes on by
//! itself once there is room.

use std::path::Path;
use std::time::{Duration, Instant};

use nebula_cluster_tests::disk::model::{Model, judge};
use nebula_cluster_tests::disk::store::{Writer, check};
use nebula_cluster_tests::disk::{Volume, volume};
use nebula_cluster_tests::lab::api::Consistency;
use nebula_cluster_tests::lab::history::Clock;
use nebula_cluster_tests::lab::load::{Load, Plan};
use nebula_cluster_tests::lab::run::block_on;
use nebula_cluster_tests::lab::scenarios::{judge as judge_all, summary};
use nebula_cluster_tests::lab::{Lab, Processes, Run, wait};
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{command, eventually};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(90);
const VOLUME_MEGABYTES: u64 = 64;
/// No operation of a store takes so long while there is room.
const STANDSTILL: Duration = Duration::from_secs(5);

/// Waits until nothing is confirmed for a while.
fn stands_still(writer: &Writer) {
    let (mut seen, mut since) = (writer.confirmed(), Instant::now());
    eventually(DEADLINE, "the store waits for room", || {
        if writer.confirmed() != seen {
            (seen, since) = (writer.confirmed(), Instant::now());
        }
        holds(since.elapsed() > STANDSTILL, seen)
    });
}

/// The disk is filled up to `leave` bytes while the store is at work.
fn fills_up(test: &'static str, leave: u64, start: fn(&Path, u64) -> Writer) {
    if !volume::available() {
        return;
    }
    let mut run = Run::new(test);
    let rounds = run.count("DISK_FULL", 2);
    let volume = Volume::new(VOLUME_MEGABYTES);
    let dir = volume.dir().join("store");
    let mut before = Model::default();
    let mut confirmed = 0;
    for round in 0..rounds {
        let mut writer = start(&dir, u64::from(run.part()));
        eventually(DEADLINE, "the store is at work", || {
            holds(writer.confirmed() > 50, writer.confirmed())
        });
        volume.fill(leave);
        stands_still(&writer);
        assert!(!writer.has_ended(), "round {round}: it gave up");
        let then = writer.confirmed();
        volume.make_room();
        eventually(DEADLINE, "the store goes on by itself", || {
            assert!(!writer.has_ended(), "round {round}: it gave up");
            holds(writer.confirmed() > then + 50, writer.confirmed())
        });
        let life = writer.end();
        let found = check(&dir).unwrap_or_else(|e| panic!("round {round}: {e}"));
        judge(&before, &life.done, life.begun.as_ref(), &found)
            .unwrap_or_else(|e| panic!("round {round}: {e}"));
        confirmed += life.done.len();
        before = found;
    }
    run.report(
        "store",
        &json!({ "times_full": rounds, "confirmed": confirmed, "lost": 0 }),
    );
}

#[test]
fn a_store_waits_for_room_and_goes_on() {
    let test = "disk_full a_store_waits_for_room_and_goes_on";
    fills_up(test, 4 << 20, Writer::start);
}

/// As if somebody took all of it between a look and a write.
#[test]
fn a_store_whose_writes_find_no_room_goes_on() {
    let test = "disk_full a_store_whose_writes_find_no_room_goes_on";
    fills_up(test, 0, Writer::start_blind);
}

/// What a node says of its disk.
async fn disk(lab: &dyn Lab, node: usize) -> Result<String, String> {
    let status = lab.api(node).look("/v1/status", wait::ASK).await;
    let status = status.map_err(|e| e.to_string())?;
    Ok(status["disk"].as_str().unwrap_or("has room").to_owned())
}

async fn says(lab: &dyn Lab, node: usize, wanted: &str) {
    wait::until(
        DEADLINE,
        &format!("node {node} says: {wanted}"),
        async || {
            let said = disk(lab, node).await?;
            if said == wanted { Ok(()) } else { Err(said) }
        },
    )
    .await;
}

#[test]
fn a_full_leader_lets_another_one_lead_and_comes_back() {
    if !volume::available() {
        return;
    }
    let test = "disk_full a_full_leader_lets_another_one_lead_and_comes_back";
    let mut run = Run::new(test);
    // Gone after the cluster.
    let volumes: Vec<Volume> = (0..3).map(|_| Volume::new(VOLUME_MEGABYTES)).collect();
    let mut lab = Processes::start(volumes.len());
    for (node, volume) in volumes.iter().enumerate() {
        lab.cluster_mut().move_to(node, &volume.dir());
    }
    block_on(async {
        wait::all_ready(&lab).await;
        let clock = Clock::default();
        let load = Load::start(&lab, &clock, &Plan::new(run.part()));
        let old = wait::leader(&lab).await;
        volumes[old].fill(12 << 20);
        says(&lab, old, "low").await;
        let others: Vec<usize> = (0..lab.nodes()).filter(|node| *node != old).collect();
        let ids = wait::ids(&lab);
        let mut api = lab.api(others[0]);
        wait::until(
            DEADLINE,
            "another one leads",
            async || match wait::leader_by(api.as_mut(), &ids).await {
                Ok(leader) if leader != old => Ok(()),
                said => Err(format!("{said:?}")),
            },
        )
        .await;
        let said = command::on_node(&lab.cluster().members[old].data_dir, "nodectl", ["status"]);
        assert!(said.ok().stdout.contains("nearly full"));

        // So much is written that its log has no place left, and it falls behind.
        let mut writer = lab.api(others[1]);
        let large = "x".repeat(4_000);
        volumes[old].fill(0);
        wait::until(DEADLINE, "the full node says so", async || {
            for n in 0..100 {
                let id = format!("{:032x}", rand::random::<u128>());
                let key = format!("user.large{n}");
                let put = writer.put(&key, &large, &id, wait::ASK).await;
                put.map_err(|e| e.to_string())?;
            }
            match disk(&lab, old).await?.as_str() {
                "full" => Ok(()),
                other => Err(other.to_owned()),
            }
        })
        .await;
        // The others go on, and it serves what it knows.
        let value = lab
            .api(old)
            .get("user.large0", Consistency::Stale, wait::ASK)
            .await;
        assert!(value.is_ok(), "{value:?}");
        let id = format!("{:032x}", rand::random::<u128>());
        writer
            .put("user.while", "full", &id, wait::ASK)
            .await
            .expect("the others are a majority");

        volumes[old].make_room();
        says(&lab, old, "has room").await;
        wait::ready(&lab, old).await;
        let history = load.stop().await;
        run.report(lab.kind(), &json!({ "load": summary(&history) }));
        judge_all(&lab, &run, &clock, history).await;
    });
}
