use super::harness::*;
use std::time::*;
fn rss() -> String { std::fs::read_to_string("/proc/self/status").unwrap().lines().find(|l| l.starts_with("VmRSS")).unwrap().to_owned() }
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn throughput() {
    let nodes = Nodes::cluster(3).await;
    println!("idle three nodes {}", rss());
    for clients in [1usize, 16, 64] {
        let t = Instant::now();
        let until = t + Duration::from_secs(5);
        let work = (0..clients).map(|c| { let node = &nodes.all[c % 3]; async move {
            let mut n = 0u64;
            while Instant::now() < until { node.set(&format!("c{c}"), &"v".repeat(256)).await.unwrap(); n += 1; }
            n }});
        let total: u64 = futures::future::join_all(work).await.iter().sum();
        println!("{clients} clients: {:.0}/s {}", total as f64 / t.elapsed().as_secs_f64(), rss());
    }
    nodes.stop().await;
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
        let mut worst = Duration::ZERO;
        for i in 1..=30_000u64 {
            let items = (0..32u128).map(|n| std::sync::Arc::new(Item::new(request(u128::from(i) * 100 + n, setting("k", &"x".repeat(256)))).unwrap())).collect();
            let u = Instant::now();
            log.blocking_append([Entry { log_id: id(i), payload: openraft::EntryPayload::Normal(Batch::new(items)) }]).await.unwrap();
            worst = worst.max(u.elapsed());
            if i % 1600 == 0 { log.purge(id(i - 1000)).await.unwrap(); }
            if i % 5000 == 0 {
                let out = std::process::Command::new("du").args(["-sm"]).arg(dir.path()).output().unwrap();
                println!("{i}: {:.1}s {} {} worst {worst:?} blobs {}", t.elapsed().as_secs_f64(), String::from_utf8_lossy(&out.stdout).trim(), rss(), std::fs::read_dir(dir.path().join("raft-log/blobs")).unwrap().count());
                worst = Duration::ZERO;
            }
        }
        log.close();
        let t = Instant::now();
        let log = crate::log::LogStore::open(&dir.path().join("raft-log"), Default::default()).unwrap();
        println!("reopen {:?}", t.elapsed());
        log.close();
    });
}
