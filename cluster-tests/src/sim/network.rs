//! The network between simulated nodes: calls and messages with the delays, losses and cuts that a seed
//! decides, and the mesh's rules on who may speak.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nebula_domain::NodeId;
use nebula_domain::state::Role;
use nebula_mesh::{Admission, Answer, CallError, Directory, Net, Peer};
use nebula_telemetry::Random;
use nebula_wire::peer::Protocol;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::trace::Trace;

/// As long as the real mesh waits until a silent peer is suspect.
const SUSPECT_AFTER: Duration = Duration::from_millis(600);
/// Dialling a machine that does not answer is given up after this.
const DIAL: Duration = Duration::from_secs(3);
/// A connection without a sign of life ends after this.
const IDLE: Duration = Duration::from_secs(5);
/// Of a datagram that is sent twice, the second comes up to this much later.
const DUPLICATE_LATER_MS: u64 = 40;

/// How packets fare where no fault says otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub delay: (Duration, Duration),
    /// Of a thousand packets, those lost.
    pub lost: u64,
    /// Of a thousand datagrams, those that come twice.
    pub doubled: u64,
}

/// Clones are the same network.
#[derive(Clone)]
pub struct Network(Arc<Mutex<Inner>>);

struct Inner {
    random: Random,
    weather: Weather,
    /// Directions in which nothing gets through.
    cut: BTreeSet<(NodeId, NodeId)>,
    ports: BTreeMap<NodeId, Arc<Port>>,
    trace: Trace,
}

/// One life of a node on the network.
pub struct Port {
    me: NodeId,
    network: Network,
    directory: watch::Receiver<Arc<Directory>>,
    dead: watch::Sender<bool>,
    removed: watch::Sender<bool>,
    services: Mutex<BTreeMap<u8, Arc<dyn Answer>>>,
    messages: Mutex<BTreeMap<u8, mpsc::Sender<(NodeId, Bytes)>>>,
    heard: Mutex<BTreeMap<NodeId, Instant>>,
    suspects: watch::Sender<Arc<BTreeSet<NodeId>>>,
}

/// A handle to a port, the simulated counterpart of a mesh.
#[derive(Clone)]
pub struct Socket(Arc<Port>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    pub fn new(random: Random, weather: Weather, trace: Trace) -> Network {
        Network(Arc::new(Mutex::new(Inner {
            random,
            weather,
            cut: BTreeSet::new(),
            ports: BTreeMap::new(),
            trace,
        })))
    }

    /// A node comes up.
    pub fn attach(&self, me: NodeId, directory: watch::Receiver<Arc<Directory>>) -> Socket {
        let port = Arc::new(Port {
            me,
            network: self.clone(),
            directory,
            dead: watch::Sender::new(false),
            removed: watch::Sender::new(false),
            services: Mutex::default(),
            messages: Mutex::default(),
            heard: Mutex::default(),
            suspects: watch::Sender::new(Arc::default()),
        });
        lock(&self.0).ports.insert(me, port.clone());
        Socket(port)
    }

    /// A node goes down: from now on nothing that is left of it says or hears anything.
    pub fn detach(&self, socket: &Socket) {
        let port = &socket.0;
        port.dead.send_replace(true);
        lock(&port.services).clear();
        lock(&port.messages).clear();
        let mut inner = lock(&self.0);
        if inner
            .ports
            .get(&port.me)
            .is_some_and(|p| Arc::ptr_eq(p, port))
        {
            inner.ports.remove(&port.me);
        }
    }

    pub fn set_weather(&self, weather: Weather) {
        lock(&self.0).weather = weather;
    }

    /// Replaces all cuts.
    pub fn set_cuts(&self, cut: BTreeSet<(NodeId, NodeId)>) {
        lock(&self.0).cut = cut;
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        lock(&self.0).cut.contains(&(from, to))
    }

    fn port(&self, node: NodeId) -> Option<Arc<Port>> {
        lock(&self.0).ports.get(&node).cloned()
    }

    fn below(&self, bound: u64) -> u64 {
        lock(&self.0).random.below(bound)
    }

    /// Of a packet that gets through.
    fn delay(&self) -> Duration {
        let inner = lock(&self.0);
        let (least, most) = inner.weather.delay;
        let spread = u64::try_from((most - least).as_micros()).unwrap_or(u64::MAX);
        least + Duration::from_micros(inner.random.below(spread + 1))
    }

    /// A stream's data is sent again when it is lost, each time after a longer pause.
    fn stream_delay(&self) -> Duration {
        let mut total = self.delay();
        let mut pause = Duration::from_millis(50);
        while self.is_lost() && total < IDLE {
            total += pause;
            pause *= 2;
        }
        total
    }

    fn is_lost(&self) -> bool {
        let inner = lock(&self.0);
        inner.random.below(1000) < inner.weather.lost
    }

    fn is_doubled(&self) -> bool {
        let inner = lock(&self.0);
        inner.random.below(1000) < inner.weather.doubled
    }

    fn tick(&self, event: std::fmt::Arguments<'_>) {
        let trace = lock(&self.0).trace.clone();
        trace.tick(event);
    }
}

