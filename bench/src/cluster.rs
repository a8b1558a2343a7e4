//! What a whole cluster costs and how fast it reacts.

use std::time::{Duration, Instant};

use nebula_cluster_tests::load::failures;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, Load, binaries, eventually, http};
use serde_json::json;

use crate::report;

const DEADLINE: Duration = Duration::from_secs(60);
/// Long enough for the start's work to have ended, and for ticks of 10 ms to say something.
const SETTLE: Duration = Duration::from_secs(10);
const WATCH: Duration = Duration::from_secs(30);

/// Clock ticks of user and system time (proc(5), fields 14 and 15 of `stat`), in milliseconds.
fn cpu_ms(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let ticks = |i: usize| {
        fields
            .get(i)
            .and_then(|f| f.parse::<u64>().ok())
            .unwrap_or_default()
    };
    (ticks(11) + ticks(12)) * 10
}

fn rss_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS:"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kb| kb.parse::<f64>().ok())
        .unwrap_or(f64::NAN)
        / 1024.0
}

pub fn idle() -> anyhow::Result<()> {
    // Builds what is not up to date, which is not part of a start.
    binaries::path("nodectl");
    let start = Instant::now();
    let cluster = Cluster::start(3);
    let ready = start.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);
    let before: Vec<u64> = cluster.members.iter().map(|m| cpu_ms(m.pid)).collect();
    std::thread::sleep(WATCH);
    let mut rows = vec![vec![
        "three nodes ready".to_owned(),
        format!("{ready:.2} s"),
        "5 s".to_owned(),
    ]];
    let mut raw = Vec::new();
    for (member, before) in cluster.members.iter().zip(before) {
        #[allow(clippy::cast_precision_loss)]
        let share = (cpu_ms(member.pid) - before) as f64 / WATCH.as_millis() as f64 * 100.0;
        let rss = rss_mb(member.pid);
        rows.push(vec![
            format!("{}: resident memory", member.name),
            format!("{rss:.1} MB"),
            "50 MB".to_owned(),
        ]);
        rows.push(vec![
            format!("{}: CPU", member.name),
            format!("{share:.2} % of a core"),
            "1 %".to_owned(),
        ]);
        raw.push(json!({ "node": member.name, "rss_mb": rss, "cpu_percent": share }));
    }
    report::publish(
        "idle",
        &["what", "measured", "aim"],
        &rows,
        &json!({ "ready_seconds": ready, "nodes": raw }),
    )
}

pub fn deploy() -> anyhow::Result<()> {
    let cluster = Cluster::start(3);
    let folder = cluster.scratch("hundred");
    std::fs::write(folder.join("index.html"), "<h1>hundred</h1>")?;
    for i in 0..99 {
        std::fs::write(
            folder.join(format!("page{i}.html")),
            format!("<p>{i}</p>").repeat(200),
        )?;
    }
    let mut times = Vec::new();
    for round in 0..5 {
        // A new byte makes it a new artifact each time.
        std::fs::write(folder.join("round.txt"), round.to_string())?;
        let name = format!("site{round}");
        let start = Instant::now();
        let path = folder.to_str().unwrap_or_default();
        cluster
            .nebula(&[
                "deploy",
                "create",
                &name,
                "--path",
                path,
                "--tld",
                "example.test",
                "--no-wait",
            ])
            .ok();
        for edge in cluster.edges() {
            let host = format!("{name}.example.test");
            while !http::get(edge, &host, "/").is_ok_and(|r| r.status == 200) {
                anyhow::ensure!(
                    start.elapsed() < DEADLINE,
                    "the site is not served by {edge}"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        times.push(start.elapsed().as_secs_f64());
    }
    let median = report::median(times.clone());
    let rows = vec![vec![
        "100 files to 200 from every node, median of 5".to_owned(),
        format!("{median:.2} s"),
        "1 s".to_owned(),
    ]];
    report::publish(
        "deploy",
        &["what", "measured", "aim"],
        &rows,
        &json!({ "seconds": times }),
    )
}

pub fn failover() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let mut raw = Vec::new();
    for case in ["follower", "leader", "follower", "leader", "leader"] {
        let cluster = Cluster::start(3);
        cluster.deploy_echo("api", 3);
        for edge in cluster.edges() {
            cluster.serves(edge, "api.example.test");
        }
        let leader = cluster.leader();
        let lost = if case == "leader" {
            leader
        } else {
            (leader + 1) % 3
        };
        let edges: Vec<_> = (0..3)
            .filter(|i| *i != lost)
            .map(|i| cluster.members[i].edge)
            .collect();
        let load = Load::start(&edges, "api.example.test", Duration::from_millis(5));
        std::thread::sleep(Duration::from_secs(1));
        let killed = Instant::now();
        cluster.kill_machine(lost);
        eventually(DEADLINE, "a write", || {
            let done = cluster.nebula(&["config", "set", "user.back", "1"]);
            holds(done.code == 0, done.to_string())
        });
        let writes = killed.elapsed().as_secs_f64();
        let name = cluster.members[lost].name.clone();
        eventually(DEADLINE, "the instances are replaced", || {
            let status = cluster.status("api");
            let elsewhere = status["instances"]
                .as_array()
                .into_iter()
                .flatten()
                .all(|i| i["node"] != name.as_str());
            holds(status["ready"] == 3 && elsewhere, status)
        });
        let replaced = killed.elapsed().as_secs_f64();
        let shots = load.stop();
        let failed = failures(&shots);
        let last = failed
            .iter()
            .map(|s| s.at.saturating_duration_since(killed).as_secs_f64())
            .fold(0.0, f64::max);
        let slowest = shots
            .iter()
            .map(|s| s.took.as_secs_f64())
            .fold(0.0, f64::max);
        rows.push(vec![
            case.to_owned(),
            format!("{} of {}", failed.len(), shots.len()),
            format!("{last:.2} s"),
            format!("{slowest:.2} s"),
            format!("{writes:.2} s"),
            format!("{replaced:.2} s"),
        ]);
        raw.push(json!({ "lost": case, "failed": failed.len(), "requests": shots.len(), "last_failure_after_s": last,
            "slowest_request_s": slowest, "writes_back_s": writes, "instances_replaced_s": replaced }));
    }
    let header = [
        "lost",
        "failed GETs",
        "last failure after",
        "slowest GET",
        "writes back",
        "instances replaced",
    ];
    report::publish("failover", &header, &rows, &json!(raw))
}
