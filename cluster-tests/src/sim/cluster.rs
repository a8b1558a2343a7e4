//! The simulated cluster: its machines, how they come to be members, and who watches them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nebula_domain::state::{Cluster as Founded, JoinToken, Role};
use nebula_domain::{ClusterId, Command, NodeId, Outcome, Request, State, TokenId};
use nebula_drivers::Driver;
use nebula_node::parts::Peers;
use nebula_wire::api::Peer;
use tokio::time::timeout;

use super::node::{CLUSTER, Ground, Life, Node, addresses};
use super::oracles::{Agreement, Exclusive};

/// A change of the members that takes longer is given up; it may still happen.
const CHANGE: Duration = Duration::from_secs(8);
/// As long as the API waits for a vote to be handed over.
const HAND_OVER: Duration = Duration::from_secs(10);
const TOKEN: &str = "t";
const SECRET: [u8; 32] = [7; 32];

/// The daemons that run now. Clones are the same list.
#[derive(Clone, Default)]
pub struct Lives(Arc<Mutex<BTreeMap<NodeId, Life>>>);

impl Lives {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Life>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn all(&self) -> Vec<Life> {
        self.lock().values().cloned().collect()
    }
}

pub struct Cluster {
    pub ground: Ground,
    pub nodes: BTreeMap<NodeId, Node>,
    pub lives: Lives,
    removed: Arc<Mutex<BTreeSet<NodeId>>>,
    agreement: Agreement,
    exclusive: Exclusive,
    named: u64,
}

impl Cluster {
    /// The first machine makes a cluster, the others join it.
    pub async fn form(ground: Ground, count: u64) -> Result<Cluster, String> {
        let mut cluster = Cluster {
            agreement: Agreement::new(ground.trace.clone()),
            exclusive: Exclusive::new(ground.trace.clone()),
            ground,
            nodes: BTreeMap::new(),
            lives: Lives::default(),
            removed: Arc::default(),
            named: 1,
        };
        let first = NodeId(1);
        let told = Peers {
            next_node_id: 2,
            peers: Vec::new(),
        };
        cluster.add(first, "n1".to_owned(), told);
        cluster.start(first).await?;
        let init = Request {
            id: cluster.ground.random.request_id(),
            command: Command::Init {
                cluster: Founded {
                    id: ClusterId(CLUSTER.to_owned()),
                    ca_pem: String::new(),
                },
                name: cluster.nodes[&first].name.parse().map_err(text)?,
                addresses: addresses(1),
                api_token_sha256: [1; 32],
            },
            stamp: Default::default(),
        };
        let registry = cluster.lives.lock()[&first].registry.clone();
        registry.initialise(init).await.map_err(text)?;
        for _ in 1..count {
            let life = cluster.lives.lock()[&first].clone();
            cluster.grow(&life).await?;
        }
        Ok(cluster)
    }

    fn add(&mut self, id: NodeId, name: String, told: Peers) {
        let node = Node::new(id, name, told, &self.ground);
        self.exclusive.follow(id, node.programs.runs());
        self.nodes.insert(id, node);
    }

    /// Starts a machine's daemon.
    pub async fn start(&mut self, id: NodeId) -> Result<(), String> {
        let Some(node) = self.nodes.get_mut(&id).filter(|n| n.life.is_none()) else {
            return Ok(());
        };
        self.ground.trace.note(format_args!("{id} starts"));
        let life = match node.start().await {
            Ok(life) => life,
            Err(error) => {
                self.ground
                    .trace
                    .violate("restart", format_args!("{id}: {error}"));
                return Err(error.to_string());
            }
        };
        self.agreement.follow(&life);
        let (removed, gone) = (self.removed.clone(), life.clone());
        life.beside(async move {
            gone.removed().await;
            let mut removed = removed.lock().unwrap_or_else(PoisonError::into_inner);
            removed.insert(gone.node);
        });
        self.lives.lock().insert(id, life);
        Ok(())
    }

    pub fn kill(&mut self, id: NodeId) {
        self.lives.lock().remove(&id);
        if let Some(node) = self.nodes.get_mut(&id).filter(|n| n.life.is_some()) {
            self.ground.trace.note(format_args!("{id} is killed"));
            node.kill();
        }
    }

    pub fn cut_power(&mut self, id: NodeId) {
        self.lives.lock().remove(&id);
        if let Some(node) = self.nodes.get_mut(&id) {
            self.ground.trace.note(format_args!("{id} loses its power"));
            node.cut_power();
        }
    }

