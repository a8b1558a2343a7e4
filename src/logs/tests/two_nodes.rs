//! Two nodes in one process, over a real mesh: merging, following, and a node that goes away.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::time::Duration;

use common::{DEADLINE, all, cluster, name, next, texts, write};
use nebula_domain::InstanceId;
use nebula_drivers::logfile;
use nebula_logs::Query;
use nebula_wire::api::LogLine;
use tokio::time::timeout;

#[tokio::test]
async fn the_tail_of_both_nodes_is_merged_whichever_is_asked() {
    let cluster = cluster(2).await;
    cluster.assign(1, 1);
    cluster.assign(2, 2);
    cluster.write(1, 1, &[(1, "a"), (3, "c"), (5, "e")]);
    cluster.write(2, 2, &[(2, "b"), (4, "d"), (6, "f")]);
    for node in [1, 2] {
        let lines = all(cluster.ask(node, false, 200)).await;
        assert_eq!(texts(&lines), ["a", "b", "c", "d", "e", "f"]);
        assert_eq!(
            lines[1],
            LogLine {
                time: "2026-01-31T12:00:02.000Z".into(),
                instance: "i-2".into(),
                node: "n2".into(),
                release: 2,
                stream: "stdout".into(),
                level: None,
                line: "b".into(),
            }
        );
        let lines = all(cluster.ask(node, false, 3)).await;
        assert_eq!(texts(&lines), ["d", "e", "f"]);
        let mut one = Query {
            tail: 2,
            ..Query::new(name())
        };
        one.filter.instance = Some(InstanceId(2));
        let one = cluster.nodes[node - 1].logs.stream(one).unwrap();
        assert_eq!(texts(&all(one).await), ["d", "f"]);
    }
}

#[tokio::test]
async fn thousands_of_lines_arrive_whole_and_in_order() {
    let cluster = cluster(2).await;
    cluster.assign(1, 1);
    cluster.assign(2, 2);
    let long = "x".repeat(1000);
    for (instance, node) in [(1u64, 1usize), (2, 2)] {
        let lines: Vec<(u64, String)> = (0..3000)
            .map(|n| (n * 2 + instance, format!("{} {long}", n * 2 + instance)))
            .collect();
        let lines: Vec<(u64, &str)> = lines.iter().map(|(n, text)| (*n, &**text)).collect();
        cluster.write(instance, node, &lines);
    }
    let lines = all(cluster.ask(1, false, 5000)).await;
    assert_eq!(lines.len(), 5000);
    for (line, n) in lines.iter().zip(1001..) {
        assert!(line.line.starts_with(&format!("{n} ")), "{}", line.line);
    }
}

