//! Promise: nothing acknowledged is lost when daemons are killed at random under load, and a killed node is back soon.

use nebula_cluster_tests::lab::run::block_on;
use nebula_cluster_tests::lab::scenarios::kills;
use nebula_cluster_tests::lab::{Processes, Run};

#[test]
fn random_nodes_are_killed_under_load() {
    let mut run = Run::new("lab_kills random_nodes_are_killed_under_load");
    let count = run.count("KILLS", 20);
    let mut lab = Processes::start(3);
    block_on(kills::random(&mut lab, &mut run, count));
}
