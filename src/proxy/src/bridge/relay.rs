//! One connection from a program to an instance of another deployment.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nebula_domain::routes::{Endpoint, RouteKind, RouteTable};
use nebula_domain::{DeploymentName, NodeId};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::upstream::{Dialer, Io};

/// Instances that one connection is tried at.
const TRIES: usize = 3;
/// Out of descriptors or the like: a pause keeps the loop from spinning until some are closed.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Relay {
    pub table: watch::Receiver<Arc<RouteTable>>,
    pub dialer: Dialer,
    pub me: NodeId,
    pub turn: AtomicUsize,
    pub slots: Semaphore,
}

impl Relay {
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener, to: DeploymentName) {
        loop {
            match listener.accept().await {
                Ok((socket, _)) => {
                    let (relay, to) = (Arc::clone(&self), to.clone());
                    tokio::spawn(async move { relay.carry(socket, &to).await });
                }
                Err(error) => {
                    tracing::warn!(%to, %error, "a connection to another deployment was not accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// To a ready instance, or closed at once when there is none: the program tries again, as it would anywhere.
    async fn carry(&self, mut socket: TcpStream, to: &DeploymentName) {
        let Ok(_slot) = self.slots.try_acquire() else {
            tracing::warn!(%to, "no more connections to other deployments are taken on this node");
            return;
        };
        let _ = socket.set_nodelay(true);
        for endpoint in self.endpoints(to).into_iter().take(TRIES) {
            let Ok(target) = self.dialer.target(endpoint, None) else {
                continue;
            };
            match self.dialer.open(target).await {
                Ok((mut io, _)) => return self.join(&mut socket, &mut io, to).await,
                Err(error) => {
                    let instance = endpoint.instance;
                    tracing::debug!(%to, %instance, error = &error as &dyn std::error::Error, "an instance could not be reached");
                }
            }
        }
        tracing::debug!(%to, "no instance is ready for a program that depends on it");
    }

    async fn join(&self, socket: &mut TcpStream, io: &mut Io, to: &DeploymentName) {
        if let Err(error) = copy_bidirectional(socket, io).await {
            tracing::trace!(%to, %error, "a connection to another deployment broke");
        }
    }

    /// Those on this node first, then those on nodes that are heard; among equals another one each time.
    fn endpoints(&self, to: &DeploymentName) -> Vec<Endpoint> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let table = self.table.borrow();
        let Some(route) = table
            .dependency(to)
            .filter(|r| r.kind == RouteKind::Service)
        else {
            return Vec::new();
        };
        let suspects = self.dialer.suspects.borrow();
        order(&route.endpoints, turn, |node| {
            (node != self.me, suspects.contains(&node))
        })
    }
}

/// Turned on by `turn`, then by `rank` of the node.
fn order<R: Ord>(endpoints: &[Endpoint], turn: usize, rank: impl Fn(NodeId) -> R) -> Vec<Endpoint> {
    let mut ordered = endpoints.to_vec();
    if !ordered.is_empty() {
        let turn = turn % ordered.len();
        ordered.rotate_left(turn);
    }
    ordered.sort_by_key(|endpoint| rank(endpoint.node));
    ordered
}

#[cfg(test)]
mod tests {
    use nebula_domain::InstanceId;

    use super::*;

    #[test]
    fn the_own_node_goes_first_and_equals_take_turns() {
        let endpoint = |instance, node| Endpoint {
            instance: InstanceId(instance),
            node: NodeId(node),
        };
        let all = [
            endpoint(1, 1),
            endpoint(2, 2),
            endpoint(3, 1),
            endpoint(4, 3),
        ];
        let ids = |turn| {
            let ordered = order(&all, turn, |node| (node != NodeId(1), node == NodeId(2)));
            ordered.iter().map(|e| e.instance.0).collect::<Vec<_>>()
        };
        assert_eq!(ids(0), [1, 3, 4, 2]);
        assert_eq!(ids(1), [3, 1, 4, 2]);
        assert!(order(&[], 7, |_| ()).is_empty());
    }
}
