//! Waiting is judged on statuses alone, without a cluster.

use super::tell::reasons;
use super::*;
use crate::error::Exit;

fn status(generation: u64, phase: DeploymentPhase) -> DeploymentStatus {
    DeploymentStatus {
        name: "api".into(),
        kind: "service".into(),
        generation,
        release: 2,
        phase,
        rollout: None,
        desired: 3,
        ready: 1,
        urls: vec![],
        artifact: String::new(),
        spec: None,
        releases: vec![],
        instances: vec![InstanceStatus {
            id: "i-4".into(),
            node: "n2".into(),
            node_id: 2,
            release: 2,
            phase: "backoff".into(),
            health: "unknown".into(),
            restarts: 3,
            reason: "exited with code 1".into(),
            secrets: Default::default(),
            last_end: None,
            detail: None,
        }],
        problems: vec!["no room for 1 instance".into()],
        last_run: None,
        next_run_at: None,
        as_of: None,
        silent: vec![],
    }
}

fn change(generation: u64, release: u32) -> Deployed {
    Deployed {
        name: "api".into(),
        generation,
        release,
        urls: vec![],
    }
}

#[test]
fn an_older_release_in_a_newer_generation_was_put_back() {
    let seen = status(6, DeploymentPhase::Ready);
    assert_eq!(judge(&seen, &change(5, 3)), Seen::RolledBack);
}

#[test]
fn how_many_there_are_of_a_failed_release_is_waited_for_all_the_same() {
    let mut seen = status(5, DeploymentPhase::Failed);
    let scaled = change(5, 2);
    assert_eq!(judge_scale(&seen, &scaled), Seen::Failed, "it keeps ending");
    assert_eq!(judge_scale(&seen, &change(6, 2)), Seen::NotYet);
    assert_eq!(judge_scale(&seen, &change(5, 1)), Seen::Superseded);
    seen.desired = 0;
    assert_eq!(judge_scale(&seen, &scaled), Seen::NotYet, "it is stopped");
    seen.desired = 3;
    seen.instances[0].phase = "running".into();
    assert_eq!(
        judge_scale(&seen, &scaled),
        Seen::NotYet,
        "it is up at last"
    );
    seen.desired = 1;
    assert_eq!(judge_scale(&seen, &scaled), Seen::Done);
    (seen.desired, seen.ready) = (0, 0);
    assert_eq!(judge_scale(&seen, &scaled), Seen::NotYet, "it ends");
    seen.instances.clear();
    assert_eq!(judge_scale(&seen, &scaled), Seen::Done);
    seen.phase = DeploymentPhase::Removing;
    assert_eq!(judge_scale(&seen, &scaled), Seen::Failed);
}

fn release(number: u32, fate: &str) -> ReleaseInfo {
    ReleaseInfo {
        number,
        created_at: String::new(),
        author: String::new(),
        message: String::new(),
        artifact: String::new(),
        fate: fate.into(),
        settled_at: None,
        why: None,
        wanted: number == 2,
        spec: None,
    }
}

#[test]
fn a_release_s_fate_decides() {
    use DeploymentPhase as P;
    let with = |phase, fate| DeploymentStatus {
        releases: vec![release(2, fate)],
        ..status(5, phase)
    };
    let ours = change(5, 2);
    assert_eq!(judge(&with(P::Ready, "good"), &ours), Seen::Done);
    assert_eq!(judge(&with(P::Progressing, "good"), &ours), Seen::NotYet);
    assert_eq!(judge(&with(P::Ready, "failed"), &ours), Seen::Failed);
    assert!(is_final(&with(P::Ready, "failed"), Duration::ZERO));
    assert_eq!(
        judge(&with(P::Ready, "superseded"), &ours),
        Seen::Superseded
    );
    let mut under_way = with(P::Ready, "open");
    under_way.rollout = Some(RolloutStatus {
        from: Some(1),
        to: 2,
        strategy: "canary".into(),
        stage: "canary".into(),
        percent: Some(10),
        paused: false,
        wanted: 1,
        began_at: String::new(),
        due_at: None,
    });
    assert_eq!(judge(&under_way, &ours), Seen::NotYet);
    under_way.ready = 1;
    assert!(progress(&under_way).1, "it waits for time alone");
    under_way.ready = 0;
    assert!(!progress(&under_way).1, "and for an instance");
    under_way.ready = 1;
    under_way.phase = P::Failed;
    assert_eq!(judge(&under_way, &ours), Seen::NotYet, "the leader decides");
    if let Some(rollout) = &mut under_way.rollout {
        rollout.paused = true;
    }
    assert!(!progress(&under_way).1);
}

