//! Promise: what runs to its end runs once, or the command that asked for it says why not. A run goes on while the daemon of
//! its node is killed, is begun again when its node is lost, and a release waits for its first hook.

use std::time::Duration;

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::traffic::Users;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, Output, eventually};
use serde_json::Value;

const HOST: &str = "api.example.test";
/// A node counts as lost after 30 s, and then the run has to begin elsewhere.
const BEGUN_AGAIN: Duration = Duration::from_secs(90);

/// A folder with a script in it.
fn folder(cluster: &Cluster, name: &str, script: &str) -> String {
    let folder = cluster.scratch(name);
    std::fs::write(folder.join("run.sh"), script).unwrap();
    folder.to_str().unwrap().to_owned()
}

fn create(cluster: &Cluster, name: &str, script: &str, flags: &[&str]) -> Output {
    let folder = folder(cluster, name, script);
    let args = ["deploy", "create", name, "--path", &folder];
    let rest = ["--command", "sh run.sh"];
    cluster.nebula(&[&args[..], &rest[..], flags].concat())
}

fn runs(cluster: &Cluster, name: &str) -> Value {
    let done = cluster.nebula(&["deploy", "runs", name, "--json"]);
    done.ok().json()["runs"].clone()
}

/// The newest run, once it is as asked for.
fn run_that(cluster: &Cluster, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    run_within(cluster, name, DEADLINE, what, is)
}

fn run_within(
    cluster: &Cluster,
    name: &str,
    within: Duration,
    what: &str,
    is: impl Fn(&Value) -> bool,
) -> Value {
    eventually(within, what, || {
        let done = cluster.nebula(&["deploy", "runs", name, "--json"]);
        let all: Value = serde_json::from_str(&done.stdout).map_err(|_| done.to_string())?;
        let run = all["runs"][0].clone();
        holds(is(&run), &run).map(|()| run)
    })
}

fn output(cluster: &Cluster, name: &str) -> String {
    let done = cluster.nebula(&["deploy", "logs", name, "--tail", "1000"]);
    done.ok().stdout
}

#[test]
fn a_job_succeeds_or_says_why_not() {
    let cluster = Cluster::start(3);
    let script = "echo hello from $NEBULA_RUN_ID for $NEBULA_CAUSE, port ${PORT:-none}";
    create(&cluster, "good", script, &["--type", "job"]).ok();
    let run = runs(&cluster, "good")[0].clone();
    assert_eq!(
        (&run["state"], &run["cause"], &run["attempts"][0]["number"]),
        (&"succeeded".into(), &"release".into(), &0.into()),
        "{run}"
    );
    eventually(DEADLINE, "its output is kept", || {
        let text = output(&cluster, "good");
        holds(
            text.contains("hello from run-1 for release, port none"),
            text,
        )
    });
    let status = cluster.status("good");
    assert_eq!(status["phase"], "ready", "{status}");
    assert_eq!(status["last_run"]["id"], "run-1", "{status}");
    let again = cluster.nebula(&["deploy", "run", "good", "--follow"]).ok();
    assert!(
        again.stdout.contains("hello from run-2 for manual"),
        "{again}"
    );
    assert_eq!(runs(&cluster, "good").as_array().unwrap().len(), 2);

    let script = "echo attempt on $NEBULA_NODE\necho the disk of the moon is full\nexit 7";
    let flags = ["--type", "job", "--retries", "1"];
    let failed = create(&cluster, "bad", script, &flags)
        .fails(4, "run-1 failed: exited with code 7, at attempt 2");
    assert!(
        failed.stderr.contains("the disk of the moon is full"),
        "{failed}"
    );
    let run = runs(&cluster, "bad")[0].clone();
    assert_eq!(run["attempts"].as_array().unwrap().len(), 2, "{run}");
    cluster
        .nebula(&["deploy", "run", "bad"])
        .fails(4, "exited with code 7");
    cluster
        .nebula(&["deploy", "scale", "bad", "--instances", "2"])
        .fails(1, "runs to its end");
    cluster
        .nebula(&["deploy", "cancel", "bad", "run-9"])
        .fails(1, "has no run-9");
}

