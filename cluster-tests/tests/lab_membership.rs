//! Promise: members join and are removed under load, the leader among them, while others die now and then: nothing
//! acknowledged is lost, and those vote who should: an odd number as members come, all that are left as they go.

use nebula_cluster_tests::lab::run::block_on;
use nebula_cluster_tests::lab::scenarios::membership;
use nebula_cluster_tests::lab::{Processes, Run};

#[test]
fn members_come_and_go_under_load() {
    let mut run = Run::new("lab_membership members_come_and_go_under_load");
    let rounds = run.count("MEMBERSHIP", 2);
    let mut lab = Processes::start(3);
    block_on(membership::up_and_down(&mut lab, &mut run, rounds));
}
