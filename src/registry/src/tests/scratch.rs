use super::harness::*;
use std::time::*;
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn throughput() {
    let nodes = Nodes::cluster(3).await;
    let leader = nodes.leader(nebula_domain::NodeId(2)).await;
    for clients in [1usize, 16, 64] {
        let m = || nodes.node(leader).registry.raft().metrics().borrow().last_log_index.unwrap();
        let (b, t) = (m(), Instant::now());
        let until = t + Duration::from_secs(4);
        let work = (0..clients).map(|c| { let node = &nodes.all[c % 3]; async move {
            let mut n = 0u64;
            while Instant::now() < until { node.set(&format!("c{c}"), &"v".repeat(256)).await.unwrap(); n += 1; }
            n }});
        let total: u64 = futures::future::join_all(work).await.iter().sum();
        let e = t.elapsed().as_secs_f64();
        println!("{clients} clients: {:.0}/s, {} entries ({:.1} per entry)", total as f64 / e, m() - b, total as f64 / (m() - b) as f64);
    }
    nodes.stop().await;
}
fn rss() -> String { std::fs::read_to_string("/proc/self/status").unwrap().lines().find(|l| l.starts_with("VmRSS")).unwrap().to_owned() }
#[test]
fn parts() {
    use crate::types::*;
    let dir = tempfile::TempDir::new_in("/tmp").unwrap();
    println!("{}", rss());
    let store = crate::disk::Store::open(&dir.path().join("raft-log"), Default::default()).unwrap();
    println!("opened {}", rss());
    let mut maps: Vec<(usize, String)> = vec![]; let mut head = String::new();
    for l in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() { if let Some(r) = l.strip_prefix("Rss:") { maps.push((r.trim().trim_end_matches(" kB").parse().unwrap(), head.clone())); } else if l.contains('-') && !l.contains(": ") { head = l.to_owned(); } }
    maps.sort(); for m in maps.iter().rev().take(12) { println!("{m:?}"); }
    let d2 = tempfile::TempDir::new_in("/tmp").unwrap();
    let _s2 = crate::disk::Store::open(&d2.path().join("x"), Default::default()).unwrap();
    println!("second {}", rss());
    let (records, _) = crate::log::RecordsT::open(store).unwrap();
    let id = |i| LogId::new(openraft::CommittedLeaderId::new(1, 1), i);
    let (mut put, mut flush) = (Duration::ZERO, Duration::ZERO);
    for i in 1..=4000u64 {
        let items = (0..32u128).map(|n| std::sync::Arc::new(Item::new(request(u128::from(i) * 100 + n, setting("k", &"x".repeat(256)))).unwrap())).collect();
        let e = Entry { log_id: id(i), payload: openraft::EntryPayload::Normal(Batch::new(items)) };
        let t = Instant::now();
        records.put(&e).unwrap();
        let u = Instant::now();
        put += u - t;
        records.store().sync().unwrap();
        flush += u.elapsed();
        if i % 500 == 0 { println!("{i} {} put {:?} sync {:?}", rss(), put / 500, flush / 500); put = Duration::ZERO; flush = Duration::ZERO; }
    }
}
#[test]
fn disk() {
    use crate::types::*;
    use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
    let rt = tokio::runtime::Runtime::new().unwrap();
    rt.block_on(async {
        let dir = tempfile::TempDir::new_in("/tmp").unwrap();
        let mut log = crate::log::LogStore::open(&dir.path().join("raft-log"), Default::default()).unwrap();
        let id = |i| LogId::new(openraft::CommittedLeaderId::new(1, 1), i);
        let t = Instant::now();
        for i in 1..=30_000u64 {
            let items = (0..32u128).map(|n| std::sync::Arc::new(Item::new(request(u128::from(i) * 100 + n, setting("k", &"x".repeat(256)))).unwrap())).collect();
            log.blocking_append([Entry { log_id: id(i), payload: openraft::EntryPayload::Normal(Batch::new(items)) }]).await.unwrap();
            if i % 5000 == 0 && i > 0 { log.purge(id(i - 1000)).await.unwrap(); }
            if i % 2500 == 0 {
                let out = std::process::Command::new("du").args(["-sm", "--apparent-size"]).arg(dir.path()).output().unwrap();
                let rss = std::fs::read_to_string("/proc/self/status").unwrap().lines().find(|l| l.starts_with("VmRSS")).unwrap().to_owned();
                println!("{i}: {:.1}s {} {rss} blobs {}", t.elapsed().as_secs_f64(), String::from_utf8_lossy(&out.stdout).trim(), std::fs::read_dir(dir.path().join("raft-log/blobs")).unwrap().count());
            }
        }
    });
}