#[tokio::test]
async fn following_takes_up_new_lines_and_new_instances_on_both_nodes() {
    let cluster = cluster(2).await;
    cluster.assign(1, 1);
    cluster.write(1, 1, &[(1, "a")]);
    let mut stream = cluster.ask(1, true, 10);
    assert_eq!(next(&mut stream).await.line, "a");

    cluster.write(1, 1, &[(2, "b")]);
    assert_eq!(next(&mut stream).await.line, "b");

    cluster.assign(2, 2);
    cluster.assign(3, 1);
    cluster.write(2, 2, &[(3, "c")]);
    assert_eq!(next(&mut stream).await.line, "c");
    cluster.write(3, 1, &[(4, "d")]);
    assert_eq!(next(&mut stream).await.line, "d");

    // Across a rotation on the other node.
    let dir = cluster.nodes[1].dir.path().join("i-2");
    cluster.write(2, 2, &[(5, "e")]);
    fs::rename(logfile::current(&dir), logfile::previous(&dir)).unwrap();
    cluster.write(2, 2, &[(6, "f")]);
    assert_eq!(next(&mut stream).await.line, "e");
    assert_eq!(next(&mut stream).await.line, "f");
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_named_and_the_rest_is_shown() {
    let cluster = cluster(2).await;
    cluster.assign(1, 1);
    cluster.write(1, 1, &[(1, "a")]);
    cluster.nodes[1].mesh.close().await;
    let lines = all(cluster.ask(1, false, 10)).await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    let missing = lines.iter().find(|line| line.stream == "nebula").unwrap();
    assert!(
        missing.line.contains("node n2 did not answer"),
        "{missing:?}"
    );
    assert!(lines.iter().any(|line| line.line == "a"));
}

#[tokio::test]
async fn following_survives_the_loss_of_a_node() {
    let cluster = cluster(2).await;
    cluster.assign(1, 1);
    cluster.assign(2, 2);
    cluster.write(2, 2, &[(1, "a")]);
    let mut stream = cluster.ask(1, true, 10);
    assert_eq!(next(&mut stream).await.line, "a");
    cluster.nodes[1].mesh.close().await;
    let missing = next(&mut stream).await;
    assert_eq!(missing.stream, "nebula");
    assert!(missing.line.contains("n2"), "{missing:?}");
    cluster.write(1, 1, &[(2, "b")]);
    assert_eq!(next(&mut stream).await.line, "b");
}

#[tokio::test]
async fn a_node_that_returns_sends_what_was_missed_and_nothing_twice() {
    let mut cluster = cluster(2).await;
    cluster.assign(1, 2);
    cluster.write(1, 2, &[(1, "a"), (2, "b")]);
    let mut stream = cluster.ask(1, true, 10);
    assert_eq!(next(&mut stream).await.line, "a");
    assert_eq!(next(&mut stream).await.line, "b");
    let dir = cluster.nodes[1].dir.path().to_owned();
    cluster
        .restart(2, || write(&dir, 1, &[(3, "c"), (4, "d")]))
        .await;
    let missing = next(&mut stream).await;
    assert_eq!(missing.stream, "nebula");
    assert_eq!(next(&mut stream).await.line, "c");
    assert_eq!(next(&mut stream).await.line, "d");
    cluster.write(1, 2, &[(5, "e")]);
    assert_eq!(next(&mut stream).await.line, "e");
}

#[tokio::test]
async fn dropping_the_stream_ends_the_work_on_both_nodes() {
    let cluster = cluster(2).await;
    cluster.assign(1, 1);
    cluster.assign(2, 2);
    cluster.write(1, 1, &[(1, "a")]);
    cluster.write(2, 2, &[(2, "b")]);
    // The readers of files hold receivers of the state; nothing else here makes or drops any.
    let idle = cluster.state.receiver_count();
    let mut streams = Vec::new();
    for node in [1, 2] {
        let mut stream = cluster.ask(node, true, 10);
        assert_eq!(next(&mut stream).await.line, "a");
        assert_eq!(next(&mut stream).await.line, "b");
        streams.push(stream);
    }
    assert!(cluster.state.receiver_count() > idle);
    drop(streams);
    timeout(DEADLINE, async {
        while cluster.state.receiver_count() > idle {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("a reader outlived its stream");
}

#[tokio::test]
async fn a_slow_reader_holds_up_only_itself() {
    let cluster = cluster(2).await;
    cluster.assign(1, 1);
    cluster.assign(2, 2);
    cluster.write(1, 1, &[(0, "begin")]);
    let mut slow = cluster.ask(1, true, 10);
    let mut quick = cluster.ask(1, true, 10);
    for stream in [&mut slow, &mut quick] {
        assert_eq!(next(stream).await.line, "begin");
    }
    for block in 0..20u64 {
        let lines: Vec<(u64, String)> = (0..500)
            .map(|n| (block * 500 + n, format!("{}", block * 500 + n)))
            .collect();
        let lines: Vec<(u64, &str)> = lines.iter().map(|(n, text)| (*n, &**text)).collect();
        cluster.write(2, 2, &lines);
    }
    for n in 0..10_000 {
        assert_eq!(next(&mut quick).await.line, n.to_string());
    }
    for n in 0..10_000 {
        assert_eq!(next(&mut slow).await.line, n.to_string());
    }
}
