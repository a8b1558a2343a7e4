//! The other node's end of a tunnel: an edge there asks for an instance here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nebula_domain::InstanceId;
use nebula_domain::observed::LocalInstances;
use nebula_mesh::{Peer, Service, Stream};
use nebula_wire::codec;
use nebula_wire::peer::tunnel::{Answer, FRAME_BYTES_MAX, Open, Site};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_buf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::client::{Client, Drain, Read};
use crate::config::Limits;
use crate::h1::FIELDS_MAX;
use crate::headers::RequestId;
use crate::metrics::ProxyMetrics;
use crate::statics::{Ask, Sites};
use crate::upstream::connect;

/// From a stream's beginning to its first frame, which is sent with it.
const OPEN_WAIT: Duration = Duration::from_secs(2);
/// How long one direction may go on after the other has ended. HTTP/1.1 has nothing to say by then,
/// except what is already under way.
const LINGER: Duration = Duration::from_secs(5);
/// Held for each direction of a tunnel; what waits beyond that waits at the sender.
const COPY_BYTES: usize = 16 * 1024;

/// What an edge adds to a head that it hands on: some 300 bytes, and a host and an id of any length twice.
const ADDED_BYTES: usize = 2 * 1024;

/// Answers `Protocol::Tunnel`.
pub(crate) struct Tunnels {
    locals: watch::Receiver<Arc<LocalInstances>>,
    sites: Arc<Sites>,
    limits: Limits,
    connect_timeout: Duration,
    drain_max: Duration,
    slots: Semaphore,
    open: TaskTracker,
    metrics: ProxyMetrics,
}

impl Tunnels {
    pub(crate) fn new(
        limits: &Limits,
        locals: watch::Receiver<Arc<LocalInstances>>,
        sites: Arc<Sites>,
        metrics: ProxyMetrics,
    ) -> Tunnels {
        Tunnels {
            locals,
            sites,
            limits: Limits {
                max_headers: FIELDS_MAX,
                max_header_bytes: limits.max_header_bytes + ADDED_BYTES,
                ..limits.clone()
            },
            // The opener's patience is `tunnel_timeout`; an answer after that is of no use.
            connect_timeout: limits.connect_timeout.min(limits.tunnel_timeout),
            drain_max: limits.tunnel_drain,
            slots: Semaphore::new(limits.tunnels),
            open: TaskTracker::new(),
            metrics,
        }
    }

    /// Refuses new tunnels and waits for the open ones.
    pub(crate) async fn drain(&self, deadline: Duration) {
        self.open.close();
        let wait = deadline.min(self.drain_max);
        if timeout(wait, self.open.wait()).await.is_err() {
            tracing::debug!(open = self.open.len(), "tunnels are still open");
        }
    }

    async fn tunnel(
        &self,
        mut stream: Stream,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let frame = timeout(OPEN_WAIT, stream.read_frame(FRAME_BYTES_MAX)).await??;
        let open: Open = codec::decode(&frame)?;
        let slot = self.slots.try_acquire().ok();
        if slot.is_none() || self.open.is_closed() {
            return refuse(stream, Answer::ConnectFailed).await;
        }
        match open.site {
            Some(site) => self.site(stream, site).await,
            None => self.instance(stream, open.instance).await,
        }
    }

    async fn instance(
        &self,
        mut stream: Stream,
        instance: InstanceId,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let address = self
            .locals
            .borrow()
            .get(&instance)
            .map(|local| local.address);
        let Some(address) = address else {
            return refuse(stream, Answer::NoSuchInstance).await;
        };
        match connect(address, self.connect_timeout).await {
            Ok(socket) => {
                stream
                    .write_frame(codec::encode(&Answer::Connected)?)
                    .await?;
                Ok(splice(stream, socket).await?)
            }
            Err(error) => {
                tracing::debug!(%instance, error = &error as &dyn std::error::Error, "an instance could not be reached");
                refuse(stream, Answer::ConnectFailed).await
            }
        }
    }

    /// A static site's instance has no program: this proxy is its server.
    async fn site(
        &self,
        mut stream: Stream,
        site: Site,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if !self.sites.has(site.artifact).await {
            return refuse(stream, Answer::NoSuchInstance).await;
        }
        stream
            .write_frame(codec::encode(&Answer::Connected)?)
            .await?;
        let mut client = Client::new(stream, Drain::never());
        // Whoever opened it ends it.
        let mut never = std::future::pending();
        while client.read(&self.limits, &mut never).await == Read::Head {
            // The opener's edge has set both.
            let id = RequestId::of(client.head.fields());
            let host = client.head.host().unwrap_or_default();
            let name = host.split(|b| *b == b'.').next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            let ask = Ask::of(&client.head, None);
            let answered = self.sites.answer(site, &name, &ask).await;
            let response = answered.unwrap_or_else(|problem| {
                problem.response(client.head.fields().get("accept"), &id)
            });
            if !client.respond(&self.limits, response, None, true).await {
                break;
            }
        }
        client.close(&self.limits).await;
        Ok(())
    }
}

#[async_trait]
impl Service for Tunnels {
    async fn serve(&self, peer: Peer, stream: Stream) {
        let _open = self.metrics.tunnel();
        let ended = self.open.track_future(self.tunnel(stream)).await;
        if let Err(error) = ended {
            tracing::trace!(node = %peer.node, error, "a tunnel broke");
        }
    }
}

async fn refuse(
    mut stream: Stream,
    answer: Answer,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.write_frame(codec::encode(&answer)?).await?;
    Ok(stream.finish().await?)
}

/// Joins a stream and a socket until either ends. A direction's end is passed on as such; an error ends
/// both at once, which resets the stream, so that a cut-off response is never taken for a whole one.
async fn splice(stream: Stream, socket: TcpStream) -> io::Result<()> {
    let (from_peer, to_peer) = stream.into_split();
    let (from_instance, to_instance) = socket.into_split();
    let requests = copy(from_peer, to_instance);
    let responses = copy(from_instance, to_peer);
    tokio::pin!(requests, responses);
    let rest = tokio::select! {
        ended = &mut requests => {
            ended?;
            timeout(LINGER, responses).await
        }
        ended = &mut responses => {
            ended?;
            timeout(LINGER, requests).await
        }
    };
    // Running out of time is an end like any other.
    rest.unwrap_or(Ok(()))
}

async fn copy(from: impl AsyncRead, to: impl AsyncWrite) -> io::Result<()> {
    let from = BufReader::with_capacity(COPY_BYTES, from);
    tokio::pin!(from, to);
    copy_buf(&mut from, &mut to).await?;
    to.shutdown().await
}
