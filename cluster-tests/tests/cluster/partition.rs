//! Promise: a machine that is cut off refuses changes, the others go on, and after healing all agree; as people see it.

use std::time::Duration;

use nebula_cluster_tests::eventually;
use nebula_cluster_tests::lab::run::block_on;
use nebula_cluster_tests::lab::{Lab, Links, Namespaced, Shape, wait};
use nebula_cluster_tests::namespaces::available;
use nebula_cluster_tests::wait::holds;

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn the_leader_is_cut_off_and_comes_back() {
    if !available() {
        return;
    }
    let mut lab = Namespaced::start(3);
    let set =
        |lab: &Namespaced, i, value| lab.cli(i, "nebula", &["config", "set", "user.side", value]);
    set(&lab, 0, "before").ok();
    let leader = block_on(wait::leader(&lab));
    let other = (leader + 1) % 3;

    block_on(lab.set_links(&Shape::Isolated.links(3, leader)));
    eventually(DEADLINE, "the majority takes a change", || {
        let done = set(&lab, other, "majority");
        holds(done.code == 0, done.to_string())
    });
    set(&lab, leader, "minority").fails(3, "");

    block_on(lab.set_links(&Links::open(3)));
    eventually(
        DEADLINE,
        "the one that was cut off agrees with the majority",
        || {
            let done = lab.cli(leader, "nebula", &["config", "get", "user.side"]);
            holds(done.stdout.trim() == "majority", done.to_string())
        },
    );
    set(&lab, leader, "after").ok();
}
