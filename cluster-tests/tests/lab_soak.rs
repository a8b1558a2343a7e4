//! Promise: all the others hold when faults of all kinds come one after the other. `just soak MINUTES=…` runs it longer.

use std::time::Duration;

use nebula_cluster_tests::lab::run::block_on;
use nebula_cluster_tests::lab::scenarios::soak;
use nebula_cluster_tests::lab::{Namespaced, Processes, Run};
use nebula_cluster_tests::namespaces::available;

/// In CI this long.
const SHORT: Duration = Duration::from_secs(20);

fn lasts(run: &mut Run) -> Duration {
    match run.count("MINUTES", 0) {
        0 => SHORT,
        minutes => Duration::from_secs(minutes * 60),
    }
}

#[test]
fn random_faults_hit_processes() {
    let mut run = Run::new("lab_soak random_faults_hit_processes");
    let lasts = lasts(&mut run);
    let mut lab = Processes::start(3);
    block_on(soak::soak(&mut lab, &mut run, lasts));
}

#[test]
fn random_faults_hit_machines_on_a_network() {
    if !available() {
        return;
    }
    let mut run = Run::new("lab_soak random_faults_hit_machines_on_a_network");
    let lasts = lasts(&mut run);
    let mut lab = Namespaced::start(3);
    block_on(soak::soak(&mut lab, &mut run, lasts));
}
