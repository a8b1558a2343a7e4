//! Promise: a leader that stops or dies is replaced, nothing acknowledged is lost, and one that went on believing that
//! it leads answers no linearizable read with an old value.

use std::time::Duration;

use nebula_cluster_tests::lab::run::block_on;
use nebula_cluster_tests::lab::scenarios::leader;
use nebula_cluster_tests::lab::{Processes, Run};

#[test]
fn the_leader_is_stopped_and_goes_on() {
    let mut run = Run::new("lab_leader the_leader_is_stopped_and_goes_on");
    let count = run.count("PAUSES", 4);
    let longest = Duration::from_secs(run.count("PAUSE_SECONDS", 5));
    let mut lab = Processes::start(3);
    block_on(leader::paused(&mut lab, &mut run, count, longest));
}

#[test]
fn the_leader_is_killed_under_writes() {
    let mut run = Run::new("lab_leader the_leader_is_killed_under_writes");
    let count = run.count("LEADER_KILLS", 5);
    let mut lab = Processes::start(3);
    block_on(leader::killed(&mut lab, &mut run, count));
}
