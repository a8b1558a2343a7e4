//! Filters over two nodes, one of which may be of the version before.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Cluster, all, cluster, name, next, texts};
use nebula_domain::loglevel::Level;
use nebula_domain::{InstanceId, ReleaseNumber};
use nebula_logs::{LogsError, Query};
use nebula_mesh::{Peer, Service, Stream};
use nebula_wire::codec;
use nebula_wire::peer::Protocol;
use nebula_wire::peer::log_search::Filter;
use nebula_wire::peer::logs::{Answer, FRAME_BYTES, Line, Request, Source};

async fn two() -> Cluster {
    let cluster = cluster(2).await;
    cluster.assign(1, 1);
    cluster.assign(2, 2);
    cluster.write(1, 1, &[(1, "INFO: a"), (3, "[ERROR] c"), (5, "plain")]);
    cluster.write(2, 2, &[(2, r#"{"level":"warn","m":"b"}"#), (4, "DEBUG d")]);
    cluster
}

async fn found(cluster: &Cluster, change: impl Fn(&mut Filter)) -> Vec<String> {
    let mut query = Query::new(name());
    change(&mut query.filter);
    let mut answers = Vec::new();
    for node in &cluster.nodes {
        let lines = all(node.logs.stream(query.clone()).unwrap()).await;
        answers.push(texts(&lines).into_iter().map(str::to_owned).collect());
    }
    let first: Vec<String> = answers.swap_remove(0);
    assert!(answers.iter().all(|answer| *answer == first), "{answers:?}");
    first
}

#[tokio::test]
async fn only_what_matches_is_shown_whichever_node_is_asked() {
    let cluster = two().await;
    let serious = found(&cluster, |f| f.level = Some(Level::Warn)).await;
    assert_eq!(serious, [r#"{"level":"warn","m":"b"}"#, "[ERROR] c"]);
    let since = |second: u64| Some(format!("2026-01-31T12:00:0{second}.000Z"));
    assert_eq!(
        found(&cluster, |f| f.since = since(4)).await,
        ["DEBUG d", "plain"]
    );
    assert_eq!(found(&cluster, |f| f.until = since(2)).await, ["INFO: a"]);
    assert_eq!(
        found(&cluster, |f| f.grep = Some("^(DEBUG|p)".into())).await,
        ["DEBUG d", "plain"]
    );
    assert_eq!(
        found(&cluster, |f| f.instance = Some(InstanceId(2)))
            .await
            .len(),
        2
    );
    assert!(
        found(&cluster, |f| f.release = Some(ReleaseNumber(1)))
            .await
            .is_empty()
    );
    assert!(
        found(&cluster, |f| f.source = Some(Source::Stderr))
            .await
            .is_empty()
    );
    let one = Query {
        node: Some("n2".to_owned()),
        ..Query::new(name())
    };
    let lines = all(cluster.nodes[0].logs.stream(one).unwrap()).await;
    assert!(lines.len() == 2 && lines.iter().all(|line| line.node == "n2"));
    assert_eq!(lines[0].level.as_deref(), Some("warn"));
}

#[tokio::test]
async fn a_follower_gets_new_lines_that_match() {
    let cluster = two().await;
    let mut query = Query {
        follow: true,
        tail: 1,
        ..Query::new(name())
    };
    query.filter.level = Some(Level::Warn);
    let mut stream = cluster.nodes[0].logs.stream(query).unwrap();
    assert_eq!(next(&mut stream).await.line, "[ERROR] c");
    cluster.write(2, 2, &[(6, "INFO: no"), (7, "FATAL: yes")]);
    assert_eq!(next(&mut stream).await.line, "FATAL: yes");
}

#[tokio::test]
async fn a_bad_pattern_is_refused_before_anybody_is_asked() {
    let cluster = cluster(1).await;
    let mut query = Query::new(name());
    query.filter.grep = Some("(".to_owned());
    let error = cluster.nodes[0].logs.stream(query).err().unwrap();
    assert!(matches!(error, LogsError::Pattern { .. }), "{error}");
}

/// Answers as the version before did: all lines, whatever is wanted.
struct Old(Vec<Line>);

#[async_trait::async_trait]
impl Service for Old {
    async fn serve(&self, _: Peer, mut stream: Stream) {
        let request = stream.read_frame(FRAME_BYTES).await.unwrap();
        let request: Request = codec::decode(&request).unwrap();
        assert!(request.tail as usize >= self.0.len());
        for answer in [Answer::Lines(self.0.clone()), Answer::Live] {
            stream
                .write_frame(codec::encode(&answer).unwrap())
                .await
                .unwrap();
        }
        stream.finish().await.unwrap();
    }
}

/// Ends a stream unread, as a mesh does with one of a protocol that it does not know.
struct Unknown;

#[async_trait::async_trait]
impl Service for Unknown {
    async fn serve(&self, _: Peer, stream: Stream) {
        drop(stream);
    }
}

#[tokio::test]
async fn a_node_of_the_version_before_is_understood_and_filtered_here() {
    let mut cluster = two().await;
    let line = |second: u32, text: &str| Line {
        time: format!("2026-01-31T12:00:0{second}.000Z"),
        instance: InstanceId(2),
        release: ReleaseNumber(2),
        source: Source::Stdout,
        text: text.to_owned(),
    };
    let old = Old(vec![line(2, "WARN: old"), line(4, "nothing")]);
    let (_dir, second) = cluster.mesh_again(2, || {}).await;
    second.serve(Protocol::Logs, Arc::new(old));
    let mut query = Query::new(name());
    query.filter.level = Some(Level::Warn);
    for _ in 0..2 {
        let lines = all(cluster.nodes[0].logs.stream(query.clone()).unwrap()).await;
        assert_eq!(texts(&lines), ["WARN: old", "[ERROR] c"]);
        second.serve(Protocol::LogSearch, Arc::new(Unknown));
    }
}

#[tokio::test]
async fn a_node_of_the_version_before_is_answered() {
    let cluster = two().await;
    let request = Request {
        deployment: name(),
        instance: None,
        tail: 10,
        after: Some("2026-01-31T12:00:01.000Z".to_owned()),
        follow: false,
    };
    let mesh = &cluster.nodes[1].mesh;
    let first = cluster.nodes[0].mesh.me();
    let mut stream = mesh
        .open(first, Protocol::Logs, common::DEADLINE)
        .await
        .unwrap();
    stream
        .write_frame(codec::encode(&request).unwrap())
        .await
        .unwrap();
    let mut answers = Vec::new();
    while let Some(frame) = stream.next_frame(FRAME_BYTES).await.unwrap() {
        answers.push(codec::decode::<Answer>(&frame).unwrap());
    }
    let Answer::Lines(lines) = &answers[0] else {
        panic!("{answers:?}");
    };
    let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts, ["[ERROR] c", "plain"], "later than the time");
    assert_eq!(answers[1..], [Answer::Live]);
}