#[test]
fn only_our_generation_counts() {
    use DeploymentPhase as P;
    assert_eq!(judge(&status(4, P::Ready), &change(5, 2)), Seen::NotYet);
    assert_eq!(judge(&status(4, P::Failed), &change(5, 2)), Seen::NotYet);
    assert_eq!(judge(&status(5, P::Ready), &change(5, 2)), Seen::Done);
    assert_eq!(judge(&status(6, P::Ready), &change(5, 2)), Seen::Done);
    assert_eq!(judge(&status(5, P::Failed), &change(5, 2)), Seen::Failed);
    assert_eq!(judge(&status(5, P::Degraded), &change(5, 2)), Seen::NotYet);
}

#[test]
fn one_crash_is_not_the_end_and_a_loop_of_them_is() {
    let mut seen = status(5, DeploymentPhase::Failed);
    seen.instances[0].restarts = 1;
    assert!(!is_final(&seen, Duration::ZERO));
    assert!(is_final(&seen, FAILING_PATIENCE));
    seen.instances[0].restarts = RESTARTS_THAT_DECIDE;
    assert!(is_final(&seen, Duration::ZERO));
    seen.instances[0].release = 1;
    assert!(
        !is_final(&seen, Duration::ZERO),
        "the old release's crashes do not count"
    );
}

#[test]
fn each_instance_is_named_once_and_only_while_it_matters() {
    let mut seen = status(5, DeploymentPhase::Failed);
    assert_eq!(reasons(&seen).len(), 2);
    seen.problems
        .push("instance i-4 on node n2: exited with code 1".into());
    assert_eq!(reasons(&seen), seen.problems, "i-4 is in a problem already");
    seen.problems = vec!["instance i-41 on node n2: gone".into()];
    assert_eq!(reasons(&seen).len(), 2, "i-41 is not i-4");
    seen.instances[0].health = "healthy".into();
    assert_eq!(reasons(&seen).len(), 1);
}

#[test]
fn being_late_says_how_far_it_got() {
    let minute = Duration::from_secs(60);
    let error = late(
        &change(5, 2),
        minute,
        Some(&status(5, DeploymentPhase::Progressing)),
        None,
    );
    assert_eq!(error.exit, Exit::TimedOut);
    let text = error.to_string();
    assert!(
        text.contains("1 of 3 ready") && text.contains("60 s") && text.contains("no room"),
        "{text}"
    );
    assert!(
        error
            .details
            .iter()
            .any(|d| d.contains("exited with code 1"))
    );
    let unseen = late(
        &change(5, 2),
        minute,
        Some(&status(4, DeploymentPhase::Ready)),
        None,
    );
    assert!(unseen.to_string().contains("no node shows it yet"));
}

/// A node that knows no deployment.
async fn knows_nothing(listener: tokio::net::UnixListener) {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

    let body = r#"{"code":"not_found","message":"there is no deployment named 'api'","hint":""}"#;
    let answer = format!(
        "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    while let Ok((stream, _)) = listener.accept().await {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line).await.unwrap() > 2 {
            line.clear();
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn what_somebody_else_removes_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(knows_nothing(listener));
    let client = Client::unix(&socket);
    let timeout = Duration::from_secs(3600);
    let waited = rollout(&client, &change(5, 2), timeout, Output::new(true)).await;
    let error = waited.unwrap_err();
    assert_eq!(error.exit, Exit::Failed);
    assert_eq!(
        error.error.message,
        "'api' was removed by someone else before release 2 was out"
    );
}

#[test]
fn a_run_that_waits_says_why() {
    let run = |state: &str| nebula_wire::api::Run {
        id: "run-3".into(),
        release: 2,
        cause: "release".into(),
        state: state.into(),
        why: Some("waits for 'db', which has no ready instance".into()),
        asked_at: String::new(),
        due_at: None,
        started_at: None,
        ended_at: None,
        attempts: vec![],
    };
    let mut seen = status(5, DeploymentPhase::Progressing);
    seen.last_run = Some(run("pending"));
    let line = tell::one_line(&seen);
    let expected = "run-3 is pending: waits for 'db', which has no ready instance";
    assert!(line.contains(expected), "{line}");
    assert_eq!(waits(&run("failed")), None);
}
