//! Promise: whatever links are cut, and in whatever direction, the history stays linearizable; a node that is left out
//! answers with errors, and after healing all take part again.

use nebula_cluster_tests::lab::run::block_on;
use nebula_cluster_tests::lab::scenarios::partitions;
use nebula_cluster_tests::lab::{Namespaced, Run, Shape};
use nebula_cluster_tests::namespaces::available;

fn cut(test: &'static str, shape: Shape) {
    if !available() {
        return;
    }
    let mut run = Run::new(test);
    let count = run.count("PARTITIONS", 2);
    let mut lab = Namespaced::start(3);
    for round in 0..count {
        block_on(partitions::cut(&mut lab, &mut run, shape, round % 2 == 0));
    }
}

#[test]
fn a_node_is_isolated() {
    cut("lab_partitions a_node_is_isolated", Shape::Isolated);
}

#[test]
fn a_node_hears_nothing() {
    cut("lab_partitions a_node_hears_nothing", Shape::Deaf);
}

#[test]
fn a_node_is_not_heard() {
    cut("lab_partitions a_node_is_not_heard", Shape::Mute);
}

#[test]
fn one_node_alone_reaches_both_of_the_others() {
    cut(
        "lab_partitions one_node_alone_reaches_both_of_the_others",
        Shape::Bridge,
    );
}
