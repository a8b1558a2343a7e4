//! What can go wrong with artifacts.

use std::io;
use std::path::{Path, PathBuf};

use nebula_domain::Digest;

use crate::archive::ArchiveError;
use crate::image::ImageError;

/// What an error means to whoever asked; the API's codes derive from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The bytes are not the ones that were announced.
    DigestMismatch,
    /// The archive breaks a rule.
    BadArchive,
    TooLarge,
    /// No node that was asked holds it.
    Missing,
    /// Held, but by fewer nodes than wanted.
    NotReplicated,
    /// The bytes stopped coming.
    Interrupted,
    /// This node's disk has no room for it.
    DiskFull,
    /// This node's disk failed.
    Disk,
}

#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("the archive's digest is {actual}, expected {expected}")]
    DigestMismatch { expected: Digest, actual: Digest },
    #[error("the archive was refused")]
    BadArchive(#[source] ArchiveError),
    #[error("the image was refused")]
    BadImage(#[source] ImageError),
    #[error("the archive is larger than {limit} bytes (artifact_bytes)")]
    TooLarge { limit: u64 },
    #[error("artifact {digest} is not on this node and could not be fetched: {reasons}")]
    Missing { digest: Digest, reasons: String },
    #[error("artifact {digest} is on {held} of {wanted} nodes: {reasons}")]
    NotReplicated {
        digest: Digest,
        held: usize,
        wanted: usize,
        reasons: String,
    },
    #[error(
        "the disk of this node is full: {free} bytes are free, {wanted} more are needed, and {floor} stay free (min_free_bytes)"
    )]
    DiskFull { free: u64, wanted: u64, floor: u64 },
    #[error("the archive's bytes stopped coming")]
    Interrupted(#[source] io::Error),
    #[error("cannot {action} '{}'", path.display())]
    Disk {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl ArtifactError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            ArtifactError::DigestMismatch { .. } => ErrorKind::DigestMismatch,
            ArtifactError::BadArchive(_) | ArtifactError::BadImage(_) => ErrorKind::BadArchive,
            ArtifactError::TooLarge { .. } => ErrorKind::TooLarge,
            ArtifactError::Missing { .. } => ErrorKind::Missing,
            ArtifactError::NotReplicated { .. } => ErrorKind::NotReplicated,
            ArtifactError::Interrupted(_) => ErrorKind::Interrupted,
            ArtifactError::DiskFull { .. } => ErrorKind::DiskFull,
            ArtifactError::Disk { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::DiskFull,
                _ => ErrorKind::Disk,
            },
        }
    }

    pub(crate) fn disk(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> ArtifactError + use<> {
        let path = path.to_owned();
        move |source| ArtifactError::Disk {
            action,
            path,
            source,
        }
    }
}

/// The error with its causes, for a message to a peer or a log line.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
