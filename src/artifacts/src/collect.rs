//! Drops artifacts that nothing needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use nebula_domain::Digest;

use crate::Artifacts;
use crate::error::ArtifactError;
use crate::layout;
use crate::store::blocking;

/// What was dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    pub blobs: u32,
    pub trees: u32,
    /// Of archives; the trees' are about as many again.
    pub bytes: u64,
}

impl Artifacts {
    /// Drops blobs and trees that are not in `needed` and were last asked for longer than the grace before
    /// `now`. What is being fetched, unpacked or received stays.
    pub async fn collect(
        &self,
        needed: &BTreeSet<Digest>,
        now: SystemTime,
    ) -> Result<Collected, ArtifactError> {
        let (this, needed) = (self.clone(), needed.clone());
        let collected = blocking(move || this.collect_now(&needed, now)).await?;
        self.0.metrics.collected_bytes.inc_by(collected.bytes);
        Ok(collected)
    }

    fn collect_now(
        &self,
        needed: &BTreeSet<Digest>,
        now: SystemTime,
    ) -> Result<Collected, ArtifactError> {
        let inner = &self.0;
        let mut collected = Collected::default();
        for digest in list(&inner.layout.blobs(), ".tar")? {
            let path = inner.layout.blob(digest);
            let Some(_lock) = inner.locks.try_lock(digest) else {
                continue;
            };
            if needed.contains(&digest) || !self.is_old(&path, now) {
                continue;
            }
            let size = fs::metadata(&path).map_or(0, |found| found.len());
            if inner.layout.tree(digest).exists() {
                inner.trees.remove(digest)?;
                collected.trees += 1;
            }
            layout::remove_file(&path)?;
            collected.blobs += 1;
            collected.bytes += size;
        }
        // Trees whose blob is gone.
        for digest in list(&inner.layout.trees(), ".complete")? {
            let Some(_lock) = inner.locks.try_lock(digest) else {
                continue;
            };
            let marker = inner.layout.complete(digest);
            let keep = needed.contains(&digest)
                || inner.layout.blob(digest).exists()
                || !self.is_old(&marker, now);
            if !keep {
                inner.trees.remove(digest)?;
                collected.trees += 1;
            }
        }
        for digest in list(&inner.layout.quarantine_dir(), ".tar")? {
            let path = inner.layout.quarantine(digest);
            if self.is_old(&path, now) {
                layout::remove_file(&path)?;
            }
        }
        Ok(collected)
    }

    /// A file from the future, or one that cannot be looked at, is not old.
    fn is_old(&self, path: &Path, now: SystemTime) -> bool {
        fs::metadata(path)
            .and_then(|found| found.modified())
            .ok()
            .and_then(|modified| now.duration_since(modified).ok())
            .is_some_and(|age| age > self.0.config.grace)
    }
}

fn list(dir: &Path, suffix: &str) -> Result<Vec<Digest>, ArtifactError> {
    let mut digests = Vec::new();
    for found in fs::read_dir(dir).map_err(ArtifactError::disk("list", dir))? {
        let found = found.map_err(ArtifactError::disk("list", dir))?;
        digests.extend(layout::digest_of(&found.file_name(), suffix));
    }
    Ok(digests)
}
