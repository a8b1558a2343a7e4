//! Clients at work while things break: each writes and reads a few keys through its node and records what it saw.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::Lab;
use super::api::{Api, Consistency, Fault};
use super::history::{Action, CORRUPT, Clock, History, Op, Outcome};

/// A try is given up for another node after this; it may still be under way there, which is what request ids are for.
const PATIENCE: Duration = Duration::from_millis(1500);
/// After a fault, so that a dead node is not asked in a tight loop.
const AFTER_FAULT: Duration = Duration::from_millis(20);

/// What a client does with a write that has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    No,
    /// The same request id at the next node, until the operation's deadline.
    Elsewhere,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub clients_per_node: usize,
    /// Between the beginnings of two operations of one client.
    pub every: Duration,
    /// Of a hundred operations; the rest are linearizable reads.
    pub writes: u32,
    pub stale_reads: u32,
    /// Of one operation with all its tries.
    pub deadline: Duration,
    pub retry: Retry,
    /// Keys in use at once. They change as the run goes on, so that no key's history grows without bound.
    pub keys: u64,
    pub ops_per_key: u64,
    /// Of the clients' choices, their request ids, and the keys' names: two loads on one cluster have two.
    pub seed: u32,
}

impl Plan {
    pub fn new(seed: u32) -> Plan {
        Plan {
            clients_per_node: 3,
            every: Duration::from_millis(50),
            writes: 50,
            stale_reads: 10,
            deadline: Duration::from_secs(8),
            retry: Retry::Elsewhere,
            keys: 6,
            ops_per_key: 200,
            seed,
        }
    }
}

pub struct Load {
    stop: watch::Sender<bool>,
    clients: Vec<JoinHandle<()>>,
    ops: Arc<Mutex<Vec<Op>>>,
}

impl Load {
    pub fn start(lab: &dyn Lab, clock: &Clock, plan: &Plan) -> Load {
        let all: Vec<usize> = (0..lab.nodes()).collect();
        Load::start_at(lab, clock, plan, &all)
    }

    /// Through these nodes only, whatever becomes of the others.
    pub fn start_at(lab: &dyn Lab, clock: &Clock, plan: &Plan, nodes: &[usize]) -> Load {
        let (stop, stopped) = watch::channel(false);
        let ops = Arc::new(Mutex::new(Vec::new()));
        let client = |index: usize| {
            let client = Client {
                index,
                node: index % nodes.len(),
                nodes: nodes.to_vec(),
                apis: nodes.iter().map(|node| lab.api(*node)).collect(),
                rng: StdRng::seed_from_u64(u64::from(plan.seed) << 32 | index as u64),
                clock: clock.clone(),
                plan: plan.clone(),
                done: ops.clone(),
            };
            tokio::spawn(client.run(stopped.clone()))
        };
        let clients = 0..plan.clients_per_node * nodes.len();
        let clients = clients.map(client).collect();
        Load { stop, clients, ops }
    }

    /// What has ended so far.
    pub fn so_far(&self) -> History {
        let ops = self.ops.lock().unwrap_or_else(PoisonError::into_inner);
        History { ops: ops.clone() }
    }

    /// Whether an operation that has ended fits, among the latest: for waiting without copying everything.
    pub fn has(&self, fits: impl Fn(&Op) -> bool) -> bool {
        let ops = self.ops.lock().unwrap_or_else(PoisonError::into_inner);
        ops.iter().rev().take(2000).any(fits)
    }

    /// Lets the operations under way end.
    pub async fn stop(self) -> History {
        let _ = self.stop.send(true);
        for client in self.clients {
            client.await.expect("a client does not panic");
        }
        let mut ops = self.ops.lock().unwrap_or_else(PoisonError::into_inner);
        History {
            ops: std::mem::take(&mut *ops),
        }
    }
}

struct Client {
    index: usize,
    /// Its place among `apis`.
    node: usize,
    /// The laboratory's indexes of those that `apis` speak with.
    nodes: Vec<usize>,
    apis: Vec<Box<dyn Api>>,
    rng: StdRng,
    clock: Clock,
    plan: Plan,
    done: Arc<Mutex<Vec<Op>>>,
}

impl Client {
    async fn run(mut self, stopped: watch::Receiver<bool>) {
        // Not all in step.
        let mut next = Instant::now() + self.plan.every.mul_f64(self.rng.random::<f64>());
        while !*stopped.borrow() {
            sleep_until(next).await;
            next = next.max(Instant::now() - self.plan.every) + self.plan.every;
            let op = self.operation().await;
            let faulty = op.has_failed();
            self.done
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(op);
            if faulty {
                sleep(AFTER_FAULT).await;
            }
        }
    }

    fn key(&mut self, order: u64) -> String {
        // Each operation draws two moments, and values are drawn beside them.
        let window = order / (2 * self.plan.keys * self.plan.ops_per_key);
        let key = self.rng.random_range(0..self.plan.keys);
        format!("user.lab.{:x}.{window}-{key}", self.plan.seed)
    }

    async fn operation(&mut self) -> Op {
        let chosen = self.rng.random_range(0..100);
        let invoked = self.clock.now();
        let key = self.key(invoked.order);
        let until = Instant::now() + self.plan.deadline;
        let (action, outcome, node, tries) = if chosen < self.plan.writes {
            let value = self.clock.value();
            let request = format!("{:032x}", self.rng.random::<u128>());
            let (outcome, node, tries) = self.write(&key, value, &request, until).await;
            (Action::Write { value, request }, outcome, node, tries)
        } else {
            let consistency = if chosen < self.plan.writes + self.plan.stale_reads {
                Consistency::Stale
            } else {
                Consistency::Linearizable
            };
            let outcome = self.read(&key, consistency).await;
            (Action::Read(consistency), outcome, self.node, 1)
        };
        Op {
            client: self.index,
            node: self.nodes[node],
            key,
            action,
            invoked,
            returned: self.clock.now(),
            outcome,
            tries,
        }
    }

    async fn write(
        &mut self,
        key: &str,
        value: u64,
        request: &str,
        until: Instant,
    ) -> (Outcome, usize, u32) {
        let (mut node, mut tries) = (self.node, 0);
        let mut unknown = None;
        loop {
            tries += 1;
            let left = until.saturating_duration_since(Instant::now());
            let left = match self.plan.retry {
                Retry::No => left,
                Retry::Elsewhere => left.min(PATIENCE),
            };
            let api = &mut self.apis[node];
            let never = match api.put(key, &value.to_string(), request, left).await {
                Ok(()) => return (Outcome::Written, node, tries),
                Err(Fault::Never(why)) => why,
                Err(Fault::Unknown(why)) => unknown.insert(why).clone(),
            };
            if self.plan.retry == Retry::No || Instant::now() + AFTER_FAULT >= until {
                // One try of unknown fate makes the write's fate unknown.
                let outcome = unknown.map_or(Outcome::Failed(never), Outcome::Unknown);
                return (outcome, node, tries);
            }
            sleep(AFTER_FAULT).await;
            node = (node + 1) % self.apis.len();
        }
    }

    async fn read(&mut self, key: &str, consistency: Consistency) -> Outcome {
        let api = &mut self.apis[self.node];
        match api.get(key, consistency, self.plan.deadline).await {
            Ok(value) => Outcome::Read(value.map(|text| number(&text))),
            Err(Fault::Never(why)) => Outcome::Failed(why),
            Err(Fault::Unknown(why)) => Outcome::Unknown(why),
        }
    }
}

/// The number that a client wrote.
pub fn number(text: &str) -> u64 {
    text.parse().unwrap_or(CORRUPT)
}
