//! Promise: voters grow by themselves from one to three to five, and five outlive the loss of two.

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, eventually};

fn voters(cluster: &Cluster) -> usize {
    let list = cluster.member_list();
    let members = list["members"].as_array().unwrap();
    members.iter().filter(|m| m["role"] == "voter").count()
}

#[test]
fn five_machines_vote_and_two_may_be_lost() {
    let cluster = Cluster::start(5);
    eventually(DEADLINE, "five voters", || {
        let voters = voters(&cluster);
        holds(voters == 5, voters)
    });
    cluster.nebula(&["config", "set", "user.before", "1"]).ok();

    // The leader is one of the two: the three that are left have to elect.
    let leader = cluster.leader();
    cluster.kill_machine(leader);
    cluster.kill_machine((leader + 1) % 5);
    eventually(DEADLINE, "a change by the three that are left", || {
        let done = cluster.nebula(&["config", "set", "user.after", "1"]);
        holds(done.code == 0, done.to_string())
    });
    for index in [2, 3, 4].map(|step| (leader + step) % 5) {
        let member = &cluster.members[index];
        eventually(DEADLINE, "both changes on every machine left", || {
            let list = cluster.nebula_at(member, &["config", "list", "--json"]);
            let both = ["user.before", "user.after"].map(|key| list.stdout.contains(key));
            holds(both == [true, true], list.to_string())
        });
    }

    // With a third one lost there is no majority: refused, and nothing of it is kept.
    cluster.kill_machine((leader + 2) % 5);
    let left = &cluster.members[(leader + 3) % 5];
    cluster
        .nebula_at(left, &["config", "set", "user.minority", "1"])
        .fails(3, "majority");
}
