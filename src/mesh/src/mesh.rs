//! The handle: what the rest of the node sees of the mesh.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nebula_domain::NodeId;
use nebula_domain::state::Role;
use nebula_pki::{Identity, IdentityCell};
use nebula_telemetry::Metrics;
use nebula_wire::peer::Protocol;
use quinn::Endpoint;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::counters::Counters;
use crate::error::{Context, code};
use crate::incoming::Incoming;
use crate::lane::Lane;
use crate::link::Busy;
use crate::service::Services;
use crate::slot::Slot;
use crate::suspects::Suspects;
use crate::transport::SocketInUse;
use crate::{CallError, Config, Directory, Limits, MeshError, Service, Stream, accept, transport};

/// How long closing waits for peers to have heard of it.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

const SOCKET_LOOK: Duration = Duration::from_millis(1);

/// One node's mesh. Cheap to clone; usable from any tokio runtime, while its own tasks run on the one
/// it was bound in. Works until [`Mesh::close`].
#[derive(Clone)]
pub struct Mesh(Arc<Inner>);

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh")
            .field("me", &self.0.me)
            .field("local_addr", &self.0.local_addr)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) me: NodeId,
    pub(crate) local_addr: SocketAddr,
    pub(crate) limits: Limits,
    pub(crate) identity: IdentityCell,
    pub(crate) directory: watch::Receiver<Arc<Directory>>,
    pub(crate) services: Services,
    pub(crate) suspects: Suspects,
    pub(crate) incoming: Incoming,
    pub(crate) counters: Counters,
    /// Taken when the mesh closes, so that the socket goes with its last user.
    endpoint: Mutex<Option<Endpoint>>,
    socket: SocketInUse,
    removed: watch::Sender<bool>,
    slots: Mutex<HashMap<(NodeId, Lane), Arc<Slot>>>,
    home: Handle,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Mesh {
    /// Listens, and answers peers from now on. Must be called inside a tokio runtime; the tasks of the
    /// mesh, its connections and its services run there.
    pub fn bind(
        config: Config,
        identity: Identity,
        directory: watch::Receiver<Arc<Directory>>,
        metrics: &Metrics,
    ) -> Result<Mesh, MeshError> {
        let home = Handle::try_current().map_err(|_| MeshError::NoRuntime)?;
        let me = identity.node();
        let identity = IdentityCell::new(identity)?;
        let (endpoint, socket) = transport::bind(&config, &identity)?;
        let local_addr = endpoint.local_addr().map_err(|source| MeshError::Bind {
            address: config.listen,
            source,
        })?;
        let inner = Arc::new(Inner {
            me,
            local_addr,
            limits: config.limits,
            identity,
            directory,
            services: Services::default(),
            suspects: Suspects::new(),
            incoming: Incoming::default(),
            counters: Counters::new(metrics),
            endpoint: Mutex::new(Some(endpoint.clone())),
            socket,
            removed: watch::Sender::new(false),
            slots: Mutex::default(),
            home,
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        inner.spawn(accept::run(inner.clone(), endpoint));
        inner.spawn(follow_directory(inner.clone()));
        Ok(Mesh(inner))
    }

    pub fn me(&self) -> NodeId {
        self.0.me
    }

    /// Where the mesh listens, with the port that was chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr
    }

    pub fn directory(&self) -> watch::Receiver<Arc<Directory>> {
        self.0.directory.clone()
    }

    /// The identity in use, which follows [`Mesh::replace_identity`].
    pub fn identity(&self) -> IdentityCell {
        self.0.identity.clone()
    }

    /// Answers streams of `protocol` from now on; until then peers get [`CallError::NotServed`].
    pub fn serve(&self, protocol: Protocol, service: Arc<dyn Service>) {
        self.0.services.serve(protocol, service);
    }

    /// Delivers messages of `protocol` with their sender. What does not fit the channel is dropped.
    pub fn serve_messages(&self, protocol: Protocol, to: mpsc::Sender<(NodeId, Bytes)>) {
        self.0.services.serve_messages(protocol, to);
    }

    /// One request, one answer, on a stream of its own. An error other than
    /// [`CallError::never_sent`] leaves open whether the peer acted on it.
    pub async fn call(
        &self,
        node: NodeId,
        protocol: Protocol,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let limit = self.0.limits.frame_bytes;
        if request.len() > limit {
            return Err(CallError::TooLarge {
                actual: request.len(),
                limit,
            });
        }
        let exchange = async {
            let (mut reader, mut writer) = self.0.open(node, protocol).await?.into_split();
            let asked = async {
                writer.write_owned(request, Some(protocol)).await?;
                writer.finish().await
            };
            // A service may answer, or refuse, without reading everything.
            let answered = reader.read_frame(limit);
            tokio::pin!(asked, answered);
            tokio::select! {
                answer = &mut answered => answer,
                Err(error) = &mut asked => match answered.await {
                    Err(CallError::Ended { .. }) => Err(error),
                    answer => answer,
                },
            }
        };
        self.within(node, protocol, deadline, exchange).await
    }

    /// A stream to the peer's service of `protocol`. The deadline is for opening it; what happens on
    /// it is the caller's to bound. [`CallError::NotServed`] shows at the first read.
    pub async fn open(
        &self,
        node: NodeId,
        protocol: Protocol,
        deadline: Duration,
    ) -> Result<Stream, CallError> {
        let opening = async {
            let mut stream = self.0.open(node, protocol).await?;
            stream.announce().await?;
            Ok(stream)
        };
        self.within(node, protocol, deadline, opening).await
    }

    /// Sends a message without an answer, and without waiting: a datagram, or a one-way stream when it
    /// is larger. It may be lost; it is dropped and counted when the peer is out of reach.
    pub fn send(&self, node: NodeId, protocol: Protocol, message: Bytes) {
        self.0.send(node, protocol, message);
    }

    /// Peers that owe an answer and were not heard from for [`Limits::suspect_after`], or could not be
    /// reached. They are tried again in the background, and leave the set when they answer.
    pub fn suspects(&self) -> watch::Receiver<Arc<BTreeSet<NodeId>>> {
        self.0.suspects.subscribe()
    }

    /// Whether a voter has refused this node as one that was removed from the cluster. The registry
    /// cannot tell it so: the others stop speaking with it the moment they know.
    pub fn removed(&self) -> watch::Receiver<bool> {
        self.0.removed.subscribe()
    }

    /// Puts a renewed certificate in place. Connections that were made with the old one are finished by
    /// their present users; the next use makes new ones.
    pub fn replace_identity(&self, identity: Identity) -> Result<(), MeshError> {
        self.0.identity.replace(identity)?;
        for slot in self.0.all_slots() {
            slot.retire();
            self.0.suspects.clear(slot.node, slot.lane);
        }
        Ok(())
    }

    /// Tells the peers and ends everything. The address is free afterwards, unless somebody keeps a
    /// stream of this mesh.
    pub async fn close(&self) {
        let inner = &self.0;
        inner.closing.cancel();
        let endpoint = inner
            .endpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(endpoint) = endpoint {
            endpoint.close(code::DONE, b"the node is stopping");
            inner.slots().clear();
            inner.incoming.clear();
            inner.services.clear();
            inner.tasks.close();
            let quiet = async {
                inner.tasks.wait().await;
                endpoint.wait_idle().await;
                drop(endpoint);
                // quinn's own tasks let go of it when they next run.
                while inner.socket.strong_count() > 0 {
                    tokio::time::sleep(SOCKET_LOOK).await;
                }
            };
            if timeout(CLOSE_WITHIN, quiet).await.is_err() {
                tracing::debug!("closed the mesh without every peer having heard of it");
            }
        }
    }
}

impl Mesh {
    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    async fn within<T>(
        &self,
        node: NodeId,
        protocol: Protocol,
        deadline: Duration,
        work: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        tokio::select! {
            result = timeout(deadline, work) => result.unwrap_or(Err(CallError::Deadline { node, protocol, deadline })),
            () = self.0.closing.cancelled() => Err(CallError::Closed),
        }
    }
}

impl Inner {
    /// Opens a stream without writing to it: the peer learns of it with the first byte. A connection
    /// that ends at this moment is replaced once, since nothing was sent on it.
    async fn open(self: &Arc<Self>, node: NodeId, protocol: Protocol) -> Result<Stream, CallError> {
        let context = Context { node, protocol };
        let lane = Lane::of(protocol);
        let busy = self.link(node, lane).await?;
        let first = busy.link().connection.open_bi().await;
        let (busy, (send, recv)): (Busy, _) = match first {
            Ok(stream) => (busy, stream),
            Err(_) => {
                drop(busy);
                let busy = self.link(node, lane).await?;
                let stream = busy.link().connection.open_bi().await;
                (busy, stream.map_err(|error| context.connection(&error))?)
            }
        };
        self.counters.streams_opened.inc();
        Ok(Stream::new(send, recv, context, Some(busy), None))
    }

    /// The peer's place; only members have one.
    pub(crate) fn slot(&self, node: NodeId, lane: Lane) -> Result<Arc<Slot>, CallError> {
        if self.closing.is_cancelled() {
            return Err(CallError::Closed);
        }
        let mut slots = self.slots();
        // Looked up under the slots' lock, as the sweep does: a removed node's slot cannot reappear.
        if !self.directory.borrow().nodes.contains_key(&node) {
            return Err(CallError::UnknownNode(node));
        }
        let slot = slots
            .entry((node, lane))
            .or_insert_with(|| Arc::new(Slot::new(node, lane)));
        Ok(slot.clone())
    }

    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Runs a task at home until it is done or the mesh closes.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks.spawn_on(
            async move {
                tokio::select! {
                    () = task => {}
                    () = closing.cancelled() => {}
                }
            },
            &self.home,
        );
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<(NodeId, Lane), Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A peer says that we were removed. Ids are never used again, so one that knows more than we do
    /// is right; only a voter is asked to be believed.
    pub(crate) fn told_removed(&self, by: NodeId) {
        let role = self
            .directory
            .borrow()
            .nodes
            .get(&by)
            .map(|entry| entry.role);
        if role == Some(Role::Voter) && !self.removed.send_replace(true) {
            tracing::warn!(%by, "this node was removed from the cluster");
        }
    }

    fn all_slots(&self) -> Vec<Arc<Slot>> {
        self.slots().values().cloned().collect()
    }

    /// Ends what belongs to nodes that are no longer members.
    fn sweep(&self, directory: &Directory) {
        for _ in 0..self.incoming.sweep(directory) {
            self.counters.refused("removed");
        }
        let gone: Vec<Arc<Slot>> = self
            .slots()
            .extract_if(|(node, _), _| !directory.nodes.contains_key(node))
            .map(|(_, slot)| slot)
            .collect();
        for slot in gone {
            if let Some(link) = slot.retire() {
                link.connection
                    .close(code::REFUSED, b"removed from the cluster");
            }
            self.suspects.clear(slot.node, slot.lane);
        }
    }
}

async fn follow_directory(inner: Arc<Inner>) {
    let mut directory = inner.directory.clone();
    loop {
        let now = directory.borrow_and_update().clone();
        inner.sweep(&now);
        // Without a publisher the latest directory stays in force.
        if directory.changed().await.is_err() {
            return;
        }
    }
}
