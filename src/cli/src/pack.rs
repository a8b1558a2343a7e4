//! From a folder to an artifact that the cluster holds. The only file that knows how archives are made.
//!
//! The folder is packed twice: once to learn its digest, and again, straight into the upload, when the cluster does
//! not hold it yet. That takes no memory and no temporary file; a folder that changes in between fails the digest.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use nebula_artifacts::archive;
use nebula_client::{ArtifactSource, Client, OpenArtifact};
use nebula_wire::api::ErrorCode;
use tokio::sync::mpsc;

use crate::error::{CliError, Outcome};
use crate::output::Output;

/// Large enough that a chunk's overhead does not count, small enough to draw a smooth bar.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks between the packing thread and the network: half a megabyte.
const CHUNKS_AHEAD: usize = 8;

/// A folder whose archive is known.
#[derive(Debug, Clone)]
pub struct Packed {
    pub dir: PathBuf,
    /// BLAKE3, hexadecimal.
    pub digest: String,
    pub size_bytes: u64,
}

/// Checks that the path is a folder with something in it; nothing is read yet.
pub fn check_dir(dir: &Path) -> Outcome {
    let hint = "give --path the folder with the files to deploy";
    let metadata = std::fs::metadata(dir).map_err(|e| {
        CliError::usage(format!("cannot use --path {}: {e}", dir.display()), hint)
    })?;
    if !metadata.is_dir() {
        return Err(CliError::usage(format!("--path {} is not a folder", dir.display()), hint));
    }
    let mut entries = std::fs::read_dir(dir).map_err(|e| {
        CliError::usage(format!("cannot read the folder {}: {e}", dir.display()), hint)
    })?;
    if entries.next().is_none() {
        return Err(CliError::usage(format!("the folder {} is empty", dir.display()), hint));
    }
    Ok(())
}

/// Reads the whole folder once.
pub async fn pack(dir: &Path) -> Outcome<Packed> {
    check_dir(dir)?;
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || {
        let meta = archive::pack(&dir, std::io::sink()).map_err(|e| {
            CliError::usage(
                format!("the folder {} cannot be packed: {}", dir.display(), chain(&e)),
                "correct the folder and try again",
            )
        })?;
        Ok(Packed {
            dir,
            digest: meta.digest.to_string(),
            size_bytes: meta.size_bytes,
        })
    })
    .await
    .map_err(|e| CliError::failed(format!("packing stopped: {e}"), ""))?
}

/// Uploads the archive unless the cluster holds it already; says whether it did.
pub async fn upload(client: &Client, packed: &Packed, out: Output) -> Outcome<bool> {
    if client.has_artifact(&packed.digest).await? {
        return Ok(false);
    }
    let bar = out.bytes_bar("uploading", packed.size_bytes);
    let source = ArtifactSource {
        digest: packed.digest.clone(),
        size_bytes: packed.size_bytes,
        open: opener(packed.dir.clone()),
    };
    let moving = bar.clone();
    let uploaded = client
        .upload_artifact(&source, move |sent| moving.set_position(sent))
        .await;
    bar.finish_and_clear();
    uploaded.map_err(|e| {
        let changed = e.code() == Some(ErrorCode::DigestMismatch);
        let mut error = CliError::from(e);
        if changed {
            error.error.hint =
                "files in the folder changed while they were sent: try again when they are still".to_owned();
        }
        error
    })?;
    Ok(true)
}

fn opener(dir: PathBuf) -> OpenArtifact {
    Arc::new(move || {
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let dir = dir.clone();
        tokio::task::spawn_blocking(move || {
            let mut writer = Chunks {
                buffer: BytesMut::with_capacity(CHUNK_BYTES),
                sender: sender.clone(),
            };
            let packed = archive::pack(&dir, &mut writer)
                .map_err(|e| std::io::Error::other(chain(&e)))
                .and_then(|_| writer.flush());
            if let Err(error) = packed {
                // The other end may have ended the upload: then nobody needs to hear why this end did.
                let _ = sender.blocking_send(Err(error));
            }
        });
        futures::stream::unfold(receiver, |mut receiver| async move {
            Some((receiver.recv().await?, receiver))
        })
        .boxed()
    })
}

/// A writer whose bytes come out of a bounded channel.
struct Chunks {
    buffer: BytesMut,
    sender: mpsc::Sender<std::io::Result<Bytes>>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let take = bytes.len().min(CHUNK_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..take]);
        if self.buffer.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(take)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(CHUNK_BYTES));
        self.sender
            .blocking_send(Ok(chunk.freeze()))
            .map_err(|_| std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the upload ended"))
    }
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_with_content_are_packed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let empty = dir.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        for (path, word) in [(&file, "not a folder"), (&empty, "empty"), (&dir.path().join("none"), "No such file")] {
            let error = check_dir(path).unwrap_err();
            assert_eq!(error.exit as u8, 2);
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(check_dir(dir.path()).is_ok());
    }

    #[tokio::test]
    async fn both_passes_give_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("big"), vec![7; 3 * CHUNK_BYTES + 5]).unwrap();
        std::fs::write(dir.path().join("index.html"), "hello").unwrap();
        let packed = pack(dir.path()).await.unwrap();
        let chunks: Vec<_> = opener(packed.dir.clone())().collect().await;
        let sent: u64 = chunks.iter().map(|c| c.as_ref().unwrap().len() as u64).sum();
        assert_eq!(sent, packed.size_bytes);
        assert_eq!(packed.digest.len(), 64);
    }
}
