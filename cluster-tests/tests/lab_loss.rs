//! Promise: lost packets cost time and no correctness.

use std::time::Duration;

use nebula_cluster_tests::lab::load::Plan;
use nebula_cluster_tests::lab::run::block_on;
use nebula_cluster_tests::lab::scenarios::loss::{self, Elections};
use nebula_cluster_tests::lab::{Link, Namespaced, Run};
use nebula_cluster_tests::namespaces::available;

#[test]
fn one_five_and_thirty_percent_are_lost() {
    if !available() {
        return;
    }
    let mut run = Run::new("lab_loss one_five_and_thirty_percent_are_lost");
    let lasts = Duration::from_secs(run.count("LOSS_SECONDS", 10));
    let mut lab = Namespaced::start(3);
    for percent in [1, 5, 30] {
        let (link, plan) = (Link::Lossy(percent), Plan::new(run.part()));
        let elections = Elections::Expected;
        block_on(loss::everywhere(
            &mut lab, &mut run, link, plan, lasts, elections,
        ));
    }
}
