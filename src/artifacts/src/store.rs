//! Blobs on the disk: taken in through a temporary file, named by their digest, checked when read.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

use nebula_domain::Digest;
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;

use crate::archive;
use crate::error::ArtifactError;
use crate::layout::{self, Layout};
use crate::limits::SPACE_CHECK_BYTES;
use crate::space::Space;

/// An archive in this node's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArtifactMeta {
    pub digest: Digest,
    pub size_bytes: u64,
}

/// Takes in one archive of unknown honesty. Dropped before [`Incoming::finish`], it leaves nothing.
pub(crate) struct Incoming {
    expected: Digest,
    limit: u64,
    space: Space,
    /// Room is looked for again once this much has come.
    check_at: u64,
    hasher: blake3::Hasher,
    size_bytes: u64,
    file: tokio::fs::File,
    temporary: NamedTempFile,
}

impl Incoming {
    pub fn begin(
        layout: &Layout,
        expected: Digest,
        limit: u64,
        space: Space,
    ) -> Result<Incoming, ArtifactError> {
        let tmp = layout.tmp();
        // Readable by this user only.
        let temporary =
            NamedTempFile::new_in(&tmp).map_err(ArtifactError::disk("write in", &tmp))?;
        let file = temporary
            .reopen()
            .map_err(ArtifactError::disk("write", temporary.path()))?;
        Ok(Incoming {
            expected,
            limit,
            space,
            check_at: SPACE_CHECK_BYTES,
            hasher: blake3::Hasher::new(),
            size_bytes: 0,
            file: tokio::fs::File::from_std(file),
            temporary,
        })
    }

    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        self.size_bytes += bytes.len() as u64;
        if self.size_bytes > self.limit {
            return Err(ArtifactError::TooLarge { limit: self.limit });
        }
        if self.size_bytes >= self.check_at {
            self.space.check(bytes.len() as u64)?;
            self.check_at = self.size_bytes + SPACE_CHECK_BYTES;
        }
        self.hasher.update(bytes);
        self.file
            .write_all(bytes)
            .await
            .map_err(ArtifactError::disk("write", self.temporary.path()))
    }

    /// Verifies, makes durable, checks that it can be unpacked, and only then gives it its name.
    pub async fn finish(mut self, layout: &Layout) -> Result<ArtifactMeta, ArtifactError> {
        let failed = |error| ArtifactError::disk("write", self.temporary.path())(error);
        self.file.flush().await.map_err(failed)?;
        let actual = Digest(*self.hasher.finalize().as_bytes());
        if actual != self.expected {
            return Err(ArtifactError::DigestMismatch {
                expected: self.expected,
                actual,
            });
        }
        let layout = layout.clone();
        let (temporary, limit) = (self.temporary, self.limit);
        blocking(move || keep(temporary, &layout, actual, limit)).await?;
        Ok(ArtifactMeta {
            digest: actual,
            size_bytes: self.size_bytes,
        })
    }
}

fn keep(
    temporary: NamedTempFile,
    layout: &Layout,
    digest: Digest,
    limit: u64,
) -> Result<(), ArtifactError> {
    let file =
        File::open(temporary.path()).map_err(ArtifactError::disk("read", temporary.path()))?;
    archive::inspect(io::BufReader::new(file), limit).map_err(ArtifactError::BadArchive)?;
    temporary
        .as_file()
        .sync_all()
        .map_err(ArtifactError::disk("sync", temporary.path()))?;
    let path = layout.blob(digest);
    temporary
        .persist(&path)
        .map_err(|error| ArtifactError::disk("create", &path)(error.error))?;
    layout::sync_dir(&layout.blobs())
}

pub(crate) fn size(layout: &Layout, digest: Digest) -> Option<u64> {
    let found = fs::metadata(layout.blob(digest)).ok()?;
    found.is_file().then_some(found.len())
}

/// Renews the grace before [collection](crate::Artifacts::collect): somebody is about to need it.
pub(crate) fn touch(layout: &Layout, digest: Digest) {
    // Without this the artifact would only be collected sooner and fetched again.
    if let Ok(file) = File::open(layout.blob(digest)) {
        let _ = file.set_modified(SystemTime::now());
    }
}

/// Puts a blob that is not what its name says out of the way, so that it is fetched anew.
pub(crate) fn quarantine(layout: &Layout, digest: Digest) -> Result<(), ArtifactError> {
    let (from, to) = (layout.blob(digest), layout.quarantine(digest));
    match fs::rename(&from, &to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ArtifactError::disk("move away", &from)(error))
        }
        _ => layout::sync_dir(&layout.blobs()),
    }
}

/// Hashes what is read through it.
pub(crate) struct Hashing<R> {
    inner: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Hashing<R> {
    pub fn new(inner: R) -> Hashing<R> {
        Hashing {
            inner,
            hasher: blake3::Hasher::new(),
        }
    }

    /// The digest of everything, after reading what is left.
    pub fn digest(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(Digest(*self.hasher.finalize().as_bytes()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// Runs disk work where it holds up nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArtifactError> + Send + 'static,
) -> Result<T, ArtifactError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ArtifactError::disk("work in", Path::new("the store"))(
            io::Error::other(error),
        )),
    }
}
