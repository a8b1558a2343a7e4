//! Artifacts: what is deployed, as archives named by the BLAKE3 of their bytes. Kept on several nodes,
//! fetched from whoever has them, unpacked where they are used, dropped when no release needs them.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod archive;
mod collect;
mod compress;
mod error;
pub mod image;
mod layout;
mod limits;
mod locks;
mod service;
mod space;
mod store;
mod transfer;
mod tree;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use nebula_domain::image::ImageDigest;
use nebula_domain::{Digest, NodeId};
use nebula_mesh::Mesh;
use nebula_telemetry::{Counter, Metrics};
use nebula_wire::peer::Protocol;
use tokio::sync::Semaphore;

pub use collect::Collected;
pub use error::{ArtifactError, ErrorKind};
use image::ImageConfig;
pub use limits::{GRACE, MAX_ARTIFACT_BYTES, MIN_FREE_BYTES};
pub use store::ArtifactMeta;

use compress::Compressing;
use layout::Layout;
use locks::Locks;
use space::Space;
use store::Incoming;
use tree::{Outcome, Trees};

#[derive(Debug, Clone)]
pub struct Config {
    pub dir: PathBuf,
    /// Of one archive, and of its files together.
    pub max_artifact_bytes: u64,
    /// Nothing is taken in or unpacked that would leave less room on the disk.
    pub min_free_bytes: u64,
    /// How long what nothing needs is kept after it was last asked for.
    pub grace: Duration,
}

impl Config {
    pub fn new(dir: PathBuf) -> Config {
        Config {
            dir,
            max_artifact_bytes: MAX_ARTIFACT_BYTES,
            min_free_bytes: MIN_FREE_BYTES,
            grace: GRACE,
        }
    }
}

/// Handle to this node's store and, through the mesh, to those of the others.
#[derive(Clone)]
pub struct Artifacts(Arc<Inner>);

pub(crate) struct Inner {
    config: Config,
    layout: Layout,
    trees: Trees,
    locks: Locks,
    mesh: Mesh,
    space: Space,
    sends: Semaphore,
    fetches: Semaphore,
    compressing: Compressing,
    metrics: Counts,
}

pub(crate) struct Counts {
    received: Counter,
    fetched: Counter,
    sent: Counter,
    quarantined: Counter,
    collected_bytes: Counter,
}

impl Artifacts {
    /// Opens the folder, clears away what was left unfinished, and answers other nodes from now on.
    pub fn open(config: Config, mesh: Mesh, metrics: &Metrics) -> Result<Artifacts, ArtifactError> {
        let layout = Layout::open(&config.dir)?;
        let space = Space::new(&config.dir, config.min_free_bytes);
        let trees = Trees::open(&layout, config.max_artifact_bytes, space.clone())?;
        let inner = Arc::new(Inner {
            layout,
            trees,
            locks: Locks::default(),
            mesh: mesh.clone(),
            space,
            sends: Semaphore::new(limits::SENDS),
            fetches: Semaphore::new(limits::FETCHES),
            compressing: Compressing::default(),
            metrics: Counts {
                received: metrics.counter("artifacts_received", "Artifacts uploaded to this node"),
                fetched: metrics.counter("artifacts_fetched", "Artifacts fetched from other nodes"),
                sent: metrics.counter("artifacts_sent", "Artifacts sent to other nodes"),
                quarantined: metrics.counter(
                    "artifacts_quarantined",
                    "Artifacts found damaged on this node's disk",
                ),
                collected_bytes: metrics.counter(
                    "artifacts_collected_bytes",
                    "Bytes of archives dropped because no release needs them",
                ),
            },
            config,
        });
        mesh.serve(Protocol::Artifact, Arc::new(service::Serve::new(&inner)));
        Ok(Artifacts(inner))
    }

    /// Takes in an upload. Memory stays bounded whatever its size. On success it is on stable storage; on
    /// any error nothing of it is kept.
    pub async fn receive(
        &self,
        expected: Digest,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send,
    ) -> Result<ArtifactMeta, ArtifactError> {
        let inner = &self.0;
        // How large it will be is only known at its end.
        let mut incoming = inner.incoming(expected, 0)?;
        let mut body = std::pin::pin!(body);
        let silent = |_| {
            let why = format!("nothing came for {} s", limits::UPLOAD_STALL.as_secs());
            let error = std::io::Error::new(std::io::ErrorKind::TimedOut, why);
            ArtifactError::Interrupted(error)
        };
        while let Some(piece) = tokio::time::timeout(limits::UPLOAD_STALL, body.next())
            .await
            .map_err(silent)?
        {
            incoming
                .write(&piece.map_err(ArtifactError::Interrupted)?)
                .await?;
        }
        let _lock = inner.locks.lock(expected).await;
        let meta = incoming.finish(&inner.layout).await?;
        inner.metrics.received.inc();
        Ok(meta)
    }

