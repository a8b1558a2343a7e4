//! Output outlives its machine: a second node has it, and stands in for the first.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Cluster, all, cluster, eventually, next, texts, write};
use nebula_domain::{InstanceId, NodeId};
use nebula_drivers::logfile;
use nebula_logs::Query;

/// Three nodes that see each other, with an instance on the first.
async fn three() -> Cluster {
    let cluster = cluster(3).await;
    cluster.say_alive(&[1, 2, 3]);
    cluster.assign(1, 1);
    cluster.started(1, 1);
    cluster.write(1, 1, &[(1, "a"), (2, "b")]);
    cluster
}

/// The copies of the first node's instance, by the nodes that hold them.
fn held(cluster: &Cluster) -> Vec<(usize, PathBuf)> {
    let place = |node: usize| {
        let dir = cluster.nodes[node - 1].dir.path();
        dir.join("logs/copies/1/api/i-1-r2")
    };
    let nodes = (1..=3).map(|node| (node, place(node)));
    nodes.filter(|(_, dir)| dir.exists()).collect()
}

fn copied(cluster: &Cluster, text: &str) -> Option<(usize, PathBuf)> {
    held(cluster).into_iter().find(|(_, dir)| {
        let log = fs::read_to_string(logfile::current(dir)).unwrap_or_default();
        log.contains(text)
    })
}

#[tokio::test]
async fn a_lost_machines_lines_are_read_from_the_copy() {
    let mut cluster = three().await;
    let copier = cluster.copier(1);
    eventually("the copy", || copied(&cluster, " b\n")).await;
    // A new segment, and the tail after it.
    let dir = cluster.nodes[0].dir.path().join("i-1");
    fs::rename(logfile::current(&dir), logfile::previous(&dir)).unwrap();
    let begins = fs::metadata(logfile::previous(&dir)).unwrap().len();
    let mark = format!("2026-01-31T12:00:02.500Z offset {begins}\n");
    fs::write(logfile::current(&dir), mark).unwrap();
    cluster.write(1, 1, &[(3, "c")]);
    let (_, copy) = eventually("the copy of the tail", || copied(&cluster, " c\n")).await;
    assert_eq!(held(&cluster).len(), 1, "on one node");
    for n in 0..2 {
        let name = |dir: &std::path::Path| match n {
            0 => logfile::current(dir),
            n => logfile::numbered(dir, n),
        };
        assert_eq!(
            fs::read(name(&copy)).unwrap(),
            fs::read(name(&dir)).unwrap()
        );
    }

    // Both there: nothing twice.
    assert_eq!(
        texts(&all(cluster.ask(2, false, 10)).await),
        ["a", "b", "c"]
    );

    copier.abort();
    cluster.nodes[0].mesh.close().await;
    // Before the failure detector knows, and after.
    for alive in [&[1, 2, 3][..], &[2, 3]] {
        cluster.say_alive(alive);
        for node in [2, 3] {
            let lines = all(cluster.ask(node, false, 10)).await;
            let told = &lines[0];
            assert_eq!(told.stream, "nebula");
            assert!(told.line.contains("are from copies"), "{told:?}");
            assert_eq!(texts(&lines[1..]), ["a", "b", "c"], "{node} {alive:?}");
            assert!(lines.iter().all(|line| line.node == "n1"), "{lines:?}");
        }
    }

    // It will not come back.
    cluster.state.send_modify(|state| {
        let mut next = nebula_domain::State::clone(state);
        next.nodes.remove(&NodeId(1));
        next.instances.clear();
        next.revision += 1;
        *state = std::sync::Arc::new(next);
    });
    let mut query = Query::new(common::name());
    query.filter.instance = Some(InstanceId(1));
    for node in [2, 3] {
        let lines = all(cluster.nodes[node - 1].logs.stream(query.clone()).unwrap()).await;
        assert_eq!(texts(&lines), ["a", "b", "c"]);
        assert_eq!(lines[0].node, "n1", "its name then");
    }
    cluster.nodes.clear();
}

#[tokio::test]
async fn a_follower_goes_on_with_the_copy_and_then_with_the_node() {
    let mut cluster = three().await;
    let copier = cluster.copier(1);
    eventually("the copy", || copied(&cluster, " b\n")).await;
    let mut stream = cluster.ask(3, true, 10);
    assert_eq!(next(&mut stream).await.line, "a");
    assert_eq!(next(&mut stream).await.line, "b");
    copier.abort();
    // The last that the holder got, and the follower did not.
    let (_, copy) = held(&cluster).remove(0);
    let dir = cluster.nodes[0].dir.path().to_owned();
    cluster.nodes[0].mesh.close().await;
    cluster.say_alive(&[2, 3]);
    let lost = next(&mut stream).await;
    assert_eq!(lost.stream, "nebula");
    let later = chrono(&[(100, "c")]);
    for log in [logfile::current(&copy), logfile::current(&dir.join("i-1"))] {
        let mut text = fs::read_to_string(&log).unwrap();
        text.push_str(&later);
        fs::write(&log, text).unwrap();
    }
    assert_eq!(next(&mut stream).await.line, "c");
    // It returns: each line once.
    cluster.restart(1, || write(&dir, 1, &[])).await;
    cluster.say_alive(&[1, 2, 3]);
    fs::OpenOptions::new()
        .append(true)
        .open(logfile::current(&dir.join("i-1")))
        .and_then(|mut file| std::io::Write::write_all(&mut file, chrono(&[(200, "d")]).as_bytes()))
        .unwrap();
    assert_eq!(next(&mut stream).await.line, "d");
}

/// Lines of some time from now on: a follower goes on from when it began.
fn chrono(lines: &[(u64, &str)]) -> String {
    let now = nebula_telemetry::Clock::system().now();
    let line = |(second, text): &(u64, &str)| {
        let time = logfile::time_text(now.plus(std::time::Duration::from_secs(*second)));
        format!("{time} stdout {text}\n")
    };
    lines.iter().map(line).collect()
}

#[tokio::test]
async fn a_copy_goes_on_after_a_restart_and_on_another_node() {
    let mut cluster = three().await;
    let copier = cluster.copier(1);
    let (holder, _) = eventually("the copy", || copied(&cluster, " b\n")).await;
    copier.abort();
    cluster.restart(1, || {}).await;
    cluster.write(1, 1, &[(3, "c")]);
    let copier = cluster.copier(1);
    let (_, copy) = eventually("the copy goes on", || copied(&cluster, " c\n")).await;
    let text = fs::read_to_string(logfile::current(&copy)).unwrap();
    assert_eq!(text.matches(" a\n").count(), 1, "{text}");

    // The holder dies: the third gets all of it.
    let left = 5 - holder;
    cluster.nodes[holder - 1].mesh.close().await;
    cluster.say_alive(&[1, left as u64]);
    cluster.write(1, 1, &[(4, "d")]);
    let (node, copy) = eventually("another copy", || copied(&cluster, " d\n")).await;
    assert_eq!(node, left);
    let text = fs::read_to_string(logfile::current(&copy)).unwrap();
    assert_eq!(text.lines().count(), 4, "{text}");
    copier.abort();

    // Two copies of different length, and their owner is gone.
    cluster.nodes[0].mesh.close().await;
    cluster.say_alive(&[left as u64]);
    let lines = all(cluster.ask(left, false, 10)).await;
    assert_eq!(texts(&lines[2..]), ["a", "b", "c", "d"], "{lines:?}");
}
