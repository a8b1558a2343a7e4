//! Which requests and messages a version of the program understands, so that versions may differ while a cluster is upgraded.
//!
//! A node says its level in the registry. What came with a level is sent only once every member has reached it
//! ([`State::level`]), and from then on a program of a lower level neither starts on a member nor joins.

use crate::state::State;

/// Of this program. Raised with every format that an older program cannot read.
pub const LEVEL: u32 = 1;

impl State {
    /// What all members understand, those that are away included.
    pub fn level(&self) -> u32 {
        let levels = self.nodes.values().map(|node| node.level);
        levels.min().unwrap_or(LEVEL)
    }
}

/// Why a program of this level may not take part, if it may not.
pub fn refusal(state: &State, level: u32) -> Option<String> {
    let needed = state.level();
    (level < needed).then(|| {
        format!(
            "this program understands level {level}, and the cluster uses level {needed}: install the version that the other members run"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::ids::NodeId;
    use crate::testing::*;

    #[test]
    fn the_cluster_is_as_far_as_its_last_member() {
        let mut sim = Sim::new(3, 4);
        let mut say = |node, level| {
            sim.ok(Command::SetLevel {
                node: NodeId(node),
                level,
            });
            (sim.state.level(), refusal(&sim.state, 1).is_some())
        };
        assert_eq!(say(1, 2), (1, false));
        assert_eq!(say(2, 3), (1, false));
        assert_eq!(say(3, 2), (2, true));
        assert_eq!(say(3, 1), (1, false), "one that has gone back");
        assert_eq!(say(3, 3), (2, true));
        sim.ok(Command::RemoveNode { node: NodeId(1) });
        assert_eq!(sim.state.level(), 3);
    }

    #[test]
    fn only_a_member_has_a_level() {
        let mut sim = Sim::new(1, 4);
        let command = Command::SetLevel {
            node: NodeId(7),
            level: 1,
        };
        assert!(sim.run(command).is_err());
    }
}
