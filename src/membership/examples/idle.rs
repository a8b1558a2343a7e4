//! What gossip costs when nothing happens: three nodes in one process for ten seconds.
//!
//! cargo run --release -p nebula-membership --example idle
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use nebula_membership::{Config, Membership};
use nebula_telemetry::Clock;

const NODES: u64 = 3;
const TIME: Duration = Duration::from_secs(10);

fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    // proc(5): utime and stime, counted from the state, in hundredths of a second.
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::main]
async fn main() {
    let mut cluster = nebula_testkit::Cluster::empty();
    let nodes: Vec<_> = (1..=NODES).map(|id| cluster.add(id)).collect();
    let members: Vec<_> = nodes
        .iter()
        .map(|node| {
            let config = Config::new(cluster.id.clone(), Clock::system().now());
            Membership::start(config, node.mesh.clone(), &node.metrics)
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (began, before) = (Instant::now(), cpu_ticks());
    tokio::time::sleep(TIME).await;
    let used = (cpu_ticks() - before) as f64 / 100.0 / began.elapsed().as_secs_f64();
    println!(
        "{:.2} % of a core for each of {NODES} nodes",
        used * 100.0 / NODES as f64
    );
    drop(members);
}