impl Socket {
    /// A voter has refused this node as one that was removed.
    pub fn removed(&self) -> watch::Receiver<bool> {
        self.0.removed.subscribe()
    }

    /// The nodes that this one would find.
    pub fn known(&self) -> BTreeSet<NodeId> {
        let directory = self.0.directory.borrow();
        directory.nodes.keys().copied().collect()
    }
}

impl Port {
    fn is_dead(&self) -> bool {
        *self.dead.borrow()
    }

    /// A sign of life of a peer.
    fn hears(&self, peer: NodeId) {
        lock(&self.heard).insert(peer, Instant::now());
        self.suspects.send_if_modified(|suspects| {
            let suspected = suspects.contains(&peer);
            if suspected {
                Arc::make_mut(suspects).remove(&peer);
            }
            suspected
        });
    }

    fn suspect_if_silent(&self, peer: NodeId) {
        let silent = lock(&self.heard)
            .get(&peer)
            .is_none_or(|at| at.elapsed() >= SUSPECT_AFTER);
        if silent && !self.is_dead() {
            self.suspects.send_if_modified(|suspects| {
                !suspects.contains(&peer) && Arc::make_mut(suspects).insert(peer)
            });
        }
    }

    fn admission(&self, node: NodeId) -> Admission {
        self.directory.borrow().admission(node)
    }

    /// A connection was refused; only a voter is believed.
    fn told_removed(&self, by: NodeId) {
        let role = self.directory.borrow().nodes.get(&by).map(|n| n.role);
        if role == Some(Role::Voter) {
            self.removed.send_replace(true);
        }
    }

    fn address(&self, node: NodeId) -> SocketAddr {
        let directory = self.directory.borrow();
        let entry = directory.nodes.get(&node);
        entry.map_or(SocketAddr::from(([0, 0, 0, 0], 0)), |entry| entry.quic)
    }

    fn unreachable(&self, node: NodeId, reason: &str) -> CallError {
        CallError::Unreachable {
            node,
            address: self.address(node),
            reason: reason.to_owned(),
        }
    }

    /// The whole way of one call. Goes on when nobody waits for it any more: what was sent was sent.
    async fn exchange(
        self: Arc<Port>,
        to: NodeId,
        protocol: Protocol,
        request: Bytes,
    ) -> Result<Bytes, CallError> {
        let (me, network) = (self.me, self.network.clone());
        let lost = |reason: &str| CallError::Lost {
            node: to,
            reason: reason.to_owned(),
        };
        if network.is_cut(me, to) {
            // A connection that was there falls silent; one that was not is not made.
            if network.below(2) == 0 {
                sleep(DIAL).await;
                return Err(self.unreachable(to, "no answer"));
            }
            sleep(IDLE).await;
            return Err(lost("timed out"));
        }
        sleep(network.stream_delay()).await;
        if network.is_cut(me, to) || self.is_dead() {
            sleep(IDLE).await;
            return Err(lost("timed out"));
        }
        let Some(target) = network.port(to) else {
            // A dead process is told of at once, a dead machine is not.
            if network.below(2) == 0 {
                sleep(DIAL).await;
            }
            return Err(self.unreachable(to, "nobody listens"));
        };
        let admission = target.admission(me);
        if admission == Admission::Removed {
            self.told_removed(to);
        }
        if !admission.permits(protocol) {
            sleep(network.stream_delay()).await;
            return Err(CallError::Refused {
                node: to,
                reason: format!("{protocol:?} is for members only"),
            });
        }
        network.tick(format_args!("{me}>{to} {protocol:?} {}", request.len()));
        target.hears(me);
        let Some(service) = lock(&target.services).get(&(protocol as u8)).cloned() else {
            return Err(CallError::NotServed { node: to, protocol });
        };
        if !network.is_cut(to, me) {
            // The acknowledgement.
            self.hears(to);
        }
        let role = match admission {
            Admission::Member(role) => Some(role),
            _ => None,
        };
        let peer = Peer {
            node: me,
            role,
            expired: false,
        };
        let answer = tokio::select! {
            biased;
            () = dead(target.dead.subscribe()) => {
                sleep(network.stream_delay()).await;
                return Err(lost("the node went down"));
            }
            answer = service.answer(peer, Ok(request)) => answer,
        };
        sleep(network.stream_delay()).await;
        if network.is_cut(to, me) || self.is_dead() {
            sleep(IDLE).await;
            return Err(lost("timed out"));
        }
        self.hears(to);
        network.tick(format_args!("{to}<{me} {protocol:?}"));
        answer.ok_or(CallError::Ended { node: to })
    }

