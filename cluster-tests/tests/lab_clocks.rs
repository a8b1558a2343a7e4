//! Promise: nothing depends on clocks that agree. Histories stay linearizable while wall clocks jump and paces differ;
//! what has ended by one of the clocks that are asked is refused; and who lives in another day is told apart and comes
//! back by itself.

use nebula_cluster_tests::binaries::time_machine;
use nebula_cluster_tests::command::on_node;
use nebula_cluster_tests::lab::run::block_on;
use nebula_cluster_tests::lab::scenarios::clocks;
use nebula_cluster_tests::lab::wait::{all_ready, leader};
use nebula_cluster_tests::lab::{Lab, Processes, Run, Time};
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Output, cluster, eventually};

const HOUR: i64 = 3600;

#[test]
fn wall_clocks_jump_by_up_to_an_hour() {
    let Some(library) = time_machine() else {
        return;
    };
    let mut run = Run::new("lab_clocks wall_clocks_jump_by_up_to_an_hour");
    let jumps = run.count("CLOCK_JUMPS", 8);
    let mut lab = Processes::with_clocks(3, &library);
    block_on(clocks::jump(&mut lab, &mut run, jumps));
}

#[test]
fn one_node_is_a_tenth_fast_and_another_a_tenth_slow() {
    let Some(library) = time_machine() else {
        return;
    };
    let mut run = Run::new("lab_clocks one_node_is_a_tenth_fast_and_another_a_tenth_slow");
    let times = run.count("CLOCK_PACES", 6);
    let mut lab = Processes::with_clocks(3, &library);
    block_on(clocks::pace(&mut lab, &mut run, times));
}

/// A command for one node, by its socket: this process would not trust certificates of another day.
fn on(lab: &Processes, node: usize, program: &str, args: &[&str]) -> Output {
    let member = &lab.cluster().members[node];
    on_node(&member.data_dir, program, args)
}

/// A new machine asks this node to join.
fn join_through(lab: &Processes, node: usize, name: &str, token: &str) -> Output {
    let [quic, api, edge] = cluster::free_ports().map(|port| format!("127.0.0.1:{port}"));
    let dir = lab.cluster().scratch("joiners").join(name);
    let seed = lab.cluster().members[node]
        .api
        .trim_start_matches("https://");
    let who = ["join", seed, "--token", token, "--name", name, "--no-start"];
    let dir = ["--data-dir", dir.to_str().expect("UTF-8")];
    let at = [
        "--quic-addr",
        &quic,
        "--api-addr",
        &api,
        "--edge-addr",
        &edge,
    ];
    nebula_cluster_tests::nodectl([&who[..], &dir, &at].concat())
}

/// A join token of one use, by the clock of this node.
fn token(lab: &Processes, node: usize, ttl: &str) -> String {
    let made = on(
        lab,
        node,
        "nodectl",
        &["token", "create", "--ttl", ttl, "--json"],
    );
    made.ok().json()["token"]
        .as_str()
        .expect("a token")
        .to_owned()
}

/// Waits until a token has ended by this node's clock, or has not: then the daemon lives by the clock it was given.
fn wait_expired(lab: &Processes, node: usize, token: &str, expired: bool) {
    let id = token.split('.').nth(2).expect("a token has an id");
    eventually(cluster::DEADLINE, "the node's clock is set", || {
        let list = on(lab, node, "nodectl", &["token", "list", "--json"]);
        holds(list.code == 0, &list)?;
        let json = list.json();
        let tokens = json["tokens"].as_array().into_iter().flatten();
        let known = tokens.filter(|t| t["id"] == id && t["expired"] == expired);
        holds(known.count() == 1, list)
    });
}

