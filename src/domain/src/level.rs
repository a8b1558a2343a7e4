//! Which requests and messages a version of the program understands, so that versions may differ while a cluster is upgraded.
//!
//! A node says its level in the registry. What came with a level is sent only once every member has reached it
//! ([`State::level`]), and from then on a program of a lower level neither starts on a member nor joins: what is in the log
//! cannot be taken back, so the level that is in force never goes down.

use crate::command::Rejection;
use crate::state::State;

/// Of this program. Raised with every format that an older program cannot read.
pub const LEVEL: u32 = 1;

impl State {
    /// The level in force: what all members understand, those that are away included. It never goes down.
    pub fn level(&self) -> u32 {
        match self.level_in_force {
            // Nobody has said anything yet.
            0 => LEVEL,
            level => level,
        }
    }

    /// Members have come or gone, or say another level than before.
    pub(crate) fn raise_level(&mut self) {
        let common = self.nodes.values().map(|node| node.level).min();
        self.level_in_force = self.level_in_force.max(common.unwrap_or_default());
    }
}

/// Why a program of this level may not take part, if it may not.
pub fn refusal(state: &State, level: u32) -> Option<String> {
    let needed = state.level();
    (level < needed).then(|| {
        let why = Rejection::LevelTooLow { level, needed };
        format!("{why}: install the version that the other members run")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Rejection};
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
        assert_eq!(say(3, 3), (2, true));
        sim.ok(Command::RemoveNode { node: NodeId(1) });
        assert_eq!(sim.state.level(), 3);
    }

    #[test]
    fn the_level_in_force_never_goes_down() {
        let mut sim = Sim::new(2, 4);
        let say = |node, level| Command::SetLevel {
            node: NodeId(node),
            level,
        };
        sim.ok(say(1, 2));
        sim.ok(say(1, 1));
        sim.ok(say(1, 3));
        sim.ok(say(2, 2));
        let refused = |level| Err(Rejection::LevelTooLow { level, needed: 2 });
        assert_eq!(sim.run(say(2, 1)), refused(1), "one that has gone back");

        let join = |says| {
            let mut command = join_command("all", 3);
            if let Command::Join { level, .. } = &mut command {
                *level = says;
            }
            command
        };
        assert_eq!(sim.run(join(1)), refused(1));
        assert_eq!(sim.state.nodes.len(), 2);
        sim.ok(join(2));
        assert_eq!(sim.state.level(), 2);
        assert_eq!(sim.state.nodes[&NodeId(3)].level, 2, "known from the start");
    }

    #[test]
    fn one_that_joined_and_never_came_holds_it_back_until_it_is_forgotten() {
        let mut sim = Sim::new(1, 4);
        sim.ok(join_command("all", 2));
        let say = Command::SetLevel {
            node: NodeId(1),
            level: 2,
        };
        sim.ok(say);
        assert_eq!(sim.state.level(), 1);
        sim.ok(Command::ForgetJoiner { node: NodeId(2) });
        assert_eq!(sim.state.level(), 2);
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
