//! What people and neighbours notice of releases and of programs that misbehave.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, Load, eventually, http};
use serde_json::json;

use crate::report;

const DEADLINE: Duration = Duration::from_secs(60);
const UPDATES: usize = 10;
const INSTANCES: u8 = 3;
const ROUNDS: usize = 5;
const LISTEN: Duration = Duration::from_secs(10);
/// A program that has no time, no memory, no processes or no disk left, bounded like any other.
const LOUD: [(&str, &[&str]); 4] = [
    (
        "cpu",
        &[
            "--command",
            "sh -c 'while :; do :; done & while :; do :; done'",
            "--cpu",
            "500m",
        ],
    ),
    (
        "memory",
        &[
            "--command",
            "sh -c 'FAULT=hog PORT=1 exec ./echo-service'",
            "--memory",
            "64Mi",
        ],
    ),
    (
        "processes",
        &[
            "--command",
            "sh -c 'f() { f | f & }; f; sleep 1000'",
            "--pids",
            "64",
            "--cpu",
            "500m",
        ],
    ),
    (
        "disk",
        &[
            "--command",
            "sh -c 'while :; do head -c 200000000 /dev/zero > fill; done'",
            "--disk",
            "64Mi",
            "--cpu",
            "500m",
        ],
    ),
];

/// From the command to the new release at every edge.
pub fn update() -> anyhow::Result<()> {
    let cluster = Cluster::start(3);
    let sites = site(&cluster)?;
    let services = service(&cluster)?;
    let (site, service) = (
        report::median(sites.clone()),
        report::median(services.clone()),
    );
    let step = service / f64::from(INSTANCES);
    let rows = [
        vec![
            format!("a site's new file at all three nodes, median of {UPDATES}"),
            format!("{:.0} ms", site * 1000.0),
            "500 ms".to_owned(),
        ],
        vec![
            format!("the same, the slowest of {UPDATES}"),
            format!(
                "{:.0} ms",
                sites.iter().copied().fold(0.0, f64::max) * 1000.0
            ),
            "500 ms".to_owned(),
        ],
        vec![
            format!("a service of {INSTANCES}, one after the other: each step, median"),
            format!("{:.0} ms", step * 1000.0),
            "its start-up and 500 ms".to_owned(),
        ],
    ];
    report::publish(
        "update",
        &["what", "measured", "aim"],
        &rows,
        &json!({ "site_seconds": sites, "service_seconds": services, "instances": INSTANCES }),
    )
}

fn site(cluster: &Cluster) -> anyhow::Result<Vec<f64>> {
    let folder = cluster.scratch("site");
    let path = folder.to_str().unwrap_or_default();
    std::fs::write(folder.join("index.html"), "version none")?;
    let create = ["deploy", "create", "site", "--path", path];
    let rest = ["--tld", "example.test", "--wait"];
    cluster.nebula(&[&create[..], &rest[..]].concat()).ok();
    let mut times = Vec::new();
    for version in 0..UPDATES {
        let text = format!("version {version}.");
        std::fs::write(folder.join("index.html"), &text)?;
        let start = Instant::now();
        cluster
            .nebula(&["deploy", "update", "site", "--path", path, "--no-wait"])
            .ok();
        for edge in cluster.edges() {
            seen(edge, "site.example.test", &text, start)?;
        }
        times.push(start.elapsed().as_secs_f64());
        // The next one begins when this one is out.
        eventually(DEADLINE, "the release is out", || {
            let status = cluster.status("site");
            holds(status["rollout"].is_null(), status)
        });
    }
    Ok(times)
}

fn service(cluster: &Cluster) -> anyhow::Result<Vec<f64>> {
    cluster.deploy_echo("api", INSTANCES.into());
    let mut times = Vec::new();
    for version in 0..UPDATES {
        let greeting = format!("GREETING=version {version}.");
        let update = ["deploy", "update", "api", "--env", &greeting];
        let start = Instant::now();
        cluster
            .nebula(&[&update[..], &["--watch", "0s"]].concat())
            .ok();
        for edge in cluster.edges() {
            seen(
                edge,
                "api.example.test",
                &format!("version {version}."),
                start,
            )?;
        }
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(times)
}

fn seen(edge: SocketAddr, host: &str, text: &str, start: Instant) -> anyhow::Result<()> {
    while !http::get(edge, host, "/").is_ok_and(|r| r.text().contains(text)) {
        anyhow::ensure!(start.elapsed() < DEADLINE, "'{text}' is not seen at {edge}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// What a service's users notice of a program beside it that takes all that it can get.
pub fn neighbour() -> anyhow::Result<()> {
    let cluster = Cluster::start(1);
    cluster.deploy_echo("quiet", 1);
    let folder = cluster.echo_folder();
    let path = folder.to_str().unwrap_or_default();
    let (mut rows, mut raw) = (Vec::new(), Vec::new());
    for (what, flags) in LOUD {
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            alone.push(p99(&cluster)?);
            let name = format!("{what}{round}");
            let create = ["deploy", "create", &name, "--path", path];
            let worker = ["--type", "worker", "--no-wait"];
            cluster
                .nebula(&[&create[..], flags, &worker[..]].concat())
                .ok();
            std::thread::sleep(Duration::from_secs(1));
            beside.push(p99(&cluster)?);
            cluster.nebula(&["deploy", "remove", &name, "--wait"]).ok();
        }
        let ratios = alone.iter().zip(&beside).map(|(a, b)| b / a).collect();
        rows.push(vec![
            what.to_owned(),
            format!("{:.2} ms", report::median(alone.clone())),
            format!("{:.2} ms", report::median(beside.clone())),
            format!("{:.2}", report::median(ratios)),
            "2".to_owned(),
        ]);
        raw.push(json!({ "takes": what, "alone_p99_ms": alone, "beside_p99_ms": beside }));
    }
    let header = [
        "the other takes all",
        "p99 alone",
        "p99 beside it",
        "times",
        "aim",
    ];
    report::publish("neighbour", &header, &rows, &json!(raw))
}

/// In milliseconds, of 200 requests a second.
fn p99(cluster: &Cluster) -> anyhow::Result<f64> {
    let load = Load::start(
        &cluster.edges(),
        "quiet.example.test",
        Duration::from_millis(5),
    );
    std::thread::sleep(LISTEN);
    let shots = load.stop();
    anyhow::ensure!(
        shots.iter().all(|shot| shot.failure.is_none()),
        "a request failed"
    );
    let mut took: Vec<f64> = shots
        .iter()
        .map(|shot| shot.took.as_secs_f64() * 1000.0)
        .collect();
    took.sort_by(f64::total_cmp);
    Ok(report::percentile(&took, 0.99))
}