    /// Wall clocks go on, and daemons that were told that they are removed end, as real ones do.
    pub fn keep(&mut self) {
        for node in self.nodes.values() {
            node.tell_time();
        }
        let removed = {
            let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *removed)
        };
        for id in removed {
            self.take_away(id, "was removed and ends");
        }
    }

    /// A machine that was removed while it knew only members that have been removed as well is told by nobody. It is
    /// switched off by whoever removed it.
    pub fn switch_off_strays(&mut self) {
        let removed = |id: &NodeId| {
            let mut lives = self.nodes.values().filter_map(|node| node.life.as_ref());
            lives.any(|life| life.registry.state().was_removed(*id))
        };
        let knows_somebody = |id: &NodeId, life: &Life| {
            let known = life.socket.known();
            known
                .iter()
                .any(|known| known != id && self.nodes.contains_key(known))
        };
        let strays: Vec<NodeId> = self
            .nodes
            .iter()
            .filter_map(|(id, node)| Some((*id, node.life.as_ref()?)))
            .filter(|(id, life)| !knows_somebody(id, life) && removed(id))
            .map(|(id, _)| id)
            .collect();
        for id in strays {
            self.take_away(
                id,
                "was removed, knows nobody who could tell it, and is switched off",
            );
        }
    }

    fn take_away(&mut self, id: NodeId, why: &str) {
        self.ground.trace.note(format_args!("{id} {why}"));
        self.cut_power(id);
        self.nodes.remove(&id);
    }

    /// A new machine joins through this daemon.
    pub async fn grow(&mut self, through: &Life) -> Result<NodeId, String> {
        self.named += 1;
        let name = format!("n{}", self.named);
        let now = match self.nodes.get(&through.node) {
            Some(node) => node.now(),
            None => return Err("the node is gone".to_owned()),
        };
        let create = Command::CreateJoinToken {
            token: JoinToken {
                id: TokenId(TOKEN.to_owned()),
                secret_sha256: SECRET,
                role: Role::Voter,
                created_at: now,
                expires_at: now.plus(Duration::from_secs(48 * 3600)),
                reusable: true,
                used: 0,
            },
            now,
        };
        // The address is the name's, since the id is not known before.
        let join = Command::Join {
            token: TokenId(TOKEN.to_owned()),
            secret_sha256: SECRET,
            now,
            name: name.parse().map_err(text)?,
            addresses: addresses(1000 + self.named),
            level: nebula_domain::level::LEVEL,
        };
        let registry = &through.registry;
        let asked = async {
            registry.propose(create).await.map_err(text)?;
            let applied = registry.propose(join).await.map_err(text)?;
            let Outcome::Joined { node, .. } = applied.outcome else {
                return Err("a join was answered by something else".to_owned());
            };
            let mut states = registry.watch();
            let state = states.wait_for(|s| s.revision >= applied.revision).await;
            let state = state.map_err(text)?.clone();
            Ok((node, state))
        };
        let (id, state) = timeout(CHANGE, asked).await.map_err(text)??;
        if through.is_dead() {
            return Err("the node died meanwhile".to_owned());
        }
        self.ground.trace.note(format_args!("{id} joins as {name}"));
        self.add(id, name, told(&state));
        self.start(id).await?;
        Ok(id)
    }

    /// Takes a member's vote away and removes it, as the API does.
    pub async fn shrink(&mut self, through: &Life, node: NodeId) -> Result<(), String> {
        self.ground
            .trace
            .note(format_args!("{node} is to be removed"));
        let registry = through.registry.clone();
        let leaving = |leaving| {
            let registry = registry.clone();
            async move {
                let command = Command::SetLeaving { node, leaving };
                registry.propose(command).await.map(drop).map_err(text)
            }
        };
        let mut status = registry.status();
        let voters = status.borrow().voters.clone();
        let view = through.membership.view().borrow().clone();
        let asked = async {
            if voters.contains(&node) {
                let alive = |voter: &&NodeId| **voter != node && view.is_alive(**voter);
                let (others, alive) = (voters.len() - 1, voters.iter().filter(alive).count());
                if others > 0 && alive * 2 <= others {
                    return Err("the other voters would be no majority".to_owned());
                }
                leaving(true).await?;
                let gone = status.wait_for(|s| !s.voters.contains(&node) && s.quorum);
                if timeout(HAND_OVER, gone).await.is_err() {
                    leaving(false).await?;
                    return Err("the vote was not handed over".to_owned());
                }
            }
            let command = Command::RemoveNode { node };
            registry.propose(command).await.map(drop).map_err(text)
        };
        let asked = timeout(HAND_OVER + CHANGE, asked).await;
        asked.map_err(text)?
    }
}

fn told(state: &State) -> Peers {
    let peers = state.nodes.values().map(|node| Peer {
        id: node.id.0,
        quic: node.addresses.quic.to_string(),
        role: match node.role {
            Role::Voter => "voter",
            Role::Worker => "worker",
        }
        .to_owned(),
    });
    Peers {
        next_node_id: state.next_node_id,
        peers: peers.collect(),
    }
}

pub fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