#[test]
fn what_takes_too_long_or_is_cancelled_is_stopped() {
    let cluster = Cluster::start(1);
    let flags = ["--type", "job", "--run-deadline", "2s"];
    create(&cluster, "slow", "echo begun\nexec sleep 600", &flags)
        .fails(4, "it was not over after 2s");
    let flags = ["--type", "job", "--no-wait"];
    create(&cluster, "long", "echo begun\nexec sleep 600", &flags).ok();
    run_that(&cluster, "long", "it runs", |run| run["state"] == "running");
    cluster
        .nebula(&["deploy", "run", "long"])
        .fails(1, "run-1 still goes on");
    cluster.nebula(&["deploy", "cancel", "long", "run-1"]).ok();
    run_that(&cluster, "long", "it is cancelled", |run| {
        run["state"] == "cancelled"
    });
    cluster.nebula(&["deploy", "remove", "long"]).ok();
}

#[test]
fn a_schedule_is_followed_and_told() {
    let cluster = Cluster::start(1);
    // Every second: what is every minute elsewhere is tested without a clock.
    let flags = ["--schedule", "* * * * * *", "--time-zone", "Europe/Berlin"];
    create(&cluster, "tick", "echo due at $NEBULA_DUE", &flags).ok();
    eventually(DEADLINE, "three runs that were due", || {
        let all = runs(&cluster, "tick");
        let good = |run: &&Value| run["state"] == "succeeded" && run["due_at"].is_string();
        let count = all.as_array().unwrap().iter().filter(good).count();
        holds(count >= 3, all)
    });
    let status = cluster.status("tick");
    assert!(status["next_run_at"].is_string(), "{status}");
    cluster
        .nebula(&["deploy", "update", "tick", "--schedule", "0 0 30 2 *"])
        .fails(2, "never comes");
    let args = ["deploy", "update", "tick", "--schedule", "0 3 1 1 *"];
    cluster.nebula(&args).ok();
    let status = eventually(DEADLINE, "the next run is far away", || {
        let status = cluster.status("tick");
        let next = status["next_run_at"].as_str().unwrap_or_default();
        holds(next.contains("-01-01T02:00:00Z"), &status).map(|()| status.clone())
    });
    assert_eq!(status["type"], "cron", "{status}");
    eventually(DEADLINE, "the last of the seconds is over", || {
        let all = runs(&cluster, "tick");
        let over = |run: &Value| run["ended_at"].is_string();
        holds(all.as_array().unwrap().iter().all(over), all)
    });
    let by_hand = cluster.nebula(&["deploy", "run", "tick", "--json"]).ok();
    assert_eq!(by_hand.json()["cause"], "manual", "{by_hand}");
}

#[test]
fn a_worker_goes_on_without_a_port() {
    let cluster = Cluster::start(3);
    let script = "echo port ${PORT:-none}\nwhile true; do sleep 1; done";
    let flags = ["--type", "worker", "--instances", "2"];
    create(&cluster, "mails", script, &flags).ok();
    let status = cluster.status("mails");
    assert_eq!(
        (&status["type"], &status["ready"]),
        (&"worker".into(), &2.into())
    );
    assert!(status["urls"].as_array().unwrap().is_empty(), "{status}");
    assert!(output(&cluster, "mails").contains("port none"));
    let args = [
        "deploy",
        "update",
        "mails",
        "--env",
        "LEVEL=info",
        "--watch",
        "0s",
    ];
    cluster.nebula(&args).ok();
    assert_eq!(cluster.status("mails")["release"], 2);
    cluster
        .nebula(&["deploy", "scale", "mails", "--instances", "1"])
        .ok();
}

