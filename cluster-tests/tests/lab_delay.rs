//! Promise: packets that are late, out of order, lost or doubled cost time and no correctness; and as long as few are
//! lost, nobody stands for election for it.

use std::time::Duration;

use nebula_cluster_tests::lab::load::Plan;
use nebula_cluster_tests::lab::run::block_on;
use nebula_cluster_tests::lab::scenarios::loss::{self, Elections};
use nebula_cluster_tests::lab::{Link, Namespaced, Run, Slow};
use nebula_cluster_tests::namespaces::{available, can_be_slow};

/// Few operations: about the network it is, not about two busy cores.
fn light(run: &mut Run) -> Plan {
    let mut plan = Plan::new(run.part());
    plan.clients_per_node = 2;
    plan.every = Duration::from_millis(250);
    plan
}

fn slow(test: &'static str, slow: Slow, elections: Elections) {
    if !available() || !can_be_slow() {
        return;
    }
    let mut run = Run::new(test);
    let lasts = Duration::from_secs(run.count("DELAY_SECONDS", 20));
    let mut lab = Namespaced::relayed(3, run.seed);
    let (link, plan) = (Link::Slow(slow), light(&mut run));
    block_on(loss::everywhere(
        &mut lab, &mut run, link, plan, lasts, elections,
    ));
}

#[test]
fn packets_are_late_and_overtake_each_other() {
    slow(
        "lab_delay packets_are_late_and_overtake_each_other",
        Slow::BY_75_MS,
        Elections::Needless,
    );
}

#[test]
fn packets_are_late_and_five_percent_are_lost() {
    let by = Slow {
        lost: 5,
        twice: 1,
        ..Slow::BY_75_MS
    };
    slow(
        "lab_delay packets_are_late_and_five_percent_are_lost",
        by,
        Elections::Needless,
    );
}

#[test]
fn packets_are_late_and_thirty_percent_are_lost() {
    let by = Slow {
        lost: 30,
        twice: 1,
        ..Slow::BY_75_MS
    };
    slow(
        "lab_delay packets_are_late_and_thirty_percent_are_lost",
        by,
        Elections::Expected,
    );
}
