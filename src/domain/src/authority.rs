//! Who may ask for which change. The leader checks it for every request that another node hands on;
//! what it proposes itself needs no leave.
//!
//! A voter holds the CA's key and is trusted with what operators may do: its API has checked their
//! tokens. A worker is not. By itself it may change only what is said of itself; for anything else it
//! hands on the token of the operator who asked. What only the leader's own actors propose is accepted
//! from nobody.

use crate::command::{Command, Rejection};
use crate::ids::NodeId;
use crate::state::Role;

/// The node that handed a request on, as its certificate and the registry say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    pub node: NodeId,
    /// `None` for a node that the leader's registry does not know.
    pub role: Option<Role>,
    /// An operator's token came with the request, and is one.
    pub operator: bool,
}

/// Who may have a command proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// The leader's own actors.
    Leader,
    /// This node and nobody else.
    Itself(NodeId),
    /// This node for itself, and whoever may act for an operator.
    ItselfOrOperator(NodeId),
    Operator,
    /// A node that signs certificates.
    Voter,
}

impl Command {
    fn needs(&self) -> Needs {
        match self {
            Command::Init { .. }
            | Command::Assign { .. }
            | Command::StepRollout { .. }
            | Command::StepRun { .. }
            | Command::TickCron { .. }
            | Command::Record { .. }
            | Command::ForgetJoiner { .. } => Needs::Leader,
            Command::Join { .. } => Needs::Voter,
            Command::SetAddresses { node, .. }
            | Command::SetLevel { node, .. }
            | Command::VolumesGone { node, .. } => Needs::Itself(*node),
            Command::SetDraining { node, .. }
            | Command::SetLeaving { node, .. }
            | Command::RemoveNode { node } => Needs::ItselfOrOperator(*node),
            Command::CreateJoinToken { .. }
            | Command::RevokeJoinToken { .. }
            | Command::CreateDeployment { .. }
            | Command::UpdateDeployment { .. }
            | Command::ScaleDeployment { .. }
            | Command::RestartDeployment { .. }
            | Command::RollBack { .. }
            | Command::OrderRollout { .. }
            | Command::RemoveDeployment { .. }
            | Command::PurgeCache { .. }
            | Command::DeleteVolumes { .. }
            | Command::SetSecret { .. }
            | Command::DeleteSecret { .. }
            | Command::StartRun { .. }
            | Command::CancelRun { .. }
            | Command::SetLabels { .. }
            | Command::SetSetting { .. }
            | Command::UnsetSetting { .. } => Needs::Operator,
        }
    }

    /// What the command does, in words for an error.
    fn action(&self) -> &'static str {
        match self {
            Command::Init { .. } => "initialise the cluster",
            Command::Join { .. } => "register a node",
            Command::SetAddresses { .. } => "change a member's addresses",
            Command::SetLevel { .. } => "say what another member's program understands",
            Command::SetDraining { .. } => "drain a member",
            Command::SetLeaving { .. } | Command::RemoveNode { .. } => "remove a member",
            Command::ForgetJoiner { .. } => "drop a member that never arrived",
            Command::CreateJoinToken { .. } => "make a join token",
            Command::RevokeJoinToken { .. } => "revoke a join token",
            Command::CreateDeployment { .. } => "create a deployment",
            Command::UpdateDeployment { .. } => "update a deployment",
            Command::ScaleDeployment { .. } => "scale a deployment",
            Command::RestartDeployment { .. } => "restart a deployment",
            Command::RollBack { .. } => "roll a deployment back",
            Command::OrderRollout { .. } => "steer a rollout",
            Command::StepRollout { .. } => "go on with a rollout",
            Command::RemoveDeployment { .. } => "remove a deployment",
            Command::PurgeCache { .. } => "purge a response cache",
            Command::DeleteVolumes { .. } => "delete volumes",
            Command::SetSecret { .. } => "set a secret",
            Command::DeleteSecret { .. } => "delete a secret",
            Command::VolumesGone { .. } => "tell of another node's volumes",
            Command::StartRun { .. } => "begin a run",
            Command::CancelRun { .. } => "cancel a run",
            Command::StepRun { .. } | Command::TickCron { .. } => "go on with runs",
            Command::SetSetting { .. } | Command::UnsetSetting { .. } => "change a setting",
            Command::SetLabels { .. } => "label a member",
            Command::Assign { .. } => "place instances",
            Command::Record { .. } => "write the history",
        }
    }
}