#[test]
fn a_first_hook_that_fails_stops_a_release_and_no_request_fails() {
    let cluster = Cluster::start(3);
    cluster.deploy_echo("api", 3);
    for edge in cluster.edges() {
        cluster.serves(edge, HOST);
    }
    let ids = |status: &Value| -> Vec<String> {
        let all = status["instances"].as_array().unwrap();
        all.iter().map(|i| i["id"].to_string()).collect()
    };
    let before = ids(&cluster.status("api"));
    let users = Users::arrive(&cluster.edges(), HOST, 2, 200, None);
    let update = |hook: &str, level: &str| {
        let level = format!("LEVEL={level}");
        cluster.nebula(&[
            "deploy",
            "update",
            "api",
            "--env",
            &level,
            "--pre-release",
            hook,
            "--watch",
            "0s",
        ])
    };
    let failed = update("echo cannot migrate the table; exit 3", "1")
        .fails(4, "the hook pre_release (run-1) failed: exited with code 3");
    assert!(
        failed.stderr.contains("cannot migrate the table"),
        "{failed}"
    );
    let status = cluster.status("api");
    assert_eq!(ids(&status), before, "{status}");
    assert_eq!(
        (&status["release"], &status["releases"][0]["fate"]),
        (&1.into(), &"failed".into()),
        "{status}"
    );
    update("test \"$LEVEL\" = 2 && echo migrated", "2").ok();
    let args = [
        "deploy",
        "update",
        "api",
        "--pre-release",
        "none",
        "--post-release",
    ];
    let rest = [
        "echo release $NEBULA_RELEASE is out; exit 1",
        "--env",
        "LEVEL=3",
        "--watch",
        "0s",
    ];
    cluster.nebula(&[&args[..], &rest[..]].concat()).ok();
    let run = run_that(&cluster, "api", "the last hook is over", |run| {
        run["cause"] == "post_release" && run["state"] == "failed"
    });
    assert_eq!(run["release"], 4, "{run}");
    assert_eq!(cluster.status("api")["release"], 4);
    let report = users.leave();
    println!("{} of {} requests failed", report.failed, report.requests);
    assert_eq!(report.failed, 0, "{:#?}", report.told);
    assert!(report.requests > 0);
}

#[test]
fn a_run_outlives_its_daemon_and_begins_again_without_its_node() {
    let mut cluster = Cluster::start(3);
    // The end waits for a sign, so that nothing here depends on how fast the machine is.
    let signs = cluster.scratch("signs");
    let script = format!(
        "echo begun on $NEBULA_NODE\nuntil test -e {}/end; do sleep 0.1; done\necho ended\nexit 5",
        signs.display()
    );
    let flags = ["--type", "job", "--no-wait", "--isolation", "none"];
    create(&cluster, "work", &script, &flags).ok();
    let of = |run: &Value| {
        run["attempts"][0]["node"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let first = run_that(&cluster, "work", "it runs", |run| run["state"] == "running");
    let index = |cluster: &Cluster, name: &str| {
        let found = cluster.members.iter().position(|m| m.name == name);
        found.unwrap()
    };
    let node = index(&cluster, &of(&first));
    eventually(DEADLINE, "it has begun", || {
        let text = output(&cluster, "work");
        holds(text.contains("begun on"), text)
    });

    // Its end comes while no daemon looks.
    cluster.kill_daemon(node);
    std::fs::write(signs.join("end"), "").unwrap();
    let log = |cluster: &Cluster| -> String {
        let instance = first["attempts"][0]["instance"].as_str().unwrap();
        let path = cluster.members[node]
            .data_dir
            .join("instances")
            .join(instance);
        std::fs::read_to_string(path.join("exit.json")).unwrap_or_default()
    };
    eventually(DEADLINE, "the program's end is written down", || {
        let text = log(&cluster);
        holds(text.contains('5'), text)
    });
    cluster.restart(node);
    let run = run_that(&cluster, "work", "its end is known", |run| {
        run["state"] == "failed"
    });
    assert_eq!(run["attempts"].as_array().unwrap().len(), 1, "{run}");
    assert_eq!(run["why"], "exited with code 5", "{run}");
    cluster.wait_all_alive();

    // Once more, and its node is lost.
    std::fs::remove_file(signs.join("end")).unwrap();
    cluster.nebula(&["deploy", "run", "work", "--no-wait"]).ok();
    let second = run_that(&cluster, "work", "it runs again", |run| {
        run["id"] == "run-2" && run["state"] == "running"
    });
    let node = index(&cluster, &of(&second));
    cluster.kill_machine(node);
    let run = run_within(
        &cluster,
        "work",
        BEGUN_AGAIN,
        "it begins elsewhere",
        |run| {
            let attempts = run["attempts"].as_array();
            attempts.is_some_and(|all| all.len() == 2) && run["state"] == "running"
        },
    );
    assert_eq!(run["attempts"][0]["exit"], "lost", "{run}");
    assert_ne!(
        run["attempts"][1]["node"],
        cluster.members[node].name.as_str(),
        "{run}"
    );
    std::fs::write(signs.join("end"), "").unwrap();
    run_that(&cluster, "work", "it is over", |run| {
        run["state"] == "failed"
    });
}
