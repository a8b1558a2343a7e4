//! Promise: the cluster outlives the loss of any machine. Traffic through the others goes on, what ran
//! there comes up elsewhere, changes are possible again, and a machine that returns takes part again.

use std::time::{Duration, Instant};

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::load::failures;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, Load, eventually};

/// Requests that were under way or arrived before the loss was noticed may fail; later ones may not.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);

fn survives_the_loss_of(pick: impl Fn(usize) -> usize) {
    let mut cluster = Cluster::start(3);
    cluster.deploy_echo("api", 3);
    let lost = pick(cluster.leader());
    for edge in cluster.edges() {
        cluster.serves(edge, "api.example.test");
    }
    let edges: Vec<_> = (0..3)
        .filter(|i| *i != lost)
        .map(|i| cluster.members[i].edge)
        .collect();
    let load = Load::start(&edges, "api.example.test", Duration::from_millis(20));
    // The load has to run before the loss for the loss to show in it.
    eventually(DEADLINE, "the service is served", || holds(true, ()));
    let killed = Instant::now();
    cluster.kill_machine(lost);

    // Changes are possible again, and three instances run on the two machines left.
    eventually(DEADLINE, "a change after the loss", || {
        let done = cluster.nebula(&["config", "set", "user.after", "loss"]);
        holds(done.code == 0, done.to_string())
    });
    let name = cluster.members[lost].name.clone();
    eventually(DEADLINE, "three ready instances elsewhere", || {
        let status = cluster.status("api");
        let ready = status["ready"] == 3;
        let elsewhere = status["instances"]
            .as_array()
            .into_iter()
            .flatten()
            .all(|i| i["node"] != name.as_str());
        holds(ready && elsewhere, status)
    });
    let shots = load.stop();
    let late: Vec<_> = failures(&shots)
        .into_iter()
        .filter(|s| s.at > killed + NOTICED_WITHIN)
        .collect();
    assert!(
        late.is_empty(),
        "{} of {} requests failed late: {late:#?}",
        late.len(),
        shots.len()
    );
    assert!(
        shots.iter().any(|s| s.at > killed + NOTICED_WITHIN),
        "the load ended too early to tell"
    );

    // It returns, and takes part again.
    cluster.restart(lost);
    cluster.wait_all_alive();
    eventually(DEADLINE, "the returned machine has caught up", || {
        let value = cluster.nebula_at(&cluster.members[lost], &["config", "get", "user.after"]);
        holds(value.code == 0, value.to_string())
    });
    cluster.serves(cluster.members[lost].edge, "api.example.test");
}

#[test]
fn a_follower_is_lost() {
    survives_the_loss_of(|leader| (leader + 1) % 3);
}

#[test]
fn the_leader_is_lost() {
    survives_the_loss_of(|leader| leader);
}
