//! What many small writes leave behind: the size of a node's data, and its memory. One node's registry in this process,
//! with snapshots and purges as they are set by default; the memory is that of the writers, too.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context;
use nebula_domain::state::{Addresses, Cluster};
use nebula_domain::{Command, Request};
use nebula_registry::{Config, Registry};
use nebula_telemetry::Random;
use serde_json::json;

use crate::report;

const CLIENTS: u64 = 64;
/// As many settings as a busy cluster might have; every write replaces one.
const KEYS: u64 = 1_000;
/// Between two looks at folder and memory.
const LOOKS: u64 = 50;
const DATA_BYTES: u64 = 300 << 20;
const RSS_BYTES: u64 = 150 << 20;

pub fn run(writes: u64) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(measure(writes))
}

/// What one look saw.
#[derive(Clone, Copy, Default)]
struct Seen {
    data: u64,
    rss: u64,
}

async fn measure(writes: u64) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut meshes = nebula_testkit::Cluster::empty();
    let node = meshes.add(1);
    let random = Random::system();
    let config = Config::new(folder.path());
    let registry = Registry::start(config, node.mesh.clone(), random.clone(), &node.metrics)
        .await
        .context("a registry")?;
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let init = Command::Init {
        cluster: Cluster {
            id: meshes.id.clone(),
            ca_pem: String::new(),
        },
        name: "n1".parse()?,
        addresses: Addresses {
            quic: address(1),
            api: address(2),
            edge: address(3),
        },
        api_token_sha256: [0; 32],
    };
    let begin = Request {
        id: random.request_id(),
        command: init,
        stamp: Default::default(),
    };
    registry
        .initialise(begin)
        .await
        .context("the first entry")?;

    let begun = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut most = Seen::default();
    let mut looks = Vec::new();
    for part in 1..=LOOKS {
        let until = writes * part / LOOKS;
        let clients = (0..CLIENTS).map(|_| client(registry.clone(), next.clone(), until));
        futures::future::try_join_all(clients).await?;
        next.store(until, Ordering::Relaxed);
        let seen = look(folder.path())?;
        most.data = most.data.max(seen.data);
        most.rss = most.rss.max(seen.rss);
        looks.push(json!({ "writes": until, "data_bytes": seen.data, "rss_bytes": seen.rss }));
    }
    let took = begun.elapsed();
    let entries = registry.status().borrow().applied_index;
    registry.shutdown().await;
    let end = look(folder.path())?;
    let row = |what: &str, bytes: u64, last: u64, limit: u64| {
        let megabytes = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        vec![
            what.to_owned(),
            megabytes(bytes),
            megabytes(last),
            megabytes(limit),
        ]
    };
    let rows = vec![
        row("data folder", most.data, end.data, DATA_BYTES),
        row("resident memory", most.rss, end.rss, RSS_BYTES),
    ];
    report::publish(
        "space",
        &["after so many writes", "most", "at the end", "limit"],
        &rows,
        &json!({ "writes": writes, "entries": entries, "seconds": took.as_secs_f64(), "looks": looks,
            "optimised": !cfg!(debug_assertions) }),
    )?;
    anyhow::ensure!(
        most.data < DATA_BYTES,
        "the data folder grew to {} bytes",
        most.data
    );
    anyhow::ensure!(
        most.rss < RSS_BYTES,
        "the memory grew to {} bytes",
        most.rss
    );
    Ok(())
}

async fn client(registry: Registry, next: Arc<AtomicU64>, until: u64) -> anyhow::Result<()> {
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= until {
            return Ok(());
        }
        let set = Command::SetSetting {
            key: format!("user.k{}", n % KEYS),
            value: format!("value number {n}, about as long as most are"),
        };
        registry.propose(set).await?;
    }
}

fn look(dir: &Path) -> anyhow::Result<Seen> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = rss.and_then(|l| l.trim().strip_suffix("kB"));
    let kib: u64 = kib.context("VmRSS in /proc/self/status")?.trim().parse()?;
    Ok(Seen {
        data: size_of(dir)?,
        rss: kib << 10,
    })
}

fn size_of(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += match metadata.is_dir() {
            true => size_of(&entry.path())?,
            false => metadata.len(),
        };
    }
    Ok(bytes)
}