/// Whether the command may be proposed for this sender.
pub fn check(sender: Sender, command: &Command) -> Result<(), Rejection> {
    let voter = sender.role == Some(Role::Voter);
    let member = sender.role.is_some();
    let operator = voter || (member && sender.operator);
    let permitted = match command.needs() {
        Needs::Leader => false,
        Needs::Itself(node) => member && node == sender.node,
        Needs::ItselfOrOperator(node) => operator || (member && node == sender.node),
        Needs::Operator => operator,
        Needs::Voter => voter,
    };
    if permitted {
        return Ok(());
    }
    Err(Rejection::NotPermitted {
        node: sender.node,
        action: command.action().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Role::{Voter, Worker};
    use crate::testing::{NOW, addresses, init_command, join_command, join_token};

    const ME: NodeId = NodeId(4);
    const OTHER: NodeId = NodeId(5);

    fn may(role: Option<Role>, operator: bool, command: &Command) -> bool {
        let sender = Sender {
            node: ME,
            role,
            operator,
        };
        check(sender, command).is_ok()
    }

    #[test]
    fn nobody_hands_on_what_only_the_leader_decides() {
        let assign = Command::Assign {
            plan_revision: 0,
            changes: vec![],
        };
        let forget = Command::ForgetJoiner { node: ME };
        for command in [init_command(), assign, forget] {
            for role in [None, Some(Worker), Some(Voter)] {
                assert!(!may(role, true, &command), "{command:?} from {role:?}");
            }
        }
    }

    #[test]
    fn a_node_speaks_for_its_own_addresses_only() {
        let set = |node| Command::SetAddresses {
            node,
            addresses: addresses(9),
        };
        for role in [Worker, Voter] {
            assert!(may(Some(role), false, &set(ME)));
            assert!(!may(Some(role), true, &set(OTHER)));
        }
        assert!(!may(None, false, &set(ME)));
    }

    #[test]
    fn a_worker_may_leave_and_needs_an_operator_for_everything_else() {
        let leaves = |node| {
            [
                Command::SetDraining {
                    node,
                    draining: true,
                },
                Command::SetLeaving {
                    node,
                    leaving: true,
                },
                Command::RemoveNode { node },
            ]
        };
        for own in &leaves(ME) {
            assert!(may(Some(Worker), false, own), "{own:?}");
        }
        let token = Command::CreateJoinToken {
            token: join_token("t", Voter, true),
            now: NOW,
        };
        let set = Command::SetSetting {
            key: "user.x".into(),
            value: "1".into(),
        };
        let purge = Command::PurgeCache {
            name: crate::testing::name("api"),
        };
        // Labels decide where instances go: a machine's owner must not draw them to it.
        let label = Command::SetLabels {
            node: ME,
            set: [("disk".parse().unwrap(), "ssd".parse().unwrap())].into(),
            remove: vec![],
        };
        for command in leaves(OTHER).iter().chain([&token, &set, &purge, &label]) {
            assert!(!may(Some(Worker), false, command), "{command:?}");
            assert!(may(Some(Worker), true, command), "{command:?}");
            assert!(may(Some(Voter), false, command), "{command:?}");
            assert!(!may(None, true, command), "{command:?}");
        }
    }

    #[test]
    fn only_voters_register_nodes() {
        let join = join_command("t", 6);
        assert!(may(Some(Voter), false, &join));
        assert!(!may(Some(Worker), true, &join));
    }
}