#[test]
fn a_join_token_that_has_ended_by_one_of_two_clocks_is_refused() {
    let Some(library) = time_machine() else {
        return;
    };
    let _run = Run::new("lab_clocks a_join_token_that_has_ended_by_one_of_two_clocks_is_refused");
    let mut lab = Processes::with_clocks(3, &library);
    let led = block_on(async {
        all_ready(&lab).await;
        leader(&lab).await
    });
    let (taker, other) = ((led + 1) % 3, (led + 2) % 3);
    let set = |lab: &mut Processes, node, time| block_on(lab.set_clock(node, time));
    let refused = |lab: &Processes, name: &str, token: &str| {
        join_through(lab, taker, name, token).fails(1, "expired");
    };

    // By the leader's, which is ahead.
    let good = token(&lab, other, "30m");
    set(&mut lab, led, Time::Off(HOUR));
    wait_expired(&lab, led, &good, true);
    wait_expired(&lab, taker, &good, false);
    refused(&lab, "leader-ahead", &good);
    set(&mut lab, led, Time::Right);
    wait_expired(&lab, led, &good, false);

    // By that of the voter who is shown it.
    set(&mut lab, taker, Time::Off(HOUR));
    wait_expired(&lab, taker, &good, true);
    refused(&lab, "taker-ahead", &good);

    // It has ended, and the voter who is shown it does not know.
    let short = token(&lab, other, "1s");
    set(&mut lab, taker, Time::Off(-HOUR));
    wait_expired(&lab, led, &short, true);
    wait_expired(&lab, taker, &short, false);
    refused(&lab, "taker-behind", &short);

    // Where the clocks agree the token is as good as it was.
    set(&mut lab, taker, Time::Right);
    wait_expired(&lab, taker, &short, true);
    join_through(&lab, taker, "in-time", &good).ok();
    assert_led_by(&lab, led);
}

/// What was tried above was about this leader.
fn assert_led_by(lab: &Processes, led: usize) {
    assert_eq!(
        block_on(leader(lab)),
        led,
        "another leads: this test proved nothing"
    );
}

/// A node whose clock is more than a certificate's life off is cut off by certificates, says so, and takes part again
/// once the clock is right. It acknowledges nothing meanwhile, and the others go on.
fn lives_in_another_day(test: &'static str, seconds: i64) {
    let Some(library) = time_machine() else {
        return;
    };
    let mut run = Run::new(test);
    let mut lab = Processes::with_clocks(3, &library);
    block_on(all_ready(&lab));
    let off = run.pick(3);
    block_on(async {
        lab.kill(off).await;
        lab.set_clock(off, Time::Off(seconds)).await;
        lab.restart(off).await;
    });
    let log = lab.cluster().members[off].data_dir.join("again.log");
    eventually(
        cluster::DEADLINE,
        "the node says that certificates do not agree",
        || {
            let text = std::fs::read_to_string(&log).map_err(|e| e.to_string())?;
            holds(text.contains("compare the clocks"), text)
        },
    );
    let status = on(&lab, off, "nodectl", &["status", "--json"]).ok().json();
    assert_eq!(status["quorum"], false, "{status}");
    on(
        &lab,
        off,
        "nebula",
        &["config", "set", "user.another-day", "1"],
    )
    .fails(3, "");
    let now = on(
        &lab,
        (off + 1) % 3,
        "nebula",
        &["config", "set", "user.today", "1"],
    );
    now.ok();

    block_on(lab.set_clock(off, Time::Right));
    // It looks after its certificate every minute.
    eventually(2 * cluster::DEADLINE, "the node takes part again", || {
        let done = on(&lab, off, "nebula", &["config", "set", "user.back", "1"]);
        holds(done.code == 0, done)
    });
    block_on(all_ready(&lab));
    let list = on(&lab, off, "nebula", &["config", "list", "--json"]).ok();
    assert!(list.stdout.contains("user.today"), "{list}");
    assert!(!list.stdout.contains("user.another-day"), "{list}");
}

#[test]
fn a_node_lives_in_tomorrow_and_comes_back() {
    let test = "lab_clocks a_node_lives_in_tomorrow_and_comes_back";
    lives_in_another_day(test, 25 * HOUR);
}

#[test]
fn a_node_lives_in_yesterday_and_comes_back() {
    let test = "lab_clocks a_node_lives_in_yesterday_and_comes_back";
    lives_in_another_day(test, -25 * HOUR);
}
