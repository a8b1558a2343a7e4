//! Members: how they join, arrive, and go, and the tokens that let them in.

use super::super::*;
use crate::ids::{NodeId, TokenId};
use crate::state::{JoinToken, Role};
use crate::testing::*;
use crate::time::Millis;

#[test]
fn tokens_admit_as_they_say() {
    let mut sim = Sim::new(1, 8);
    for token in [
        join_token("once", Role::Worker, false),
        JoinToken {
            expires_at: NOW,
            ..join_token("late", Role::Voter, true)
        },
    ] {
        sim.ok(Command::CreateJoinToken {
            token,
            now: Millis(0),
        });
    }
    let mut wrong = join_command("once", 2);
    if let Command::Join { secret_sha256, .. } = &mut wrong {
        secret_sha256[0] = 9;
    }
    assert_eq!(sim.run(wrong), Err(Rejection::TokenUnknown));
    assert_eq!(
        sim.run(join_command("none", 2)),
        Err(Rejection::TokenUnknown)
    );
    assert_eq!(
        sim.run(join_command("late", 2)),
        Err(Rejection::TokenExpired)
    );
    assert_eq!(
        sim.run(join_command("once", 2)),
        Ok(Outcome::Joined {
            node: NodeId(2),
            role: Role::Worker
        })
    );
    assert_eq!(sim.run(join_command("once", 3)), Err(Rejection::TokenUsed));
    sim.ok(join_command("all", 3));
    sim.ok(join_command("all", 4));
    assert_eq!(sim.state.join_tokens[&TokenId("all".into())].used, 2);

    sim.ok(Command::RevokeJoinToken {
        token: TokenId("all".into()),
    });
    assert_eq!(
        sim.run(join_command("all", 5)),
        Err(Rejection::TokenUnknown)
    );
    sim.ok(Command::CreateJoinToken {
        token: join_token("new", Role::Voter, false),
        now: NOW,
    });
    assert!(!sim.state.join_tokens.contains_key(&TokenId("late".into())));
}

#[test]
fn names_and_addresses_are_unique_and_ids_never_come_back() {
    let mut sim = Sim::new(3, 8);
    assert_eq!(
        sim.run(join_command("all", 2)),
        Err(Rejection::NodeNameTaken(node_name(2)))
    );
    let mut same_address = join_command("all", 4);
    if let Command::Join { addresses: own, .. } = &mut same_address {
        own.quic = addresses(3).quic;
    }
    assert_eq!(
        sim.run(same_address),
        Err(Rejection::AddressTaken(addresses(3).quic))
    );
    let moved = |number, to| Command::SetAddresses {
        node: NodeId(number),
        addresses: addresses(to),
    };
    assert!(matches!(
        sim.run(moved(3, 2)),
        Err(Rejection::AddressTaken(_))
    ));
    let planned_for = sim.state.plan_revision;
    sim.ok(moved(3, 3));
    assert_eq!(sim.state.plan_revision, planned_for, "nothing changed");
    sim.ok(moved(3, 9));
    assert_eq!(sim.state.nodes[&NodeId(3)].addresses, addresses(9));

    sim.ok(Command::RemoveNode { node: NodeId(3) });
    assert!(sim.state.was_removed(NodeId(3)));
    assert_eq!(
        sim.ok(join_command("all", 3)),
        Outcome::Joined {
            node: NodeId(4),
            role: Role::Voter
        }
    );
}

#[test]
fn the_last_voter_stays() {
    let mut sim = Sim::new(1, 8);
    sim.ok(Command::CreateJoinToken {
        token: join_token("worker", Role::Worker, false),
        now: NOW,
    });
    sim.ok(join_command("worker", 2));
    let remove = |number| Command::RemoveNode {
        node: NodeId(number),
    };
    assert_eq!(sim.run(remove(1)), Err(Rejection::LastVoter(NodeId(1))));
    assert_eq!(sim.run(remove(9)), Err(Rejection::NodeUnknown(NodeId(9))));
    sim.ok(join_command("all", 3));
    sim.arrive(3);
    sim.ok(Command::SetLeaving {
        node: NodeId(1),
        leaving: true,
    });
    // Two removals at once: the first one's vote goes to the second.
    assert_eq!(sim.run(remove(3)), Err(Rejection::LastVoter(NodeId(3))));
    sim.ok(remove(1));
    assert_eq!(sim.run(remove(3)), Err(Rejection::LastVoter(NodeId(3))));
    sim.ok(remove(2));
    // Asked again, because the answer was lost: it is so already.
    let before = sim.state.nodes.clone();
    sim.ok(remove(1));
    assert_eq!(sim.state.nodes, before);
}

#[test]
fn a_voter_that_never_arrived_cannot_take_over() {
    let mut sim = Sim::new(1, 8);
    sim.ok(join_command("all", 2));
    let remove = Command::RemoveNode { node: NodeId(1) };
    let leave = Command::SetLeaving {
        node: NodeId(1),
        leaving: true,
    };
    for command in [&remove, &leave] {
        assert_eq!(
            sim.run(command.clone()),
            Err(Rejection::LastVoter(NodeId(1)))
        );
    }
    sim.arrive(2);
    sim.ok(leave);
    sim.ok(remove);
}

#[test]
fn a_machine_that_never_arrived_gives_way_to_its_next_try() {
    let mut sim = Sim::new(1, 8);
    sim.ok(join_command("all", 2));
    assert_eq!(sim.state.nodes[&NodeId(2)].awaited_since, Some(NOW));
    // The same name and address once more, with a new key and so as a new request.
    let again = sim.ok(join_command("all", 2));
    let joined = |id| Outcome::Joined {
        node: NodeId(id),
        role: Role::Voter,
    };
    assert_eq!(again, joined(3));
    assert!(sim.state.was_removed(NodeId(2)));
    // Another name on the address of the one that is awaited.
    let mut renamed = join_command("all", 5);
    if let Command::Join { addresses: own, .. } = &mut renamed {
        own.quic = addresses(2).quic;
    }
    assert_eq!(sim.ok(renamed), joined(4));
    assert!(sim.state.was_removed(NodeId(3)));

    // Once it has arrived it stays, and the leader cannot drop it by mistake.
    sim.ok(Command::SetAddresses {
        node: NodeId(4),
        addresses: addresses(5),
    });
    assert_eq!(
        sim.run(join_command("all", 5)),
        Err(Rejection::NodeNameTaken(node_name(5)))
    );
    let forget = |id| Command::ForgetJoiner { node: NodeId(id) };
    assert_eq!(sim.run(forget(4)), Err(Rejection::NodeArrived(NodeId(4))));
    sim.ok(join_command("all", 6));
    sim.ok(forget(5));
    assert_eq!(sim.state.nodes.len(), 2);
}

#[test]
fn removing_a_node_takes_its_instances_along() {
    let mut sim = Sim::new(2, 8);
    sim.create("app", service_spec(), 2);
    sim.create("old", service_spec(), 1);
    sim.start("app", 1);
    sim.start("app", 2);
    sim.start("old", 2);
    sim.ok(Command::RemoveDeployment { name: name("old") });
    sim.ok(Command::RemoveNode { node: NodeId(2) });
    assert_eq!(sim.state.instances.len(), 1);
    assert!(
        !sim.state.deployments.contains_key(&name("old")),
        "nothing is left of it"
    );
}
