//! The laboratory's third kind of cluster: simulated, in one thread, in paused time. Registry,
//! membership, scheduler, supervisor and routing are the real ones; network, disks and programs are
//! not. A seed decides everything, so that it repeats a run exactly.
//!
//! That holds for one run in a process of its own, in which nothing else draws random numbers:
//! `tests/sim.rs` sees to it, and gives the runtime and the process's randomness.

pub mod cluster;
pub mod disk;
pub mod driver;
pub mod faults;
pub mod network;
pub mod node;
pub mod oracles;
pub mod trace;
pub mod workload;

use std::time::Duration;

use nebula_domain::DeploymentName;
use nebula_membership::CodecThread;
use nebula_registry::Compaction;
use nebula_telemetry::Random;
use tokio::time::{Instant, sleep};

use self::cluster::Cluster;
use self::faults::Faults;
use self::network::{Network, Weather};
use self::node::Ground;
use self::trace::Trace;
use self::workload::{Book, COUNTED, Workload};

/// How long things go wrong, in the run's time.
const TROUBLE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(24));
/// A cluster that is left alone has settled by then.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(250);
/// A final read through each node.
const READ: Duration = Duration::from_secs(10);

/// What came of a run.
pub struct Report {
    pub seed: u64,
    /// Of everything that happened; the same for every run of this seed.
    pub hash: String,
    pub events: u64,
    pub acknowledged: u64,
    /// Of the run's own time.
    pub lasted: Duration,
    /// The promise that was broken.
    pub violation: Option<String>,
    pub latest: Vec<String>,
}

/// One run. To be called once in a process, on a runtime of one thread whose time is paused.
pub async fn run(seed: u64, codec: CodecThread, echo: bool) -> Report {
    let trace = Trace::new(echo);
    notice_panics(&trace);
    let random = Random::seeded(seed);
    let part = || Random::seeded(random.u64());
    let usual = Weather {
        delay: match random.below(3) {
            0 => (Duration::from_micros(100), Duration::from_millis(1)),
            1 => (Duration::from_millis(1), Duration::from_millis(8)),
            _ => (Duration::from_millis(10), Duration::from_millis(60)),
        },
        lost: random.below(20),
        doubled: random.below(10),
    };
    let every_entries = 20 + random.below(200);
    let ground = Ground {
        network: Network::new(part(), usual, trace.clone()),
        trace: trace.clone(),
        random: part(),
        codec,
        compaction: Compaction {
            every_entries,
            every_bytes: u64::MAX,
            kept_entries: random.below(every_entries),
        },
        zero: Instant::now(),
    };
    let mut faults = Faults::new(part(), usual);
    let count = if random.below(3) == 0 { 5 } else { 3 };
    let spread = (TROUBLE.1 - TROUBLE.0).as_millis() as u64;
    let trouble = TROUBLE.0 + Duration::from_millis(random.below(spread));

    trace.note(format_args!(
        "seed {seed}: {count} nodes, {usual:?}, trouble for {trouble:?}"
    ));
    let acknowledged = match Cluster::form(ground, count).await {
        Err(reason) => {
            trace.violate("forming", format_args!("{reason}"));
            0
        }
        Ok(mut cluster) => {
            let workload = Workload::start(&cluster.lives, &part(), &trace);
            faults.run(&mut cluster, Instant::now() + trouble).await;
            faults.heal(&mut cluster).await;
            let book = workload.stop().await;
            judge(&mut cluster, &book, &trace).await;
            let book = book.lock();
            book.registers.acknowledged()
        }
    };
    Report {
        seed,
        hash: trace.hash(),
        events: trace.events(),
        acknowledged,
        lasted: trace.at(),
        violation: trace.violation(),
        latest: trace.latest(),
    }
}

/// A task that panics is a promise broken, also where something would have caught it.
fn notice_panics(trace: &Trace) {
    let trace = trace.clone();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        trace.violate("panic", format_args!("{info}"));
        usual(info);
    }));
}

/// Waits until the cluster has settled, and looks at what it has kept.
async fn judge(cluster: &mut Cluster, book: &Book, trace: &Trace) {
    let end = Instant::now() + SETTLED_WITHIN;
    loop {
        cluster.keep();
        cluster.switch_off_strays();
        let Some(reason) = oracles::unsettled(cluster) else {
            break;
        };
        if trace.violation().is_some() {
            return;
        }
        if Instant::now() >= end {
            trace.violate("settling", format_args!("{reason}"));
            return;
        }
        sleep(LOOK).await;
    }
    trace.note(format_args!("settled"));
    for life in cluster.lives.all() {
        let invoked = book.lock().registers.now();
        let state = match life.registry.read(READ).await {
            Ok(state) => state,
            Err(error) => {
                trace.violate(
                    "settling",
                    format_args!("{} cannot read: {error}", life.node),
                );
                return;
            }
        };
        let mut book = book.lock();
        for key in workload::keys() {
            let value = workload::number(state.settings.get(&key));
            book.registers.read(&key, value, invoked);
        }
        if state.revision < book.acknowledged_revision {
            trace.violate(
                "acknowledged",
                format_args!(
                    "{} is at revision {}, and {} was acknowledged",
                    life.node, state.revision, book.acknowledged_revision
                ),
            );
        }
        let counted = COUNTED.parse::<DeploymentName>().ok();
        let counted = counted.and_then(|name| state.deployments.get(&name));
        let generation = counted.map_or(1, |deployment| deployment.generation);
        if let Some(reason) = book.once.violation(generation) {
            trace.violate("once", format_args!("{reason}"));
        }
    }
    if let Some(reason) = book.lock().registers.violation() {
        trace.violate("linearizable", format_args!("{reason}"));
    }
}