    /// Whether this node holds the archive.
    pub fn has(&self, digest: Digest) -> bool {
        self.size(digest).is_some()
    }

    /// Size of the archive, if this node holds it.
    pub fn size(&self, digest: Digest) -> Option<u64> {
        store::size(&self.0.layout, digest)
    }

    /// `trees_dir()/<digest>/` is an unpacked artifact and `trees_dir()/<digest>.manifest` says what is in
    /// it, once [`Artifacts::ensure`] has returned.
    pub fn trees_dir(&self) -> PathBuf {
        self.0.layout.trees()
    }

    /// The folder of the artifact's files, fetched from one of `sources` and unpacked if need be.
    pub async fn ensure(
        &self,
        digest: Digest,
        sources: &[NodeId],
    ) -> Result<PathBuf, ArtifactError> {
        self.0.ensure(digest, sources).await?;
        Ok(self.0.layout.tree(digest))
    }

    /// The root folder of the image that the artifact is, and its configuration; fetched and unpacked if need be, and
    /// nobody's to change. An error when the artifact is not the image with this digest.
    pub async fn image(
        &self,
        digest: Digest,
        image: ImageDigest,
        sources: &[NodeId],
    ) -> Result<(PathBuf, ImageConfig), ArtifactError> {
        self.0.ensure(digest, sources).await?;
        let _lock = self.0.locks.lock(digest).await;
        let trees = self.0.trees.clone();
        let config = store::blocking(move || trees.image(digest, image)).await?;
        Ok((self.0.layout.image(digest), config))
    }

    /// Whether every unpacked file is still there and as long as it was; what is not whole is unpacked
    /// again by the next [`Artifacts::ensure`], and left as it is until then.
    pub async fn is_whole(&self, digest: Digest) -> Result<bool, ArtifactError> {
        // Whoever unpacks it at the moment has it whole in the end.
        let _lock = self.0.locks.lock(digest).await;
        let trees = self.0.trees.clone();
        store::blocking(move || {
            let whole = trees.is_complete(digest) && trees.has_all_files(digest)?;
            if !whole {
                trees.mark_incomplete(digest)?;
            }
            Ok(whole)
        })
        .await
    }
}

impl Inner {
    async fn ensure(&self, digest: Digest, sources: &[NodeId]) -> Result<(), ArtifactError> {
        let _lock = self.locks.lock(digest).await;
        let (layout, trees) = (self.layout.clone(), self.trees.clone());
        let complete = store::blocking(move || {
            store::touch(&layout, digest);
            Ok(trees.is_complete(digest))
        })
        .await?;
        if complete {
            // A damaged blob may have been put aside since. The tree serves without it; others who
            // want a copy do not.
            if let Err(error) = self.hold(digest, sources).await {
                tracing::warn!(%digest, %error, "the archive of an unpacked artifact is missing");
            }
            return Ok(());
        }
        self.hold(digest, sources).await?;
        if self.unpack(digest).await? == Outcome::Done {
            return Ok(());
        }
        self.quarantine(digest).await?;
        self.hold(digest, sources).await?;
        match self.unpack(digest).await? {
            Outcome::Done => Ok(()),
            Outcome::Corrupt => {
                self.quarantine(digest).await?;
                Err(ArtifactError::Missing {
                    digest,
                    reasons: "this node's disk changed it twice".to_owned(),
                })
            }
        }
    }

    fn incoming(&self, digest: Digest, size_bytes: u64) -> Result<Incoming, ArtifactError> {
        self.space.check(size_bytes)?;
        let limit = self.config.max_artifact_bytes;
        Incoming::begin(&self.layout, digest, limit, self.space.clone())
    }

    /// With the digest's lock held: makes sure that the blob is here.
    async fn hold(&self, digest: Digest, sources: &[NodeId]) -> Result<(), ArtifactError> {
        if store::size(&self.layout, digest).is_some() {
            return Ok(());
        }
        self.fetch_from_any(digest, sources).await
    }

    async fn unpack(&self, digest: Digest) -> Result<Outcome, ArtifactError> {
        let trees = self.trees.clone();
        store::blocking(move || trees.unpack(digest)).await
    }

    async fn quarantine(&self, digest: Digest) -> Result<(), ArtifactError> {
        tracing::error!(%digest, "an artifact on this disk is damaged: it is put aside and fetched again");
        self.metrics.quarantined.inc();
        let layout = self.layout.clone();
        store::blocking(move || store::quarantine(&layout, digest)).await
    }
}
