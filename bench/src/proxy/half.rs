//! What a proxy adds to p99 when it has room: all of them at one rate, which is half of what the slower of Nebula and
//! HAProxy can do here, and the upstream alone at the same rate.

use std::net::SocketAddr;
use std::path::Path;

use super::load::{Target, Way};
use super::mode::{Mode, Shape};
use super::peers::{Layout, Peer, Running};
use super::proc::Cpu;
use super::results::{Results, Sample};
use super::rounds::{self, Effort};
use super::stage::API;

const PATH: &str = "/small";
/// For the rate that each can do.
const FULL_SECONDS: u64 = 2;

fn shape(way: Way) -> Shape {
    Shape {
        way,
        host: API,
        path: PATH,
        layout: Layout::Single,
    }
}

/// Half of what the slowest does at most.
pub fn half_rate(all: &[&Running], folder: &Path) -> anyhow::Result<f64> {
    let mut slowest = f64::INFINITY;
    for running in all {
        let sample = rounds::one(running, &shape(Way::Plain), FULL_SECONDS, folder)?;
        slowest = slowest.min(sample.requests_per_second);
    }
    Ok(slowest / 2.0)
}

/// At a given rate, without a proxy whose CPU counts.
pub fn paced(
    address: SocketAddr,
    host: &str,
    rate: f64,
    seconds: u64,
    folder: &Path,
) -> anyhow::Result<Sample> {
    let target = Target {
        address,
        host,
        path: PATH,
    };
    let answers = Way::Paced { rate }.run(&target, seconds, folder)?;
    Ok(Sample::new(&answers, Cpu::default()))
}

pub fn run(
    upstream: SocketAddr,
    all: &[&Running],
    effort: Effort,
    folder: &Path,
    results: &mut Results,
) -> anyhow::Result<()> {
    let judged = |r: &&&Running| matches!(r.peer, Peer::Nebula | Peer::Haproxy);
    let judged: Vec<&Running> = all.iter().filter(judged).copied().collect();
    let rate = half_rate(if judged.is_empty() { all } else { &judged }, folder)?;
    println!("half load: {rate:.0} requests/s");
    let shape = shape(Way::Paced { rate });
    for _ in 0..effort.rounds {
        let alone = paced(upstream, API, rate, effort.seconds, folder)?;
        results.direct.push(alone);
    }
    let rounds = rounds::measure(Mode::HalfLoad, &shape, all, effort, folder);
    for (running, rounds) in all.iter().zip(rounds) {
        results.load.insert((Mode::HalfLoad, running.peer), rounds);
    }
    Ok(())
}