    async fn deliver(self: Arc<Port>, to: NodeId, protocol: Protocol, message: Bytes) {
        let (me, network) = (self.me, self.network.clone());
        sleep(network.delay()).await;
        if network.is_cut(me, to) || self.is_dead() {
            return;
        }
        let Some(target) = network.port(to) else {
            return;
        };
        let admission = target.admission(me);
        if admission == Admission::Removed && !network.is_cut(to, me) {
            self.told_removed(to);
        }
        if !admission.permits(protocol) {
            return;
        }
        network.tick(format_args!("{me}>{to} {protocol:?} {}", message.len()));
        target.hears(me);
        let to = lock(&target.messages).get(&(protocol as u8)).cloned();
        if let Some(to) = to {
            // What does not fit is dropped, as the mesh does.
            let _ = to.try_send((me, message));
        }
    }
}

async fn dead(mut death: watch::Receiver<bool>) {
    // A port that is gone is dead, too.
    let _ = death.wait_for(|dead| *dead).await;
}

#[async_trait]
impl Net for Socket {
    fn me(&self) -> NodeId {
        self.0.me
    }

    fn directory(&self) -> watch::Receiver<Arc<Directory>> {
        self.0.directory.clone()
    }

    fn suspects(&self) -> watch::Receiver<Arc<BTreeSet<NodeId>>> {
        self.0.suspects.subscribe()
    }

    async fn call(
        &self,
        node: NodeId,
        protocol: Protocol,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let late = CallError::Deadline {
            node,
            protocol,
            deadline,
        };
        if self.0.is_dead() {
            // Not at once: what is left of a dead node must not spin.
            sleep(deadline).await;
            return Err(late);
        }
        let limit = nebula_wire::codec::MAX_BYTES;
        if request.len() > limit {
            return Err(CallError::TooLarge {
                actual: request.len(),
                limit,
            });
        }
        if !self.0.directory.borrow().nodes.contains_key(&node) {
            return Err(CallError::UnknownNode(node));
        }
        let (done, answer) = oneshot::channel();
        let exchange = self.0.clone().exchange(node, protocol, request);
        tokio::spawn(async move {
            // The caller may have given up.
            let _ = done.send(exchange.await);
        });
        tokio::pin!(answer);
        let watched = async {
            loop {
                match timeout(SUSPECT_AFTER, &mut answer).await {
                    Ok(answer) => return answer.unwrap_or(Err(CallError::Closed)),
                    Err(_) => self.0.suspect_if_silent(node),
                }
            }
        };
        timeout(deadline, watched).await.unwrap_or(Err(late))
    }

    fn send(&self, node: NodeId, protocol: Protocol, message: Bytes) {
        let port = &self.0;
        let known = port.directory.borrow().nodes.contains_key(&node);
        if port.is_dead() || !known {
            return;
        }
        if !port.network.is_lost() {
            tokio::spawn(port.clone().deliver(node, protocol, message.clone()));
        }
        if port.network.is_doubled() {
            let later = Duration::from_millis(port.network.below(DUPLICATE_LATER_MS));
            let port = port.clone();
            tokio::spawn(async move {
                sleep(later).await;
                port.deliver(node, protocol, message).await;
            });
        }
    }

    fn answer(&self, protocol: Protocol, service: Arc<dyn Answer>) {
        lock(&self.0.services).insert(protocol as u8, service);
    }

    fn serve_messages(&self, protocol: Protocol, to: mpsc::Sender<(NodeId, Bytes)>) {
        lock(&self.0.messages).insert(protocol as u8, to);
    }
}
