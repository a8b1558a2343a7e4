//! Where instances' files come from and lie: the artifact store and the work folder. A trait, since a
//! simulated node has neither.

use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use nebula_artifacts::Artifacts;
use nebula_domain::image::ImageDigest;
use nebula_domain::{Digest, InstanceId, NodeId};

use crate::brought::{self, Brought, BroughtImage};
use crate::workdir;

#[async_trait]
pub trait Files: Send + Sync + 'static {
    /// The unpacked artifact, from one of `sources` if it is not here; or why not.
    async fn ensure(&self, digest: Digest, sources: &[NodeId]) -> Result<PathBuf, String>;

    /// Whether all of an unpacked artifact is still there.
    async fn is_whole(&self, digest: Digest) -> Result<bool, String>;

    /// Has compressed forms of an unpacked artifact's files made, in the background; only for files that a
    /// proxy serves.
    fn compress(&self, _digest: Digest) {}

    /// An instance's own copy of an unpacked artifact.
    async fn copy(&self, instance: InstanceId, tree: PathBuf) -> Result<PathBuf, String>;

    /// The image that an artifact is, unpacked, with the instance's own copy of its work folder.
    async fn image(
        &self,
        _instance: InstanceId,
        _artifact: (Digest, ImageDigest),
        _sources: &[NodeId],
    ) -> Result<Brought, String> {
        Err("this node runs no images".to_owned())
    }

    /// The copies that there are, with their instances; none: unfinished ones.
    fn copies(&self) -> io::Result<Vec<(Option<InstanceId>, PathBuf)>>;

    /// Where the copy of an instance would be.
    fn place(&self, instance: InstanceId) -> PathBuf;

    /// Deletes copies. What cannot be deleted is told and left.
    async fn delete(&self, copies: Vec<PathBuf>);
}

pub(crate) struct OnDisk {
    pub artifacts: Artifacts,
    pub work_dir: PathBuf,
}

#[async_trait]
impl Files for OnDisk {
    async fn ensure(&self, digest: Digest, sources: &[NodeId]) -> Result<PathBuf, String> {
        let found = self.artifacts.ensure(digest, sources).await;
        found.map_err(|error| format!("cannot get the artifact: {error}"))
    }

    async fn is_whole(&self, digest: Digest) -> Result<bool, String> {
        let whole = self.artifacts.is_whole(digest).await;
        whole.map_err(|error| error.to_string())
    }

    fn compress(&self, digest: Digest) {
        self.artifacts.compress(digest);
    }

    async fn copy(&self, instance: InstanceId, tree: PathBuf) -> Result<PathBuf, String> {
        let work_dir = self.work_dir.clone();
        let copy = move || workdir::prepare(&work_dir, instance, Some(&tree));
        let copied = match tokio::task::spawn_blocking(copy).await {
            Ok(copied) => copied.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        copied.map_err(|error| format!("cannot copy the artifact for the instance: {error}"))
    }

    async fn image(
        &self,
        instance: InstanceId,
        (digest, image): (Digest, ImageDigest),
        sources: &[NodeId],
    ) -> Result<Brought, String> {
        let found = self.artifacts.image(digest, image, sources).await;
        let (root, config) = found.map_err(|error| {
            let cause = std::error::Error::source(&error);
            let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
            format!("cannot get the image: {error}{cause}")
        })?;
        let work_dir = self.work_dir.clone();
        let copy = move || {
            let (seen, tree) = brought::workdir(&root, &config)?;
            let folder = workdir::prepare(&work_dir, instance, tree.as_deref());
            let folder = folder.map_err(|error| {
                format!("cannot copy the image's work folder for the instance: {error}")
            })?;
            let image = Some(BroughtImage::new(root, seen, config));
            Ok(Brought { folder, image })
        };
        match tokio::task::spawn_blocking(copy).await {
            Ok(brought) => brought,
            Err(error) => Err(error.to_string()),
        }
    }

    fn copies(&self) -> io::Result<Vec<(Option<InstanceId>, PathBuf)>> {
        workdir::list(&self.work_dir)
    }

    fn place(&self, instance: InstanceId) -> PathBuf {
        workdir::place(&self.work_dir, instance)
    }

    async fn delete(&self, copies: Vec<PathBuf>) {
        let delete = move || {
            for folder in copies {
                if let Err(error) = nebula_drivers::tree::remove(&folder) {
                    tracing::warn!(folder = %folder.display(), %error, "cannot delete an ended instance's folder");
                }
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(delete).await {
            tracing::warn!(%error, "ended instances' folders were not all deleted");
        }
    }
}
