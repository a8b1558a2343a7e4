//! Ends what was begun with a member and not finished: a removal whose node handed its vote over and was
//! never removed, because whoever asked for it died; a join whose machine never came.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nebula_actors::{BoxError, Reconciler};
use nebula_domain::time::Millis;
use nebula_domain::{Command, NodeId, State};
use nebula_registry::Status;
use nebula_telemetry::Clock;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::registrar::Registrar;

/// A removal hands the vote over within ten seconds, or takes it back by itself. One that has done
/// neither for so long was given up by whoever began it: the member is as good as before.
pub const LEAVING_LASTS: Duration = Duration::from_secs(60);
/// A member that joined and was not heard of for so long is dropped: as long as the certificate that
/// it was given.
pub const JOINING_LASTS: Duration = Duration::from_secs(24 * 60 * 60);
/// Between two looks; both limits are far longer.
const PERIOD: Duration = Duration::from_secs(5);

/// Watches over members while this node leads.
pub struct Caretaker<R> {
    registry: R,
    clock: Clock,
    state: watch::Receiver<Arc<State>>,
    status: watch::Receiver<Status>,
    /// Since when this node, as the leader, has seen a member leaving.
    leaving: BTreeMap<NodeId, Instant>,
}

impl<R: Registrar> Caretaker<R> {
    pub fn new(registry: R, clock: Clock) -> Caretaker<R> {
        Caretaker {
            state: registry.watch(),
            status: registry.status(),
            registry,
            clock,
            leaving: BTreeMap::new(),
        }
    }
}

#[async_trait]
impl<R: Registrar> Reconciler for Caretaker<R> {
    async fn wake(&mut self) {
        tokio::time::sleep(PERIOD).await;
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        if !self.status.borrow().is_leader {
            self.leaving.clear();
            return Ok(());
        }
        let state = self.state.borrow().clone();
        for command in due(&state, &mut self.leaving, Instant::now(), self.clock.now()) {
            match self.registry.propose(command.clone()).await {
                Ok(_) => tracing::info!(?command, "ended what was begun with a member"),
                // It has just gone, or arrived, or there is no quorum; the next pass looks again.
                Err(error) => tracing::debug!(?command, %error, "a member is left as it is"),
            }
        }
        Ok(())
    }
}

/// What is to be ended now. `leaving` is brought up to date.
fn due(
    state: &State,
    leaving: &mut BTreeMap<NodeId, Instant>,
    now: Instant,
    clock: Millis,
) -> Vec<Command> {
    let is_leaving = |id: &NodeId| state.nodes.get(id).is_some_and(|node| node.leaving);
    leaving.retain(|id, _| is_leaving(id));
    let mut commands = Vec::new();
    for node in state.nodes.values() {
        let never_arrived = node
            .awaited_since
            .is_some_and(|since| clock.since(since) >= JOINING_LASTS);
        if never_arrived {
            commands.push(Command::ForgetJoiner { node: node.id });
        } else if node.leaving {
            let since = *leaving.entry(node.id).or_insert(now);
            if now.duration_since(since) >= LEAVING_LASTS {
                commands.push(Command::SetLeaving {
                    node: node.id,
                    leaving: false,
                });
            }
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use nebula_domain::state::{Addresses, Node, Role};

    use super::*;

    const JOINED: Millis = Millis(1_700_000_000_000);

    fn state() -> State {
        let mut state = State::default();
        for id in 1..=3u16 {
            let at = |port: u16| ([127, 0, 0, 1], port + id).into();
            let node = Node {
                id: NodeId(u64::from(id)),
                name: format!("n{id}").parse().unwrap(),
                role: Role::Voter,
                addresses: Addresses {
                    quic: at(7000),
                    api: at(8000),
                    edge: at(9000),
                },
                draining: false,
                leaving: id == 2,
                awaited_since: (id == 3).then_some(JOINED),
                labels: Default::default(),
                level: 1,
            };
            state.nodes.insert(node.id, node);
        }
        state
    }

    #[test]
    fn a_removal_that_was_given_up_is_taken_back() {
        let (mut state, mut seen, begun) = (state(), BTreeMap::new(), Instant::now());
        assert_eq!(due(&state, &mut seen, begun, JOINED), []);
        let almost = begun + LEAVING_LASTS - Duration::from_millis(1);
        assert_eq!(due(&state, &mut seen, almost, JOINED), []);
        let expected = Command::SetLeaving {
            node: NodeId(2),
            leaving: false,
        };
        let late = begun + LEAVING_LASTS;
        assert_eq!(due(&state, &mut seen, late, JOINED), [expected]);
        // A second removal has its own time.
        let mut node = state.nodes[&NodeId(2)].clone();
        node.leaving = false;
        state.nodes.insert(node.id, node.clone());
        assert_eq!(due(&state, &mut seen, late, JOINED), []);
        node.leaving = true;
        state.nodes.insert(node.id, node);
        assert_eq!(due(&state, &mut seen, late, JOINED), []);
    }

    #[test]
    fn a_machine_that_never_came_is_dropped() {
        let (state, mut seen, now) = (state(), BTreeMap::new(), Instant::now());
        let almost = JOINED.plus(JOINING_LASTS - Duration::from_millis(1));
        assert_eq!(due(&state, &mut seen, now, almost), []);
        let late = JOINED.plus(JOINING_LASTS);
        let expected = Command::ForgetJoiner { node: NodeId(3) };
        assert_eq!(due(&state, &mut seen, now, late), [expected]);
    }
}
